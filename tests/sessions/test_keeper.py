"""The keeper against a guacd that behaves well, wrongly, by halves or not at all."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from django.utils import timezone

from machines.models import MachineModel
from sessions import gateway_rows, keeper_rows, services
from sessions.connection import NotConnectable, connection_for, profile_for
from sessions.keeper import Limits
from sessions.models import ConnectionProfile, Gateway, GuacamoleConnection, RdpCredential, SessionEvent, SupportSession
from sessions.services import RdpLogin
from sessions.states import EndReason, GatewayState, State
from tests.fakes.guacd import FakeGuacd, Fault, instruction
from tests.sessions.keeping import (
    FAST,
    IMPATIENT,
    SOON_SILENT,
    again,
    give_gateway,
    keeping,
    rescue,
    until_lost,
    until_state,
)
from tests.sessions.rescues import PASSWORD, fleet, machine, press
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)


@pytest.fixture
def guacd() -> Iterator[FakeGuacd]:
    with FakeGuacd() as fake:
        yield fake
        violations = [violation for connection in fake.connections for violation in connection.violations]
        assert violations == []


def _attempts(session: SupportSession) -> list[str]:
    events = SessionEvent.objects.filter(session=session, kind="attempt_failed")
    return [str(event.detail["detail"]) for event in events]


def _opens(session: SupportSession) -> GuacamoleConnection | None:
    return GuacamoleConnection.objects.filter(session=session, closed_at=None).first()


# --- a desktop comes, is held, and goes -------------------------------------------------------------------------------


def test_desktop_is_held_with_the_machines_login_and_the_session_is_ready(guacd: FakeGuacd) -> None:
    session = rescue(guacd.port)
    with keeping():
        session = until_state(session, State.READY)
        (owner,) = guacd.owners
        record = _opens(session)
        assert owner.selected == "rdp"
        assert owner.arguments["hostname"] == session.machine.vpn_address
        assert owner.arguments["port"] == "3390"
        assert owner.arguments["username"] == "once"
        assert owner.arguments["password"] == PASSWORD
        assert owner.arguments["disable-audio"] == "true"
        assert record is not None
        assert record.connection_id == owner.connection_id
        assert record.parameters["ignore-cert"] == "true"
        assert PASSWORD not in repr(record.parameters) and "username" not in record.parameters
        assert session.ready_at is not None


def test_every_frame_is_echoed_and_silence_filled(guacd: FakeGuacd) -> None:
    session = rescue(guacd.port)
    with keeping():
        until_state(session, State.READY)
        (owner,) = guacd.owners
        guacd.wait_until(lambda: owner.count("sync") >= 5 and owner.count("nop") >= 2)
        assert set(owner.opcodes) == {"sync", "nop"}


def test_end_of_the_session_ends_the_desktop_and_erases_its_id(guacd: FakeGuacd) -> None:
    session = rescue(guacd.port)
    with keeping():
        session = until_state(session, State.READY)
        (owner,) = guacd.owners
        services.cancel(session)
        guacd.wait_until(lambda: owner.count("disconnect") and owner.ended)
        record = GuacamoleConnection.objects.filter(session=session, closed_at__isnull=False)
        until(record.exists, "the record is closed")
        assert record[0].connection_id is None
        until(Gateway.objects.filter(session=session, keeper="").exists, "the lease is given up")
        assert again(session).state == State.CLOSING
    assert not SessionEvent.objects.filter(session=session, kind="desktop_lost").exists()


def test_ten_desktops_are_held_at_once(guacd: FakeGuacd) -> None:
    rescues = [rescue(guacd.port, f"M{number}") for number in range(10)]
    with keeping():
        for session in rescues:
            until_state(session, State.READY)
        assert len(guacd.owners) == 10


# --- it does not come -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("fault", [fault for fault in Fault if fault is not Fault.NONE])
def test_whatever_goes_wrong_is_told_and_tried_again(guacd: FakeGuacd, fault: Fault) -> None:
    guacd.faults.append(fault)
    session = rescue(guacd.port)
    with keeping(first=[IMPATIENT]):
        session = until_state(session, State.READY)
        (detail,) = _attempts(session)
        assert detail and PASSWORD not in detail
        assert session.notice == ""
        # What failed is given up wholly: guacd itself leaves sockets open.
        guacd.wait_until(lambda: guacd.connections[0].ended)
        assert len(guacd.owners) == 1


def test_same_failure_again_and_again_is_told_once(guacd: FakeGuacd) -> None:
    guacd.fault = Fault.REFUSED
    session = rescue(guacd.port)
    with keeping():
        guacd.wait_until(lambda: len(guacd.connections) >= 4)
        (detail,) = _attempts(session)
    assert session.machine.vpn_address in detail and "519" in detail
    assert again(session).notice == "The machine's screen does not come yet. It is being tried again."


def test_login_refused_twice_brings_the_deadline_nearer_and_names_the_status(guacd: FakeGuacd) -> None:
    guacd.fault = Fault.BAD_LOGIN
    session = rescue(guacd.port)
    with keeping():
        until(lambda: again(session).gateway_due_at < session.gateway_due_at, "the deadline is nearer")
        guacd.wait_until(lambda: len(guacd.connections) >= 4)
        settled_at = SessionEvent.objects.filter(session=session, kind="attempt_failed")[1].at
        assert again(session).gateway_due_at == settled_at + timedelta(seconds=15)
    assert len(_attempts(session)) == 2  # the first, and the one that settles it
    assert all("769" in detail for detail in _attempts(session))


def test_new_login_of_the_machine_is_used_at_the_next_try(guacd: FakeGuacd) -> None:
    guacd.fault = Fault.BAD_LOGIN
    session = rescue(guacd.port)
    with keeping():
        guacd.wait_until(lambda: len(guacd.connections) >= 2)
        RdpCredential.objects.filter(session=session).update(password="second")
        guacd.wait_until(lambda: any(one.arguments.get("password") == "second" for one in list(guacd.connections)))
        guacd.fault = Fault.NONE
        until_state(session, State.READY)


def test_renewed_login_refused_twice_brings_the_deadline_nearer_again(guacd: FakeGuacd) -> None:
    guacd.fault = Fault.BAD_LOGIN
    session = rescue(guacd.port)
    with keeping():
        until(lambda: again(session).gateway_due_at < session.gateway_due_at, "the deadline is nearer")
        renewed = services.renew_login(again(session), RdpLogin("once", "second"), now=timezone.now())
        assert (renewed.gateway_due_at - timezone.now()).total_seconds() > 60
        until(lambda: again(session).gateway_due_at < renewed.gateway_due_at, "the deadline is nearer again")
        tried = [one.arguments.get("password") for one in list(guacd.connections)]
        assert tried.count("second") >= 2


def test_gateway_where_nobody_listens_is_told_and_tried_again(
    guacd: FakeGuacd, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = keeper_rows.failed

    def failed(*args: Any, **values: Any) -> None:
        real(*args, **values)
        guacd.restart()  # before the next try, of which there is one

    monkeypatch.setattr(keeper_rows, "failed", failed)
    guacd.kill()
    session = rescue(guacd.port)
    with keeping():
        until_state(session, State.READY)
    (detail,) = _attempts(session)
    assert detail.startswith("The gateway does not answer: ")


@pytest.mark.parametrize("way", ["silent", "hangs up", "not there"])
def test_gateway_that_says_nothing_twice_is_given_up_and_named(guacd: FakeGuacd, way: str) -> None:
    guacd.fault = Fault.SILENT if way == "silent" else Fault.HANG_UP
    if way == "not there":
        guacd.kill()
    session = rescue(guacd.port)
    with keeping(first=[IMPATIENT] * 2):
        until(lambda: Gateway.objects.get(session=session).state == GatewayState.STOPPING, "it is given up")
        assert Gateway.objects.get(session=session).failure.startswith("The gateway hangs. ")
        assert again(session).notice == "The gateway hangs. A new one is starting."
        with FakeGuacd() as second:
            give_gateway(again(session), second.port)
            until_state(session, State.READY)
    first, last = _attempts(session)
    assert first.startswith("The gateway does not answer: ") and last.startswith("The gateway hangs. ")


def test_gateway_that_hangs_with_its_desktop_is_given_up_at_the_next_silence(guacd: FakeGuacd) -> None:
    session = rescue(guacd.port)
    with keeping(first=[SOON_SILENT, IMPATIENT]):
        until_state(session, State.READY)
        guacd.freeze()
        until(lambda: Gateway.objects.get(session=session).state == GatewayState.STOPPING, "it is given up")
        assert len(guacd.connections) <= 2
        assert again(session).state == State.STARTING
        guacd.thaw()


def test_gateway_that_hangs_is_noticed_within_twenty_seconds() -> None:
    limits = Limits()
    longest_delay_s = 1.2 * 2 * limits.first_delay_s
    assert limits.silence_s + longest_delay_s + max(limits.connect_s, limits.first_word_s) < 20
    assert 2 * (max(limits.connect_s, limits.first_word_s) + longest_delay_s) < 20


def test_gateway_that_answers_in_between_is_kept(guacd: FakeGuacd) -> None:
    guacd.fault = Fault.REFUSED
    guacd.faults.extend([Fault.SILENT, Fault.REFUSED, Fault.SILENT, Fault.BAD_LOGIN, Fault.SILENT, Fault.REFUSED])
    session = rescue(guacd.port)
    with keeping(first=[IMPATIENT, FAST] * 3):
        guacd.wait_until(lambda: len(guacd.connections) >= 7)
        assert Gateway.objects.get(session=session).state == GatewayState.READY


def test_address_outside_of_the_machines_network_is_never_dialled(guacd: FakeGuacd) -> None:
    session = press("A1")
    type(session.machine).objects.filter(pk=session.machine_id).update(vpn_address="192.0.2.7")
    give_gateway(session, guacd.port)
    with keeping():
        detail = until(lambda: _attempts(session), "it is told")[0]
        assert "192.0.2.7" in detail
    assert guacd.connections == []
    with pytest.raises(NotConnectable, match="not dialled"):
        connection_for(again(session))


def test_session_that_ends_while_its_desktop_comes_stays_ended(guacd: FakeGuacd) -> None:
    guacd.fault = Fault.NO_FRAME
    session = rescue(guacd.port)
    with keeping():
        guacd.wait_until(lambda: guacd.owners)
        services.cancel(again(session))
        guacd.wait_until(lambda: not guacd.owners)
        until(Gateway.objects.filter(session=session, keeper="").exists, "the lease is given up")
    assert again(session).state == State.CLOSING
    assert not GuacamoleConnection.objects.exists()


# --- it is lost -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["error", "hang up", "reset", "nonsense", "silence", "required"])
def test_lost_desktop_is_told_and_brought_back(guacd: FakeGuacd, loss: str) -> None:
    session = rescue(guacd.port)
    with keeping(first=[SOON_SILENT] if loss == "silence" else []):
        session = until_state(session, State.READY)
        (owner,) = guacd.owners
        if loss == "error":
            guacd.end(519)
        elif loss == "nonsense":
            guacd.send(b"GET / HTTP/1.1\r\n")
        elif loss == "required":
            guacd.send(instruction("required", "password"))
        elif loss == "silence":
            guacd.freeze()
        else:
            guacd.hang_up(owner, reset=loss == "reset")
        until_lost(session)
        guacd.thaw()
        until_state(session, State.READY)
        ended = GuacamoleConnection.objects.get(session=session, closed_at__isnull=False)
        assert ended.connection_id is None and ended.detail
        assert ended.status == {"error": 519, "nonsense": 515, "required": 769}.get(loss)
        (event,) = SessionEvent.objects.filter(session=session, kind="desktop_lost")
        assert event.detail["detail"] == ended.detail
        record = _opens(session)
        assert record is not None and record.connection_id != owner.connection_id
        guacd.wait_until(lambda: owner.ended)


def test_gateway_that_is_replaced_gets_its_own_keeper(guacd: FakeGuacd) -> None:
    session = rescue(guacd.port)
    with keeping(), FakeGuacd() as second:
        session = until_state(session, State.READY)
        first = Gateway.objects.get(session=session)
        guacd.kill()
        # Whoever sees it first, the worker or the keeper, says so.
        gateway_rows.give_up(first, failure="lost", now=timezone.now())
        if again(session).state == State.READY:
            services.desktop_lost(again(session), detail="lost", notice="", now=timezone.now())
        assert Gateway.objects.get(pk=first.pk).state == GatewayState.STOPPING
        give_gateway(again(session), second.port)
        until_state(session, State.READY)
        assert len(second.owners) == 1
        until(lambda: Gateway.objects.get(pk=first.pk).keeper == "", "the old lease is given up")


# --- several keepers --------------------------------------------------------------------------------------------------


def test_of_two_processes_one_keeps_a_desktop(guacd: FakeGuacd) -> None:
    session = rescue(guacd.port)
    with keeping("one"), keeping("two"):
        until_state(session, State.READY)
        guacd.wait_until(lambda: guacd.owners[0].count("nop") >= 5)
        assert len(guacd.connections) == 1


def test_stopped_process_lets_go_and_the_next_one_takes_up_at_once(guacd: FakeGuacd) -> None:
    session = rescue(guacd.port)
    with keeping("one"):
        until_state(session, State.READY)
        (owner,) = guacd.owners
    guacd.wait_until(lambda: owner.ended)
    assert owner.count("disconnect") == 1
    session = again(session)
    assert session.state == State.STARTING
    assert session.notice == "The server restarts. The screen comes back by itself."
    left = Gateway.objects.get(session=session)
    assert (left.keeper, left.keeper_until) == ("", None), "nobody waits for a lease to run out"
    with keeping("two"):
        until_state(session, State.READY)


def test_desktop_of_a_keeper_that_died_is_taken_over_when_its_lease_is_over(guacd: FakeGuacd) -> None:
    session = rescue(guacd.port)
    with keeping("one"):
        session = until_state(session, State.READY)
        # As a kill -9 leaves it: the rows say that a desktop is held.
        row = Gateway.objects.get(session=session)
        record = _opens(session)
        assert record is not None
        saved = {"keeper": row.keeper, "keeper_until": timezone.now() + timedelta(seconds=300)}
    guacd.wait_until(lambda: not guacd.owners)
    SupportSession.objects.filter(pk=session.pk).update(state=State.READY)
    GuacamoleConnection.objects.filter(pk=record.pk).update(closed_at=None, connection_id=record.connection_id)
    Gateway.objects.filter(pk=row.pk).update(**saved)
    with keeping("two"):
        assert Gateway.objects.get(pk=row.pk).keeper == "one"
        Gateway.objects.filter(pk=row.pk).update(keeper_until=timezone.now())
        until(lambda: Gateway.objects.get(pk=row.pk).keeper == "two", "the lease is taken")
        anew = GuacamoleConnection.objects.filter(session=session, closed_at=None).exclude(pk=record.pk)
        until(anew.exists, "it is held again")
        until_state(session, State.READY)
        record.refresh_from_db()
        assert record.closed_at is not None and record.connection_id is None
    assert SessionEvent.objects.filter(session=session, kind="desktop_lost").count() == 3


def test_keeper_whose_lease_was_taken_goes_without_a_word_to_the_rows(guacd: FakeGuacd) -> None:
    session = rescue(guacd.port)
    with keeping():
        until_state(session, State.READY)
        later = timezone.now() + timedelta(seconds=60)
        Gateway.objects.filter(session=session).update(keeper="another", keeper_until=later)
        guacd.wait_until(lambda: not guacd.owners)
    assert Gateway.objects.get(session=session).keeper == "another"
    assert again(session).state == State.READY
    assert _opens(session) is not None


# --- the connection's parameters --------------------------------------------------------------------------------------


def test_most_exact_profile_wins() -> None:
    one = machine("A1")
    other_model = MachineModel.objects.create(name="Other")
    assert profile_for(one).pk is None
    for name, of, model in (
        ("all", None, None), ("model", None, one.model), ("fleet", one.fleet, None), ("both", one.fleet, one.model),
    ):  # fmt: skip
        ConnectionProfile.objects.create(name=name, fleet=of, machine_model=model)
        assert profile_for(one).name == name
    ConnectionProfile.objects.create(name="foreign fleet", fleet=fleet("South"), machine_model=one.model)
    ConnectionProfile.objects.create(name="foreign model", fleet=one.fleet, machine_model=other_model)
    assert profile_for(one).name == "both"


def test_profile_shapes_the_handshake(guacd: FakeGuacd) -> None:
    ConnectionProfile.objects.create(
        name="all", security="tls", ignore_certificate=False, width=800, height=600, dpi=120,
        server_layout="de-de-qwertz", color_depth=16, allow_copy=False, disable_gfx=True,
    )  # fmt: skip
    session = rescue(guacd.port)
    with keeping():
        until_state(session, State.READY)
        (owner,) = guacd.owners
    assert owner.handshake["size"] == ("800", "600", "120")
    expected = {
        "security": "tls", "ignore-cert": "false", "server-layout": "de-de-qwertz", "color-depth": "16",
        "disable-copy": "true", "disable-paste": "false",
    }  # fmt: skip
    assert {name: owner.arguments[name] for name in expected} == expected


def test_profile_that_guacd_may_not_be_given_is_told(guacd: FakeGuacd) -> None:
    ConnectionProfile.objects.create(name="all", server_layout="../../etc")
    session = rescue(guacd.port)
    with keeping():
        detail = until(lambda: _attempts(session), "it is told")[0]
    assert "server-layout" in detail and PASSWORD not in detail
    assert guacd.connections == []


def test_login_shows_in_no_repr_and_is_gone_once_sent(guacd: FakeGuacd) -> None:
    session = rescue(guacd.port)
    connection = connection_for(session)
    assert connection is not None
    assert PASSWORD not in repr(connection)
    services.end(session, EndReason.FORCED)
    assert connection_for(again(session)) is None
