"""Calls to AWS, and what went wrong with them in words that name the call and the setting to look at.

The one place where boto3 is imported, and only with the first call: who has not chosen AWS never loads it. Every other
module says `Aws(region).call("ecs", "RunTask", …)`, service and name as literals, so that a test can compare what the
code does with what the roles in backbone/cloudformation/ allow.

AWS' own messages are never repeated: they may hold a phone number, an account's number, or an encoded policy. What is
said of them is an error's code, the action that a policy lacks, and identifiers of networks.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from enum import StrEnum
from typing import Any

_CREDENTIALS = "the AWS credentials of this process (its task's or computer's role, or AWS_ACCESS_KEY_ID and the like)"
# What people call a service, and how it begins in an IAM action where that is not its name in boto3.
_NAMES = {
    **{"iot": "IoT Core", "iot-data": "IoT Core", "globalaccelerator": "Global Accelerator"},
    **{"elbv2": "Elastic Load Balancing", "secretsmanager": "Secrets Manager", "cloudformation": "CloudFormation"},
}
_ACTION_PREFIXES = {"iot-data": "iot", "elbv2": "elasticloadbalancing"}
# Signatures are good for five minutes (IAM User Guide, "Signature Version 4"), EC2's for fifteen.
_CLOCKS_DIFFER = timedelta(minutes=4, seconds=30)
# Shadows are answered as streams; they have 8 KiB a part.
_STREAM_LIMIT = 256 * 1024
_LOOK_AGAIN_S = 10.0


class Kind(StrEnum):
    """What went wrong, as far as a program cares."""

    EXPIRED = "expired"
    UNKNOWN_CREDENTIALS = "unknown_credentials"
    NO_CREDENTIALS = "no_credentials"
    CLOCK = "clock"
    FORBIDDEN = "forbidden"
    THROTTLED = "throttled"
    NOT_FOUND = "not_found"
    REFUSED = "refused"
    FAILED = "failed"
    TIMEOUT = "timeout"
    UNREACHABLE = "unreachable"
    BROKEN = "broken"


_PERMANENT = {Kind.UNKNOWN_CREDENTIALS, Kind.NO_CREDENTIALS, Kind.FORBIDDEN, Kind.NOT_FOUND, Kind.REFUSED, Kind.BROKEN}

_EXPIRED = {"ExpiredToken", "ExpiredTokenException", "TokenRefreshRequired"}
_CLOCK = {"RequestExpired", "RequestTimeTooSkewed", "SignatureNotYetCurrent", "RequestInTheFuture"}
_STRANGERS = {
    *("UnrecognizedClientException", "InvalidClientTokenId", "InvalidAccessKeyId", "MissingAuthenticationToken"),
    *("MissingAuthenticationTokenException", "AuthFailure", "InvalidSignatureException", "SignatureDoesNotMatch"),
    *("IncompleteSignature", "IncompleteSignatureException", "NotAuthenticated"),
}
_FORBIDDEN = {
    *("AccessDenied", "AccessDeniedException", "AuthorizationError", "AuthorizationErrorException"),
    *("UnauthorizedException", "UnauthorizedOperation", "ForbiddenException", "NotAuthorized", "AccessDeniedFault"),
}
_NOT_SIGNED_UP = {"OptInRequired", "SubscriptionRequiredException", "PendingVerification"}
_FAILED = {"InternalError", "InternalErrorException", "InternalFailure", "ServiceUnavailable", "ServerException"}
_THROTTLED = re.compile(r"^Throttl|^LimitExceeded|^TooManyRequests|^RequestLimitExceeded|^RequestThrottled|^SlowDown")
_NOT_FOUND = re.compile(r"NotFound(Exception|Fault)?$|NonExistentQueue$|DoesNotExist(Exception)?$|^NoSuch")
# ECS says these with codes that mean anything.
_SAID_NOT_FOUND = re.compile(r"not found|does not exist|unable to describe task definition|was inactive")
_SAID_ACTION = re.compile(r"not authorized to perform: ([a-z0-9-]{2,40}:[A-Za-z]{2,80})(?: on resource: (\S{1,300}))?")
_SAID_NETWORK = re.compile(r"\b(?:subnet|sg|vpc|eni)-[0-9a-f]{8,17}\b")
_TOPICS = ("task definition", "capacity provider", "security group", "subnet", "container instance", "clienttoken")


class SettingOf(str):
    """The settings to look at for a call whose things come from several of them.

    `by_topic` says which it is where AWS speaks of one ("subnet"), in lower case.
    """

    by_topic: Mapping[str, str]

    def __new__(cls, otherwise: str, by_topic: Mapping[str, str]) -> SettingOf:
        made = super().__new__(cls, otherwise)
        made.by_topic = by_topic
        return made


class AwsError(Exception):
    """A call to AWS that did not go well; the text is for people and holds no secret.

    `kind` says what to do about it, `code` is AWS' own word for it or empty. `is_permanent`: the same again is of no
    use until somebody changes something. `may_have_happened`: AWS may have done it, for the answer was lost or was a
    failure. `resource_ids` are what AWS says that it is about, as the task that has an order's clientToken already.
    `said` is AWS' own message, to look for words in: it may hold what was asked about, so it is never shown, logged or
    kept.
    """

    def __init__(
        self,
        message: str,
        *,
        kind: Kind = Kind.REFUSED,
        code: str = "",
        is_permanent: bool | None = None,
        may_have_happened: bool = False,
        said: str = "",
        resource_ids: tuple[str, ...] = (),
    ) -> None:
        super().__init__(message)
        self.kind = kind
        self.code = code
        self.is_permanent = kind in _PERMANENT if is_permanent is None else is_permanent
        self.may_have_happened = may_have_happened
        self.said = said
        self.resource_ids = resource_ids


class Aws:
    """Clients of one region, for any number of threads; each is made when it is first needed.

    `setting` is the one that the region comes from. A call waits `connect_s` for a connection and then `answer_s` for
    each part of its answer. Credentials that have expired are read anew with the next call, unknown ones every 10 s.
    """

    def __init__(self, region: str, *, setting: str = "AWS_REGION", connect_s: float = 2, answer_s: float = 4) -> None:
        self.region = region
        self.connect_s, self.answer_s = connect_s, answer_s
        self._setting = setting
        self._lock = threading.Lock()
        self._session: Any = None
        self._made_at = 0.0
        self._clients: dict[str, Any] = {}

    def call(self, service: str, name: str, /, *, about: str, setting: str, **arguments: Any) -> dict[str, Any]:
        """The answer to one call, tried once. Raises AwsError.

        `service` is as boto3 has it ("iot-data"), `name` as AWS has it ("RunTask"); both are literals wherever this is
        called. `about` says what it is about ("the cluster portafilter"), `setting` where that comes from (a SettingOf
        for things of several settings). A stream in the answer has been read: it is bytes.
        """
        from botocore import xform_name
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        words = _Words(service, name, about, setting, self)
        client = None
        try:
            client = self._client(service)
            answer: dict[str, Any] = getattr(client, xform_name(name))(**arguments)
            if _is_page(answer):
                raise ResponseParserError("a web page")
            return {key: _read(value) for key, value in answer.items()}
        except ClientError as error:
            refused = words.refused(error.response)
            self._forget(client, refused.kind)
            raise refused from error
        except (BotoCoreError, ResponseParserError, AttributeError, ValueError, KeyError) as error:
            # Of the last three: a boto3 that is too old for the call, an AWS_ENDPOINT_URL that is none, and an answer
            # that is not AWS'.
            unanswered = words.unanswered(error)
            self._forget(client, unanswered.kind)
            raise unanswered from error

    def _client(self, service: str) -> Any:
        with self._lock:
            if service not in self._clients:
                self._clients[service] = self._make(service)
            return self._clients[service]

    def _make(self, service: str) -> Any:
        import boto3
        from botocore.config import Config

        # Clients may be shared between threads, but not be made by several at once from one session.
        if self._session is None:
            self._session, self._made_at = boto3.session.Session(), time.monotonic()
        config = Config(
            connect_timeout=self.connect_s,
            read_timeout=self.answer_s,
            # Who calls knows whether there is time for another try, and whether the first may have done it.
            retries={"total_max_attempts": 1},
            max_pool_connections=16,
            user_agent_appid="portafilter",
        )
        return self._session.client(service, region_name=self.region, config=config)

    def _forget(self, client: Any, kind: Kind) -> None:
        """Clients whose credentials are no good any more; those that another thread has renewed stay.

        Credentials that were never good may be put right, too, but to look for them costs seconds where there are none.
        """
        if kind not in {Kind.EXPIRED, Kind.NO_CREDENTIALS, Kind.UNKNOWN_CREDENTIALS}:
            return
        with self._lock:
            is_ours = any(client is one for one in self._clients.values())
            if is_ours and (kind is Kind.EXPIRED or time.monotonic() - self._made_at > _LOOK_AGAIN_S):
                self._session, self._clients = None, {}


class _Words:
    """What went wrong with one call, as AwsError."""

    def __init__(self, service: str, name: str, about: str, setting: str, aws: Aws) -> None:
        self.action = f"{_ACTION_PREFIXES.get(service, service)}:{name}"
        self.service = _NAMES.get(service, service.upper())
        self.about, self.setting = about, setting
        self.settings_by_topic = setting.by_topic if isinstance(setting, SettingOf) else {}
        self.connect_s, self.answer_s = aws.connect_s, aws.answer_s
        source = aws._setting
        self.where = f"{aws.region} ({source})" if source and source != setting else aws.region

    def refused(self, response: Mapping[str, Any]) -> AwsError:
        """AWS answered, and said no."""
        told = response.get("Error") or {}
        code, said = str(told.get("Code", "")), str(told.get("Message", ""))
        meta = response.get("ResponseMetadata") or {}
        status = int(meta.get("HTTPStatusCode") or 0)
        ahead = _ahead((meta.get("HTTPHeaders") or {}).get("date"))
        kind = _kind_of(self.action, code, status, said.lower(), ahead)
        words = {
            Kind.EXPIRED: lambda: f"{_CREDENTIALS} have expired. Renew them.",
            Kind.CLOCK: lambda: f"this computer's clock is {_off(ahead)}, so AWS refuses what it signs. Set it right.",
            Kind.UNKNOWN_CREDENTIALS: lambda: f"AWS does not know {_CREDENTIALS}, or not in {self.where}.",
            Kind.FORBIDDEN: lambda: self._forbidden(said),
            Kind.THROTTLED: lambda: f"{self.service} takes no more at the moment ({code or status}).",
            Kind.NOT_FOUND: lambda: self._not_found(said),
            Kind.FAILED: lambda: f"{self.service} failed ({code or status}); another try may do.",
        }.get(kind, lambda: self._refused(code or str(status), said))()
        about = response.get("resourceIds")
        return AwsError(
            f"{self.action}: {words}", kind=kind, code=code, may_have_happened=kind is Kind.FAILED, said=said,
            resource_ids=tuple(map(str, about)) if isinstance(about, list) else (),
        )  # fmt: skip

    def _forbidden(self, said: str) -> str:
        action, about = self.action, f"{self.about} in {self.where}"
        if found := _SAID_ACTION.search(said):
            # RunTask needs iam:PassRole on the task's roles, too, and ecs:TagResource: AWS says which it was.
            action = found[1]
            if action != self.action:
                about = _without_account(found[2]) or about
        denied = " A policy denies it explicitly." if "explicit deny" in said else ""
        return f"{_CREDENTIALS} may not do that. Allow {action} on {about}.{denied}"

    def _not_found(self, said: str) -> str:
        named, setting = _named(said, self.about), self._setting_of(said)
        if named and setting:
            return f"{setting} names what is not there in {self.where}: {named}, for {self.about}."
        hint = _hint(said, self.about)
        return f"{setting or self.setting} names what is not there in {self.where}: {self.about}{hint}."

    def _setting_of(self, said: str) -> str:
        """Those of the settings by topic that AWS speaks of; empty: none of them."""
        text = _plain(said)
        return " or ".join(dict.fromkeys(one for topic, one in self.settings_by_topic.items() if topic in text))

    def _refused(self, code: str, said: str) -> str:
        if code in _NOT_SIGNED_UP:
            return f"the AWS account is not signed up for {self.service} in {self.where} ({code})."
        if "credential should be scoped to" in said.lower():
            return f"what answers is not {self.service} of {self.where}. Look at the region, and at AWS_ENDPOINT_URL."
        hint = _hint(said, self.about)
        setting = self._setting_of(said) or self.setting
        return f"{self.service} refused it ({code}) for {self.about} in {self.where}{hint}; look at {setting}."

    def unanswered(self, error: Exception) -> AwsError:
        """What botocore says before, or instead of, an answer."""
        kind, words, is_permanent = self._unanswered(error)
        # Read, or broken off: by then it had been sent.
        names = {"ReadTimeoutError", "ConnectionClosedError", "ResponseStreamingError", "IncompleteReadError"}
        was_sent = type(error).__name__ in names | {"HTTPClientError", "ResponseParserError", "KeyError"}
        message = f"{self.action}: {words}"
        return AwsError(message, kind=kind, is_permanent=is_permanent, may_have_happened=was_sent)

    def _unanswered(self, error: Exception) -> tuple[Kind, str, bool | None]:
        from botocore import exceptions as aws
        from botocore.parsers import ResponseParserError

        what, name = f"{self.service} in {self.where}", type(error).__name__
        if isinstance(error, (aws.NoCredentialsError, aws.PartialCredentialsError)):
            return Kind.NO_CREDENTIALS, f"found no whole set of {_CREDENTIALS}.", None
        if isinstance(error, (aws.ProfileNotFound, aws.ConfigParseError, aws.ConfigNotFound)):
            words = f"AWS' own settings cannot be read ({name}). Look at AWS_PROFILE and the files in ~/.aws."
            return Kind.NO_CREDENTIALS, words, None
        if isinstance(error, (aws.SSOError, aws.LoginError, aws.TokenRetrievalError, aws.NoAuthTokenError)):
            return Kind.EXPIRED, "your sign-in at AWS has ended. Sign in again (aws sso login, or aws login).", None
        if isinstance(error, (aws.CredentialRetrievalError, aws.MetadataRetrievalError)):
            return Kind.NO_CREDENTIALS, f"{_CREDENTIALS} could not be fetched.", False
        if isinstance(error, aws.ConnectTimeoutError):
            return Kind.UNREACHABLE, f"no connection to {what} within {self.connect_s:g} s.", None
        if isinstance(error, aws.ReadTimeoutError):
            return Kind.TIMEOUT, f"{what} did not answer within {self.answer_s:g} s.", None
        if isinstance(error, (aws.EndpointConnectionError, aws.BaseEndpointResolverError, aws.EndpointResolutionError)):
            words = f"{what} cannot be reached. Is that a region that has it, and has this computer a way there?"
            return Kind.UNREACHABLE, words, None
        if isinstance(error, (aws.HTTPClientError, aws.ConnectionError)):
            return Kind.UNREACHABLE, f"{what} cannot be reached ({name}).", None
        if isinstance(error, aws.InvalidRegionError):
            return Kind.REFUSED, f"found no region's name in {self.where}, expected one as in eu-west-1.", None
        if isinstance(error, (ResponseParserError, KeyError, aws.IncompleteReadError)):
            return Kind.BROKEN, f"what answers is not {what} ({name}). Look at AWS_ENDPOINT_URL and at proxies.", False
        if isinstance(error, aws.ParamValidationError):
            words = f"what was to be asked of {self.about} is not what AWS allows; look at {self.setting}."
            return Kind.BROKEN, words, None
        return Kind.BROKEN, f"boto3 cannot do this ({name}). Look at {self.setting} and AWS_ENDPOINT_URL.", None


def _kind_of(action: str, code: str, status: int, said: str, ahead: timedelta | None) -> Kind:
    """What an answer that says no is, by its code first; `ahead`: how far AWS' clock is before ours."""
    is_clock_off = ahead is not None and abs(ahead) > _CLOCKS_DIFFER
    # EC2 says RequestExpired of expired credentials, too.
    is_ec2 = action.startswith("ec2:") and code == "RequestExpired"
    if code in _EXPIRED or (is_ec2 and ahead is not None and not is_clock_off):
        return Kind.EXPIRED
    is_stranger = code in _STRANGERS and "credential should be scoped to" not in said
    if code in _CLOCK or (is_stranger and (is_clock_off or "expired" in said or "not yet current" in said)):
        return Kind.CLOCK
    if is_stranger:
        return Kind.UNKNOWN_CREDENTIALS
    if code in _FORBIDDEN:
        return Kind.FORBIDDEN
    if _THROTTLED.search(code) or status == 429:
        return Kind.THROTTLED
    if _NOT_FOUND.search(code) or (action.startswith("ecs:") and status == 400 and _SAID_NOT_FOUND.search(said)):
        return Kind.NOT_FOUND
    if status >= 500 or code in _FAILED:
        return Kind.FAILED
    return Kind.FORBIDDEN if status == 403 and code not in _NOT_SIGNED_UP | _STRANGERS else Kind.REFUSED


def _ahead(date: object) -> timedelta | None:
    """How far an answer's Date is before this computer's clock; it has whole seconds."""
    try:
        at = parsedate_to_datetime(str(date))
        return at - datetime.now(UTC)
    except (ValueError, TypeError):  # no date, or one without a zone
        return None


def _off(ahead: timedelta | None) -> str:
    if ahead is None or abs(ahead) < timedelta(minutes=1):
        return "wrong by minutes"
    minutes = round(abs(ahead) / timedelta(minutes=1))
    return f"{minutes} min {'behind' if ahead > timedelta(0) else 'ahead of'} AWS'"


def _hint(said: str, about: str) -> str:
    """What AWS spoke of, in brackets; empty for what says no more than `about`."""
    named = _named(said, about)
    return f" (it {'speaks of' if named.startswith('the ') else 'names'} {named})" if named else ""


def _named(said: str, about: str) -> str:
    """Which networks AWS named, or else which part of the request it spoke of: neither is anybody's secret."""
    if networks := sorted(set(_SAID_NETWORK.findall(said))):
        return ", ".join(networks[:4])
    text = _plain(said)
    return next((f"the {one}" for one in _TOPICS if one in text and one not in about.lower()), "")


def _plain(said: str) -> str:
    """In lower case, and with the topics in words: AWS speaks of a TaskDefinition, too, and of securityGroups."""
    text = said.lower()
    for topic in _TOPICS:
        text = text.replace(topic.replace(" ", ""), topic)
    return text


def _without_account(arn: str | None) -> str:
    """An ARN's last part, as in role/portafilter-gateway."""
    parts = (arn or "").split(":", 5)
    return parts[5].rstrip(".,") if len(parts) == 6 and parts[0] == "arn" else ""


def _is_page(answer: Mapping[str, Any]) -> bool:
    """Whether something before AWS has answered with a page of its own; boto3 takes that for an empty answer."""
    headers = (answer.get("ResponseMetadata") or {}).get("HTTPHeaders") or {}
    return str(headers.get("content-type", "")).startswith("text/html") and "x-amzn-requestid" not in headers


def _read(value: Any) -> Any:
    from botocore.response import StreamingBody

    return value.read(_STREAM_LIMIT) if isinstance(value, StreamingBody) else value
