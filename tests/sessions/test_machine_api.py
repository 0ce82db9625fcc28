"""The machines' face over ASGI: who may call, what is taken, and how it reads when it is not."""

from __future__ import annotations

import json
import logging
import threading
import uuid
from pathlib import Path
from typing import Any

import pytest
from django.db import connection, connections

from machines import services as fleet_services
from machines.models import Machine, SecurityEvent
from sessions import presses, services
from sessions.models import RdpCredential, SupportSession
from sessions.states import EndReason
from tests.sessions.machine_face import LOGIN, REQUESTS, Caller, caller_of
from tests.sessions.rescues import PASSWORD, machine, person, press
from tests.waiting import until

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("poll_pool")]


@pytest.fixture
def a1() -> Caller:
    return caller_of("A1")


# --- who may call -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("sent", ["", "Basic YTpi", "Bearer", "Bearer nonsense", "Bearer é.ü", "Bearer " + "x" * 9000])
def test_call_without_a_good_token_is_told_what_was_expected(a1: Caller, sent: str) -> None:
    a1.token = ""
    answer = a1.ask(**({"Authorization": sent} if sent else {}))
    problem = answer.expect_problem(401, "token_refused")
    assert "Bearer <prefix>.<secret>" in problem["detail"]
    assert answer.headers["www-authenticate"].startswith("Bearer")
    assert not SupportSession.objects.exists()


def test_token_with_a_wrong_secret_or_revoked_is_refused(a1: Caller) -> None:
    prefix = a1.token.partition(".")[0]
    Caller(f"{prefix}.wrong", a1.address).ask().expect_problem(401, "token_refused")
    fleet_services.revoke_token(machine("A1").tokens.get())
    a1.ask().expect_problem(401, "token_refused")


def test_machine_that_is_switched_off_is_refused(a1: Caller) -> None:
    Machine.objects.update(is_active=False)
    a1.ask().expect_problem(401, "token_refused")


@pytest.mark.parametrize("header", ["X-Forwarded-For", "X-Real-IP", "Forwarded", "Remote-Addr", "X-Client-IP"])
def test_forged_source_address_is_refused_and_recorded(a1: Caller, header: str) -> None:
    """T13: a stolen token at another machine does not become that machine by what it writes in a header."""
    thief = Caller(a1.token, machine("A2").vpn_address)
    claimed = f"for={a1.address}" if header == "Forwarded" else a1.address
    thief.ask(**{header: claimed}).expect_problem(403, "address_refused")
    thief("GET", f"{REQUESTS}{uuid.uuid4()}/", **{header: claimed}).expect_problem(403, "address_refused")
    events = SecurityEvent.objects.filter(kind="address_refused")
    assert [(event.machine.serial, event.address) for event in events if event.machine] == [("A1", thief.address)] * 2
    assert not SupportSession.objects.exists()


def test_forwarding_headers_do_not_harm_the_right_machine(a1: Caller) -> None:
    assert a1.ask(**{"X-Forwarded-For": "10.0.0.9", "Forwarded": "for=10.0.0.9"}).status == 201


def test_socket_of_both_families_gives_the_same_address(a1: Caller) -> None:
    assert Caller(a1.token, f"::ffff:{a1.address}").ask().status == 201


HOSTS = ["127.0.0.1", "169.254.169.254", "::1", "2130706433", "127.64.0.77", "metadata.internal"]


@pytest.mark.parametrize("member", ["host", "hostname", "ip", "address", "vpn_address"])
def test_machine_cannot_choose_what_is_dialled(a1: Caller, member: str) -> None:
    """T12: an address in the body is refused, wherever it stands."""
    for host in HOSTS:
        for body in ({"rdp": {**LOGIN, member: host}}, {"rdp": LOGIN, member: host}):
            problem = a1.ask(body).expect_problem(400, "invalid")
            assert member in problem["errors"][0]["field"]
    assert not SupportSession.objects.exists()


# --- asking for help --------------------------------------------------------------------------------------------------


def test_press_makes_a_request_and_its_login_is_kept_for_the_gateway_alone(a1: Caller) -> None:
    answer = a1.ask({"rdp": LOGIN, "problem": {"code": "E17", "text": "Grinder jammed"}})
    assert answer.status == 201
    document = answer.json
    assert set(document) == {
        "id", "version", "state", "end_reason", "message", "operator_name", "created_at", "updated_at",
    }  # fmt: skip
    assert document["state"] == "requested" and document["end_reason"] is None and document["message"]
    session = SupportSession.objects.get()
    assert (str(session.pk), session.machine.serial) == (document["id"], "A1")
    assert (session.problem_code, session.problem_text) == ("E17", "Grinder jammed")
    assert (session.credential.username, session.credential.password) == ("once", PASSWORD)


def test_same_press_again_is_the_same_request(a1: Caller) -> None:
    first, again = a1.ask(), a1.ask()
    assert (first.status, again.status) == (201, 200)
    assert first.json["id"] == again.json["id"]


def test_press_while_a_request_is_open_gives_that_one(a1: Caller) -> None:
    first, second = a1.ask(key="press-1"), a1.ask(key="press-2")
    assert second.status == 200 and second.json["id"] == first.json["id"]


def test_press_after_the_end_is_a_new_request(a1: Caller) -> None:
    first = a1.ask(key="press-1").json["id"]
    a1("POST", f"{REQUESTS}{first}/cancel/", {})
    second = a1.ask(key="press-2")
    assert second.status == 201 and second.json["id"] != first


def test_key_used_again_with_another_body_is_a_conflict(a1: Caller) -> None:
    a1.ask()
    problem = a1.ask({"rdp": {**LOGIN, "password": "another"}}).expect_problem(409, "idempotency_conflict")
    assert "another" not in problem["detail"].replace("another body", "")


def test_key_of_a_press_that_found_an_open_request_is_a_conflict_with_another_body_too(a1: Caller) -> None:
    renewed = {"rdp": {**LOGIN, "password": "renewed"}}
    first = a1.ask(key="press-1").json
    assert a1.ask(renewed, key="press-2").json["id"] == first["id"]

    a1.ask({"rdp": {**LOGIN, "password": "another"}}, key="press-2").expect_problem(409, "idempotency_conflict")
    assert a1.ask(renewed, key="press-2").status == 200
    assert SupportSession.objects.get().credential.password == "renewed"


def test_late_copy_of_an_old_press_is_answered_and_changes_nothing(a1: Caller) -> None:
    a1.ask(key="press-1")
    renewed = a1.ask({"rdp": {**LOGIN, "password": "renewed"}}, key="press-2").json

    late = a1.ask(key="press-1")

    assert (late.status, late.json) == (200, renewed)
    assert SupportSession.objects.get().credential.password == "renewed"


@pytest.mark.parametrize("key", [None, "", " ", "with space", "x" * 129, "caf\xe9"])
def test_press_without_a_proper_key_is_refused(a1: Caller, key: str | None) -> None:
    headers = {} if key is None else {"Idempotency-Key": key}
    problem = a1("POST", REQUESTS, {"rdp": LOGIN}, **headers).expect_problem(400, "invalid")
    assert problem["errors"][0]["field"] == "Idempotency-Key"
    assert "1 to 128 visible ASCII" in problem["detail"]


def test_ten_presses_at_once_make_one_request(a1: Caller) -> None:
    answers: list[Any] = []
    barrier = threading.Barrier(10)

    def push(number: int) -> None:
        barrier.wait(100)
        try:
            answers.append(a1.ask(key=f"press-{number}"))
        finally:
            connections.close_all()

    threads = [threading.Thread(target=push, args=(number,)) for number in range(10)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert sorted(answer.status for answer in answers) == [200] * 9 + [201]
    assert len({answer.json["id"] for answer in answers}) == 1
    assert SupportSession.objects.count() == 1


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"{'a': 1}", b"\xff\xfe", b'{"rdp": NaN}', b"[" * 50_000, b"1" * 9000, b'{"rdp": {"port": 1e999}}',
     b"null", b"[]", b'"text"', b"3"],
)  # fmt: skip
def test_malformed_json_is_named(a1: Caller, body: bytes) -> None:
    answer = a1.ask(body)
    problem = answer.expect_problem(400, answer.json["code"])
    assert problem["code"] in {"parse_error", "invalid"}
    assert "found" in problem["detail"] and "expected" in problem["detail"]


def test_deeply_nested_json_is_refused_politely(a1: Caller) -> None:
    a1.ask(b'{"rdp":' * 5000 + b"1" + b"}" * 5000).expect_problem(400, "parse_error")


def test_wrong_content_type_is_refused(a1: Caller) -> None:
    a1.ask(b"rdp=1", **{"Content-Type": "application/x-www-form-urlencoded"}).expect_problem(
        415, "unsupported_media_type"
    )


def test_body_beyond_all_bounds_is_refused_before_it_is_kept(a1: Caller) -> None:
    problem = a1.ask({"rdp": {**LOGIN, "password": "x" * 1_000_000}}).expect_problem(413, "body_too_large")
    assert "65536" in problem["detail"]


HARD = [
    "a,b;c",
    "4.size,1.0;",
    "\"quoted\" 'twice'",
    "back\\slash",
    "☕🔧 grüße",
    " spaces ",
    "%s{0}$(id)`id`",
    "x" * 256,
]


@pytest.mark.parametrize("text", HARD)
def test_credentials_of_any_printable_kind_come_through_unchanged(a1: Caller, text: str) -> None:
    assert a1.ask({"rdp": {"username": text, "password": text, "domain": text}}).status == 201
    kept = RdpCredential.objects.get()
    assert (kept.username, kept.password, kept.domain) == (text, text, text)


WRONG = [
    ("password", "p" * 10_240, "text of 10240 characters", "1 to 256"),
    ("password", "", "text of 0 characters", "1 to 256"),
    ("password", "line\nbreak", "text of 10 characters", "control"),
    ("password", "nul\x00", "text of 4 characters", "control"),
    ("password", "half\ud83d", "text of 5 characters", "control"),
    ("password", 12345, "the number 12345", "1 to 256"),
    ("password", None, "null", "a value"),
    ("username", "u" * 257, "text of 257 characters", "1 to 256"),
    ("username", ["root"], "a list of 1 entries", "1 to 256"),
    ("domain", "d" * 257, "text of 257 characters", "up to 256"),
    ("port", 0, "the number 0", "from 1 to 65535"),
    ("port", 65536, "the number 65536", "from 1 to 65535"),
    ("port", "3389", "text of 4 characters", "from 1 to 65535"),
    ("port", True, "true", "from 1 to 65535"),
    ("security", "ssl3", '"ssl3"', "any, nla, tls, rdp"),
    ("colour", "red", "text of 3 characters", "username, password, port, domain, security"),
]


@pytest.mark.parametrize(("member", "value", "found", "expected"), WRONG)
def test_wrong_value_is_named_with_what_was_found_and_expected(
    a1: Caller, member: str, value: Any, found: str, expected: str
) -> None:
    answer = a1.ask({"rdp": {**LOGIN, member: value}})
    (error,) = answer.expect_problem(400, "invalid")["errors"]
    assert error["field"] == f"rdp.{member}"
    assert error["found"] == found
    assert expected in error["expected"]
    if member in {"username", "password", "domain"} and isinstance(value, str) and value:
        assert value not in json.loads(answer.content)["detail"]
    assert not SupportSession.objects.exists()


def test_all_that_is_missing_is_listed(a1: Caller) -> None:
    problem = a1.ask({"rdp": {}, "problem": {"code": "<b>", "text": "t" * 501}}).expect_problem(400, "invalid")
    assert [error["field"] for error in problem["errors"]] == [
        "rdp.username", "rdp.password", "problem.code", "problem.text",
    ]  # fmt: skip
    assert problem["errors"][0]["found"] == "nothing"


@pytest.mark.parametrize("query", ["wait=61", "wait=-1", "wait=soon", "wait=٣", "since=x", "since=99999999999"])
def test_wrong_wait_is_named(a1: Caller, query: str) -> None:
    request_id = a1.ask().json["id"]
    problem = a1("GET", f"{REQUESTS}{request_id}/?{query}").expect_problem(400, "invalid")
    assert problem["errors"][0]["field"] == query.partition("=")[0]


@pytest.mark.parametrize(
    "path", ["/", "/api/v1/", "/api/v1/support-requests/not-a-uuid/", "/admin/", "/accounts/login/"]
)
def test_unknown_address_is_a_problem_document_too(a1: Caller, path: str) -> None:
    a1("GET", path).expect_problem(404, "not_found")


@pytest.mark.parametrize("method", ["PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"])
def test_wrong_method_is_told_which_ones_there_are(a1: Caller, method: str) -> None:
    request_id = a1.ask().json["id"]
    for path, allowed in ((REQUESTS, "POST"), (f"{REQUESTS}{request_id}/", "GET"), ("/api/v1/heartbeat/", "POST")):
        answer = a1(method, path)
        answer.expect_problem(405, "method_not_allowed")
        assert allowed in answer.headers["allow"]


def test_unexpected_failure_tells_nothing_of_the_inside(a1: Caller, monkeypatch: pytest.MonkeyPatch) -> None:
    def break_down(*_: Any, **__: Any) -> None:
        raise RuntimeError(f"inside: {PASSWORD}")

    monkeypatch.setattr(presses, "request_support", break_down)
    answer = a1.ask()
    answer.expect_problem(500, "error")
    assert PASSWORD not in answer.content.decode() and "inside" not in answer.content.decode()


# --- following, withdrawing, the sign of life -------------------------------------------------------------------------


def test_another_machines_request_is_as_absent_as_none(a1: Caller) -> None:
    request_id = a1.ask().json["id"]
    for other in (caller_of("A2"), caller_of("C1", of="South")):
        other("GET", f"{REQUESTS}{request_id}/").expect_problem(404, "not_found")
        other("GET", f"{REQUESTS}{request_id}/?wait=30").expect_problem(404, "not_found")
        other("POST", f"{REQUESTS}{request_id}/cancel/", {}).expect_problem(404, "not_found")
    assert SupportSession.objects.get().is_open


def test_machine_reads_who_helps(a1: Caller) -> None:
    request_id = a1.ask().json["id"]
    services.claim(SupportSession.objects.get(), user=person("Alice"))
    document = a1("GET", f"{REQUESTS}{request_id}/").json
    assert document["operator_name"] == "Alice" and "Alice" in document["message"] and document["version"] == 2


def test_cancel_ends_it_erases_the_login_and_can_be_repeated(a1: Caller) -> None:
    request_id = a1.ask().json["id"]
    bodies: list[Any] = [{}, None, {}]
    answers = [a1("POST", f"{REQUESTS}{request_id}/cancel/", body) for body in bodies]
    assert [(answer.status, answer.json["state"]) for answer in answers] == [(200, "closing")] * 3
    session = SupportSession.objects.get()
    assert session.end_reason == EndReason.CANCELLED and not RdpCredential.objects.exists()
    assert session.machine_told_at is not None


def test_cancel_with_a_body_of_its_own_is_refused(a1: Caller) -> None:
    request_id = a1.ask().json["id"]
    a1("POST", f"{REQUESTS}{request_id}/cancel/", {"force": True}).expect_problem(400, "invalid")
    assert SupportSession.objects.get().is_open


def test_serving_the_end_counts_as_told(a1: Caller) -> None:
    request_id = a1.ask().json["id"]
    alice = person("Alice")
    session = services.claim(SupportSession.objects.get(), user=alice)
    services.close(session, user=alice, outcome=EndReason.RESOLVED)
    assert SupportSession.objects.get().machine_told_at is None
    document = a1("GET", f"{REQUESTS}{request_id}/").json
    assert (document["state"], document["end_reason"]) == ("closing", "resolved")
    assert SupportSession.objects.get().machine_told_at is not None


def test_heartbeat_keeps_what_the_machine_says_and_answers_its_open_request(a1: Caller) -> None:
    beat = {"software": "2.1 ☕", "faults": ["E17", "E05"], "rtt_ms": 38}
    assert a1("POST", "/api/v1/heartbeat/", beat).json == {"session": None}
    known = machine("A1")
    assert (known.software, known.faults, known.rtt_ms) == ("2.1 ☕", ["E17", "E05"], 38) and known.last_seen_at
    request_id = a1.ask().json["id"]
    press("A2")
    assert a1("POST", "/api/v1/heartbeat/", {}).json["session"]["id"] == request_id
    assert machine("A1").software == "2.1 ☕"


@pytest.mark.parametrize("beat", [{"faults": "E17"}, {"faults": ["x"] * 51}, {"faults": [1]}, {"rtt_ms": -1},
                                  {"rtt_ms": "38"}, {"software": "x" * 81}, {"uptime": 3}])  # fmt: skip
def test_wrong_heartbeat_changes_nothing(a1: Caller, beat: dict[str, Any]) -> None:
    problem = a1("POST", "/api/v1/heartbeat/", beat).expect_problem(400, "invalid")
    assert problem["errors"][0]["field"].startswith(next(iter(beat)))
    assert machine("A1").faults == [] and machine("A1").rtt_ms is None


# --- secrets ----------------------------------------------------------------------------------------------------------


def test_login_is_in_no_answer_no_log_and_not_readable_in_the_database(
    a1: Caller, caplog: pytest.LogCaptureFixture
) -> None:
    canaries = {"username": "canary-user-4Q9x", "password": "canary-pass-8Zw3", "domain": "canary-dom-1Kd7"}
    caplog.set_level(logging.DEBUG)
    seen = [a1.ask({"rdp": canaries}), a1.ask({"rdp": canaries}), a1.ask({"rdp": {**canaries, "port": 1}})]
    request_id = seen[0].json["id"]
    seen += [a1.ask({"rdp": {**canaries, "port": 0}}, key="b"), a1.ask(json.dumps({"rdp": canaries})[:-1].encode())]
    seen += [a1("GET", f"{REQUESTS}{request_id}/"), a1("POST", "/api/v1/heartbeat/", {})]
    assert [answer.status for answer in seen] == [201, 200, 409, 400, 400, 200, 200]
    assert RdpCredential.objects.get().password == canaries["password"]
    spoken = b"".join(answer.content + str(answer.headers).encode() for answer in seen)
    _expect_no(canaries, spoken + caplog.text.encode() + _database())
    assert a1.token.partition(".")[2].encode() not in _database() + caplog.text.encode()
    ciphertext = _ciphertext()
    assert ciphertext in _database()
    a1("POST", f"{REQUESTS}{request_id}/cancel/", {})
    assert ciphertext not in _database()


def _expect_no(canaries: dict[str, str], where: bytes) -> None:
    for name, canary in canaries.items():
        assert canary.encode() not in where, f"the {name} leaked"


def _ciphertext() -> bytes:
    with connection.cursor() as cursor:
        cursor.execute("SELECT password FROM support_rdp_credential")
        (value,) = cursor.fetchone()
    return value.encode() if isinstance(value, str) else bytes(value)


def _all_is_in_the_file() -> bool:
    """Whether nobody was reading who held SQLite's checkpoint up."""
    with connection.cursor() as cursor:
        cursor.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        (is_held_up, *_) = cursor.fetchone()
    return not is_held_up


def _database() -> bytes:
    """All that is stored: SQLite's files after a checkpoint, or every table's rows."""
    if connection.vendor == "sqlite":
        until(_all_is_in_the_file, "the log is written back")
        path = Path(str(connection.settings_dict["NAME"]))
        return b"".join(part.read_bytes() for part in path.parent.glob(path.name + "*"))
    rows = []
    with connection.cursor() as cursor:
        for table in connection.introspection.table_names(cursor):
            cursor.execute(f'SELECT t::text FROM "{table}" t')
            rows += [row[0] for row in cursor.fetchall()]
    return "\n".join(rows).encode()
