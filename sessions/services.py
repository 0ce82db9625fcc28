"""The only writer of a support session's state.

Every change is a guarded UPDATE (`… WHERE state = what was read`) with a SessionEvent in the same transaction.
Zero rows updated means that somebody else got there first: the caller hears it, nothing is locked.
Nothing outside is called from here; what is wanted is committed, and the worker (worker.py) compares wish and fact.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import F
from django.utils import timezone

from machines import selectors as fleet_selectors
from machines.models import Machine, User
from notifications import live
from sessions import bell, messages
from sessions.errors import AlreadyClaimed, NotAllowed, SessionClosed, StateConflict
from sessions.models import Escalation, RdpCredential, SessionEvent, SupportSession
from sessions.states import OPEN_STATES, TRANSITIONS, EndReason, State

# Changes that give worker and keeper nothing to do: waking them would take the processor from whom it concerns.
_NO_WORK = frozenset(
    {"claimed", "released", "handed_over", "attached", "detached", "repairing", "left_desktop", "notice"}
    | {"asked", "missed", "looked_at"}
)
# Changes of who has it, or of whether it waits at all: who asks people for help looks at once.
_FOR_ASKER = frozenset(
    {"requested", "claimed", "released", "claim_expired", "handed_over", "close_requested", "cancelled", "ended"}
)


@dataclass(frozen=True, slots=True)
class RdpLogin:
    """The one-off login that a machine made for this rescue; its secrets stay out of repr."""

    username: str = field(repr=False)
    password: str = field(repr=False)
    port: int = 3389
    domain: str = field(default="", repr=False)
    security: str = "any"


def begin(
    machine: Machine, *, login: RdpLogin, problem_code: str = "", problem_text: str = "", now: datetime
) -> SupportSession:
    """A new session with its login; presses.py says when. Call it in the transaction that keeps the press.

    Raises IntegrityError when the machine has an open session: another press was faster.
    """
    session = SupportSession.objects.create(
        machine=machine,
        fleet_id=machine.fleet_id,
        problem_code=problem_code,
        problem_text=problem_text,
        requested_at=now,
        updated_at=now,
        gateway_due_at=now + timedelta(seconds=settings.GATEWAY_DEADLINE_S),
        answer_due_at=now + timedelta(seconds=machine.fleet.answer_deadline_s or settings.ANSWER_DEADLINE_S),
    )
    RdpCredential.objects.create(session=session, **asdict(login))
    Escalation.objects.create(session=session, answer_due_at=session.answer_due_at, began_at=now, next_at=now)
    SessionEvent.objects.create(
        session=session, at=now, kind="requested", to_state=State.REQUESTED, actor="machine",
        detail={"code": problem_code, "text": problem_text},
    )  # fmt: skip
    _announce(machine.fleet_id, session.pk, kind="requested")
    return session


def renew_login(session: SupportSession, login: RdpLogin, *, now: datetime) -> SupportSession:
    """Gives an open session the login of its machine's newest press, unless it has it already.

    Raises StateConflict when the session has ended meanwhile: no login comes back to it.
    """
    kept = RdpCredential.objects.filter(session_id=session.pk).first()
    if kept and RdpLogin(kept.username, kept.password, kept.port, kept.domain, kept.security) == login:
        return session
    # A deadline that the old login has used up must not end the rescue before the new one was tried.
    due = max(session.gateway_due_at, now + timedelta(seconds=settings.MACHINE_GONE_S))
    with transaction.atomic():
        if not _change(session, {}, kind="login_renewed", actor="machine", now=now, gateway_due_at=due):
            raise StateConflict("The session has ended, so it takes no other login.")
        RdpCredential.objects.filter(session_id=session.pk).update(**asdict(login))
    return _reload(session)


def claim(session: SupportSession, *, user: User, now: datetime | None = None) -> SupportSession:
    """Makes `user` the one operator of an open session; claiming one's own again changes nothing.

    Raises AlreadyClaimed or SessionClosed, each holding the session as it is now.
    """
    now = now or timezone.now()
    with transaction.atomic():
        won = _change(
            session, {"operator": None}, kind="claimed", user=user, now=now,
            operator=user, claimed_at=now, unattended_since=now,
        )  # fmt: skip
    session = _reload(session)
    if not won:
        if not session.is_open:
            raise SessionClosed(session)
        if session.operator_id != user.pk:
            raise AlreadyClaimed(session)
    return session


def release(session: SupportSession, *, user: User, now: datetime | None = None) -> SupportSession:
    """Gives a claimed session back to the queue. Raises NotAllowed, SessionClosed or StateConflict."""
    now = now or timezone.now()
    _require_holder(session, user)
    with transaction.atomic():
        won = _change(
            session, {"operator": session.operator_id}, kind="released", user=user, now=now,
            detail={"operator": session.operator_id},
            operator=None, claimed_at=None, unattended_since=None, answer_due_at=_answer_due(session, now),
        )  # fmt: skip
    return _after(session, won)


def expire_claim(session: SupportSession, *, now: datetime) -> SupportSession:
    """Gives a session back to the queue whose operator has been away too long."""
    with transaction.atomic():
        won = _change(
            session, {"operator": session.operator_id, "unattended_since": session.unattended_since},
            kind="claim_expired", now=now, detail={"operator": session.operator_id},
            operator=None, claimed_at=None, unattended_since=None, answer_due_at=_answer_due(session, now),
            notice="",
        )  # fmt: skip
    return _after(session, won)


def hand_over(session: SupportSession, *, to: User, user: User, now: datetime | None = None) -> SupportSession:
    """Makes a colleague the operator; a supervisor may also take a session over for themselves.

    Raises NotAllowed, SessionClosed, or StateConflict when the claim changed meanwhile.
    """
    now = now or timezone.now()
    _require_holder(session, user)
    if not fleet_selectors.colleagues(session.fleet).filter(pk=to.pk).exists():
        raise NotAllowed(f"{to.display_name} does not work for {session.fleet}. Choose somebody who does.")
    with transaction.atomic():
        won = _change(
            session, {"operator": session.operator_id}, kind="handed_over", user=user, now=now,
            detail={"from": session.operator_id, "to": to.pk, "to_name": to.display_name},
            operator=to, claimed_at=now, unattended_since=now,
        )  # fmt: skip
        if won:
            # Also from the screens of who had it: they are asked for it no more.
            messages.withdraw_since_taken(_reload(session), now=now)
        if won and to != user:
            messages.tell_new_operator(session, to, by=user, now=now)
    return _after(session, won)


def close(
    session: SupportSession,
    *,
    user: User,
    outcome: EndReason,
    cause: str = "",
    fix: str = "",
    note: str = "",
    now: datetime | None = None,
) -> SupportSession:
    """An operator's close; a second one by the same person changes nothing. Raises NotAllowed or SessionClosed."""
    for _ in range(5):
        if not session.is_open:
            if session.closed_by_id == user.pk:
                return session
            raise SessionClosed(session)
        _require_holder(session, user, supervisor_only=outcome == EndReason.FORCED)
        # Whoever lost the claim a moment ago does not end the rescue of the one who has it now.
        still = {"operator": session.operator_id}
        try:
            return _end(
                session,
                outcome,
                kind="close_requested",
                user=user,
                now=now,
                where=still,
                cause=cause,
                fix=fix,
                note=note,
            )
        except StateConflict:
            session = _reload(session)
    raise StateConflict("The rescue kept changing; try again.")


def cancel(session: SupportSession, *, now: datetime | None = None) -> SupportSession:
    """The person at the machine no longer needs help; cancelling what is ending already changes nothing."""
    if not session.is_open:
        return session
    try:
        return _end(session, EndReason.CANCELLED, kind="cancelled", actor="machine", now=now)
    except SessionClosed as ended:
        return ended.session  # somebody closed it in this very moment


def end(
    session: SupportSession,
    reason: EndReason,
    *,
    detail: str = "",
    only_if: Mapping[str, object] | None = None,
    now: datetime | None = None,
) -> SupportSession:
    """The system ends an open session: a deadline passed, or what it needs cannot be had.

    `only_if` is why it ends, as columns that must still have these values: a session that somebody claimed, or
    whose desktop came, in the very last moment raises StateConflict and goes on.
    """
    extra = {"detail": detail} if detail else None
    return _end(session, reason, kind="ended", now=now, where=only_if, extra=extra)


def begin_starting(session: SupportSession, *, now: datetime) -> SupportSession:
    """requested → starting: a gateway is being looked for. Call it in the transaction that makes the gateway's row."""
    due = now + timedelta(seconds=settings.GATEWAY_DEADLINE_S)
    return _move(session, State.STARTING, kind="gateway_wanted", now=now, notice="", gateway_due_at=due)


def desktop_ready(session: SupportSession, *, now: datetime | None = None) -> SupportSession:
    """starting → ready: the keeper holds the machine's desktop."""
    now = now or timezone.now()
    values: dict[str, Any] = {} if session.ready_at else {"ready_at": now}
    if session.unattended_since:
        values["unattended_since"] = now  # nobody could be at a desktop that was not there
    return _move(session, State.READY, kind="desktop_ready", now=now, notice="", **values)


def desktop_lost(session: SupportSession, *, detail: str, notice: str, now: datetime | None = None) -> SupportSession:
    """ready or active → starting: the desktop went away and is being brought back, within MACHINE_GONE_S."""
    now = now or timezone.now()
    due = now + timedelta(seconds=settings.MACHINE_GONE_S)
    return _move(
        session, State.STARTING, kind="desktop_lost", now=now, detail={"detail": detail},
        notice=notice, gateway_due_at=due,
    )  # fmt: skip


def wait_for_keeper(session: SupportSession, *, until: datetime) -> None:
    """Nobody is at work on a desktop that is wanted: its time runs from `keeper_came` on, or is over at `until`."""
    SupportSession.objects.filter(pk=session.pk, state=State.STARTING).update(gateway_due_at=until)


def keeper_came(session: SupportSession, *, now: datetime) -> None:
    """Ends what `wait_for_keeper` began; a deadline that runs already stays as it is."""
    longest = timedelta(seconds=max(settings.GATEWAY_DEADLINE_S, settings.MACHINE_GONE_S))
    waiting = SupportSession.objects.filter(pk=session.pk, state=State.STARTING, gateway_due_at__gt=now + longest)
    waiting.update(gateway_due_at=now + timedelta(seconds=settings.MACHINE_GONE_S))


def allow_time(session: SupportSession, *, until: datetime) -> None:
    """A desktop that is on its way has until then at least; a deadline that is later stays."""
    starting = SupportSession.objects.filter(pk=session.pk, state=State.STARTING, gateway_due_at__lt=until)
    starting.update(gateway_due_at=until)


def controllers_changed(session: SupportSession, *, present: bool, now: datetime) -> SupportSession:
    """ready ⇄ active, as an operator's first screen comes or the last one goes; other states stay as they are."""
    wanted, old = (State.ACTIVE, State.READY) if present else (State.READY, State.ACTIVE)
    values: dict[str, Any] = {"unattended_since": None if present or session.operator_id is None else now}
    if session.state == old:
        if present and session.active_at is None:
            values["active_at"] = now
        return _move(session, wanted, kind="repairing" if present else "left_desktop", now=now, **values)
    if session.is_open:
        SupportSession.objects.filter(pk=session.pk).update(**values)
    return session


def set_notice(session: SupportSession, notice: str, *, now: datetime) -> None:
    """Says what an operator should know right now; saying it again changes nothing."""
    if session.notice != notice:
        with transaction.atomic():
            _change(
                session, {"notice": session.notice}, kind="notice", now=now, detail={"notice": notice}, notice=notice
            )


def note_attempt(session: SupportSession, *, detail: str, notice: str, due_at: datetime | None, now: datetime) -> None:
    """Keeps why an attempt at a gateway or a login failed, in words for the operator."""
    values: dict[str, Any] = {"notice": notice}
    if due_at:
        values["gateway_due_at"] = due_at
    with transaction.atomic():
        _change(session, {}, kind="attempt_failed", now=now, detail={"detail": detail}, **values)


def count_attempt(session: SupportSession) -> None:
    """One more gateway is being tried; call it in the transaction that makes the gateway's row.

    Raises StateConflict when the session is no longer starting: then it must not get one.
    """
    counted = SupportSession.objects.filter(pk=session.pk, state=State.STARTING).update(attempts=F("attempts") + 1)
    if not counted:
        raise StateConflict("The session was no longer starting, so it gets no gateway.")


def machine_told(session: SupportSession, *, now: datetime | None = None) -> None:
    """The machine has fetched the news that its session ends; only the first time counts."""
    now = now or timezone.now()
    with transaction.atomic():
        _change(
            session, {"machine_told_at": None}, states=(State.CLOSING,), kind="machine_told", actor="machine",
            now=now, machine_told_at=now,
        )  # fmt: skip


def vpn_told(session: SupportSession, *, now: datetime) -> None:
    """The machine's tunnel has been ended."""
    with transaction.atomic():
        _change(session, {"vpn_told_at": None}, states=(State.CLOSING,), kind="vpn_told", now=now, vpn_told_at=now)


def note_asking(session: SupportSession, events: Iterable[tuple[str, dict[str, object]]], *, now: datetime) -> None:
    """Keeps who is asked to take a session that waits, and tells open pages; in the transaction that asks them.

    Raises StateConflict when it was claimed or is over, or was given back since it was read: then nobody is asked.
    """
    waits = SupportSession.objects.filter(
        pk=session.pk, state__in=OPEN_STATES, operator=None, answer_due_at=session.answer_due_at
    )
    if not waits.update(version=F("version") + 1, updated_at=now):
        raise StateConflict("The session does not wait for anybody any more.")
    SessionEvent.objects.bulk_create(
        SessionEvent(session_id=session.pk, at=now, kind=kind, actor="system", detail=detail) for kind, detail in events
    )
    _announce(session.fleet_id, session.pk, kind="asked")


def finish(session: SupportSession, *, now: datetime) -> SupportSession:
    """closing → closed; the worker calls it when nothing is left open."""
    return _move(session, State.CLOSED, kind="closed", now=now, closed_at=now, notice="")


def record(session: SupportSession, kind: str, *, now: datetime, user: User | None = None, **detail: object) -> None:
    """Adds an event that changes no state, and tells open pages."""
    with transaction.atomic():
        _change(session, {}, states=tuple(State), kind=kind, user=user, now=now, detail=detail)


# --- how a row changes ------------------------------------------------------------------------------------------------


def _move(
    session: SupportSession,
    to: State,
    *,
    kind: str,
    now: datetime,
    user: User | None = None,
    actor: str = "",
    detail: dict[str, object] | None = None,
    where: Mapping[str, object] | None = None,
    **values: Any,
) -> SupportSession:
    """Takes a session from the state it was read in to `to`; raises StateConflict if it is no longer there."""
    old = State(session.state)
    if to not in TRANSITIONS[old]:
        raise StateConflict(f"A session cannot go from {old} to {to}.")
    with transaction.atomic():
        won = _change(
            session,
            where or {},
            states=(old,),
            to=to,
            kind=kind,
            now=now,
            user=user,
            actor=actor,
            detail=detail,
            **values,
        )
    if not won:
        raise StateConflict(f"The session was no longer {old}, so it could not become {to}.")
    return _reload(session)


def _change(
    session: SupportSession,
    where: Mapping[str, object],
    *,
    kind: str,
    now: datetime,
    states: Collection[State] = OPEN_STATES,
    to: State | None = None,
    user: User | None = None,
    actor: str = "",
    detail: dict[str, object] | None = None,
    **values: Any,
) -> bool:
    """One guarded UPDATE and its event, inside the caller's transaction; False when no row matched."""
    if to is not None:
        values["state"] = to
    updated = SupportSession.objects.filter(pk=session.pk, state__in=list(states), **where).update(
        version=F("version") + 1, updated_at=now, **values
    )
    if not updated:
        return False
    SessionEvent.objects.create(
        session_id=session.pk,
        at=now,
        kind=kind,
        from_state=session.state if to else "",
        to_state=to or "",
        actor=actor or ("operator" if user else "system"),
        user=user,
        detail=detail or {},
    )
    _announce(session.fleet_id, session.pk, kind=kind)
    return True


def _end(
    session: SupportSession,
    reason: EndReason,
    *,
    kind: str,
    now: datetime | None,
    user: User | None = None,
    actor: str = "",
    where: Mapping[str, object] | None = None,
    extra: Mapping[str, object] | None = None,
    **values: Any,
) -> SupportSession:
    """Any open state → closing; the credentials are gone with the same commit."""
    now = now or timezone.now()
    for _ in range(1 if where else 5):
        if not session.is_open:
            raise SessionClosed(session)
        try:
            with transaction.atomic():
                ended = _move(
                    session, State.CLOSING, kind=kind, now=now, user=user, actor=actor, where=where,
                    detail={"reason": str(reason), **(extra or {})},
                    end_reason=reason, closing_at=now, closed_by=user, notice="", **values,
                )  # fmt: skip
                RdpCredential.objects.filter(session_id=session.pk).delete()
                return ended
        except StateConflict:
            session = _reload(session)  # it moved between open states: end it from there
    raise StateConflict("The session kept changing; try again.")


def _announce(fleet_id: int, session_id: UUID, *, kind: str) -> None:
    def tell() -> None:
        if kind in _FOR_ASKER:
            bell.ring(bell.ASKING)
        if kind not in _NO_WORK:
            bell.ring()
        live.session_changed(fleet_id=fleet_id, session_id=session_id)

    transaction.on_commit(tell)


def _require_holder(session: SupportSession, user: User, *, supervisor_only: bool = False) -> None:
    operator = fleet_selectors.operator_of(user)
    in_fleet = fleet_selectors.fleets_of(user).filter(pk=session.fleet_id).exists()
    if operator and operator.is_supervisor and in_fleet:
        return
    if supervisor_only:
        # As in the admin: a superuser manages all fleets, others with the right to it their own (T22).
        is_manager = user.is_superuser or (user.is_staff and in_fleet)
        if user.is_active and is_manager and user.has_perm("support.change_supportsession"):
            return
        raise NotAllowed("Only a supervisor or a manager of the fleet can end a rescue by force.")
    if session.operator_id != user.pk:
        raise NotAllowed("Only the operator who has claimed this rescue, or a supervisor, can do that.")


def _after(session: SupportSession, won: bool) -> SupportSession:
    session = _reload(session)
    if not won:
        if not session.is_open:
            raise SessionClosed(session)
        raise StateConflict("The rescue changed a moment ago. Look at it again, then try again.")
    return session


def _answer_due(session: SupportSession, now: datetime) -> datetime:
    return now + timedelta(seconds=session.fleet.answer_deadline_s or settings.ANSWER_DEADLINE_S)


def _reload(session: SupportSession) -> SupportSession:
    return SupportSession.objects.select_related(
        "machine__site", "machine__model", "fleet", "operator", "closed_by"
    ).get(pk=session.pk)
