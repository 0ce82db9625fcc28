"""`python -m backbone`: puts Portafilter on AWS, says how it stands there, and takes it down again."""

from __future__ import annotations

import argparse
import getpass
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from backbone import app_secrets, commands, one_off, parameters, running, stacks, teardown
from backbone.cloud import Cloud, DeployError
from backbone.deploy import Deployment
from backbone.migration import MigrationError
from machines.aws import AwsError

# The steps of their rotation; between two of them every process must have read the secret again.
_CREDENTIAL_KEYS = {
    "new": "adds a key to CREDENTIAL_KEYS, which by then can be read by everybody and is used by nobody",
    "use-new": "puts that key before the others: it encrypts from now on",
    "drop-old": "takes away all keys but the first",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command; the exit status. What goes wrong is one paragraph on standard error."""
    asked = _parser().parse_args(arguments)
    try:
        return int(asked.run(asked) or 0)
    except (AwsError, DeployError, MigrationError, one_off.TaskError, commands.CommandError) as error:
        print(error, file=sys.stderr)
        return 1
    except (parameters.ParameterError, app_secrets.SecretError) as error:
        print(error, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        words = "Stopped looking; what AWS was told to do goes on there. The next `deploy` or `destroy` takes it up."
        print(words, file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m backbone", description=__doc__)
    everywhere = argparse.ArgumentParser(add_help=False)
    everywhere.add_argument("--name", default="portafilter", help="the installation's, portafilter unless given")
    region = os.environ.get("AWS_REGION", "")
    everywhere.add_argument("--region", default=region, required=not region, help="as in eu-west-1; else AWS_REGION")
    kinds = parser.add_subparsers(required=True, metavar="COMMAND")

    deploy = kinds.add_parser("deploy", parents=[everywhere], help="makes the stacks, or brings them up to date")
    deploy.add_argument("--parameters", type=Path, metavar="FILE.toml", help="what the stacks are told")
    which = deploy.add_mutually_exclusive_group()
    which.add_argument("--until", choices=stacks.STACKS, metavar="STACK", help="and those before it alone")
    which.add_argument("--only", nargs="+", choices=stacks.STACKS, metavar="STACK", help="these alone")
    deploy.add_argument("--dry-run", action="store_true", help="says what would change, and changes nothing")
    words = "also where a change puts an accelerator's dials to 100 %% and its weights to 128 that stand elsewhere"
    deploy.add_argument("--turn-dials-back", action="store_true", help=words)
    deploy.set_defaults(run=_deploy)

    status = kinds.add_parser("status", parents=[everywhere], help="says how stacks and services stand")
    status.set_defaults(run=_status)

    secret = kinds.add_parser("secrets", parents=[everywhere], help="makes the secrets that are missing")
    change = secret.add_mutually_exclusive_group()
    change.add_argument("--set", metavar="NAME", help="reads NAME's value from the terminal or standard input")
    for option, words in _CREDENTIAL_KEYS.items():
        change.add_argument(f"--{option}-credential-key", dest="step", action="store_const", const=option, help=words)
    secret.set_defaults(run=_secrets)

    restart = kinds.add_parser("restart", parents=[everywhere], help="has the services read their secrets again")
    restart.set_defaults(run=_restart)

    manage = kinds.add_parser("manage", parents=[everywhere], help="runs a command of manage.py as the worker would")
    manage.add_argument("command", nargs="+", metavar="WORD", help="behind --, as in: -- doctor")
    manage.set_defaults(run=_manage)

    first = kinds.add_parser("administrator", parents=[everywhere], help="makes somebody who may do everything")
    first.add_argument("user", metavar="NAME")
    first.set_defaults(run=_administrator)

    destroy = kinds.add_parser("destroy", parents=[everywhere], help="takes it down, all but what is kept")
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
    deployment = _deployment(asked)
    deployment.may_turn_dials_back = asked.turn_dials_back
    deployment.run(steps, told, dry=asked.dry_run)


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
    elif asked.step:
        print(app_secrets.turn_credential_keys(deployment.cloud, arn, asked.step))
    else:
        made = app_secrets.make_missing(deployment.cloud, arn)
        print(f"Made {', '.join(made)}." if made else "They are all there.")


def _restart(asked: argparse.Namespace) -> None:
    names = running.restart(_deployment(asked))
    print(f"Starting anew: {', '.join(names)}." if names else "There is no service to start anew.")


def _manage(asked: argparse.Namespace) -> int:
    return commands.run(_deployment(asked), asked.command, lambda line: print(line, flush=True))


def _administrator(asked: argparse.Namespace) -> None:
    deployment = _deployment(asked)
    password = commands.make_administrator(deployment, asked.user, deployment.say)
    print(f"Password: {password}\nIt is kept nowhere. Change it at the first sign-in, and add a second factor.")


def _destroy(asked: argparse.Namespace) -> int:
    what = "everything, the database too" if asked.data else "everything but the network and the data"
    if not asked.yes and input(f"Delete {what} of {asked.name} in {asked.region}? Type {asked.name}: ") != asked.name:
        print("Nothing was deleted.")
        return 1
    teardown.destroy(_deployment(asked), data=asked.data)
    return 0


if __name__ == "__main__":
    sys.exit(main())
