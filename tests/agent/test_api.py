"""The API client on a bad line: what is tried again, what is not, and with which key."""

from __future__ import annotations

import dataclasses
import random
import threading

import pytest

from agent.api import ApiError, Backoff, Client, Stopped, keep_trying
from agent.config import AgentConfig
from agent.credentials import Credentials, one_off_credentials
from tests.agent.scripted_api import ScriptedApi

_LOGIN = Credentials("help-abc", 'pass"word; é☕ with, separators')


def _ask(client: Client, key: str = "k1") -> str:
    def call() -> str:
        return client.ask(key, _LOGIN, rdp={"port": 3391}, problem={"code": "E17"}).request.id

    return keep_trying(call, stop=threading.Event(), what="asking", give_up_after_s=30)


def test_call_leaves_from_the_machines_own_address_with_its_token(server: ScriptedApi, config: AgentConfig) -> None:
    _ask(Client(config))
    (call,) = server.calls
    assert call.peer == "127.64.7.7"
    assert call.headers["Authorization"] == "Bearer abc.secret"
    assert call.headers["Idempotency-Key"] == "k1"
    assert call.body["rdp"] == {"port": 3391, "username": "help-abc", "password": _LOGIN.password}


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        ("drop", None),
        ("lose", None),
        ("status", 500),
        ("status", 503),
        ("status", 429),
        ("say", "<html>"),
        ("say", "{}"),
    ],
)
def test_bad_line_is_tried_again_with_the_same_key(
    server: ScriptedApi, config: AgentConfig, kind: str, value: object
) -> None:
    server.fail("POST", kind, value)
    server.fail("POST", kind, value)
    assert _ask(Client(config)) == "r1"
    assert [call.headers["Idempotency-Key"] for call in server.calls] == ["k1"] * 3
    assert len(server.requests) == 1


@pytest.mark.parametrize("status", [400, 401, 403, 404, 409, 422, 301])
def test_refusal_is_not_tried_again(server: ScriptedApi, config: AgentConfig, status: int) -> None:
    server.fail("POST", "status", status)
    with pytest.raises(ApiError, match=f"answered {status}: scripted trouble") as caught:
        _ask(Client(config))
    assert (caught.value.retryable, caught.value.status, len(server.calls)) == (False, status, 1)


def test_error_holds_no_secret(server: ScriptedApi, config: AgentConfig) -> None:
    wrong = dataclasses.replace(config, token="abc.wrong-secret")
    with pytest.raises(ApiError) as caught:
        _ask(Client(wrong))
    assert "wrong-secret" not in str(caught.value) and _LOGIN.password not in str(caught.value)


def test_nobody_listening_is_retryable(config: AgentConfig) -> None:
    nowhere = dataclasses.replace(config, api_url="http://127.0.0.1:9", timeout_s=1)
    with pytest.raises(ApiError, match=r"no answer from http://127\.0\.0\.1:9: Connection refused") as caught:
        Client(nowhere).read("r1")
    assert caught.value.retryable


def test_giving_up_raises_the_last_error(server: ScriptedApi, config: AgentConfig) -> None:
    for _ in range(50):
        server.fail("GET", "status", 503)
    with pytest.raises(ApiError, match="503"):
        keep_trying(lambda: Client(config).read("r1"), stop=threading.Event(), what="reading", give_up_after_s=0.1)


def test_stop_ends_the_trying(server: ScriptedApi, config: AgentConfig) -> None:
    stop = threading.Event()
    for _ in range(3):
        server.fail("GET", "status", 503)
    with pytest.raises(Stopped):
        keep_trying(lambda: Client(config).read("r1"), stop=stop, what="reading", on_failure=lambda error: stop.set())
    assert len(server.calls) == 1


def test_long_poll_returns_as_soon_as_something_changes(server: ScriptedApi, config: AgentConfig) -> None:
    client = Client(config)
    request_id = _ask(client)
    answers: list[str] = []
    poll = threading.Thread(target=lambda: answers.append(client.read(request_id, wait_s=30, since=1).state))
    poll.start()
    server.wait_for_calls("GET", 1)
    server.update(request_id, state="starting")
    poll.join(30)
    assert answers == ["starting"]
    assert server.calls[-1].path.endswith("?wait=30&since=1")


def test_heartbeat_tells_what_is_open(server: ScriptedApi, config: AgentConfig) -> None:
    client = Client(config)
    assert client.heartbeat(software="9.4", faults=["E17 Grinder jammed"], rtt_ms=7) is None
    assert server.calls[0].body == {"software": "9.4", "faults": ["E17 Grinder jammed"], "rtt_ms": 7}
    _ask(client)
    found = client.heartbeat(software="9.4")
    assert found is not None and found.id == "r1"


def test_pauses_grow_and_are_spread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()  # the real pauses
    random.seed(1)
    for tries, step in enumerate([0.5, 1, 2, 4, 8, 16, 30, 30]):
        pause = Backoff(tries=tries).next_s()
        assert step / 2 <= pause <= step
    assert len({Backoff().next_s() for _ in range(20)}) == 20


def test_credentials_are_new_each_time_and_fit_every_rdp_server() -> None:
    made = [one_off_credentials() for _ in range(200)]
    assert len({item.password for item in made}) == len({item.username for item in made}) == 200
    for item in made:
        assert len(item.username) <= 20 and len(item.password) == 28
        assert (item.username + item.password).replace("-", "").isalnum() and item.password not in repr(item)
