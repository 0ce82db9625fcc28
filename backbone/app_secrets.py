"""The secrets of our own in Secrets Manager: made once, never overwritten, read by nobody but the tasks."""

from __future__ import annotations

import base64
import json
import secrets
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cryptography.fernet import Fernet
from cryptography.hazmat.primitives.asymmetric import ec

from machines.aws import AwsError, Kind

if TYPE_CHECKING:
    from backbone.cloud import Cloud

MADE = ("SECRET_KEY", "CREDENTIAL_KEYS", "VAPID_PRIVATE_KEY")
# Those that somebody gives, besides the three that may be given, too.
GIVEN = ("NOTIFY_EMAIL_URL", "TELEMETRY_KEY")


class SecretError(Exception):
    """What is there is no secret of ours, or what is given cannot be one; the text never shows a value."""


def make_missing(cloud: Cloud, arn: str) -> list[str]:
    """Makes those of MADE that are not there; their names. Raises AwsError, SecretError."""
    there = _read(cloud, arn)
    made = {name: _make(name) for name in MADE if not there.get(name)}
    if made:
        _write(cloud, arn, {**there, **made})
    return list(made)


def put(cloud: Cloud, arn: str, name: str, value: str) -> None:
    """Sets one that is given, in place of what was there. Raises AwsError, SecretError."""
    if name not in (*MADE, *GIVEN):
        raise SecretError(f"{name}: no such secret, expected one of {', '.join((*MADE, *GIVEN))}.")
    if not value or value != value.strip() or "\n" in value:
        raise SecretError(f"{name}: found nothing, or blanks around it, or more than one line.")
    _write(cloud, arn, {**_read(cloud, arn), name: value})


def turn_credential_keys(cloud: Cloud, arn: str, step: str) -> str:
    """One step of rotating CREDENTIAL_KEYS, and what comes next, in words. Raises AwsError, SecretError.

    `new`: a key is added behind the others, since a process that does not know it could not read what it encrypts.
    `use-new`: the last key comes first. `drop-old`: the first alone stays.
    """
    there = _read(cloud, arn)
    keys = [key for key in there.get("CREDENTIAL_KEYS", "").split(",") if key]
    if step == "new":
        if len(keys) > 1:
            raise SecretError(
                f"CREDENTIAL_KEYS has {len(keys)} keys already: finish with --drop-old-credential-key first."
            )
        keys, words = (
            [*keys, _make("CREDENTIAL_KEYS")],
            "`restart`; when all have started anew, --use-new-credential-key",
        )
    elif len(keys) < 2:
        raise SecretError("CREDENTIAL_KEYS has no second key: begin with --new-credential-key.")
    elif step == "use-new":
        keys, words = (
            [keys[-1], *keys[:-1]],
            "`restart`, `manage -- reencrypt`, and a day later --drop-old-credential-key",
        )
    else:
        keys, words = keys[:1], "`restart`"
    _write(cloud, arn, {**there, "CREDENTIAL_KEYS": ",".join(keys)})
    return f"CREDENTIAL_KEYS has {len(keys)} {'key' if len(keys) == 1 else 'keys'}. Next: {words}."


def _make(name: str) -> str:
    if name == "SECRET_KEY":
        return secrets.token_urlsafe(48)
    if name == "CREDENTIAL_KEYS":
        return Fernet.generate_key().decode()
    # A private key for Web Push (RFC 8292): its number as 32 bytes, base64url without padding.
    number = ec.generate_private_key(ec.SECP256R1()).private_numbers().private_value
    return base64.urlsafe_b64encode(number.to_bytes(32, "big")).decode().rstrip("=")


def _read(cloud: Cloud, arn: str) -> dict[str, str]:
    try:
        answer = cloud.again(
            lambda: cloud.aws.call(
                "secretsmanager", "GetSecretValue", about="the secrets of our own", setting="the stack data",
                SecretId=arn,
            )
        )  # fmt: skip
    except AwsError as error:
        if error.kind is Kind.NOT_FOUND:
            return {}  # the stack makes it without a value
        raise
    try:
        found: Any = json.loads(answer["SecretString"])
    except (KeyError, ValueError):
        found = None
    if not isinstance(found, dict) or not all(isinstance(value, str) for value in found.values()):
        raise SecretError(
            "The secret that the stack data has made holds no JSON with texts by name; nothing was changed."
        )
    return found


def _write(cloud: Cloud, arn: str, values: Mapping[str, str]) -> None:
    cloud.aws.call(
        "secretsmanager", "PutSecretValue", about="the secrets of our own", setting="the stack data",
        SecretId=arn, SecretString=json.dumps(values),
    )  # fmt: skip
