"""What AWS' own model of its services says: what may come in, how it goes out, and who has signed it."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from functools import cache
from typing import Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.loaders import Loader
from botocore.model import OperationModel, ServiceModel, Shape
from botocore.validate import ParamValidator

_CLOCK_S = 300


class AwsFault(Exception):
    """An answer that is an error, in AWS' words."""

    def __init__(self, code: str, message: str, *, status: int = 400, **members: Any) -> None:
        super().__init__(message)
        self.code, self.status = code, status
        self.body = {"__type": code, "message": message, **members}


@cache
def model(service: str) -> ServiceModel:
    """What botocore ships for a service."""
    return ServiceModel(Loader().load_service_model(service, "service-2"), service)


def read(operation: OperationModel, body: bytes) -> dict[str, Any]:
    """The arguments of a call. Raises AwsFault for what the model does not have."""
    try:
        arguments = json.loads(body or b"{}")
    except ValueError:
        raise AwsFault("SerializationException", "The request is no JSON.") from None
    report = ParamValidator().validate(arguments, operation.input_shape)
    if report.has_errors():
        raise AwsFault("InvalidParameterException", report.generate_report())
    _check_values(operation.input_shape, arguments, operation.name)
    return dict(arguments)


def write(operation: OperationModel, answer: dict[str, Any]) -> bytes:
    """An answer's body. AssertionError for what AWS would never say: the fake is wrong then."""
    if operation.output_shape is None:
        return b""
    report = ParamValidator().validate(answer, operation.output_shape)
    assert not report.has_errors(), report.generate_report()
    return json.dumps(answer, default=_plain).encode()


def check_signature(
    method: str, path: str, headers: dict[str, str], body: bytes, *, secrets: dict[str, str], of: str = ""
) -> str:
    """The region that a request is signed for, its service being right. Raises AwsFault as AWS does.

    `of` is the service's name in signatures; empty: ECS or SQS, by what is called.
    """
    scheme, _, rest = headers.get("authorization", "").partition(" ")
    if scheme != "AWS4-HMAC-SHA256":
        raise AwsFault("MissingAuthenticationTokenException", "Missing Authentication Token")
    parts = dict(part.strip().split("=", 1) for part in rest.split(","))
    key, day, region, service, end = parts["Credential"].split("/")
    stamp = headers.get("x-amz-date", "")
    try:
        signed_at = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
    except ValueError:
        raise AwsFault("IncompleteSignatureException", f"Date must be in ISO-8601; found {stamp!r}") from None
    if key not in secrets:
        raise AwsFault("UnrecognizedClientException", "The security token included in the request is invalid.")
    off_s = (datetime.now(UTC) - signed_at).total_seconds()
    if abs(off_s) > _CLOCK_S or not stamp.startswith(day):
        word = "expired" if off_s > 0 else "not yet current"
        raise AwsFault("InvalidSignatureException", f"Signature {word}: {stamp} is {off_s:.0f} s old")
    target = headers.get("x-amz-target", "")
    wanted = of or ("sqs" if target.startswith("AmazonSQS.") else "ecs")
    if service != wanted or end != "aws4_request":
        raise AwsFault(
            "InvalidSignatureException",
            f"Credential should be scoped to correct service: '{wanted}'. ",
        )
    names = parts["SignedHeaders"].split(";")
    signed = {name: headers[name] for name in names if name in headers}
    request = AWSRequest(method, f"http://{headers['host']}{path}", headers=signed, data=body)
    request.context["timestamp"] = stamp
    signer = SigV4Auth(Credentials(key, secrets[key]), service, region)
    expected = signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
    if expected != parts["Signature"] or not {"host", "x-amz-date"} <= set(names):
        raise AwsFault(
            "InvalidSignatureException",
            "The request signature we calculated does not match the signature you provided.",
        )
    return region


def _check_values(shape: Shape, value: Any, where: str) -> None:
    """What botocore leaves to AWS: words of a closed list, and the upper bounds."""
    if shape.type_name == "structure":
        for name, part in value.items():
            _check_values(shape.members[name], part, f"{where}.{name}")
    elif shape.type_name == "list":
        for part in value:
            _check_values(shape.member, part, f"{where}[]")
    words = shape.metadata.get("enum")
    if words and value not in words:
        raise AwsFault("InvalidParameterException", f"{where}: found {value!r}, expected one of {', '.join(words)}")
    most = shape.metadata.get("max")
    if most is not None and isinstance(value, str | list) and len(value) > most:
        raise AwsFault("InvalidParameterException", f"{where}: found {len(value)}, expected at most {most}")


def _plain(value: object) -> object:
    assert isinstance(value, datetime), value
    return round(value.timestamp(), 3)
