"""IoT Core that refuses, or says nothing: each is one sentence that names the call and the setting."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Iterator

import pytest
from pytest_django.fixtures import Settings

from machines.telemetry.base import TelemetryError
from machines.telemetry.iot_core import IotCoreTelemetry
from tests.machines.cast import new_machine
from tests.machines.telemetry.iot import NOW, REGION, credentials

pytestmark = pytest.mark.django_db


class Refusing(threading.Thread):
    """An endpoint that answers every call with one error, or not at all."""

    def __init__(self) -> None:
        super().__init__(name="refusing AWS", daemon=True)
        self.server = socket.create_server(("127.0.0.1", 0))
        self.code, self.status = "", 400
        self.is_silent = False
        self.let_go = threading.Event()

    def run(self) -> None:
        while True:
            try:
                connection, _ = self.server.accept()
            except OSError:
                return
            with connection:
                connection.recv(65536)
                if self.is_silent:
                    self.let_go.wait(60)  # hung up on before, whoever asks and is held up would read the end
                    continue
                body = json.dumps({"message": "User arn:aws:iam::123456789012:user/x said no"}).encode()
                connection.sendall(
                    f"HTTP/1.1 {self.status} No\r\nx-amzn-ErrorType: {self.code}\r\nContent-Type: application/json\r\n"
                    f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
                    + body
                )


@pytest.fixture
def refusing(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Refusing]:
    found = Refusing()
    credentials(monkeypatch, AWS_ENDPOINT_URL=f"http://127.0.0.1:{found.server.getsockname()[1]}")
    settings.AWS_REGION = REGION
    found.start()
    yield found
    found.let_go.set()
    found.server.shutdown(socket.SHUT_RDWR)
    found.server.close()


def test_what_aws_refuses_is_one_sentence_that_names_call_and_setting(refusing: Refusing) -> None:
    machine, driver = new_machine(), IotCoreTelemetry()
    for code, status, words in [
        (
            "AccessDeniedException",
            403,
            "may not do that. Allow iot:DescribeThing on thing north-A1 in eu-west-1 (AWS",
        ),
        ("ForbiddenException", 403, "Allow iot:DescribeThing on thing north-A1"),
        ("ExpiredTokenException", 403, "have expired. Renew them."),
        (
            "UnrecognizedClientException",
            403,
            "AWS does not know the AWS credentials of this process",
        ),
        ("InvalidSignatureException", 403, "or not in eu-west-1 (AWS_REGION)."),
        ("ThrottlingException", 429, "IoT Core takes no more at the moment (ThrottlingException)."),
        ("InternalFailureException", 500, "IoT Core failed (InternalFailureException); another try may do."),
        (
            "InvalidRequestException",
            400,
            "refused it (InvalidRequestException) for thing north-A1 in eu-west-1 (AWS_REGION); look at IOT_THING_",
        ),
    ]:
        refusing.code, refusing.status = code, status
        with pytest.raises(TelemetryError) as found:
            driver.who_is_responsible(machine, now=NOW)
        text = str(found.value)
        assert text.startswith("iot:DescribeThing: ")
        assert words in text
        assert "123456789012" not in text
        assert not found.value.permanent


def test_aws_without_credentials_or_region_says_so(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, refusing: Refusing
) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    machine = new_machine()
    with pytest.raises(TelemetryError, match="found no whole set of the AWS credentials"):
        IotCoreTelemetry().who_is_responsible(machine, now=NOW)
    settings.AWS_REGION = ""
    with pytest.raises(TelemetryError, match="AWS_REGION: found nothing, expected the region"):
        IotCoreTelemetry()


def test_region_without_iot_core_is_named(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    credentials(monkeypatch)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://mars-north-1.invalid:1")
    settings.AWS_REGION = "mars-north-1"
    machine = new_machine()
    with pytest.raises(TelemetryError, match=r"IoT Core in mars-north-1 \(AWS_REGION\) cannot be reached"):
        IotCoreTelemetry().last_word(machine)


def test_aws_that_says_nothing_is_given_up(refusing: Refusing) -> None:
    refusing.is_silent = True
    machine, driver = new_machine(), IotCoreTelemetry()
    driver._aws.answer_s = 0.1
    with pytest.raises(TelemetryError, match=r"did not answer within 0\.1 s"):
        driver.who_is_responsible(machine, now=NOW)
