"""Telemetry that is a web app: the contract, its signatures, and everything that a web app can do wrong."""

from __future__ import annotations

import ipaddress
import json
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from openapi_schema_validator import OAS31Validator
from openapi_spec_validator import validate as validate_openapi
from pytest_django.fixtures import Settings

from machines.models import Fleet, Machine
from machines.telemetry import http as driver_module
from machines.telemetry import web_rules
from machines.telemetry.answers import AnswerError, duty_document, read_duty, read_json, read_last_word
from machines.telemetry.base import Candidate, Duty, MachineUnknown, Profile, TelemetryError
from machines.telemetry.http import HttpTelemetry
from tests.fakes.telemetry_web import KEY, TelemetryWeb, telemetry_web
from tests.machines.telemetry.contract import Arrangement, TelemetryContract

ROOT = Path(__file__).resolve().parents[3]
NOW = datetime(2026, 11, 23, 7, 40, tzinfo=UTC)


def at_this_moment() -> Machine:
    """A machine that is in no database: the driver needs none."""
    return Machine(serial="A1", fleet=Fleet(slug="north", name="North"))


@pytest.fixture
def app(settings: Settings) -> Iterator[TelemetryWeb]:
    with telemetry_web() as found:
        settings.TELEMETRY_URL, settings.TELEMETRY_KEY, settings.TELEMETRY_KEY_ID = found.url, KEY, "portafilter"
        yield found


@pytest.fixture
def driver(app: TelemetryWeb) -> HttpTelemetry:
    return HttpTelemetry()


class Web:
    """Answers arranged in the web app."""

    source = "http"

    def __init__(self, app: TelemetryWeb) -> None:
        self.app, self.driver = app, HttpTelemetry()

    def make_responsible(self, machine: Machine, usernames: Sequence[str]) -> None:
        self.app.duties[machine.fleet.slug, machine.serial] = {"candidates": [{"username": one} for one in usernames]}

    def let_say(self, machine: Machine, *, at: datetime, software: str, faults: Sequence[str]) -> None:
        word = {"at": at.isoformat(), "software": software, "faults": list(faults), "connected": True}
        self.app.words[machine.fleet.slug, machine.serial] = word


class TestHttp(TelemetryContract):
    @pytest.fixture
    def arrangement(self, app: TelemetryWeb) -> Arrangement:
        return Web(app)


# --- signatures -------------------------------------------------------------------------------------------------------


def test_every_kind_of_request_is_signed_as_agreed(app: TelemetryWeb, driver: HttpTelemetry) -> None:
    driver.who_is_responsible(at_this_moment(), now=NOW)
    driver.deliver_profile(at_this_moment(), Profile("ab12", "the profile"))
    driver.last_word(at_this_moment())
    assert [one.refused for one in app.seen] == ["", "", ""]
    assert parse_qs(urlsplit(app.seen[0].path).query) == {"at": ["2026-11-23T07:40:00Z"]}
    assert app.profiles["north", "A1"] == {"ab12": "the profile"}
    assert KEY not in repr(app.seen)
    assert app.connections == 1, "a connection is used again"


def test_other_key_is_refused_and_the_error_says_which_settings_to_look_at(app: TelemetryWeb) -> None:
    app.key = "another key that is long enough to be one"
    with pytest.raises(TelemetryError, match="TELEMETRY_KEY ") as found:
        HttpTelemetry().who_is_responsible(at_this_moment(), now=NOW)
    assert KEY not in str(found.value)
    assert "InvalidSignature" in app.seen[0].refused


def test_web_app_of_the_tests_is_strict(app: TelemetryWeb, driver: HttpTelemetry) -> None:
    """What the other tests rest on: a replayed, moved, changed or bare request is not believed."""
    import requests

    driver.deliver_profile(at_this_moment(), Profile("ab12", "the profile"))
    seen = app.seen[-1]
    url = app.url.removesuffix("/app") + seen.path
    tries = {
        "replayed": (url, seen.headers, seen.body),
        "moved": (url + "ff", seen.headers, seen.body),
        "changed": (url, seen.headers, seen.body.replace(b"the", b"our")),
        "bare": (url, {"Content-Type": "application/json"}, seen.body),
    }
    for name, (where, headers, body) in tries.items():
        assert requests.put(where, headers=headers, data=body, timeout=30).status_code == 401, name
    assert app.profiles["north", "A1"] == {"ab12": "the profile"}


def test_profile_and_key_show_in_no_repr(driver: HttpTelemetry) -> None:
    from machines.telemetry.bounded import Request

    assert "secret" not in repr(Request("PUT", "http://x", dict, b"secret"))
    assert KEY not in repr(vars(driver))


# --- a web app that misbehaves ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("mood", ["hang", "drip"])
def test_whole_time_is_bounded_whatever_comes(
    app: TelemetryWeb, driver: HttpTelemetry, mood: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "_QUESTION_S", 0.3)
    app.mood = mood
    begun = time.monotonic()
    with pytest.raises(TelemetryError, match=r"did not answer within 0\.3 s"):
        driver.who_is_responsible(at_this_moment(), now=NOW)
    assert time.monotonic() - begun < 8, "what drips does so for 9 s, what hangs for 30"


@pytest.mark.parametrize(
    ("mood", "words"),
    [
        ("status 500", "status 500, expected 200"),
        ("status 302", "not followed"),
        ("status 204", "status 204, expected 200"),
        ("huge", "larger than 64 KiB"),
        ("html", "'text/html' as its type, expected application/json"),
        ("garbage", "cannot be reached"),
        ("cut", "cannot be reached"),
        ("close", "cannot be reached"),
    ],
)
def test_what_is_wrong_is_said_in_words(app: TelemetryWeb, driver: HttpTelemetry, mood: str, words: str) -> None:
    app.mood = mood
    with pytest.raises(TelemetryError, match=words) as found:
        driver.who_is_responsible(at_this_moment(), now=NOW)
    assert not found.value.permanent
    assert all("/elsewhere" not in one.path for one in app.seen)
    app.mood = "good"
    driver.who_is_responsible(at_this_moment(), now=NOW)


def test_connection_that_was_closed_meanwhile_costs_nothing(app: TelemetryWeb, driver: HttpTelemetry) -> None:
    driver.who_is_responsible(at_this_moment(), now=NOW)
    kept: Any = driver._client._idle[0][1]
    kept._http.sock._socket.shutdown(2)
    driver.who_is_responsible(at_this_moment(), now=NOW)
    assert app.connections == 2


def test_machine_that_telemetry_does_not_know_is_no_fault_of_telemetry(
    app: TelemetryWeb, driver: HttpTelemetry
) -> None:
    app.unknown.add("A1")
    with pytest.raises(MachineUnknown, match="A1 of North"):
        driver.who_is_responsible(at_this_moment(), now=NOW)


def test_nobody_there_is_said_with_the_name_of_the_setting(settings: Settings) -> None:
    settings.TELEMETRY_URL, settings.TELEMETRY_KEY = "http://127.0.0.1:9", KEY
    with pytest.raises(TelemetryError, match="TELEMETRY_URL cannot be reached: Connection refused"):
        HttpTelemetry().last_word(at_this_moment())


def test_many_threads_share_a_driver(app: TelemetryWeb, driver: HttpTelemetry) -> None:
    app.duties["north", "A1"] = {"candidates": [{"username": "alice"}]}
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda _: driver.who_is_responsible(at_this_moment(), now=NOW), range(80)))
    assert [one.candidates[0].username for one in found] == ["alice"] * 80
    assert all(not one.refused for one in app.seen)
    assert app.connections <= 8


# --- TLS --------------------------------------------------------------------------------------------------------------


def certificate(folder: Path, *, name: str) -> tuple[Path, ssl.SSLContext]:
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "telemetry")])
    address: x509.GeneralName = x509.DNSName(name)
    if name[0].isdigit():
        address = x509.IPAddress(ipaddress.ip_address(name))
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(datetime.now(UTC) - timedelta(days=1))
        .not_valid_after(datetime.now(UTC) + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([address]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    file = folder / "telemetry.pem"
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    file.write_bytes(made.public_bytes(serialization.Encoding.PEM) + private)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(file)
    return file, context


@pytest.mark.parametrize(("name", "is_good"), [("127.0.0.1", True), ("elsewhere.example.com", False)])
def test_over_https_the_certificate_must_be_of_that_very_host(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, is_good: bool
) -> None:
    file, context = certificate(tmp_path, name=name)
    monkeypatch.setenv("SSL_CERT_FILE", str(file))
    with telemetry_web(context) as app:
        settings.TELEMETRY_URL, settings.TELEMETRY_KEY = app.url, KEY
        if is_good:
            HttpTelemetry().deliver_profile(at_this_moment(), Profile("ab", "text"))
            assert [one.refused for one in app.seen] == [""]
        else:
            with pytest.raises(TelemetryError, match="certificate is not valid for TELEMETRY_URL"):
                HttpTelemetry().deliver_profile(at_this_moment(), Profile("ab", "text"))
            assert app.seen == []


def test_handshake_that_never_ends_ends(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    import socket

    monkeypatch.setattr(driver_module, "_QUESTION_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        settings.TELEMETRY_URL = f"https://127.0.0.1:{server.getsockname()[1]}"
        settings.TELEMETRY_KEY = KEY
        with pytest.raises(TelemetryError, match="within"):
            HttpTelemetry().who_is_responsible(at_this_moment(), now=NOW)


# --- reading answers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "found b'', expected a JSON object"),
        (b"[]", "found a list of 0, expected a JSON object"),
        (b"[" * 60_000, "expected a JSON object"),
        (b'{"candidates": NaN}', "expected a JSON object"),
        (b"\xff\xfe", "expected a JSON object"),
        (b"{}", "candidates: found nothing, expected a list"),
        (b'{"candidates": {}}', "candidates: found an object, expected a list of 50"),
        (json.dumps({"candidates": [{"username": "a"}] * 51}).encode(), "found a list of 51, expected a list of 50"),
        (b'{"candidates": ["alice"]}', r"candidates\[0\]: found a text, expected an object"),
        (b'{"candidates": [{"username": 7}]}', r"candidates\[0\]\.username: found 7, expected 1 to 150 letters"),
        (b'{"candidates": [{"username": "a\\u2028b"}]}', r"\.username: found 'a\\u2028b'"),
        (b'{"candidates": [{"username": "a", "why": "x\\u0000"}]}', r"\.why: found 'x\\x00', expected one line"),
        (json.dumps({"candidates": [{"username": "a", "why": "x" * 121}]}).encode(), "one line of up to 120"),
        (b'{"candidates": [], "next_at": "tomorrow"}', "next_at: found 'tomorrow', expected a time with its offset"),
        (b'{"candidates": [], "next_at": "2026-11-23T07:00:00"}', "with its offset"),
        (b'{"candidates": [], "next_at": "0001-01-01T00:00:00+23:59"}', "next_at: found"),
        # "Never", as some say it: pages that say it by the clock at the machine could not.
        (b'{"candidates": [], "next_at": "9999-12-31T23:59:59Z"}', "next_at: found '9999-12-31T23:59:59Z', expected"),
    ],
)
def test_answer_that_was_not_agreed_is_named(app: TelemetryWeb, driver: HttpTelemetry, body: bytes, words: str) -> None:
    app.mood, app.raw = "raw", body
    with pytest.raises(TelemetryError, match=words) as found:
        driver.who_is_responsible(at_this_moment(), now=NOW)
    assert len(str(found.value)) < 250


def test_members_that_nobody_knows_yet_are_passed_over(app: TelemetryWeb, driver: HttpTelemetry) -> None:
    app.mood, app.raw = "raw", b'{"candidates": [{"username": "alice", "colour": 3}], "more": [1]}'
    assert driver.who_is_responsible(at_this_moment(), now=NOW).candidates == (
        Candidate("alice", "named by telemetry"),
    )


@pytest.mark.parametrize(
    "document",
    [
        {"at": 7},
        {"at": None, "connected": 1},
        {"at": None, "software": "x" * 81},
        {"at": None, "faults": "E17"},
        {"at": None, "faults": ["a\nb"]},
        {"at": None, "profile_version": "<b>"},
    ],
)
def test_last_word_is_read_as_strictly(document: dict[str, object]) -> None:
    with pytest.raises(AnswerError, match=r"found .*, expected"):
        read_last_word(document)


_MEMBERS = st.sampled_from(["candidates", "username", "why", "next_at", "at", "faults", "x"])
_VALUES = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_MEMBERS, inner, max_size=4),
)
_CANDIDATES = st.builds(
    Candidate, st.from_regex(r"[\w.@+-]{1,20}", fullmatch=True), st.sampled_from(["x", "until 18:00"])
)


def a_duty(document: Mapping[str, Any]) -> Duty:
    return read_duty(document, source="http")


@hypothesis_settings(max_examples=100, deadline=None, database=None)
@given(_VALUES)
def test_whatever_json_comes_is_read_or_refused(value: object) -> None:
    readers: list[Callable[[Mapping[str, Any]], object]] = [a_duty, read_last_word]
    for reader in readers:
        try:
            reader(read_json(json.dumps(value).encode()))
        except AnswerError as error:
            assert "expected" in str(error)


@hypothesis_settings(max_examples=50, deadline=None, database=None)
@given(
    st.lists(_CANDIDATES, max_size=5),
    st.none() | st.datetimes(datetime(2000, 1, 1), datetime(2199, 12, 31), timezones=st.just(UTC)),
)
def test_kept_answer_is_the_answer(candidates: list[Candidate], next_at: datetime | None) -> None:
    duty = Duty(tuple(candidates), "http", next_at)
    assert a_duty(json.loads(json.dumps(duty_document(duty)))) == duty


# --- the document and the settings ------------------------------------------------------------------------------------


def test_openapi_document_is_valid_and_its_examples_are() -> None:
    document = yaml.safe_load((ROOT / "docs" / "telemetry.openapi.yaml").read_text("utf-8"))
    validate_openapi(document)
    schemas = document["components"]["schemas"]
    readers: dict[str, Callable[[Mapping[str, Any]], object]] = {"Duty": a_duty, "LastWord": read_last_word}
    for name, reader in readers.items():
        example = schemas[name]["example"]
        OAS31Validator({**schemas[name], "components": document["components"]}).validate(example)
        reader(read_json(json.dumps(example).encode()))


def test_document_and_driver_speak_of_the_same_calls(app: TelemetryWeb, driver: HttpTelemetry) -> None:
    document = yaml.safe_load((ROOT / "docs" / "telemetry.openapi.yaml").read_text("utf-8"))
    driver.who_is_responsible(at_this_moment(), now=NOW)
    driver.last_word(at_this_moment())
    driver.deliver_profile(at_this_moment(), Profile("ab12", "the profile"))
    called = {
        (one.method.lower(), urlsplit(one.path.removeprefix("/app").replace("/north/A1/", "/{fleet}/{serial}/")).path)
        for one in app.seen
    }
    agreed = {
        (method, path.replace("{identity}", "ab12"))
        for path, item in document["paths"].items()
        for method in item
        if method in {"get", "put", "post"}
    }
    assert called == agreed
    words = " ".join(document["info"]["description"].split())
    for said in (
        *driver_module.SIGNED_WITH_BODY,
        driver_module.SIGNATURE_TAG,
        "content-digest",
        "hmac-sha256",
        "64 KiB",
    ):
        assert said in words


@pytest.mark.parametrize(
    "url",
    [
        "http://telemetry.example.com",
        "http://127.0.0.1.example.com/",
        "ftp://localhost/",
        "https://",
        "https://user:pw@telemetry.example.com",
        "https://telemetry.example.com/?a=b",
        "https://telemetry.example.com/#x",
        "https://telemetry.example.com/a b",
        "https://[::1",
        "telemetry.example.com",
    ],
)
def test_address_that_a_secret_must_not_go_to_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="expected https://") as found:
        web_rules.check_url(url)
    assert "pw" not in str(found.value)


@pytest.mark.parametrize("url", ["https://t.example.com/app/", "http://localhost:8080", "http://[::1]:8080/x"])
def test_good_addresses_are_taken(url: str) -> None:
    assert web_rules.check_url(url) == url.rstrip("/")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({}, "TELEMETRY_URL is not set, and TELEMETRY=http needs it"),
        ({"TELEMETRY_URL": "http://elsewhere.example.com"}, "TELEMETRY_URL: found 'http://elsewhere"),
        ({"TELEMETRY_URL": "https://t.example.com", "TELEMETRY_KEY": "sh0rt"}, "TELEMETRY_KEY: found 5 characters"),
        ({"TELEMETRY": "iot_core"}, "AWS_REGION: found nothing, expected the region of the things"),
    ],
)
def test_wrong_settings_stop_the_start_in_one_sentence(values: dict[str, str], words: str) -> None:
    import os

    environment = {**os.environ, "DJANGO_SETTINGS_MODULE": "portal.settings", "TELEMETRY": "http", **values}
    command = [sys.executable, "-c", "from django.conf import settings; settings.DEBUG"]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert words in last
    assert "sh0rt" not in last


def test_nothing_is_left_of_many_that_hang(
    app: TelemetryWeb, driver: HttpTelemetry, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver_module, "_QUESTION_S", 0.2)
    app.mood, before = "hang", threading.active_count()
    for _ in range(3):
        with pytest.raises(TelemetryError):
            driver.who_is_responsible(at_this_moment(), now=NOW)
    app.let_go.set()
    assert driver._client._idle == []
    assert threading.active_count() <= before + 3, "the web app's own; the driver has none"
