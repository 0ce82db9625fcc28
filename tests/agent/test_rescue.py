"""The rescue, from the press to the moment when nothing is open any more, on good days and bad ones."""

from __future__ import annotations

import json
import logging
import stat
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import pytest

from agent import api as agent_api
from agent import rescue as rescue_module
from agent.api import Client, Stopped, SupportRequest
from agent.config import AgentConfig
from agent.credentials import Credentials
from agent.heartbeat import Heartbeat
from agent.notices import Notice
from agent.rdp import RdpError
from agent.rescue import Rescue
from agent.store import Problem, Record, RescueStore
from tests.agent.scripted_api import ScriptedApi
from tests.waiting import until

_JAM = Problem("E17", "Grinder jammed")


class PowerCut(BaseException):
    """The process dies here: nothing of it may run any more, so the hook refuses all work after it."""


@dataclass
class FakeHook:
    """The machine's RDP; it outlives the agent that opened it."""

    users: dict[str, str] = field(default_factory=dict)  # who can log in now
    steps: list[str] = field(default_factory=list)
    fail_open: int = 0  # so many times more
    fail_close: bool = False
    dead: bool = False

    def open(self, credentials: Credentials) -> int:
        if self.fail_open:
            self.fail_open -= 1
            raise RdpError("open-rdp ended with status 3")
        self.steps.append("open")
        self.users[credentials.username] = credentials.password
        return 3391

    def close(self, username: str) -> None:
        if self.dead:
            raise PowerCut
        if self.fail_close:
            raise RdpError("close-rdp ended with status 3")
        self.steps.append("close")
        self.users.pop(username, None)


class Machine:
    """An agent with its hook and its display; `restarted()` is the next process on the same disk."""

    def __init__(self, config: AgentConfig, hook: FakeHook | None = None) -> None:
        self.config = config
        self.hook = hook or FakeHook()
        self.shown: list[Notice] = []
        self.on_show: Callable[[Notice], None] = lambda notice: None
        self.changed = threading.Condition()
        self.store = RescueStore(config.state_dir)
        self.api = Client(config)
        self.rescue = Rescue(config, api=self.api, hook=self.hook, display=self._show, store=self.store)
        self.result: list[Notice | BaseException | None] = []
        self.thread: threading.Thread | None = None

    def restarted(self) -> Machine:
        self.hook.dead = False
        return Machine(self.config, self.hook)

    def press_in_background(self) -> None:
        self._run(lambda: self.rescue.press(_JAM))

    def recover_in_background(self) -> None:
        self._run(self.rescue.recover)

    def joined(self) -> Notice | BaseException | None:
        assert self.thread is not None
        self.thread.join(30)
        assert not self.thread.is_alive()
        return self.result[0]

    def wait_until_shown(self, state: str) -> Notice:
        deadline = time.monotonic() + 30
        with self.changed:
            while not (found := [notice for notice in self.shown if notice.state == state]):
                if not self.changed.wait(deadline - time.monotonic()):
                    raise AssertionError(f"{state} was not shown, only {[notice.state for notice in self.shown]}")
        return found[-1]

    def _run(self, work: Callable[[], Notice | None]) -> None:
        def run() -> None:
            try:
                self.result.append(work())
            except BaseException as error:
                self.result.append(error)

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def _show(self, notice: Notice) -> None:
        with self.changed:
            self.shown.append(notice)
            self.changed.notify_all()
        self.on_show(notice)


@pytest.fixture
def machine(config: AgentConfig) -> Machine:
    return Machine(config)


def _nothing_is_left(machine: Machine) -> bool:
    return not machine.hook.users and machine.store.read() is None


def test_rescue_goes_from_press_to_closed_and_leaves_nothing(server: ScriptedApi, machine: Machine) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    body = server.wait_for_calls("POST", 1)[0].body
    assert machine.hook.users == {body["rdp"]["username"]: body["rdp"]["password"]}
    assert body["problem"] == {"code": "E17", "text": "Grinder jammed"}
    server.update("r1", state="active", message="Alice is repairing.", operator_name="Alice Rossi")
    assert machine.wait_until_shown("active").operator_name == "Alice Rossi"
    server.update("r1", state="closing", end_reason="resolved", message="Repaired. Enjoy your coffee.")
    machine.wait_until_shown("closing")
    assert _nothing_is_left(machine)
    server.update("r1", state="closed", message="All is closed.")
    ending = machine.joined()
    assert isinstance(ending, Notice) and (ending.state, ending.end_reason) == ("closed", "resolved")
    assert [notice.state for notice in machine.shown][:2] == ["preparing", "asking"]


def test_record_is_on_disk_before_rdp_opens_and_for_its_owner_only(machine: Machine, config: AgentConfig) -> None:
    seen: list[int] = []

    def look(credentials: Credentials) -> int:
        path = config.state_dir / "rescue.json"
        assert json.loads(path.read_text())["username"] == credentials.username
        seen.append(stat.S_IMODE(path.stat().st_mode))
        raise RdpError("enough seen")

    machine.hook.open = look  # type: ignore[method-assign]
    assert machine.rescue.press(_JAM).state == "failed"
    assert set(seen) == {0o600}
    assert stat.S_IMODE(config.state_dir.stat().st_mode) == 0o700


def test_lost_answers_keep_one_key_and_make_one_request(server: ScriptedApi, machine: Machine) -> None:
    for kind in ("lose", "drop", "lose"):
        server.fail("POST", kind)
    machine.press_in_background()
    machine.wait_until_shown("requested")
    assert len({call.headers["Idempotency-Key"] for call in server.wait_for_calls("POST", 4)}) == 1
    assert len(server.requests) == 1 and "offline" in [notice.state for notice in machine.shown]
    server.update("r1", state="closed")
    machine.joined()
    assert _nothing_is_left(machine)


@pytest.mark.parametrize("status", [400, 401, 403])
def test_refused_press_shuts_rdp_and_says_so(server: ScriptedApi, machine: Machine, status: int) -> None:
    server.fail("POST", "status", status)
    ending = machine.rescue.press(_JAM)
    assert ending.state == "failed" and "call the number" in ending.message
    assert machine.hook.steps == ["open", "close"] and _nothing_is_left(machine)


def test_server_out_of_reach_is_said_after_a_while(
    server: ScriptedApi, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue_module, "ASK_FOR_S", 0.1)
    for _ in range(100):
        server.fail("POST", "drop")
    ending = machine.rescue.press(_JAM)
    assert ending == Notice("failed", "Support could not be reached. Please try again in a few minutes.")
    assert _nothing_is_left(machine)


def test_rdp_that_does_not_open_is_said_and_nobody_is_called(server: ScriptedApi, machine: Machine) -> None:
    machine.hook.fail_open = 3
    assert machine.rescue.press(_JAM).state == "failed"
    assert server.calls == [] and _nothing_is_left(machine)


def test_rdp_that_opens_at_the_third_try_is_worth_the_wait(server: ScriptedApi, machine: Machine) -> None:
    machine.hook.fail_open = 2
    machine.press_in_background()
    machine.wait_until_shown("requested")
    assert [notice.state for notice in machine.shown] == ["preparing", "asking", "requested"]
    assert machine.hook.steps == ["open"] and len(server.requests) == 1
    server.update("r1", state="closed")
    machine.joined()
    assert _nothing_is_left(machine)


def test_cancel_does_not_wait_for_the_next_try_to_open_rdp(
    server: ScriptedApi, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agent_api.Backoff, "next_s", lambda self: 600.0)
    machine.hook.fail_open = 1
    machine.press_in_background()
    machine.wait_until_shown("preparing")
    assert machine.rescue.cancel()
    ending = machine.joined()
    assert isinstance(ending, Notice) and ending.state == "cancelled"
    assert server.calls == [] and _nothing_is_left(machine)


def test_request_that_the_server_no_longer_knows_shuts_rdp(server: ScriptedApi, machine: Machine) -> None:
    server.fail("GET", "status", 404)
    machine.press_in_background()
    ending = machine.joined()
    assert isinstance(ending, Notice) and ending.state == "failed"
    assert _nothing_is_left(machine)


def test_cancel_shuts_rdp_and_tells_the_server(server: ScriptedApi, machine: Machine) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    server.wait_for_poll("r1")  # between two calls it would not wait for the server's word of the end
    assert machine.rescue.cancel()
    machine.wait_until_shown("closing")
    server.update("r1", state="closed", message="Cancelled. Everything is closed.")
    machine.joined()
    assert server.requests["r1"]["end_reason"] == "cancelled" and _nothing_is_left(machine)
    assert machine.shown[-1].message == "Cancelled. Everything is closed."


def test_cancel_while_the_server_is_out_of_reach_shuts_rdp_at_once(
    server: ScriptedApi, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue_module, "_CANCEL_FOR_S", 0.2)
    for _ in range(100_000):
        server.fail("POST", "drop")
    machine.press_in_background()
    machine.wait_until_shown("offline")
    assert machine.rescue.cancel()
    ending = machine.joined()
    assert isinstance(ending, Notice) and ending.state == "cancelled"
    assert _nothing_is_left(machine)


def test_cancel_without_a_rescue_does_nothing(server: ScriptedApi, machine: Machine) -> None:
    assert not machine.rescue.cancel()
    assert server.calls == []


def test_cancel_shuts_what_a_dead_agent_left_also_while_a_heartbeat_looks(
    server: ScriptedApi, machine: Machine, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.ask("k", {"rdp": {"username": "help-dead"}})
    machine.hook.users["help-dead"] = "x"
    dead = Record("k", "help-dead", "x", code="", text="", pressed_at=time.time(), request_id="r1")
    machine.store.write(dead)
    told, looked = threading.Event(), threading.Event()
    tell = machine.api.cancel

    def tell_and_wait(request_id: str) -> SupportRequest:
        told.set()
        assert looked.wait(30)
        return tell(request_id)

    monkeypatch.setattr(machine.api, "cancel", tell_and_wait)
    cancelling = threading.Thread(target=machine.rescue.cancel)
    with RescueStore(config.state_dir).lock():
        cancelling.start()
        assert told.wait(30)
    looked.set()
    cancelling.join(30)
    assert server.requests["r1"]["end_reason"] == "cancelled" and _nothing_is_left(machine)


def test_second_press_follows_the_first(server: ScriptedApi, machine: Machine, config: AgentConfig) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    second = Machine(config, machine.hook)
    second.press_in_background()
    second.wait_until_shown("requested")
    server.update("r1", state="closed", message="Done.")
    for each in (machine, second):
        ending = each.joined()
        assert isinstance(ending, Notice) and ending.state == "closed"
    assert machine.hook.steps.count("open") == 1 and len(server.requests) == 1


def test_press_is_not_lost_to_a_start_that_only_looks(
    server: ScriptedApi, machine: Machine, config: AgentConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    tries: list[float] = []
    lock = machine.store.lock

    def counted() -> AbstractContextManager[bool]:
        tries.append(time.monotonic())
        return lock()

    monkeypatch.setattr(machine.store, "lock", counted)
    with RescueStore(config.state_dir).lock():
        machine.press_in_background()
        until(lambda: len(tries) > 2, "it tries again")
        machine.wait_until_shown("preparing")
        assert machine.store.read() is None and server.calls == []
    machine.wait_until_shown("requested")
    server.update("r1", state="closed")
    machine.joined()
    assert len(server.requests) == 1 and _nothing_is_left(machine)


@pytest.mark.parametrize("moment", ["preparing", "asking", "requested", "active"])
def test_killed_agent_takes_its_rescue_up_again(server: ScriptedApi, machine: Machine, moment: str) -> None:
    """Power is cut at a step: RDP may be open, the server may know; the next start gets the same rescue going."""

    def cut(notice: Notice) -> None:
        if notice.state == moment:
            machine.hook.dead = True
            raise PowerCut

    machine.on_show = cut
    machine.press_in_background()
    if moment == "active":
        machine.wait_until_shown("requested")
        server.update("r1", state="active")
    assert isinstance(machine.joined(), PowerCut)
    left_open = dict(machine.hook.users)
    steps_before = len(machine.hook.steps)
    assert bool(left_open) == (moment != "preparing")

    again = machine.restarted()
    again.recover_in_background()
    server.wait_for_calls("GET", 1)
    again.wait_until_shown("active" if moment == "active" else "requested")
    until(lambda: again.hook.users, "RDP is open again")
    assert again.hook.steps[steps_before:] == ["close", "open"], "what was left open is shut before anything else"
    posts = [call for call in server.calls if call.path == "/api/v1/support-requests/"]
    assert len(server.requests) == 1 and len({call.headers["Idempotency-Key"] for call in posts}) == 1
    assert again.hook.users == {posts[0].body["rdp"]["username"]: posts[0].body["rdp"]["password"]}
    server.update("r1", state="closing", end_reason="resolved")
    again.wait_until_shown("closing")
    assert _nothing_is_left(again)
    again.rescue.stop()
    again.joined()


def test_killed_agent_whose_rescue_ended_meanwhile_only_cleans_up(server: ScriptedApi, machine: Machine) -> None:
    def cut(notice: Notice) -> None:
        if notice.state == "requested":
            machine.hook.dead = True
            raise PowerCut

    machine.on_show = cut
    machine.press_in_background()
    machine.joined()
    assert machine.hook.users
    server.update("r1", state="closed", end_reason="unanswered", message="Nobody was free.")
    again = machine.restarted()
    ending = again.rescue.recover()
    assert ending is not None and ending.end_reason == "unanswered"
    assert again.hook.steps.count("open") == 1 and _nothing_is_left(again)


def test_old_press_that_was_never_answered_is_forgotten(server: ScriptedApi, machine: Machine) -> None:
    machine.hook.users["help-old"] = "x"
    hour_ago = time.time() - 3600
    machine.store.write(Record(key="k", username="help-old", password="x", code="", text="", pressed_at=hour_ago))
    ending = machine.rescue.recover()
    assert ending is not None and ending.state == "cancelled"
    assert server.calls == [] and _nothing_is_left(machine)


def test_rdp_that_would_not_close_is_closed_at_the_next_start(server: ScriptedApi, machine: Machine) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    machine.hook.fail_close = True
    server.update("r1", state="closed", end_reason="resolved")
    assert isinstance(machine.joined(), RdpError)
    assert machine.hook.users and machine.store.read() is not None
    machine.hook.fail_close = False
    again = machine.restarted()
    again.rescue.recover()
    assert _nothing_is_left(again) and again.hook.steps.count("open") == 1


def test_shutdown_shuts_rdp_and_keeps_the_rescue_for_the_next_start(server: ScriptedApi, machine: Machine) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    machine.rescue.stop()  # in the middle of a long poll
    assert isinstance(machine.joined(), Stopped)
    assert not machine.hook.users
    record = machine.store.read()
    assert record is not None and record.request_id == "r1"


def test_rdp_is_shut_while_the_server_is_silent_for_long_and_opened_when_it_answers(
    server: ScriptedApi, machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rescue_module, "OFFLINE_SHUT_S", 0.05)
    for _ in range(30):
        server.fail("GET", "drop")
    machine.press_in_background()
    server.wait_for_calls("GET", 31)
    server.update("r1", state="starting")
    server.wait_for_calls("GET", 32)
    assert machine.hook.steps == ["open", "close", "open"] and machine.hook.users
    server.update("r1", state="closed")
    machine.joined()
    assert _nothing_is_left(machine)


def test_request_whose_login_was_lost_is_replaced(server: ScriptedApi, machine: Machine) -> None:
    """The disk was wiped during a rescue: the server still holds a request whose user exists no more."""
    server.ask("old-key", {"rdp": {"username": "help-gone"}})
    machine.press_in_background()
    assert machine.wait_until_shown("requested").request_id == "r2"
    assert server.requests["r1"]["end_reason"] == "cancelled"
    server.update("r2", state="closed")
    machine.joined()


def test_heartbeat_ends_a_request_of_which_nothing_is_left(
    server: ScriptedApi, machine: Machine, config: AgentConfig
) -> None:
    server.ask("old-key", {"rdp": {"username": "help-gone"}})
    Heartbeat(config, api=machine.api, rescue=machine.rescue).beat()
    assert server.requests["r1"]["end_reason"] == "cancelled"


def test_heartbeat_leaves_a_running_rescue_alone(server: ScriptedApi, machine: Machine, config: AgentConfig) -> None:
    machine.press_in_background()
    machine.wait_until_shown("requested")
    Heartbeat(config, api=machine.api, rescue=machine.rescue).beat()
    assert server.requests["r1"]["state"] == "requested"
    server.update("r1", state="closed")
    machine.joined()


def test_no_secret_is_logged(server: ScriptedApi, machine: Machine, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    server.fail("POST", "lose")
    machine.press_in_background()
    machine.wait_until_shown("requested")
    password = server.calls[0].body["rdp"]["password"]
    server.update("r1", state="closed")
    machine.joined()
    assert "press:" in caplog.text and "over:" in caplog.text
    assert password not in caplog.text and "secret" not in caplog.text
