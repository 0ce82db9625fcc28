"""What people read about a rescue: operators in the portal, and the person at the machine."""

from __future__ import annotations

from django.utils import timezone

from notifications.models import Delivery
from sessions import asking_words, messages
from sessions.models import Asked, Escalation, Rung, SessionEvent, SupportSession
from sessions.states import EndReason, State

STATE_LABELS = {
    State.REQUESTED: "Help asked for",
    State.STARTING: "Getting the screen",
    State.READY: "Screen ready",
    State.ACTIVE: "Being repaired",
    State.CLOSING: "Closing",
    State.CLOSED: "Closed",
}

END_SENTENCES = {
    EndReason.RESOLVED: "Solved and closed. Nothing is left open.",
    EndReason.NOT_RESOLVED: "Closed without a cure. Plan a visit, or wait for the next press.",
    EndReason.CANCELLED: "The person at the machine no longer needs help. Nothing to do.",
    EndReason.UNANSWERED: "Nobody claimed this rescue in time. Call the site, or wait for the next press.",
    EndReason.MACHINE_UNREACHABLE: (
        "The machine's screen could not be reached. Check its power and network with the site, "
        "then have help pressed again."
    ),
    EndReason.CREDENTIALS_REFUSED: (
        "The machine refused its own one-off login. Have help pressed again; if it happens twice, restart the machine."
    ),
    EndReason.GATEWAY_FAILED: (
        "No gateway to the machine could be had or kept. Have help pressed again; "
        "if it happens twice, tell whoever runs Portafilter."
    ),
    EndReason.FORCED: (
        "A supervisor or manager ended this rescue. Have help pressed again if the machine still needs it."
    ),
    EndReason.MACHINE_WITHDRAWN: (
        "This machine was switched off for remote help, frozen, or moved to another fleet. Nothing is left open."
    ),
}

# Who withdrew it has waited until nobody was left to ask.
_GAVE_UP = "The person at the machine waited, nobody came, and they withdrew the request. Call the site."

_MACHINE_END = {
    EndReason.RESOLVED: "Solved. Thank you for waiting, please try again.",
    EndReason.NOT_RESOLVED: "We could not solve it from here. Somebody will look at this machine.",
    EndReason.CANCELLED: "Your request was withdrawn. Press help if you need us.",
    EndReason.UNANSWERED: "Nobody could answer in time. Please press help again, or try later.",
    EndReason.MACHINE_UNREACHABLE: "We could not reach this machine's screen. Please press help again.",
    EndReason.CREDENTIALS_REFUSED: "We could not sign in to this machine. Please press help again.",
    EndReason.GATEWAY_FAILED: "We could not reach this machine's screen. Please press help again.",
    EndReason.FORCED: "This help request was ended. Please press help again if you still need us.",
    EndReason.MACHINE_WITHDRAWN: "Remote help was switched off for this machine. Please call whoever looks after it.",
}


def state_label(session: SupportSession) -> str:
    """Two or three words for a badge."""
    if session.state == State.STARTING and session.ready_at:
        return "Screen lost, coming back"
    if session.state == State.STARTING and _signing_in(session):
        return "Signing in"
    return STATE_LABELS[State(session.state)]


def sentence(session: SupportSession) -> str:
    """One plain sentence: what is going on, or how it ended and what to do next."""
    if session.end_reason == EndReason.CANCELLED:
        row: Escalation | None = getattr(session, "escalation", None)
        if row is not None and row.missed_at is not None:
            return _GAVE_UP
    if session.end_reason:
        return END_SENTENCES[EndReason(session.end_reason)]
    if session.notice:
        return session.notice
    who = session.operator.display_name if session.operator else ""
    if session.state == State.REQUESTED:
        return "Help was pressed; a gateway is being found."
    if session.state == State.STARTING:
        return "Signing in to the machine." if _signing_in(session) else "A gateway to the machine is starting."
    if session.state == State.ACTIVE:
        return f"{who} is at the machine's screen." if who else "Somebody is at the machine's screen."
    if who:
        return f"{who} has claimed it; the machine's screen is held ready."
    return "The machine's screen is ready. Claim it to begin."


def message_for_machine(session: SupportSession) -> str:
    """What the person at the machine reads."""
    if session.end_reason in (None, EndReason.UNANSWERED) and session.operator_id is None:
        row: Escalation | None = getattr(session, "escalation", None)
        # Where it was given back a moment ago, its new round has yet to begin.
        told = _told(row) if row is not None and row.answer_due_at == session.answer_due_at else None
        if row is not None and (row.nobody_at is not None or (told is not None and not told.keys() - {None})):
            return _from_when(session, row, asking_words.NOBODY)
        if row is not None and told is not None and session.is_open:
            if not any(told.values()) or not _has_message(row):
                return asking_words.UNTOLD
            return _from_when(session, row, asking_words.UNANSWERED)
    if session.end_reason:
        return _MACHINE_END[EndReason(session.end_reason)]
    who = (session.operator.first_name or session.operator.display_name) if session.operator else ""
    if session.state == State.ACTIVE:
        return f"{who or 'Support'} is looking at this machine now. Please don't switch it off."
    if who:
        return f"{who} is connecting. Please wait a moment."
    return "Help is on its way. Somebody will look at this machine in a moment."


def event_sentence(event: SessionEvent) -> str:
    """One event of the trail, in words; it never repeats a secret since events hold none."""
    who = event.user.display_name if event.user else ""
    detail = event.detail
    reason = detail.get("reason", "")
    role = "as a watcher" if detail.get("role") == "watcher" else "at the controls"
    sentences = {
        "requested": "Help was pressed at the machine.",
        "gateway_wanted": "A gateway was asked for.",
        "desktop_ready": "The machine's screen is held ready.",
        "desktop_lost": "The machine's screen was lost; it is being brought back.",
        "attempt_failed": f"An attempt failed: {detail.get('detail', '')}",
        "claimed": f"{who} claimed the rescue.",
        "released": f"{who} gave it back to the queue.",
        "claim_expired": "Nobody was at the screen for a while; it went back to the queue.",
        "handed_over": f"{who} handed it to {detail.get('to_name', 'a colleague')}.",
        "repairing": "The operator is at the screen.",
        "left_desktop": "The operator left the screen; it is held ready.",
        "attached": f"{who} joined {role}.",
        "detached": f"{who} left ({role}).",
        "login_renewed": "The machine made a new one-off login.",
        "notice": detail.get("notice") or "The notice was taken back.",
        "close_requested": f"{who} closed it: {str(reason).replace('_', ' ')}.",
        "cancelled": "The person at the machine withdrew the request.",
        "ended": f"The system ended it: {END_SENTENCES[reason]}" if reason in END_SENTENCES else "The system ended it.",
        "machine_told": "The machine knows that it is over; its login is gone.",
        "machine_not_told": "The machine did not fetch the news in time.",
        "vpn_told": "The machine's tunnel was ended.",
        "closed": "Everything of this rescue is closed.",
        "looked_at": f"{who} looked at it.",
    }
    sentence = sentences.get(event.kind) or asking_words.event_sentence(event.kind, detail, at=event.at)
    return str(sentence or event.kind.replace("_", " ").capitalize() + ".")


def _from_when(session: SupportSession, row: Escalation, opening: str) -> str:
    zone = session.machine.site.time_zone
    return asking_words.for_machine(row.next_duty_at, time_zone=zone, now=timezone.now(), opening=opening)


def _told(row: Escalation) -> dict[int | None, bool] | None:
    """Who was asked in this round, and whether a message could go to them; None while others may still be.

    An address of last resort is None: it may be a letter box at night, and puts nobody on duty.
    """
    if row.rung != Rung.DONE or row.stepped_at is None:
        return None
    asked = Asked.objects.filter(session=row.session_id, round=row.round)
    return dict(asked.values_list("user_id", "is_reachable"))


def _has_message(row: Escalation) -> bool:
    """Whether any message of this round has arrived, or is still on its way."""
    good = [Delivery.State.PENDING, Delivery.State.SENT]
    kinds = [messages.ASKED, messages.LAST_RESORT]
    of_round = Delivery.objects.filter(subject=row.session_id, kind__in=kinds, created_at__gte=row.began_at)
    return of_round.filter(state__in=good).exists()


def _signing_in(session: SupportSession) -> bool:
    """Whether a gateway is up and only the machine's login is missing; read from rows fetched with the session."""
    return any(gateway.state == "ready" for gateway in session.gateways.all())
