"""Calls to AWS over real HTTP: what each refusal reads like, what a program learns of it, and who shares what."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from machines import aws as aws_module
from machines.aws import Aws, AwsError, Kind, SettingOf

REGION = "eu-west-1"
ACCOUNT = "123456789012"
CLUSTER: dict[str, Any] = {"about": "the cluster portafilter", "setting": "ECS_CLUSTER"}


class Endpoint:
    """AWS' end of the line, for any service: answers each in its own protocol with what it is told to."""

    def __init__(self) -> None:
        self.let_go = threading.Event()
        self.be_good()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length") or 0))
                scope = self.headers["Authorization"].partition("Credential=")[2].split("/")
                with outer._lock:
                    outer.keys.append(scope[0])
                if outer.stalls:
                    outer.let_go.wait(60)
                if outer.hangs_up:
                    self.close_connection = True
                    return
                body = outer.body if outer.body is not None else outer.answer(scope[3])
                self.send_response_only(outer.status)
                self.send_header("Date", format_datetime(datetime.now(UTC) + outer.ahead, usegmt=True))
                self.send_header("Content-Type", outer.kind)
                self.send_header("x-amzn-ErrorType", outer.code)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_GET = do_POST

            def log_message(self, *_: object) -> None: ...

        class Server(ThreadingHTTPServer):
            daemon_threads = True

        self.server = Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def answer(self, service: str) -> bytes:
        if service in {"ecs", "sqs", "iot", "globalaccelerator"}:
            shown = {"__type": self.code, "message": self.said} if self.status != 200 else {}
            return json.dumps(shown).encode()
        if self.status == 200:
            return b"<R><GetCallerIdentityResult/></R>"
        error = f"<Error><Code>{self.code}</Code><Message>{self.said}</Message></Error>"
        if service == "ec2":
            return f"<Response><Errors>{error}</Errors><RequestID>r</RequestID></Response>".encode()
        return f"<ErrorResponse>{error}<RequestId>r</RequestId></ErrorResponse>".encode()

    def be_good(self) -> None:
        self.let_go.set()  # who still waits for the test before
        self.let_go = threading.Event()
        self.status, self.code, self.said = 200, "", ""
        self.ahead = timedelta()
        self.body: bytes | None = None
        self.kind = "application/json"
        self.stalls, self.hangs_up = False, False
        self.keys: list[str] = []

    def refuse(self, code: str, status: int = 400, said: str = "") -> None:
        self.code, self.status, self.said = code, status, said


@pytest.fixture(scope="module")
def served() -> Iterator[Endpoint]:
    with pytest.MonkeyPatch.context() as patch:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
            patch.delenv(name, raising=False)
        for name, value in {
            **{"AWS_ACCESS_KEY_ID": "AKIAFIRST", "AWS_SECRET_ACCESS_KEY": "canary-of-aws"},
            **{"AWS_EC2_METADATA_DISABLED": "true", "AWS_CONFIG_FILE": "/none", "AWS_SHARED_CREDENTIALS_FILE": "/none"},
        }.items():
            patch.setenv(name, value)
        made = Endpoint()
        patch.setenv("AWS_ENDPOINT_URL", made.url)
        yield made
        made.server.shutdown()
        made.server.server_close()


def patient() -> Aws:
    """It waits for an answer as long as a busy computer takes; how long others wait is their callers' matter."""
    return Aws(REGION, connect_s=60, answer_s=60)


@pytest.fixture(scope="module")
def shared(served: Endpoint) -> Aws:
    """Clients are slow to make: whoever only reads words has those of the others."""
    return patient()


@pytest.fixture
def endpoint(served: Endpoint) -> Endpoint:
    served.be_good()
    return served


def run_task(aws: Aws, **arguments: Any) -> dict[str, Any]:
    return aws.call("ecs", "RunTask", **CLUSTER, cluster="portafilter", taskDefinition="gateway", **arguments)


def refusal(aws: Aws, service: str) -> AwsError:
    with pytest.raises(AwsError) as found:
        if service == "ecs":
            run_task(aws)
        elif service == "ec2":
            names: dict[str, Any] = {"about": "subnet-0a1b2c3d", "setting": "ECS_SUBNETS"}
            aws.call("ec2", "DescribeSubnets", **names, SubnetIds=["subnet-0a1b2c3d"])
        elif service == "sns":
            names = {"about": "text messages (Resource *)", "setting": "SMS"}
            aws.call("sns", "Publish", **names, PhoneNumber="+393331234567", Message="Help")
        elif service == "sqs":
            names = {"about": "the queue of events", "setting": "ECS_EVENTS_QUEUE"}
            aws.call("sqs", "ReceiveMessage", **names, QueueUrl="https://sqs.eu-west-1.amazonaws.com/1/q")
        elif service == "iot":
            aws.call("iot", "DescribeThing", about="thing north-A1", setting="IOT_THING_NAME", thingName="north-A1")
        else:
            aws.call("sts", "GetCallerIdentity", about="ourselves", setting="the AWS credentials")
    return found.value


# Service; AWS' code, status and message; what a program reads; what people read.
REFUSALS: list[tuple[str, str, int, str, Kind, str]] = [
    ("ecs", "ClusterNotFoundException", 400, "Cluster not found.", Kind.NOT_FOUND,
     "ecs:RunTask: ECS_CLUSTER names what is not there in eu-west-1 (AWS_REGION): the cluster portafilter."),
    ("ecs", "ClientException", 400, "Unable to describe task definition.", Kind.NOT_FOUND,
     "the cluster portafilter (it speaks of the task definition)."),
    ("ecs", "InvalidParameterException", 400, "The subnet ID 'subnet-0a1b2c3d4e' does not exist (ErrorCode: …)",
     Kind.NOT_FOUND, "(it names subnet-0a1b2c3d4e)."),
    ("ec2", "InvalidSubnetID.NotFound", 400, "The subnet ID 'subnet-0a1b2c3d' does not exist", Kind.NOT_FOUND,
     "ec2:DescribeSubnets: ECS_SUBNETS names what is not there in eu-west-1 (AWS_REGION): subnet-0a1b2c3d"),
    ("sqs", "AWS.SimpleQueueService.NonExistentQueue", 400, "The specified queue does not exist.", Kind.NOT_FOUND,
     "sqs:ReceiveMessage: ECS_EVENTS_QUEUE names what is not there"),
    ("iot", "ResourceNotFoundException", 404, "Thing north-A1 not found", Kind.NOT_FOUND, "IOT_THING_NAME names"),
    ("ecs", "ExpiredTokenException", 400, "The security token included in the request is expired", Kind.EXPIRED,
     "ecs:RunTask: the AWS credentials of this process (its task's or computer's role, or AWS_ACCESS_KEY_ID and the "
     "like) have expired. Renew them."),
    ("sts", "ExpiredToken", 403, "expired", Kind.EXPIRED, "have expired. Renew them."),
    ("ec2", "RequestExpired", 400, "Request has expired.", Kind.EXPIRED, "have expired. Renew them."),
    ("ecs", "UnrecognizedClientException", 400, "The security token included in the request is invalid.",
     Kind.UNKNOWN_CREDENTIALS, "ecs:RunTask: AWS does not know the AWS credentials of this process"),
    ("sts", "InvalidClientTokenId", 403, "invalid", Kind.UNKNOWN_CREDENTIALS, "or not in eu-west-1 (AWS_REGION)."),
    ("ec2", "AuthFailure", 401, "AWS was not able to validate", Kind.UNKNOWN_CREDENTIALS, "AWS does not know"),
    ("ecs", "InvalidSignatureException", 400, "The request signature we calculated does not match",
     Kind.UNKNOWN_CREDENTIALS, "AWS does not know"),
    ("ecs", "InvalidSignatureException", 400, "Signature expired: 20261123T100000Z is now earlier than", Kind.CLOCK,
     "this computer's clock is wrong by minutes, so AWS refuses what it signs. Set it right."),
    ("sts", "SignatureDoesNotMatch", 403, "Credential should be scoped to a valid region, not 'eu-west-1'.",
     Kind.REFUSED, "what answers is not STS of eu-west-1 (AWS_REGION). Look at the region, and at AWS_ENDPOINT_URL."),
    ("ecs", "AccessDeniedException", 400,
     f"User: arn:aws:sts::{ACCOUNT}:assumed-role/worker/1 is not authorized to perform: ecs:RunTask on resource: "
     f"arn:aws:ecs:eu-west-1:{ACCOUNT}:task-definition/gateway because no identity-based policy allows the action",
     Kind.FORBIDDEN, "may not do that. Allow ecs:RunTask on the cluster portafilter in eu-west-1 (AWS_REGION)."),
    ("ecs", "AccessDeniedException", 400,
     f"User: arn:aws:sts::{ACCOUNT}:assumed-role/worker/1 is not authorized to perform: iam:PassRole on resource: "
     f"arn:aws:iam::{ACCOUNT}:role/portafilter-execution with an explicit deny in a service control policy",
     Kind.FORBIDDEN, "Allow iam:PassRole on role/portafilter-execution. A policy denies it explicitly."),
    ("ec2", "UnauthorizedOperation", 403, "Encoded authorization failure message: abcdef0123", Kind.FORBIDDEN,
     "Allow ec2:DescribeSubnets on subnet-0a1b2c3d in eu-west-1 (AWS_REGION)."),
    ("sns", "AuthorizationError", 403, "not authorized to perform: SNS:Publish on resource: +393331234567",
     Kind.FORBIDDEN, "Allow sns:Publish on text messages (Resource *) in eu-west-1 (AWS_REGION)."),
    ("iot", "ForbiddenException", 403, "", Kind.FORBIDDEN, "Allow iot:DescribeThing on thing north-A1"),
    ("ecs", "ThrottlingException", 400, "Rate exceeded", Kind.THROTTLED,
     "ecs:RunTask: ECS takes no more at the moment (ThrottlingException)."),
    ("ec2", "RequestLimitExceeded", 503, "", Kind.THROTTLED, "EC2 takes no more at the moment"),
    ("sqs", "Whatever", 429, "", Kind.THROTTLED, "takes no more at the moment (Whatever)."),
    ("ecs", "ServerException", 500, "", Kind.FAILED, "ecs:RunTask: ECS failed (ServerException); another try may do."),
    ("sts", "InternalFailure", 500, "", Kind.FAILED, "another try may do."),
    ("iot", "", 503, "", Kind.FAILED, "IoT Core failed (503); another try may do."),
    ("ecs", "InvalidParameterException", 400, "startedBy is too long", Kind.REFUSED,
     "ECS refused it (InvalidParameterException) for the cluster portafilter in eu-west-1 (AWS_REGION); look at "
     "ECS_CLUSTER."),
    ("sns", "OptInRequired", 403, "The AWS Access Key Id needs a subscription for the service", Kind.REFUSED,
     "the AWS account is not signed up for SNS"),
]  # fmt: skip
PERMANENT = {Kind.UNKNOWN_CREDENTIALS, Kind.FORBIDDEN, Kind.NOT_FOUND, Kind.REFUSED}


@pytest.mark.parametrize(
    ("service", "code", "status", "said", "kind", "words"),
    REFUSALS,
    ids=[f"{one[0]}-{one[1] or one[2]}-{number}" for number, one in enumerate(REFUSALS)],
)
def test_refusal_is_one_sentence_that_names_the_call_and_the_setting(
    endpoint: Endpoint, shared: Aws, service: str, code: str, status: int, said: str, kind: Kind, words: str
) -> None:
    endpoint.refuse(code, status, said)
    error = refusal(shared, service)
    assert (error.kind, error.is_permanent) == (kind, kind in PERMANENT)
    assert error.may_have_happened == (kind is Kind.FAILED)
    text = str(error)
    assert words in text
    assert text.startswith(f"{service}:") and text.endswith(".") and "\n" not in text and len(text) < 330
    for secret in (ACCOUNT, "+393331234567", "canary-of-aws", "AKIAFIRST", "abcdef0123"):
        assert secret not in text + repr(error)
    assert len(endpoint.keys) == 1, "one try, no more"


SETTING = SettingOf(
    "ECS_CLUSTER",
    {"task definition": "ECS_TASK_DEFINITION", "subnet": "ECS_SUBNETS", "security group": "ECS_SECURITY_GROUPS"},
)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ("The subnet ID 'subnet-0a1b2c3d' does not exist (ErrorCode: InvalidSubnetID.NotFound)",
         "ecs:RunTask: ECS_SUBNETS names what is not there in eu-west-1 (AWS_REGION): subnet-0a1b2c3d, for the cluster "
         "portafilter."),
        ("Unable to describe task definition.",
         "ecs:RunTask: ECS_TASK_DEFINITION names what is not there in eu-west-1 (AWS_REGION): the task definition, for "
         "the cluster portafilter."),
        ("TaskDefinition not found.", "ECS_TASK_DEFINITION names what is not there"),
        ("securityGroups can have at most 5 items.", "; look at ECS_SECURITY_GROUPS."),
        ("Security group sg-0a1b2c3d and subnet subnet-0a1b2c3d belong to different networks.",
         "(it names sg-0a1b2c3d, subnet-0a1b2c3d); look at ECS_SUBNETS or ECS_SECURITY_GROUPS."),
        ("Something quite new.", "; look at ECS_CLUSTER."),
    ],
)  # fmt: skip
def test_setting_is_the_one_of_what_aws_speaks_of(endpoint: Endpoint, shared: Aws, said: str, words: str) -> None:
    endpoint.refuse("InvalidParameterException", said=said)
    with pytest.raises(AwsError) as found:
        shared.call("ecs", "RunTask", about=CLUSTER["about"], setting=SETTING, taskDefinition="gateway")
    assert words in str(found.value)


@pytest.mark.parametrize(
    ("shown", "ids"), [({"resourceIds": ["arn:one", "arn:two"]}, ("arn:one", "arn:two")), ({}, ())]
)
def test_what_a_conflict_is_about_is_told_without_a_type_of_the_sdk(
    endpoint: Endpoint, shared: Aws, shown: dict[str, Any], ids: tuple[str, ...]
) -> None:
    endpoint.refuse("ConflictException")
    endpoint.body = json.dumps({"__type": "ConflictException", "message": "Used for another.", **shown}).encode()
    error = refusal(shared, "ecs")
    assert error.resource_ids == ids
    assert "arn:" not in str(error)


def test_clock_that_is_wrong_is_told_from_credentials_that_are(endpoint: Endpoint, shared: Aws) -> None:
    endpoint.refuse("SignatureDoesNotMatch", 403, "The signature we calculated does not match")
    endpoint.ahead = timedelta(minutes=17)
    error = refusal(shared, "sts")
    assert error.kind is Kind.CLOCK and not error.is_permanent
    assert "this computer's clock is 17 min behind AWS', so AWS refuses what it signs." in str(error)
    endpoint.ahead = -timedelta(hours=2)
    endpoint.refuse("RequestExpired", 400)
    assert "this computer's clock is 120 min ahead of AWS'" in str(refusal(shared, "ec2"))


def test_lost_answer_may_have_happened_and_a_lost_way_has_not(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    aws = Aws(REGION, answer_s=0.1)
    endpoint.stalls = True
    lost = refusal(aws, "ecs")
    assert (lost.kind, lost.is_permanent, lost.may_have_happened) == (Kind.TIMEOUT, False, True)
    assert str(lost) == "ecs:RunTask: ECS in eu-west-1 (AWS_REGION) did not answer within 0.1 s."
    endpoint.stalls, endpoint.hangs_up = False, True
    cut = refusal(aws, "ecs")
    assert (cut.kind, cut.may_have_happened) == (Kind.UNREACHABLE, True)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    away = refusal(Aws("mars-north-1"), "ecs")
    assert (away.kind, away.is_permanent, away.may_have_happened) == (Kind.UNREACHABLE, False, False)
    assert "ECS in mars-north-1 (AWS_REGION) cannot be reached. Is that a region that has it" in str(away)


@pytest.mark.parametrize("service", ["ecs", "sts", "iot"])
def test_what_is_not_aws_at_all_is_said(endpoint: Endpoint, shared: Aws, service: str) -> None:
    endpoint.body, endpoint.kind = b"<html>Sign in to the hotel's network</html>", "text/html; charset=utf-8"
    error = refusal(shared, service)
    assert error.kind is Kind.BROKEN and error.may_have_happened
    assert "Look at AWS_ENDPOINT_URL and at proxies." in str(error)


def test_what_aws_would_never_take_is_not_sent(endpoint: Endpoint) -> None:
    with pytest.raises(AwsError) as found:
        run_task(patient(), count="two")
    assert found.value.kind is Kind.BROKEN and found.value.is_permanent and not found.value.may_have_happened
    with pytest.raises(AwsError, match="found no region's name in eu west"):
        run_task(Aws("eu west"))
    assert endpoint.keys == []


def test_credentials_that_have_expired_are_read_anew(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    aws = patient()
    run_task(aws)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECOND")
    run_task(aws)
    endpoint.refuse("ExpiredTokenException")
    refusal(aws, "ecs")
    endpoint.status = 200
    run_task(aws)
    assert endpoint.keys == ["AKIAFIRST"] * 3 + ["AKIASECOND"]


def test_credentials_that_were_missing_are_found_when_they_are_there(
    endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    aws = patient()
    error = refusal(aws, "ecs")
    assert error.kind is Kind.NO_CREDENTIALS and not error.may_have_happened
    assert "found no whole set of the AWS credentials of this process" in str(error)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIALATER")
    assert refusal(aws, "ecs").kind is Kind.NO_CREDENTIALS, "to look for them at every call would cost seconds"
    monkeypatch.setattr(aws_module, "_LOOK_AGAIN_S", 0.0)
    refusal(aws, "ecs")
    run_task(aws)
    assert endpoint.keys == ["AKIALATER"]


def test_threads_share_one_client_a_service(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[str] = []
    make = Aws._make

    def counted(self: Aws, service: str) -> Any:
        made.append(service)
        return make(self, service)

    monkeypatch.setattr(Aws, "_make", counted)
    aws, barrier = patient(), threading.Barrier(8)

    def call(number: int) -> None:
        barrier.wait(30)
        run_task(aws)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(call, range(8)))
    assert made == ["ecs"] and len(endpoint.keys) == 8
    # All of them find their credentials expired at once: one new client is made for the eight.
    endpoint.refuse("ExpiredTokenException")
    with ThreadPoolExecutor(8) as threads:
        kinds = {one.kind for one in threads.map(lambda _: refusal(aws, "ecs"), range(8))}
    assert kinds == {Kind.EXPIRED}
    endpoint.status, made[:] = 200, []
    run_task(aws)
    assert len(made) <= 1


def test_stream_in_an_answer_has_been_read(endpoint: Endpoint) -> None:
    endpoint.body = b'{"state": {}}'
    names: dict[str, Any] = {"about": "thing north-A1", "setting": "IOT_THING_NAME"}
    answer = patient().call("iot-data", "GetThingShadow", **names, thingName="north-A1")
    assert answer["payload"] == b'{"state": {}}'
