"""Calls to AWS, and what went wrong with them in one sentence that names the call and the setting to look at.

boto3 is imported when a client is made and not before: who has not chosen AWS never loads it.
"""

from __future__ import annotations

from typing import Any

from machines.telemetry.base import TelemetryError

_CONNECT_S, _ANSWER_S = 2, 4
_CREDENTIALS = "the AWS credentials of this installation"
_FORBIDDEN = {"AccessDenied", "AccessDeniedException", "UnauthorizedException", "ForbiddenException", "NotAuthorized"}
_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "RequestExpired", "TokenRefreshRequired"}
_STRANGERS = {
    *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "MissingAuthenticationToken"),
    *("InvalidSignatureException", "SignatureDoesNotMatch", "IncompleteSignature", "RequestTimeTooSkewed"),
}


class AwsError(TelemetryError):
    """AWS refused a call or could not be reached; `code` is its own word for it, or empty."""

    def __init__(self, message: str, *, code: str = "") -> None:
        super().__init__(message)
        self.code = code


class Aws:
    """Clients of one region; for any number of threads."""

    def __init__(self, region: str) -> None:
        import boto3
        from botocore.config import Config

        self._region = region
        # One try: whoever waits has no time for more, and the next press or pass is another.
        config = Config(
            connect_timeout=_CONNECT_S,
            read_timeout=_ANSWER_S,
            retries={"total_max_attempts": 1},
            max_pool_connections=16,
            user_agent_appid="portafilter",
        )
        # Clients may be shared between threads, but not be made by several at once from one session.
        session = boto3.session.Session()
        self._clients: dict[str, Any] = {
            service: session.client(service, region_name=region, config=config) for service in ("iot", "iot-data")
        }

    def call(self, service: str, name: str, what: str, **arguments: Any) -> Any:
        """The answer to a call by its name in AWS, as in DescribeThing; `what` it is about. Raises AwsError."""
        from botocore.exceptions import BotoCoreError, ClientError

        method = getattr(self._clients[service], _snake(name))
        try:
            return method(**arguments)
        except ClientError as error:
            raise self._refused(name, what, error.response) from error
        except BotoCoreError as error:
            raise self._unreachable(name, error) from error

    def _refused(self, name: str, what: str, response: dict[str, Any]) -> AwsError:
        code = str(response.get("Error", {}).get("Code", ""))
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        where = f"in {self._region} (AWS_REGION)"
        if code in _EXPIRED:
            words = f"{_CREDENTIALS} have expired. Renew them."
        elif code in _STRANGERS:
            words = f"{_CREDENTIALS} are not known {where}, or this computer's clock is wrong."
        elif code in _FORBIDDEN or status == 403:
            words = f"{_CREDENTIALS} may not do that. Allow iot:{name} on {what} {where}."
        elif code.startswith(("Throttl", "LimitExceeded", "TooManyRequests")) or status == 429:
            words = f"it takes no more calls just now ({code})."
        elif status >= 500:
            words = f"it failed ({code or status}); another try may do."
        else:
            words = f"it does not take what was asked of {what} {where} ({code or status})."
        return AwsError(f"IoT Core, {name}: {words}", code=code)

    def _unreachable(self, name: str, error: Exception) -> AwsError:
        from botocore import exceptions as aws

        where = f"IoT Core in {self._region} (AWS_REGION)"
        if isinstance(error, aws.NoCredentialsError | aws.PartialCredentialsError):
            words = "found no AWS credentials, expected a role of this computer, or AWS_ACCESS_KEY_ID and its secret."
        elif isinstance(error, aws.CredentialRetrievalError | aws.MetadataRetrievalError | aws.TokenRetrievalError):
            words = f"{_CREDENTIALS} could not be fetched."
        elif isinstance(error, aws.ConnectTimeoutError):
            words = f"no connection to {where} within {_CONNECT_S} s."
        elif isinstance(error, aws.ReadTimeoutError):
            words = f"{where} did not answer within {_ANSWER_S} s."
        elif isinstance(error, aws.EndpointConnectionError | aws.HTTPClientError | aws.ConnectionError):
            words = f"{where} cannot be reached. Is that a region that has IoT Core?"
        elif isinstance(error, aws.ParamValidationError):
            words = "what was asked is not what AWS allows."
        else:
            words = f"boto3 cannot do this ({type(error).__name__})."
        return AwsError(f"IoT Core, {name}: {words}")


def _snake(name: str) -> str:
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
