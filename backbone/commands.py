"""Commands of `manage.py` inside an installation, and its first administrator."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from backbone import one_off

if TYPE_CHECKING:
    from backbone.deploy import Deployment

# Django's PBKDF2PasswordHasher of 5.2; the portal hashes anew when the person first signs in.
_ITERATIONS = 1_000_000
_NAME = re.compile(r"[\w.@+-]{1,150}", re.ASCII)


class CommandError(Exception):
    """The command cannot be run; the text says why."""


def run(deployment: Deployment, command: Sequence[str], say: Callable[[str], None], *, poll_s: float = 3.0) -> int:
    """Runs a command as the worker would; its exit status. Raises CommandError, one_off.TaskError, AwsError.

    It has the worker's settings, secrets and role. The command itself is kept by ECS: it must hold no secret.
    """
    outputs = deployment.outputs()
    cluster, service = outputs.get("ClusterName"), outputs.get("WorkerServiceName")
    if not cluster or not service:
        raise CommandError("app: it is not there, and the command would run as its worker. Deploy until app first.")
    worker = _service(deployment, cluster, service)
    network = worker["networkConfiguration"]["awsvpcConfiguration"]
    order = one_off.Order(
        cluster=cluster,
        task_definition=worker["taskDefinition"],
        container="worker",
        subnets=network["subnets"],
        security_groups=network["securityGroups"],
        log_group=outputs["AppLogGroup"],
        command=command,
    )
    ended = one_off.run(deployment.cloud, order, say, poll_s=poll_s)
    if ended.code is None:
        raise CommandError(f"The task did not come to run: {ended.why}")
    return ended.code


def make_administrator(deployment: Deployment, name: str, say: Callable[[str], None], *, poll_s: float = 3.0) -> str:
    """Makes an administrator with a password of our choice, which is returned. Raises as run, or CommandError.

    Only the password's hash leaves this computer: it has 143 random bits, so nobody gets it from the hash.
    """
    if not _NAME.fullmatch(name):
        raise CommandError(f"Found {name[:40]!r}, expected a user name of letters, digits and @.+-_ only.")
    password = secrets.token_urlsafe(18)
    code = run(deployment, ["make_administrator", name, "--password-hash", _hashed(password)], say, poll_s=poll_s)
    if code != 0:
        raise CommandError("Nobody was made; what stands above says why.")
    return password


def _service(deployment: Deployment, cluster: str, name: str) -> dict[str, Any]:
    answer = deployment.cloud.again(
        lambda: deployment.cloud.aws.call(
            "ecs", "DescribeServices", about=f"the service {name}", setting="--name", cluster=cluster, services=[name]
        )
    )
    found: list[dict[str, Any]] = answer.get("services") or []
    if not found:
        raise CommandError(f"app: there is no service {name} in the cluster {cluster}. Deploy app once more.")
    return found[0]


def _hashed(password: str) -> str:
    salt = secrets.token_hex(11)
    digest = hashlib.pbkdf2_hmac("sha256", password.encode(), salt.encode(), _ITERATIONS)
    return f"pbkdf2_sha256${_ITERATIONS}${salt}${base64.b64encode(digest).decode()}"
