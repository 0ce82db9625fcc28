"""The ways into the VPN: an OpenVPN over UDP and, where VPN_TCP_PORT says so, a second one over TCP.

Each OpenVPN numbers its clients from 0. Within the agent and in the database a client's number tells also which OpenVPN
it is at, so that one mind knows them all: OpenVPN's own number in the lower bits, the way above. Over UDP (or where
there is one way alone) it is OpenVPN's own.
"""

from __future__ import annotations

from enum import IntEnum

# OpenVPN would need 8000 years at 1000 clients a second to count so far; above there is room in a database's number.
_BITS = 48


class Way(IntEnum):
    FIRST = 0
    TCP = 1


def number(way: Way, client_id: int) -> int:
    """The agent's number of a client that OpenVPN calls so."""
    return (way << _BITS) + client_id


def split(number: int) -> tuple[Way, int]:
    """At which OpenVPN a client is, and what that calls it."""
    return Way(number >> _BITS), number & ((1 << _BITS) - 1)


def way_of(number: int) -> Way:
    return split(number)[0]
