"""A browser's tunnel to a desktop that a keeper holds: who gets in, what passes, and how it ends."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import pytest
from django.test import Client
from django.utils import timezone
from pytest_django.fixtures import Settings
from websockets.exceptions import InvalidStatus

from machines.models import Machine, Operator, User
from notifications import live
from sessions import attachments, services, tunnel
from sessions.guacamole import ALLOWED_ARGUMENTS
from sessions.models import Attachment, ConnectionProfile, SupportSession
from sessions.states import EndReason, State
from tests.fakes.guacd import FakeConnection, FakeGuacd, Fault, instruction
from tests.fakes.guacd_words import DOWNWARD_SAMPLES
from tests.sessions.keeping import again, keeping, rescue, until_lost, until_state
from tests.sessions.portal_server import Browser, serving, signed_in, tunnel_path
from tests.sessions.rescues import PASSWORD, person
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

# What may reach guacd from a joiner, and what may reach a browser beside what draws.
UPWARD = {"sync", "mouse", "key", "touch", "size", "ack", "nop", "disconnect", "clipboard", "blob", "end"}
NEVER_DOWNWARD = {"nest", "required", "argv", "args", "file", "filesystem", "body", "pipe", "ready", "audio", "video"}


@dataclass
class Desk:
    """Alice has claimed the rescue of machine A1, whose desktop is held."""

    port: int
    guacd: FakeGuacd
    session: SupportSession
    alice: User
    login: str

    def open(self, *, ticket: str | None = None, user: User | None = None, login: str = "", role: str = "controller",
             **options: object) -> Browser:  # fmt: skip
        """A browser whose page has just said its ticket."""
        if ticket is None:
            ticket = attachments.issue_ticket(again(self.session), user=user or self.alice, role=role)
        browser = Browser(
            self.port, tunnel_path(self.session.pk), login=login or self.login, subprotocol="guacamole",
            **options,  # type: ignore[arg-type]
        )  # fmt: skip
        browser.tell("", "ticket", ticket)
        return browser

    def joiner(self) -> FakeConnection:
        """The browser's own user at guacd, as soon as it is there."""
        joiners: list[FakeConnection] = self.guacd.wait_until(lambda: self.guacd.joiners)
        return joiners[-1]

    def until_all_came(self, browser: Browser) -> None:
        """Waits until the browser has what guacd sent to all before: something more, that nobody else sends."""
        self.guacd.send(instruction("size", 0, 641, 481))
        browser.until(lambda: ["size", "0", "641", "481"] in browser.instructions, "the last thing sent comes")


@pytest.fixture
def guacd() -> Iterator[FakeGuacd]:
    with FakeGuacd(frame_interval_s=0.05) as fake:
        yield fake
        assert [violation for connection in fake.connections for violation in connection.violations] == []


@pytest.fixture
def desk(guacd: FakeGuacd, settings: Settings) -> Iterator[Desk]:
    settings.TUNNEL_RECHECK_S = 1
    alice = person("Alice")
    session = rescue(guacd.port)
    services.claim(session, user=alice)
    with keeping(), serving() as port:
        session = until_state(session, State.READY)
        yield Desk(port, guacd, session, alice, signed_in(alice))


# --- coming and going -------------------------------------------------------------------------------------------------


def test_browser_sees_the_desktop_and_the_machine_feels_its_hands(desk: Desk) -> None:
    with desk.open() as browser:
        browser.until_opcode("sync", times=3)
        assert browser.instructions[0][0] == "" and len(browser.instructions[0][1]) == 36
        assert {"size", "img", "blob"} <= set(browser.opcodes)
        browser.tell("mouse", 10, 20, 1)
        browser.tell("key", 65293, 1)
        joiner = desk.joiner()
        desk.guacd.wait_until(lambda: joiner.count("key") == 1)
        assert [tuple(one.args) for one in joiner.received if one.opcode == "mouse"] == [("10", "20", "1")]
        until_state(desk.session, State.ACTIVE)


def test_leaving_ends_the_join_and_nothing_else(desk: Desk) -> None:
    browser = desk.open()
    browser.until_opcode("sync")
    until_state(desk.session, State.ACTIVE)
    joiner = desk.joiner()
    browser.leave()
    until_state(desk.session, State.READY)
    desk.guacd.wait_until(lambda: joiner.ended)
    assert len(desk.guacd.owners) == 1
    attachment = Attachment.objects.get()
    assert attachment.detached_at is not None and attachment.user_agent == "A test's browser"
    with desk.open() as another:
        another.until_opcode("sync")


def test_pings_of_the_tunnel_are_answered_and_not_passed_on(desk: Desk) -> None:
    with desk.open() as browser:
        browser.until_opcode("sync")
        browser.tell("", "ping", 1700000000000)
        browser.until(lambda: ["", "ping", "1700000000000"] in browser.instructions, "the ping is echoed")
        assert "" not in desk.joiner().opcodes


def test_silent_tab_in_the_background_stays(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "NOP_EVERY_S", 0.1)
    with desk.open() as browser:
        browser.until_opcode("sync", times=40)
        desk.guacd.wait_until(lambda: desk.joiner().count("nop") >= 5)
        assert desk.joiner().opcodes.count("nop") == len(desk.joiner().opcodes)


def test_restart_of_the_server_leaves_nobody_at_the_desktop(guacd: FakeGuacd) -> None:
    alice, session = person("Alice"), rescue(guacd.port)
    services.claim(session, user=alice)
    with keeping():
        until_state(session, State.READY)
        with serving() as port:
            browser = Desk(port, guacd, session, alice, signed_in(alice)).open()
            browser.until_opcode("sync")
        browser.until(lambda: browser.closing[0] is not None, "the browser is told")
        assert browser.closing[0] == 1012
        assert Attachment.objects.get().detached_at is not None


# --- tickets and handshakes -------------------------------------------------------------------------------------------


def test_ticket_lets_in_once(desk: Desk) -> None:
    ticket = attachments.issue_ticket(again(desk.session), user=desk.alice, role="controller")
    with desk.open(ticket=ticket) as browser:
        browser.until_opcode("sync")
        with desk.open(ticket=ticket) as thief:
            assert thief.until_ended()[0] == 771
        browser.until_opcode("sync", times=browser.opcodes.count("sync") + 3)


def test_ticket_of_a_colleague_lets_nobody_else_in(desk: Desk) -> None:
    ticket = attachments.issue_ticket(again(desk.session), user=desk.alice, role="controller")
    with desk.open(ticket=ticket, login=signed_in(person("Bob"))) as bob:
        assert bob.until_ended()[0] == 771
    assert not desk.guacd.joiners


def test_old_ticket_is_refused(desk: Desk) -> None:
    ticket = attachments.issue_ticket(
        again(desk.session), user=desk.alice, role="controller", now=timezone.now() - timedelta(seconds=31)
    )
    with desk.open(ticket=ticket) as browser:
        assert browser.until_ended()[0] == 771


@pytest.mark.parametrize(
    "first", ["4.sync,1.1;", "garbage", "0.,6.ticket", "6.select,3.rdp;", "0.,6.ticket,513." + "x" * 513 + ";"]
)
def test_whoever_begins_without_a_ticket_is_shown_out(desk: Desk, first: str) -> None:
    with Browser(desk.port, tunnel_path(desk.session.pk), login=desk.login, subprotocol="guacamole") as browser:
        browser.socket.send(first)
        assert browser.until_ended()[0] == 768
    assert not desk.guacd.joiners


def test_whoever_says_nothing_is_shown_out(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sessions.consumers.TICKET_TIMEOUT_S", 0.2)
    with Browser(desk.port, tunnel_path(desk.session.pk), login=desk.login, subprotocol="guacamole") as browser:
        assert browser.until_ended()[0] == 776


def test_stranger_and_colleague_of_another_fleet_do_not_even_get_a_socket(desk: Desk) -> None:
    charlie = signed_in(person("Charlie", of="South"))
    for login in ("", "invented", charlie):
        with pytest.raises(InvalidStatus) as refused:
            Browser(desk.port, tunnel_path(desk.session.pk), login=login, subprotocol="guacamole")
        assert refused.value.response.status_code == 403
    with pytest.raises(InvalidStatus):
        Browser(desk.port, tunnel_path(desk.session.pk), login=desk.login)  # no subprotocol: no Guacamole client


def test_ticket_is_in_no_log(desk: Desk, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    ticket = attachments.issue_ticket(again(desk.session), user=desk.alice, role="controller")
    with desk.open(ticket=ticket) as browser:
        browser.until_opcode("sync")
    (owner,) = desk.guacd.owners
    for secret in (ticket, owner.connection_id, PASSWORD):
        assert secret not in caplog.text


# --- what passes ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "sent",
    [
        ("select", "rdp"), ("connect", "VERSION_1_5_0"), ("argv", 1, "text/plain", "password"),
        ("audio", 1, "audio/L16"),
        ("file", 1, "text/plain", "x"), ("pipe", 1, "text/plain", "x"), ("get", 1, "/"), ("put", 1, 1, "a", "/"),
        ("nest", 0, "5.mouse,1.1,1.1,1.1;"), ("name", "x"), ("timezone", "UTC"), ("image", "image/png"),
        ("ready", "$1"),
        ("mouse", 1, 1), ("mouse", 1, 1, 99), ("key", "a", 1), ("size", 0, 0), ("size", 9000, 1),
        ("sync", "99999999999999"),
        ("error", "x", 1), ("unheard-of", 1), ("", "quit"),
    ],
    ids=lambda sent: sent[0] or "internal",
)  # fmt: skip
def test_instruction_a_browser_may_not_send_ends_the_tunnel_and_reaches_nobody(
    desk: Desk, sent: tuple[object, ...]
) -> None:
    with desk.open() as browser:
        browser.until_opcode("sync")
        joiner = desk.joiner()
        browser.tell(*sent)
        assert browser.until_ended()[0] in {768, 771, 781}
        desk.guacd.wait_until(lambda: joiner.ended)
        assert set(joiner.opcodes) <= {"nop", "disconnect"}


def test_watcher_sees_and_touches_nothing(desk: Desk) -> None:
    bob = person("Bob")
    with desk.open(user=bob, login=signed_in(bob), role="watcher") as browser:
        stamp = browser.until_opcode("sync", times=2)[1]
        browser.tell("sync", stamp)
        joiner = desk.joiner()
        assert joiner.arguments["read-only"] == "true"
        desk.guacd.wait_until(lambda: joiner.count("sync") == 1)
        browser.tell("mouse", 1, 1, 1)
        assert browser.until_ended()[0] == 771
        assert "mouse" not in joiner.opcodes
    assert again(desk.session).state == State.READY


def test_what_a_server_may_not_ask_of_a_browser_never_arrives(desk: Desk) -> None:
    with desk.open() as browser:
        browser.until_opcode("sync")
        joiner = desk.joiner()
        for opcode in sorted(set(DOWNWARD_SAMPLES) - {"error", "disconnect", "sync"}):
            if opcode in NEVER_DOWNWARD:
                desk.guacd.send(instruction(opcode, *DOWNWARD_SAMPLES[opcode]), to=joiner)
        desk.until_all_came(browser)
        assert not NEVER_DOWNWARD & set(browser.opcodes)
        everything = "".join(browser.frames)
        assert desk.guacd.owners[0].connection_id not in everything and "$" not in everything


def test_join_says_no_login_and_nothing_but_what_is_allowed(desk: Desk) -> None:
    with desk.open() as browser:
        browser.until_opcode("sync")
        joiner = desk.joiner()
        assert joiner.selected == desk.guacd.owners[0].connection_id
        filled = {name for name, value in joiner.arguments.items() if value}
        assert filled <= ALLOWED_ARGUMENTS and not filled & {"hostname", "username", "password", "domain"}
        assert PASSWORD.encode() not in joiner.raw


def test_clipboard_passes_as_far_as_the_profile_allows(desk: Desk) -> None:
    with desk.open() as browser:
        browser.until_opcode("sync")
        desk.guacd.send(
            instruction("clipboard", 4, "text/plain") + instruction("blob", 4, "aGk=") + instruction("end", 4)
        )
        browser.until_opcode("clipboard")
        browser.tell("clipboard", 0, "text/plain")
        browser.tell("blob", 0, "aGk=")
        browser.tell("end", 0)
        desk.guacd.wait_until(lambda: desk.joiner().count("end"))
    ConnectionProfile.objects.create(name="All", allow_copy=False, allow_paste=False)
    with desk.open() as browser:
        browser.until_opcode("sync")
        desk.guacd.send(instruction("clipboard", 4, "text/plain"))
        desk.until_all_came(browser)
        assert "clipboard" not in browser.opcodes
        browser.tell("clipboard", 0, "text/plain")
        assert browser.until_ended()[0] == 771


# --- rights that end --------------------------------------------------------------------------------------------------


def _deactivate(desk: Desk) -> None:
    User.objects.filter(pk=desk.alice.pk).update(is_active=False)


def _sign_out(desk: Desk) -> None:
    from importlib import import_module

    from django.conf import settings

    import_module(settings.SESSION_ENGINE).SessionStore(desk.login).delete()


def _change_password(desk: Desk) -> None:
    desk.alice.set_password("another one, and longer")
    desk.alice.save()


def _leave_the_fleet(desk: Desk) -> None:
    Operator.objects.get(user=desk.alice).fleets.clear()


def _switch_machine_off(desk: Desk) -> None:
    Machine.objects.filter(pk=desk.session.machine_id).update(is_active=False)


def _hand_over(desk: Desk) -> None:
    services.hand_over(again(desk.session), to=person("Bob"), user=desk.alice)


def _close(desk: Desk) -> None:
    services.close(again(desk.session), user=desk.alice, outcome=EndReason.RESOLVED)


@pytest.mark.parametrize(
    ("change", "status"),
    [
        (_deactivate, 769), (_sign_out, 769), (_change_password, 769), (_leave_the_fleet, 769),
        (_switch_machine_off, 769), (_hand_over, 521), (_close, 523),
    ],
)  # fmt: skip
def test_tunnel_ends_with_its_reason_when_the_right_to_it_does(desk: Desk, change: object, status: int) -> None:
    with desk.open() as browser:
        browser.until_opcode("sync")
        joiner = desk.joiner()
        change(desk)  # type: ignore[operator]
        found, sentence = browser.until_ended()
        assert found == status
        assert len(sentence) > 20 and "logs" not in sentence
        desk.guacd.wait_until(lambda: joiner.ended)
    assert Attachment.objects.get().end_detail == sentence


def test_closed_rescue_is_called_closed_even_where_guacd_says_it_first(
    desk: Desk, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings.TUNNEL_RECHECK_S = 60
    monkeypatch.setattr(live, "session_changed", lambda **_: None)
    with desk.open() as browser:
        browser.until_opcode("sync")
        _close(desk)
        desk.guacd.end(519)
        status, sentence = browser.until_ended()
        assert status == 523 and "brought back" not in sentence


def test_watcher_stays_when_the_operator_changes(desk: Desk) -> None:
    bob = person("Bob")
    with desk.open(user=bob, login=signed_in(bob), role="watcher") as browser:
        browser.until_opcode("sync")
        _hand_over(desk)
        browser.until_opcode("sync", times=40)


def test_idle_operator_lets_go(desk: Desk, settings: Settings) -> None:
    settings.TUNNEL_IDLE_S = 1
    with desk.open() as browser:
        assert browser.until_ended()[0] == 522


def test_nobody_stays_for_ever(desk: Desk, settings: Settings) -> None:
    settings.TUNNEL_MAX_S = 1
    bob = person("Bob")
    with desk.open(user=bob, login=signed_in(bob), role="watcher") as browser:
        assert browser.until_ended()[0] == 522


# --- when guacd misbehaves --------------------------------------------------------------------------------------------


def test_lost_desktop_is_said_in_our_words_and_can_be_joined_again(desk: Desk) -> None:
    with desk.open() as browser:
        browser.until_opcode("sync")
        desk.guacd.end(519)
        status, sentence = browser.until_ended()
        assert status == 519 and sentence == "The machine's screen went away. It is being brought back."
    until_lost(desk.session)
    until_state(desk.session, State.READY)
    with desk.open() as browser:
        browser.until_opcode("sync")


@pytest.mark.parametrize("what", ["nonsense", "hang up", "reset"])
def test_broken_guacd_ends_the_tunnel(desk: Desk, guacd: FakeGuacd, what: str) -> None:
    with desk.open() as browser:
        browser.until_opcode("sync")
        if what == "nonsense":
            guacd.send("HTTP/1.1 200 OK\r\n", to=desk.joiner())
        else:
            guacd.hang_up(desk.joiner(), reset=what == "reset")
        assert browser.until_ended()[0] == (515 if what == "nonsense" else 519)
    assert len(guacd.owners) == 1


@pytest.mark.parametrize(
    "fault", [Fault.SILENT, Fault.HANG_UP, Fault.NONSENSE, Fault.HALF_ARGS, Fault.HALF_ARGS_THEN_END, Fault.NO_READY]
)
def test_join_that_does_not_come_about_is_a_lost_desktop(
    desk: Desk, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tunnel, "JOIN_TIMEOUT_S", 0.5)
    desk.guacd.faults.append(fault)
    with desk.open() as browser:
        assert browser.until_ended()[0] == 519
    assert Attachment.objects.get().detached_at is not None


def test_frozen_guacd_is_a_lost_desktop(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "NOP_EVERY_S", 0.1)
    with desk.open() as browser:
        browser.until_opcode("sync")
        desk.guacd.freeze()
        monkeypatch.setattr(tunnel, "SILENCE_S", 0.5)  # not before: until then it is only slow
        try:
            assert browser.until_ended()[0] == 519
        finally:
            desk.guacd.thaw()


def test_without_a_desktop_the_page_is_told_to_come_again(guacd: FakeGuacd) -> None:
    alice, session = person("Alice"), rescue(guacd.port)
    services.claim(session, user=alice)
    with serving() as port, Desk(port, guacd, session, alice, signed_in(alice)).open() as browser:
        assert browser.until_ended()[0] == 519


# --- a browser that stays behind --------------------------------------------------------------------------------------


def test_stalled_browser_costs_little_and_slows_nobody(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    with desk.open(reads=False, max_queue=1) as stalled:
        joiner = desk.joiner()
        (owner,) = desk.guacd.owners
        threading.Thread(
            target=lambda: desk.guacd.start_flood(total=50_000_000, to=joiner), name="flood", daemon=True
        ).start()
        desk.guacd.wait_until(lambda: joiner.ended)
        # What guacd could get rid of is in the backlog and in buffers of the two sockets, whose sizes are set.
        assert joiner.bytes_sent < 6 * 1024 * 1024
        before = owner.count("sync")
        desk.guacd.wait_until(lambda: owner.count("sync") > before + 5)
        stalled.read()
        status, sentence = stalled.until_ended()
        assert status == 513 and "slow" in sentence
    until(lambda: Attachment.objects.get().detached_at, "the place is given up")


def test_browser_that_never_reads_again_is_cut(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tunnel, "DRAIN_S", 0.5)
    monkeypatch.setattr("sessions.consumers._FINISH_TIMEOUT_S", 0.5)
    with desk.open(reads=False, max_queue=1) as browser:
        joiner = desk.joiner()
        threading.Thread(target=lambda: desk.guacd.start_flood(total=50_000_000, to=joiner), daemon=True).start()
        until(lambda: Attachment.objects.get().detached_at, "the place is given up")
        line = browser.socket.socket
        closed = 7  # TCP_CLOSE: reset, where a polite close would wait for the browser to read
        until(lambda: line.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == closed, "the line is cut")


def test_browser_that_signs_out_by_the_page_loses_the_desktop(desk: Desk) -> None:
    from django.conf import settings

    with desk.open() as browser:
        browser.until_opcode("sync")
        client = Client()
        client.cookies[settings.SESSION_COOKIE_NAME] = desk.login
        assert client.post("/accounts/logout/").status_code == 302
        assert browser.until_ended()[0] == 769
