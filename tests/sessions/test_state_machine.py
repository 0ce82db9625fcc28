"""Whatever people, machines, keepers and workers do, and in whatever order, the law of a rescue holds."""

from __future__ import annotations

import itertools
from datetime import datetime
from typing import Any
from uuid import UUID

import pytest
from django.db import DatabaseError, connection, transaction
from django.utils import timezone
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from sessions import services
from sessions.errors import AlreadyClaimed, IdempotencyConflict, NotAllowed, SupportError
from sessions.models import Gateway, GuacamoleConnection, RdpCredential, SessionEvent, SupportSession
from sessions.states import LIVE_GATEWAY_STATES, OPEN_STATES, TRANSITIONS, EndReason, GatewayState, State
from sessions.worker import Worker
from tests.fakes.gateway_driver import FakeGateways, Start
from tests.sessions.rescues import Clock, person, press

pytestmark = pytest.mark.django_db

SERIALS = st.sampled_from(["A1", "A2"])
PEOPLE = st.sampled_from(["Alice", "Bob", "Sue"])  # Sue is a supervisor
OUTCOMES = st.sampled_from([EndReason.RESOLVED, EndReason.NOT_RESOLVED, EndReason.FORCED])


class NoTunnels:
    def check_address(self, address: str) -> None:
        return

    def end_tunnel(self, address: str) -> None:
        return

    def last_heard(self, address: str) -> datetime | None:
        return None


class Rescues(RuleBasedStateMachine):
    """Two machines, three people, a keeper and two workers; every call may hit a session as it was some time ago."""

    def __init__(self) -> None:
        super().__init__()
        self._database = transaction.atomic()
        self._database.__enter__()
        self.clock, self.driver = Clock(), FakeGateways()
        self.workers = [
            Worker(name, now=self.clock, driver_for=lambda _: self.driver, vpn=NoTunnels) for name in ("one", "two")
        ]
        self.read: dict[str, SupportSession] = {}  # what somebody saw of a machine's session, perhaps long ago
        self.pressed: dict[tuple[str, str], tuple[str, UUID]] = {}  # the login and the session of a machine's key
        self.versions: dict[Any, int] = {}
        self.events = 0

    def teardown(self) -> None:
        try:
            self._everything_ends()
        finally:
            transaction.set_rollback(True)
            self._database.__exit__(None, None, None)

    @initialize()
    def people(self) -> None:
        for name in ("Alice", "Bob"):
            person(name)
        person("Sue", role="supervisor")

    # --- what people and machines do ---------------------------------------------------------------------------------

    @rule(serial=SERIALS, key=st.sampled_from(["", "1", "2"]), password=st.sampled_from(["first", "second"]))
    def press(self, serial: str, key: str, password: str) -> None:
        """A new press, or one that the network delivers again, or a key used again for another login."""
        known = self.pressed.get((serial, key))
        before = SupportSession.objects.filter(machine__serial=serial, state__in=OPEN_STATES).first()
        logins = self._logins()
        try:
            session = press(serial, key=key, password=password, now=self.clock())
        except IdempotencyConflict:
            assert known and known[0] != password
            assert self._logins() == logins
            return
        if known:
            assert known == (password, session.pk)
            assert self._logins() == logins
        else:
            assert before is None or session.pk == before.pk
            assert self._logins() == logins | {session.pk: password}
            if key:
                self.pressed[serial, key] = (password, session.pk)
        self.read[serial] = self._look(session)

    @rule(serial=SERIALS)
    def look(self, serial: str) -> None:
        if serial in self.read:
            self.read[serial] = self._look(self.read[serial])

    @precondition(lambda self: self.read)
    @rule(serial=SERIALS, who=PEOPLE)
    def claim(self, serial: str, who: str) -> None:
        if seen := self.read.get(serial):
            before = self._look(seen)
            try:
                services.claim(seen, user=person(who), now=self.clock())
            except AlreadyClaimed as error:
                assert before.operator is not None
                assert before.operator.display_name in str(error)
            except SupportError:
                assert not before.is_open
            else:
                assert before.operator in (None, person(who))
                assert self._look(seen).operator == person(who)

    @precondition(lambda self: self.read)
    @rule(serial=SERIALS, who=PEOPLE)
    def release(self, serial: str, who: str) -> None:
        if seen := self.read.get(serial):
            self._try(lambda: services.release(seen, user=person(who), now=self.clock()))

    @precondition(lambda self: self.read)
    @rule(serial=SERIALS, who=PEOPLE, to=PEOPLE)
    def hand_over(self, serial: str, who: str, to: str) -> None:
        if seen := self.read.get(serial):
            self._try(lambda: services.hand_over(seen, to=person(to), user=person(who), now=self.clock()))

    @precondition(lambda self: self.read)
    @rule(serial=SERIALS, who=PEOPLE, outcome=OUTCOMES)
    def close(self, serial: str, who: str, outcome: EndReason) -> None:
        if seen := self.read.get(serial):
            before = self._look(seen)
            try:
                services.close(seen, user=person(who), outcome=outcome, now=self.clock())
            except NotAllowed:
                assert who != "Sue"
            except SupportError:
                pass
            else:
                assert not self._look(seen).is_open
                assert who == "Sue" or seen.operator == person(who) or before.closed_by == person(who)

    @precondition(lambda self: self.read)
    @rule(serial=SERIALS)
    def cancel(self, serial: str) -> None:
        if seen := self.read.get(serial):
            services.cancel(self._look(seen), now=self.clock())

    @precondition(lambda self: self.read)
    @rule(serial=SERIALS)
    def machine_reads_the_news(self, serial: str) -> None:
        if seen := self.read.get(serial):
            services.machine_told(seen, now=self.clock())

    # --- what keepers and tunnels do ---------------------------------------------------------------------------------

    @precondition(lambda self: self.read)
    @rule(serial=SERIALS)
    def desktop_comes(self, serial: str) -> None:
        if not (seen := self.read.get(serial)):
            return
        gateway = Gateway.objects.filter(session=seen, state=GatewayState.READY).first()
        if gateway and not GuacamoleConnection.objects.filter(session=seen, closed_at=None).exists():

            def hold() -> None:
                with transaction.atomic():
                    GuacamoleConnection.objects.create(
                        session=seen, gateway=gateway, hostname="127.64.0.1", port=3390, connection_id="$1"
                    )
                    services.desktop_ready(seen, now=self.clock())

            self._try(hold)

    @precondition(lambda self: self.read)
    @rule(serial=SERIALS)
    def desktop_goes(self, serial: str) -> None:
        if seen := self.read.get(serial):
            GuacamoleConnection.objects.filter(session=seen, closed_at=None).update(
                closed_at=self.clock(), connection_id=None
            )
            self._try(lambda: services.desktop_lost(seen, detail="reset", notice="Lost.", now=self.clock()))

    @precondition(lambda self: self.read)
    @rule(serial=SERIALS, present=st.booleans())
    def operator_comes_or_goes(self, serial: str, present: bool) -> None:
        if seen := self.read.get(serial):
            self._try(lambda: services.controllers_changed(seen, present=present, now=self.clock()))

    # --- what workers and time do ------------------------------------------------------------------------------------

    @rule(number=st.integers(0, 1))
    def work(self, number: int) -> None:
        self.workers[number].run_pass()

    @rule(seconds=st.sampled_from([1, 5, 21, 130, 1000, 2000]))
    def time_passes(self, seconds: int) -> None:
        self.clock.tick(seconds)

    @rule(plan=st.sampled_from(list(Start)))
    def next_start_will(self, plan: Start) -> None:
        self.driver.starts.append(plan)

    @rule()
    def gateways_die(self) -> None:
        self.driver.die()

    @rule()
    def driver_does_not_answer(self) -> None:
        self.driver.stops_refused = 1
        self.driver.looks_refused = 2

    # --- the law -----------------------------------------------------------------------------------------------------

    @invariant()
    def sessions_keep_the_law(self) -> None:
        for session in SupportSession.objects.all():
            assert session.version >= self.versions.get(session.pk, 1), "a version never goes back"
            self.versions[session.pk] = session.version
            assert (session.operator_id is None) == (session.claimed_at is None)
            assert (session.end_reason is None) == session.is_open
            assert RdpCredential.objects.filter(session=session).exists() == session.is_open
            assert (session.closed_at is None) == (session.state != State.CLOSED)
            moves = list(
                SessionEvent.objects.filter(session=session)
                .exclude(to_state="")
                .order_by("id")
                .values_list("from_state", "to_state")
            )
            assert [old for old, _ in moves] == ["", *[new for _, new in moves]][:-1]
            assert moves[-1][1] == session.state, "every state has its event"
            assert all(old == "" or State(new) in TRANSITIONS[State(old)] for old, new in moves)
            if session.state == State.CLOSED:
                assert not Gateway.objects.filter(session=session).exclude(state=GatewayState.STOPPED).exists()
                assert not GuacamoleConnection.objects.filter(session=session, closed_at=None).exists()

    @invariant()
    def one_of_each(self) -> None:
        for serial in ("A1", "A2"):
            sessions = SupportSession.objects.filter(machine__serial=serial, state__in=OPEN_STATES)
            assert sessions.count() <= 1
            for session in sessions:
                assert Gateway.objects.filter(session=session, state__in=LIVE_GATEWAY_STATES).count() <= 1

    @invariant()
    def every_gateway_has_a_row_that_knows_of_it(self) -> None:
        known = {str(pk) for pk in Gateway.objects.exclude(state=GatewayState.STOPPED).values_list("pk", flat=True)}
        assert set(self.driver.alive) <= known

    @invariant()
    def events_are_only_added(self) -> None:
        count = SessionEvent.objects.count()
        assert count >= self.events
        self.events = count

    # --- helpers -----------------------------------------------------------------------------------------------------

    def _everything_ends(self) -> None:
        """When all people leave, every request is failed or expired in the end, and nothing is left running."""
        for session in SupportSession.objects.filter(state__in=OPEN_STATES):
            services.controllers_changed(self._look(session), present=False, now=self.clock())
        for _ in range(80):
            if not SupportSession.objects.exclude(state=State.CLOSED).exists():
                break
            for worker in self.workers:
                worker.run_pass()
            self.clock.tick(150)
        assert not SupportSession.objects.exclude(state=State.CLOSED).exists()
        assert self.driver.alive == {}
        self.sessions_keep_the_law()

    def _logins(self) -> dict[UUID, str]:
        return {login.session_id: login.password for login in RdpCredential.objects.all()}

    def _look(self, session: SupportSession) -> SupportSession:
        return SupportSession.objects.select_related("fleet", "machine", "operator", "closed_by").get(pk=session.pk)

    def _try(self, call: Any) -> None:
        """Does it with what was read, however old: it works, or says why it does not."""
        try:
            call()
        except SupportError as error:
            assert str(error)


def test_law_holds_in_any_order_of_doings() -> None:
    run_state_machine_as_test(
        Rescues,
        settings=settings(
            max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
        ),
    )


# --- the table and the database ---------------------------------------------------------------------------------------


def _columns(state: State) -> dict[str, Any]:
    """What goes with a state, so that nothing but the move itself can be wrong."""
    now = timezone.now()
    values: dict[str, Any] = {"state": state}
    if state in (State.CLOSING, State.CLOSED):
        values |= {"end_reason": EndReason.RESOLVED, "closing_at": now}
    else:
        values |= {"end_reason": None, "closing_at": None}
    values["closed_at"] = now if state == State.CLOSED else None
    return values


def _session_in(state: State) -> SupportSession:
    """A session that went the legal way to a state."""
    ways = {
        State.REQUESTED: [],
        State.STARTING: [State.STARTING],
        State.READY: [State.STARTING, State.READY],
        State.ACTIVE: [State.STARTING, State.READY, State.ACTIVE],
        State.CLOSING: [State.CLOSING],
        State.CLOSED: [State.CLOSING, State.CLOSED],
    }
    session = press(f"W-{state}")
    for step in ways[state]:
        SupportSession.objects.filter(pk=session.pk).update(**_columns(step))
    session.refresh_from_db()
    assert session.state == state
    return session


@pytest.mark.parametrize(("old", "new"), list(itertools.permutations(State, 2)), ids=lambda state: str(state))
def test_database_allows_just_the_moves_of_the_table(old: State, new: State) -> None:
    session = _session_in(old)
    update = SupportSession.objects.filter(pk=session.pk)
    if new in TRANSITIONS[old]:
        assert update.update(**_columns(new)) == 1
        return
    with pytest.raises(DatabaseError), transaction.atomic():
        update.update(**_columns(new))
    assert SupportSession.objects.get(pk=session.pk).state == old


def test_database_takes_no_state_it_does_not_know() -> None:
    session = _session_in(State.STARTING)
    with pytest.raises(DatabaseError), transaction.atomic():
        SupportSession.objects.filter(pk=session.pk).update(state="repaired")


def test_database_only_adds_events() -> None:
    session = press("A1")
    for sql in (
        "UPDATE support_session_event SET kind = 'other' WHERE session_id = %s",
        "DELETE FROM support_session_event WHERE session_id = %s",
    ):
        raw = session.pk if connection.vendor == "postgresql" else session.pk.hex
        with pytest.raises(DatabaseError), transaction.atomic(), connection.cursor() as cursor:
            cursor.execute(sql, [raw])
    assert SessionEvent.objects.filter(session=session, kind="requested").count() == 1
