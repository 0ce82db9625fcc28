"""`python -m backbone`: puts Portafilter on AWS, says how it stands there, and takes it down again."""

from __future__ import annotations

import argparse
import getpass
import sys
from collections.abc import Sequence
from pathlib import Path

from backbone import app_secrets, parameters, running, stacks, teardown
from backbone.deploy import Cloud, DeployError, Deployment
from backbone.migration import MigrationError
from machines.aws import AwsError


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status. What goes wrong is one paragraph on standard error."""
    asked = _parser().parse_args(arguments)
    try:
        return int(asked.run(asked) or 0)
    except (AwsError, DeployError, MigrationError, parameters.ParameterError, app_secrets.SecretError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("Stopped looking; what AWS was told to do goes on there. The same command takes it up.", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backbone", description=__doc__)
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument("--name", default="portafilter", help="the installation's, portafilter unless given")
    everywhere.add_argument("--region", required=True, help="as in eu-west-1")
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    deploy = commands.add_parser("deploy", parents=[everywhere], help="makes the stacks, or brings them up to date")
    deploy.add_argument("--parameters", type=Path, metavar="FILE.toml", help="what the stacks are told")
    which = deploy.add_mutually_exclusive_group()
    which.add_argument("--until", choices=stacks.STACKS, metavar="STACK", help="and those before it alone")
    which.add_argument("--only", nargs="+", choices=stacks.STACKS, metavar="STACK", help="these alone")
    deploy.add_argument("--dry-run", action="store_true", help="says what would change, and changes nothing")
    deploy.set_defaults(run=_deploy)

    status = commands.add_parser("status", parents=[everywhere], help="says how stacks and services stand")
    status.set_defaults(run=_status)

    secret = commands.add_parser("secrets", parents=[everywhere], help="makes the secrets that are missing")
    change = secret.add_mutually_exclusive_group()
    change.add_argument("--set", metavar="NAME", help="reads NAME's value from the terminal or standard input")
    change.add_argument("--new-credential-key", action="store_true", help="puts a key before those of CREDENTIAL_KEYS")
    secret.set_defaults(run=_secrets)

    restart = commands.add_parser("restart", parents=[everywhere], help="has the services read their secrets again")
    restart.set_defaults(run=_restart)

    destroy = commands.add_parser("destroy", parents=[everywhere], help="takes it down, all but what is kept")
    destroy.add_argument("--data", action="store_true", help="also the database; a snapshot of it is kept")
    destroy.add_argument("--yes", action="store_true", help="without asking")
    destroy.set_defaults(run=_destroy)
    return parser


def _deployment(asked: argparse.Namespace) -> Deployment:
    return Deployment(Cloud(asked.region), asked.name, lambda line: print(line, flush=True))


def _steps(asked: argparse.Namespace) -> list[stacks.Step]:
    if asked.only:
        return [step for step in stacks.STEPS if step.stack in asked.only]
    if asked.until:
        last = max(index for index, step in enumerate(stacks.STEPS) if step.stack == asked.until and not step.withheld)
        return list(stacks.STEPS[: last + 1])
    return list(stacks.STEPS)


def _deploy(asked: argparse.Namespace) -> None:
    told, steps = parameters.read(asked.parameters, asked.name), _steps(asked)
    parameters.check(told, steps)
    _deployment(asked).run(steps, told, dry=asked.dry_run)


def _status(asked: argparse.Namespace) -> None:
    print("\n".join(running.status(_deployment(asked))))


def _secrets(asked: argparse.Namespace) -> None:
    deployment = _deployment(asked)
    arn = deployment.outputs().get("AppSecretArn")
    if not arn:
        raise DeployError("data: it is not there, and the secret is in it. Deploy until data first.")
    if asked.set:
        read = getpass.getpass(f"{asked.set}: ") if sys.stdin.isatty() else sys.stdin.readline()
        app_secrets.put(deployment.cloud, arn, asked.set, read.rstrip("\n"))
        print(f"{asked.set} is set; `restart` has the services read it.")
    elif asked.new_credential_key:
        count = app_secrets.add_credential_key(deployment.cloud, arn)
        print(f"CREDENTIAL_KEYS has {count} keys; `restart`, then `manage.py reencrypt`, then the old ones may go.")
    else:
        made = app_secrets.make_missing(deployment.cloud, arn)
        print(f"Made {', '.join(made)}." if made else "They are all there.")


def _restart(asked: argparse.Namespace) -> None:
    names = running.restart(_deployment(asked))
    print(f"Starting anew: {', '.join(names)}." if names else "There is no service to start anew.")


def _destroy(asked: argparse.Namespace) -> int:
    what = "everything, the database too" if asked.data else "everything but the network and the data"
    if not asked.yes and input(f"Delete {what} of {asked.name} in {asked.region}? Type {asked.name}: ") != asked.name:
        print("Nothing was deleted.")
        return 1
    teardown.destroy(_deployment(asked), data=asked.data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
