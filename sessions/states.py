"""The states of a support session and the moves between them: this table is all there is.

`closing` is a wish, `closed` a confirmed fact: gateway stopped, VPN told, credentials erased, machine told.
Who has claimed a session is another fact and no state; why it ended is its EndReason.
A lost desktop goes back to `starting`: the gateway or the machine may return, with a new deadline
(docs/decisions/0001-lost-desktop-goes-back-to-starting.md).
"""

from __future__ import annotations

from enum import StrEnum


class State(StrEnum):
    """Where a support session is."""

    REQUESTED = "requested"
    STARTING = "starting"
    READY = "ready"
    ACTIVE = "active"
    CLOSING = "closing"
    CLOSED = "closed"


class EndReason(StrEnum):
    """Why a support session ended."""

    RESOLVED = "resolved"
    NOT_RESOLVED = "not_resolved"
    CANCELLED = "cancelled"
    UNANSWERED = "unanswered"
    MACHINE_UNREACHABLE = "machine_unreachable"
    CREDENTIALS_REFUSED = "credentials_refused"
    GATEWAY_FAILED = "gateway_failed"
    FORCED = "forced"
    MACHINE_WITHDRAWN = "machine_withdrawn"


TRANSITIONS: dict[State, frozenset[State]] = {
    State.REQUESTED: frozenset({State.STARTING, State.CLOSING}),
    State.STARTING: frozenset({State.READY, State.CLOSING}),
    State.READY: frozenset({State.ACTIVE, State.STARTING, State.CLOSING}),
    State.ACTIVE: frozenset({State.READY, State.STARTING, State.CLOSING}),
    State.CLOSING: frozenset({State.CLOSED}),
    State.CLOSED: frozenset(),
}

# A machine has at most one session in these.
OPEN_STATES = frozenset({State.REQUESTED, State.STARTING, State.READY, State.ACTIVE})


class GatewayState(StrEnum):
    """Where one attempt at a gateway is; `stopped` is confirmed, whether it ever ran or not."""

    WANTED = "wanted"
    STARTING = "starting"
    READY = "ready"
    STOPPING = "stopping"
    STOPPED = "stopped"


LIVE_GATEWAY_STATES = frozenset({GatewayState.WANTED, GatewayState.STARTING, GatewayState.READY})
