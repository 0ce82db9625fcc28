"""Asking telemetry who is responsible, in such a way that no rescue ever waits for it.

A telemetry elsewhere is asked by a few threads of its own, and callers wait TELEMETRY_TIMEOUT_S at most. When it does
not answer, its last good answer stands in, kept for TELEMETRY_KEEP_S, else Portafilter's own rota, and the answer says
so. After a few failures in a row nobody waits at all (`breaker`): a trial every TRIAL_EVERY_S, which delays no one,
finds out when telemetry is back. What comes too late for one rescue is kept for the next.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, wait
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from django.conf import settings
from django.db.models import Q
from django.utils import timezone

from machines.models import KeptAnswer, Machine, Operator
from machines.telemetry import builtin
from machines.telemetry.answers import AnswerError, duty_document, read_duty
from machines.telemetry.base import Duty, LastWord, MachineUnknown, TelemetryError, get_driver
from machines.telemetry.breaker import Breaker
from machines.telemetry.hands import Hands

logger = logging.getLogger(__name__)

# Calls at once of one process; with a telemetry that takes 400 ms these are 20 a second.
AT_ONCE = 8
TRIAL_EVERY_S = 10.0
_HEAR_AT_MOST = 100
_OWN_ROTA = "Portafilter's own rota was used."


def ask(machine: Machine, *, now: datetime) -> Duty:
    """Who is responsible for the machine; see `ask_all`."""
    return ask_all([machine], now=now)[machine.pk]


def ask_all(machines: Sequence[Machine], *, now: datetime) -> dict[int, Duty]:
    """Who is responsible for each machine, by its key; all are asked at once, with one deadline for them together.

    Names that nobody active of the machine's fleet has are left out. Never raises for telemetry's sake; where it did
    not answer, `stood_in` says what stood in. Any number of threads may call this, none within a transaction.
    """
    if _is_builtin():
        own = builtin.BuiltinTelemetry()
        return {machine.pk: own.who_is_responsible(machine, now=now) for machine in machines}
    for machine in machines:
        _ = (
            machine.fleet,
            machine.site,
            machine.model,
        )  # read here: the threads that ask have no business in the database
    said = _way().ask(machines, now=now)
    fresh = {pk: duty for pk, duty in said.items() if isinstance(duty, Duty)}
    for machine in machines:
        if machine.pk in fresh:
            keep(machine, fresh[machine.pk], at=now)
    missing = [machine for machine in machines if machine.pk not in fresh]
    kept = _kept(missing, now=now)
    people = _People(machines, [*fresh.values(), *(duty for _, duty in kept.values())])
    return {machine.pk: _settled(machine, said[machine.pk], kept.get(machine.pk), people, now) for machine in machines}


def preview(machine: Machine, now: datetime) -> Duty:
    """Who would be asked if help were pressed now, for a page: nothing outside is called, so it may be a little old."""
    own = builtin.BuiltinTelemetry()
    if _is_builtin():
        return own.who_is_responsible(machine, now=now)
    if found := _kept([machine], now=now).get(machine.pk):
        at, duty = found
        known = _People([machine], [duty]).of(machine, duty)
        if known.candidates or not duty.candidates:
            return replace(known, stood_in=f"So telemetry said {_ago(at, now)} ago; at a press it is asked anew.")
    duty = own.who_is_responsible(machine, now=now)
    return replace(duty, stood_in="Telemetry is asked at a press. So Portafilter's own rota has it.")


def last_word(machine: Machine) -> LastWord | None:
    """What the machine last said, for a page: nothing outside is called.

    What a telemetry elsewhere heard of the machine is fetched after each press, and is in the machine's row then.
    """
    return builtin.BuiltinTelemetry().last_word(machine)


def warm_up() -> None:
    """Makes the driver ready in the background: the AWS library alone takes longer to load than a rescue waits."""
    if not _is_builtin():
        _way().warm_up()


def forget() -> None:
    """Ends this process's way to telemetry; the next call makes a new one from the settings, as tests want it."""
    global _the_way
    with _making:
        way, _the_way = _the_way, None
    if way:
        way.end()
    get_driver.cache_clear()


def _is_builtin() -> bool:
    return bool(settings.TELEMETRY == "builtin")


# --- the way to a telemetry elsewhere ---------------------------------------------------------------------------------


@dataclass(eq=False)
class _Call:
    """One question on its way. Whoever waits gives it up, or it is done: the lock decides which came first."""

    machine: Machine
    now: datetime
    is_given_up: bool = False
    begun_at: float | None = None
    is_counted: bool = False
    outcome: Duty | Exception | None = None
    future: Future[None] | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class _Way:
    """The process's way to telemetry: its threads, its breaker, and what hangs."""

    def __init__(self) -> None:
        self._hands = Hands(AT_ONCE, name="telemetry")
        self._ears = Hands(1, name="telemetry hears")
        self._to_hear: set[int] = set()
        self._breaker = Breaker()
        self._timeout_s = settings.TELEMETRY_TIMEOUT_S
        self._lock = threading.Lock()
        self._is_ended = threading.Event()
        self._is_trying = False
        self._given_up: set[_Call] = set()

    def ask(self, machines: Sequence[Machine], *, now: datetime) -> dict[int, Duty | str]:
        """Each machine's answer; or a sentence, why there is none."""
        if self._breaker.is_open or len(self._given_up) >= AT_ONCE:
            return {machine.pk: "Telemetry is down." for machine in machines}
        calls = [self._begin(machine, now, is_waited_for=True) for machine in machines]
        wait([call.future for call in calls if call.future], timeout=self._timeout_s)
        return {call.machine.pk: self._told(call) for call in calls}

    def warm_up(self) -> None:
        self._hands.begin(_get_ready)

    def end(self) -> None:
        self._is_ended.set()
        self._hands.dismiss()
        self._ears.dismiss()

    def _begin(self, machine: Machine, now: datetime, *, is_waited_for: bool) -> _Call:
        call = _Call(machine, now, is_given_up=not is_waited_for)
        if not is_waited_for:
            self._add(call)
        call.future = self._hands.begin(lambda: self._carry_out(call))
        return call

    def _told(self, call: _Call) -> Duty | str:
        with call.lock:
            if call.outcome is None:
                call.is_given_up = True
                assert call.future is not None
                if not call.future.cancel():
                    self._add(call)
                # One that began late, behind others, has not had its time: that more was asked at once than there are
                # hands is no fault of telemetry's.
                call.is_counted = self._took(call) >= 0.9 * self._timeout_s
        if isinstance(call.outcome, Duty):
            return call.outcome
        if call.outcome is None:
            if call.is_counted:
                self._count_failure(call.machine, "no answer in time")
            return f"Telemetry did not answer within {self._timeout_s:g} s."
        return _sentence(call.outcome)

    def _carry_out(self, call: _Call) -> None:
        """In a thread of the hands."""
        outcome: Duty | Exception
        call.begun_at = time.monotonic()
        try:
            outcome = get_driver().who_is_responsible(call.machine, now=call.now)
        except Exception as error:
            outcome = error
            if not isinstance(error, TelemetryError):
                logger.exception("Telemetry's driver broke")
        # Whether telemetry works at all is settled before whoever waits goes on.
        if isinstance(outcome, Duty | MachineUnknown) and self._took(call) <= self._timeout_s:
            if self._breaker.succeeded():
                logger.warning("Telemetry answers again")
        elif not call.is_counted:
            self._count_failure(call.machine, "too late" if isinstance(outcome, Duty) else str(outcome)[:300])
        with call.lock:
            call.outcome = outcome
            nobody_waits = call.is_given_up
        if nobody_waits:
            try:
                if isinstance(outcome, Duty):
                    keep(call.machine, outcome, at=call.now)
            finally:
                with self._lock:
                    self._given_up.discard(call)
        if isinstance(outcome, Duty):
            self._hear_of(call.machine)

    def _hear_of(self, machine: Machine) -> None:
        """One at a time, beside the questions that somebody waits for; a backlog is not worth having."""
        with self._lock:
            if len(self._to_hear) >= _HEAR_AT_MOST or machine.pk in self._to_hear:
                return
            self._to_hear.add(machine.pk)

        def hear() -> None:
            try:
                _hear(machine)
            finally:
                with self._lock:
                    self._to_hear.discard(machine.pk)

        self._ears.begin(hear)

    def _took(self, call: _Call) -> float:
        return 0.0 if call.begun_at is None else time.monotonic() - call.begun_at

    def _add(self, call: _Call) -> None:
        with self._lock:
            self._given_up.add(call)

    def _count_failure(self, machine: Machine, words: str) -> None:
        if not self._breaker.failed():
            return
        logger.warning("Telemetry is down, and is tried again every %g s: %s", TRIAL_EVERY_S, words)
        with self._lock:
            if not self._is_trying:
                self._is_trying = True
                threading.Thread(target=self._try, args=(machine,), name="telemetry trials", daemon=True).start()

    def _try(self, machine: Machine) -> None:
        """Asks about this machine again and again until telemetry is back; also when nobody presses meanwhile."""
        while not self._is_ended.wait(TRIAL_EVERY_S):
            with self._lock:
                if not self._breaker.is_open:
                    self._is_trying = False
                    return
                has_hands = len(self._given_up) < AT_ONCE
            if has_hands:
                self._begin(machine, timezone.now(), is_waited_for=False)


_making = threading.Lock()
_the_way: _Way | None = None


def _way() -> _Way:
    global _the_way
    with _making:
        if _the_way is None:
            _the_way = _Way()
        return _the_way


def _get_ready() -> None:
    try:
        get_driver()
    except Exception:
        logger.exception("Telemetry's driver cannot be made")


def _hear(machine: Machine) -> None:
    """What the machine last said to telemetry, into its row, if it is news there."""
    try:
        word = get_driver().last_word(machine)
    except TelemetryError as error:
        logger.info("Telemetry did not say what %s last said: %s", machine.serial, error)
        return
    if word is None or word.at is None:
        return
    # A clock elsewhere that is ahead must not make a machine seen in times to come.
    at = min(word.at, timezone.now())
    older = Machine.objects.filter(Q(last_seen_at=None) | Q(last_seen_at__lt=at), pk=machine.pk)
    values: dict[str, object] = {"last_seen_at": at, "faults": list(word.faults)}
    if word.software:
        values["software"] = word.software
    older.update(**values)


def _sentence(error: Exception) -> str:
    if not isinstance(error, TelemetryError):
        return "Telemetry could not be asked."
    text = str(error)[:300].rstrip()
    return text if text.endswith((".", "?", "…")) else f"{text}."


# --- what stands in ---------------------------------------------------------------------------------------------------


def keep(machine: Machine, duty: Duty, *, at: datetime) -> None:
    """Keeps telemetry's answer of that moment, unless a later one is kept."""
    values = {"source": duty.source, "answer": duty_document(duty), "at": at}
    row = KeptAnswer.objects.filter(machine=machine)
    if not row.filter(at__lte=at).update(**values):
        KeptAnswer.objects.bulk_create([KeptAnswer(machine=machine, **values)], ignore_conflicts=True)


def _kept(machines: Sequence[Machine], *, now: datetime) -> dict[int, tuple[datetime, Duty]]:
    if not machines:
        return {}
    oldest = now - timedelta(seconds=settings.TELEMETRY_KEEP_S)
    found = {}
    for row in KeptAnswer.objects.filter(machine__in=machines, at__gte=oldest):
        try:
            found[row.machine_id] = row.at, read_duty(row.answer, source=row.source)
        except AnswerError as error:
            logger.warning("The kept answer of telemetry %s is not used: %s", row.pk, error)
    return found


class _People:
    """Who of those that were named is active and operates in which fleet."""

    def __init__(self, machines: Iterable[Machine], duties: Iterable[Duty]) -> None:
        names = {one.username for duty in duties for one in duty.candidates}
        rows = Operator.objects.filter(
            user__username__in=names, user__is_active=True, fleets__in={machine.fleet_id for machine in machines}
        )
        self._known = set(rows.order_by().values_list("user__username", "fleets")) if names else set()

    def of(self, machine: Machine, duty: Duty) -> Duty:
        """The answer with those alone, each once."""
        known = {
            one.username: one for one in reversed(duty.candidates) if (one.username, machine.fleet_id) in self._known
        }
        order = dict.fromkeys(one.username for one in duty.candidates if one.username in known)
        if strangers := {one.username for one in duty.candidates} - known.keys():
            logger.warning(
                "Telemetry named for %s who cannot be asked: %s", machine.serial, ", ".join(sorted(strangers))
            )
        return replace(duty, candidates=tuple(known[name] for name in order))


def _settled(
    machine: Machine, said: Duty | str, kept: tuple[datetime, Duty] | None, people: _People, now: datetime
) -> Duty:
    if isinstance(said, Duty):
        duty = people.of(machine, said)
        if duty.candidates or not said.candidates:
            return duty
        said = "Telemetry named nobody who works for this fleet."
    elif kept:
        at, answer = kept
        duty = people.of(machine, answer)
        if duty.candidates or not answer.candidates:
            return replace(duty, stood_in=f"{said} Its answer of {_ago(at, now)} ago was used.")
    own = builtin.BuiltinTelemetry().who_is_responsible(machine, now=now)
    return replace(own, stood_in=f"{said} {_OWN_ROTA}")


def _ago(at: datetime, now: datetime) -> str:
    seconds = max(0, round((now - at).total_seconds()))
    return f"{seconds} s" if seconds < 100 else f"{round(seconds / 60)} min"
