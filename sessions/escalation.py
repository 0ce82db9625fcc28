"""The ladder's rows: how an Escalation begins, climbs and is settled, and what a supervisor does about a missed rescue.

The worker (asking_passes.py) calls it again and again. Each change is one short transaction with a guarded UPDATE, by
the row's turn, so of several workers one makes it; where a rescue must still wait for somebody, the session's own row
is guarded in the same transaction, before the escalation's: a claim wins, or comes after the step and takes it back.
Whatever dies before its commit has not been; telemetry is asked before, and the outbox sends afterwards.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

from django.conf import settings
from django.db import transaction
from django.db.models import Exists, F, OuterRef, Q, QuerySet

from machines import selectors as fleet_selectors
from machines.models import Fleet, Operator, User
from machines.telemetry.base import Duty
from notifications import outbox
from notifications.models import Delivery
from sessions import messages, services
from sessions.errors import NotAllowed, NotMissed, StateConflict
from sessions.ladder import Person, Step, Waits, climb
from sessions.models import OPEN_STATES, Asked, Escalation, Rung, SessionEvent, SupportSession
from sessions.states import EndReason

TAKEN, OVER = "taken", "over"
_SUPERVISORS_WHY = "a supervisor of the fleet"
_LAST_RESORT_WHY = "the fleet's address of last resort"
# Of the time in which somebody must have claimed, the operators' rung has one of so many parts.
_SHARE_OF_OPERATORS = 3
# How soon after another look whether a duty has begun meanwhile the next one comes.
_LOOK_AGAIN_AFTER = timedelta(seconds=30)
# Ends that somebody else has seen to: whoever ended it so knows of it.
_NOT_MISSED = {EndReason.MACHINE_WITHDRAWN}


# --- what there is to do ----------------------------------------------------------------------------------------------


def due(*, now: datetime) -> QuerySet[Escalation]:
    """The ladders whose rescue is not as they believe, or whose next step is due; those to settle first."""
    is_over = ~Q(session__state__in=OPEN_STATES)
    is_other_wait = ~Q(answer_due_at=F("session__answer_due_at"))
    is_taken = Q(session__operator__isnull=False) & (Q(settled_as="") | is_other_wait)
    waits = Q(session__operator=None) & (Q(settled_as=TAKEN) | is_other_wait | Q(next_at__lte=now))
    return _live().filter(is_over | is_taken | waits).order_by(F("next_at").asc(nulls_first=True))


def unreachable(*, now: datetime) -> QuerySet[Escalation]:
    """The ladders whose last step has come to nothing: no message of it has arrived, and none is on its way any more.

    Their next step need not be waited for.
    """
    of_step = Asked.objects.filter(
        session=OuterRef("session"), round=OuterRef("round"), at=OuterRef("stepped_at"), user__isnull=False
    )
    good = Delivery.objects.filter(
        subject=OuterRef("session"), kind=messages.ASKED, created_at__gte=OuterRef("stepped_at"),
        state__in=[Delivery.State.PENDING, Delivery.State.SENT],
    )  # fmt: skip
    waiting = _live().filter(session__state__in=OPEN_STATES, session__operator=None, settled_as="", next_at__gt=now)
    return waiting.exclude(rung=Rung.DONE).filter(Exists(of_step), ~Exists(good))


def _live() -> QuerySet[Escalation]:
    return Escalation.objects.filter(settled_as__in=["", TAKEN]).select_related(
        "session__machine__site", "session__machine__model", "session__fleet", "session__operator"
    )


def must_settle(escalation: Escalation) -> bool:
    """Whether its rescue is taken or over, so that what was asked has to be taken back."""
    return escalation.session.operator_id is not None or not escalation.session.is_open


def needs_duty(escalation: Escalation) -> bool:
    """Whether telemetry has to be asked before the next step: as a round begins, or a duty that it has named."""
    return escalation.duty_at is None or escalation.rung == Rung.DONE or _begins_round(escalation)


# --- climbing ---------------------------------------------------------------------------------------------------------


def step(escalation: Escalation, duty: Duty | None, *, now: datetime) -> None:
    """Asks whoever is next, with all that belongs to it in one transaction.

    `duty` is telemetry's answer, where `needs_duty`. Raises StateConflict when the rescue was claimed or is over, or
    another worker made this step.
    """
    session, fleet = escalation.session, escalation.session.fleet
    values = _beginning(escalation, duty, now=now)
    round_ = values.get("round", escalation.round)
    users = _people(fleet, values.get("duty", escalation.duty), now=now)
    can_reach = outbox.reachable(users.values())
    asked_before = _asked_in(escalation) if round_ == escalation.round else set()

    def person(user: User, why: str) -> Person:
        return Person(user.pk, user.get_username(), user.display_name, why, user.pk in can_reach)

    # Named for the pages, and only those who may be asked: a name of another fleet is not to be read here.
    named = [
        {**one, "name": users[one["username"]].display_name}
        for one in values.get("duty", escalation.duty)
        if one["username"] in users
    ]
    found = climb(
        Rung(values.get("rung", escalation.rung)),
        operators=[
            person(users[one["username"]], one["why"]) for one in named if users[one["username"]].pk not in asked_before
        ],
        supervisors=[
            person(user, _SUPERVISORS_WHY)
            for user in users.values()
            if user.operator.is_supervisor and user.pk not in asked_before
        ],
        has_last_resort=bool(fleet.last_resort_email or fleet.last_resort_phone) and None not in asked_before,
        waits=_waits(fleet),
        operators_left=_operators_until(escalation, values, now=now) - now,
    )
    is_alone = not found.asked and not found.asks_last_resort and not asked_before
    values |= {"duty": named, "rung": found.rung, "next_at": _next_at(escalation, values, found, now=now)}
    values["nobody_at"] = (escalation.nobody_at or now) if is_alone and found.rung == Rung.DONE else None
    if found.asked or found.asks_last_resort:
        values["stepped_at"] = now
    with transaction.atomic():
        services.note_asking(session, _events(escalation, values, duty, found), now=now)
        _change(escalation, **values)
        Asked.objects.bulk_create(_rows(session, found, round_, now=now))
        if found.asked:
            by_id = {user.pk: user for user in users.values()}
            messages.ask(session, [by_id[one.user_id] for one, _ in found.asked], round=round_, now=now)
        if found.asks_last_resort:
            messages.ask_last_resort(session, round=round_, now=now)


def _begins_round(escalation: Escalation) -> bool:
    """Whether the rescue was taken and given back since: a new wait."""
    return escalation.settled_as == TAKEN or escalation.answer_due_at != escalation.session.answer_due_at


def _beginning(escalation: Escalation, duty: Duty | None, *, now: datetime) -> dict[str, Any]:
    """What a new round, and a new answer of telemetry, change in the row."""
    values: dict[str, Any] = {}
    gave_back = None
    if _begins_round(escalation):
        gave_back = _who_gave_back(escalation.session)
        values = {
            "round": escalation.round + 1, "answer_due_at": escalation.session.answer_due_at, "began_at": now,
            "settled_as": "", "settled_at": None, "stepped_at": None, "nobody_at": None,
        }  # fmt: skip
    if duty is not None:
        named = [{"username": one.username, "why": one.why[:200]} for one in duty.candidates]
        # Who has just given it back, or let it lie, is the last to be asked for it again.
        named.sort(key=lambda one: one["username"] == gave_back)
        values |= {
            "duty_at": now, "duty": named, "source": duty.source[:100], "stood_in": duty.stood_in[:300],
            "next_duty_at": duty.next_at, "rung": Rung.OPERATORS,
        }  # fmt: skip
    return values


def _who_gave_back(session: SupportSession) -> str | None:
    given_back = SessionEvent.objects.filter(session=session, kind__in=["released", "claim_expired"])
    last = given_back.order_by("-at", "-id").first()
    holder = last.detail.get("operator") if last else None
    return User.objects.filter(pk=holder).values_list("username", flat=True).first() if holder else None


def _people(fleet: Fleet, named: Iterable[dict[str, str]], *, now: datetime) -> dict[str, User]:
    """Who of those named may be asked now, and the fleet's supervisors, by user name.

    Only who is active, works for the fleet and has not said to be away: telemetry may name anybody.
    """
    is_named = Q(username__in=[one["username"] for one in named])
    of_fleet = User.objects.filter(is_named | Q(operator__role=Operator.Role.SUPERVISOR)).filter(
        is_active=True, operator__fleets=fleet
    )
    users = (
        fleet_selectors.present(of_fleet, now=now)
        .select_related("operator")
        # A press waits for this: what messages need of a person, and not what logins do.
        .only("username", "first_name", "last_name", "email", "is_active", "operator__user", "operator__role")
        .order_by("username")
    )
    return {user.get_username(): user for user in users}


def _asked_in(escalation: Escalation) -> set[int | None]:
    """Who was asked in this round; None stands for the address of last resort."""
    if escalation.stepped_at is None:
        return set()
    asked = Asked.objects.filter(session=escalation.session_id, round=escalation.round)
    return set(asked.values_list("user_id", flat=True))


def _waits(fleet: Fleet) -> Waits:
    def of(own: int | None, default: int) -> timedelta:
        return timedelta(seconds=default if own is None else own)

    return Waits(
        next=of(fleet.ask_next_after_s, settings.ASK_NEXT_AFTER_S),
        supervisors=of(fleet.ask_supervisors_after_s, settings.ASK_SUPERVISORS_AFTER_S),
        last_resort=of(fleet.ask_last_resort_after_s, settings.ASK_LAST_RESORT_AFTER_S),
    )


def _operators_until(escalation: Escalation, values: dict[str, Any], *, now: datetime) -> datetime:
    """When the supervisors hear of it, however many operators there are.

    A third of the time in which somebody must have claimed, as it was when telemetry named the operators.
    """
    since: datetime = values.get("duty_at", escalation.duty_at) or now
    due: datetime = values.get("answer_due_at", escalation.answer_due_at)
    return since + (due - since) / _SHARE_OF_OPERATORS


def _next_at(escalation: Escalation, values: dict[str, Any], found: Step, *, now: datetime) -> datetime | None:
    if found.wait is not None:
        return now + found.wait
    # Nobody is left; but if a duty begins while the rescue still waits, telemetry is asked again then.
    next_duty_at: datetime | None = values.get("next_duty_at", escalation.next_duty_at)
    if next_duty_at is None:
        return None
    if next_duty_at <= now:
        # It began while the supervisors had their time; not so where telemetry names a time that is over.
        has_begun = "duty_at" not in values and escalation.duty_at is not None and next_duty_at > escalation.duty_at
        return now if has_begun else None
    # The first time it is looked right when that duty begins; a telemetry that again says "in a moment" is not hurried.
    is_second_look = escalation.rung == Rung.DONE and not _begins_round(escalation)
    return max(next_duty_at, now + _LOOK_AGAIN_AFTER) if is_second_look else next_duty_at


def _rows(session: SupportSession, found: Step, round_: int, *, now: datetime) -> list[Asked]:
    fleet = session.fleet
    rows = [
        Asked(
            session=session, user_id=one.user_id, round=round_, rung=rung, why=one.why, is_reachable=one.is_reachable,
            at=now,
        )
        for one, rung in found.asked
    ]  # fmt: skip
    if found.asks_last_resort:
        address = ", ".join(filter(None, [fleet.last_resort_email, fleet.last_resort_phone]))
        rows.append(
            Asked(
                session=session, address=address, round=round_, rung=Rung.LAST_RESORT, why=_LAST_RESORT_WHY, at=now,
                is_reachable=_can_tell_last_resort(fleet),
            )
        )  # fmt: skip
    return rows


def _can_tell_last_resort(fleet: Fleet) -> bool:
    return outbox.is_address_reachable(email=fleet.last_resort_email, phone=fleet.last_resort_phone)


def _events(
    escalation: Escalation, values: dict[str, Any], duty: Duty | None, found: Step
) -> list[tuple[str, dict[str, object]]]:
    """The step for the rescue's trail, in the order in which it went."""
    events: list[tuple[str, dict[str, object]]] = []
    round_ = values.get("round", escalation.round)
    if duty is not None and duty.stood_in and (duty.stood_in != escalation.stood_in or round_ != escalation.round):
        events.append(("telemetry_stood_in", {"detail": values["stood_in"], "source": values["source"]}))
    if missed := [one.name for one, _ in found.asked if not one.is_reachable]:
        events.append(("not_reached", {"names": missed}))
    for one, rung in found.asked:
        if one.is_reachable and rung == Rung.OPERATORS:
            events.append(("asked", {"names": [one.name], "user": one.user_id, "why": one.why, "round": round_}))
    if supervisors := [one.name for one, rung in found.asked if one.is_reachable and rung == Rung.SUPERVISORS]:
        events.append(("supervisors_asked", {"names": supervisors, "round": round_}))
    if found.asks_last_resort:
        is_told = _can_tell_last_resort(escalation.session.fleet)
        events.append(("last_resort_asked", {"round": round_, "is_told": is_told}))
    if values["nobody_at"] and not escalation.nobody_at:
        next_duty_at = values.get("next_duty_at", escalation.next_duty_at)
        zone = escalation.session.machine.site.time_zone
        detail = {"next_duty_at": next_duty_at.isoformat() if next_duty_at else None, "time_zone": zone}
        events.append(("nobody_asked", detail))
    return events


# --- settling ---------------------------------------------------------------------------------------------------------


def settle(escalation: Escalation, *, now: datetime) -> None:
    """Takes back what was asked, as the rescue is taken or over; supervisors hear of one that nobody came to."""
    session = escalation.session
    if session.is_open:
        with transaction.atomic():
            _change(
                escalation, settled_as=TAKEN, settled_at=now, next_at=None, nobody_at=None,
                answer_due_at=session.answer_due_at,
            )  # fmt: skip
            messages.withdraw_since_taken(session, now=now)
        return
    is_missed = _is_missed(escalation)
    with transaction.atomic():
        if is_missed:
            services.record(session, "missed", now=now)
        _change(escalation, settled_as=OVER, settled_at=now, next_at=None, missed_at=now if is_missed else None)
        messages.withdraw_since_over(session, now=now)
        if is_missed:
            messages.tell_missed(session, _supervisors_of(session.fleet), now=now)


def _is_missed(escalation: Escalation) -> bool:
    session = escalation.session
    if session.operator_id is not None or session.closed_by_id is not None or session.end_reason in _NOT_MISSED:
        return False
    # Who gave up when everybody had been asked waited in vain; not so where somebody had it for a while.
    is_given_up = session.end_reason == EndReason.CANCELLED and escalation.rung == Rung.DONE
    gave_up_alone = is_given_up and escalation.round == 1 and not _begins_round(escalation)
    return session.end_reason == EndReason.UNANSWERED or escalation.nobody_at is not None or gave_up_alone


def _supervisors_of(fleet: Fleet) -> QuerySet[User]:
    return fleet_selectors.colleagues(fleet).filter(operator__role=Operator.Role.SUPERVISOR)


def _change(escalation: Escalation, **values: Any) -> None:
    """The guarded UPDATE of a row as it was read. Raises StateConflict when it is another one by now."""
    rows = Escalation.objects.filter(pk=escalation.pk, turn=escalation.turn)
    if not rows.update(turn=F("turn") + 1, **values):
        raise StateConflict("Another worker has looked after this rescue meanwhile.")


# --- for others -------------------------------------------------------------------------------------------------------


def look_at(session: SupportSession, *, user: User, now: datetime) -> None:
    """A supervisor has looked at a missed rescue; only the first time counts. Raises NotAllowed or NotMissed."""
    operator = fleet_selectors.operator_of(user)
    if operator is None or not operator.is_supervisor or not operator.fleets.filter(pk=session.fleet_id).exists():
        raise NotAllowed("Only a supervisor of the fleet can mark a missed rescue as looked at.")
    with transaction.atomic():
        missed = Escalation.objects.filter(session=session.pk, missed_at__isnull=False)
        if missed.filter(missed_looked_at=None).update(turn=F("turn") + 1, missed_looked_at=now, missed_looked_by=user):
            services.record(session, "looked_at", user=user, now=now)
        elif not missed.exists():
            raise NotMissed("This rescue was not missed, so there is nothing to look at.")


def is_wanted(subject: UUID, kind: str, recipient_id: int | None) -> bool:
    """The outbox's judge: whether a message about a rescue is still true, right before it is sent."""
    session = SupportSession.objects.select_related("fleet").filter(pk=subject).first()
    if session is None:
        return False
    if kind in (messages.ASKED, messages.HANDED_OVER, messages.MISSED) and (
        not fleet_selectors.colleagues(session.fleet).filter(pk__in=[recipient_id]).exists()
    ):
        return False  # they have left the fleet while it was on its way
    match kind:
        case messages.ASKED | messages.LAST_RESORT:
            return session.is_open and session.operator_id is None
        case messages.HANDED_OVER:
            return session.is_open and session.operator_id == recipient_id
        case messages.TAKEN:
            # Also of one that is over by now: it stands where somebody is still asked.
            return not session.is_open or session.operator_id is not None
        case messages.OVER:
            return not session.is_open
        case messages.MISSED:
            return not Escalation.objects.filter(session=subject, missed_looked_at__isnull=False).exists()
    return True
