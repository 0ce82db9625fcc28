"""What supervisors read about a message: whom it was for, how far it came, and what to do if it did not."""

from __future__ import annotations

from notifications.models import Delivery

_State, _Channel, _Kind = Delivery.State, Delivery.Channel, Delivery.Kind

_KINDS = {
    _Kind.ASKED: "Asked to help",
    _Kind.HANDED_OVER: "Was given a rescue",
    _Kind.MISSED: "Told that nobody came",
    _Kind.LAST_RESORT: "Told as last resort",
    _Kind.TAKEN: "Told who has it",
    _Kind.OVER: "Told that it is over",
    _Kind.TEST: "Tried a device",
}
_STATES = {
    _State.SENT: "Sent",
    _State.FAILED: "Failed",
    _State.EXPIRED: "Too late",
    _State.WITHDRAWN: "No longer needed",
}


def kind_words(row: Delivery) -> str:
    """What it was about."""
    return _KINDS.get(_Kind(row.kind), row.get_kind_display())


def state_words(row: Delivery) -> str:
    """How far it came."""
    if row.state == _State.PENDING:
        return "Trying again" if row.tries else "Being sent"
    return _STATES.get(_State(row.state), row.get_state_display())


def name_of(row: Delivery) -> str:
    """Whom it was for."""
    if row.recipient is not None:
        return row.recipient.display_name
    return f"{row.fleet.name}'s last resort" if row.address and row.fleet else "Somebody who has left"


def way_of(row: Delivery) -> str:
    """Through what it went."""
    if row.channel == _Channel.WEB_PUSH:
        return row.device_name or "a device that was removed"
    where = f" to {row.address}" if row.address else ""
    return f"{'e-mail' if row.channel == _Channel.EMAIL else 'SMS'}{where}"


def who(row: Delivery) -> str:
    """For whom, through what."""
    return f"{name_of(row)}, {way_of(row)}"


def advice(row: Delivery) -> str:
    """What somebody can do about a message that did not arrive; empty for one that did, or still may."""
    if row.state not in {_State.FAILED, _State.EXPIRED}:
        return ""
    name = name_of(row)
    if row.recipient is None:
        return "Check the address of last resort of the fleet in the admin." if row.address else ""
    if not row.recipient.is_active:
        return f"{name}'s account is switched off: take them from the rota, or switch it on in the admin."
    if row.state == _State.EXPIRED and not row.tries:
        return "It was never sent. See whether Portafilter's worker is running."
    match row.channel:
        case _Channel.EMAIL:
            return (
                f"Check with {name} whether {row.recipient.email or 'an address'} is right, and the mail server's log."
            )
        case _Channel.SMS:
            return f"Check with {name} whether the number under Availability is right."
    if row.device is None:
        return f"Ask {name} to add a device again, if they have no other: it is in their account."
    if row.device.disabled_at is not None:
        return f"Ask {name} to open Portafilter on it and to press “Get messages on this device”."
    return f"If it goes on, ask {name} to remove the device from their account and to add it again."
