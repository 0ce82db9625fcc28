"""Which pushes are next, so that one push service that stalls takes no other's places, however many devices it has."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from uuid import UUID

from django.db.models import QuerySet

from notifications.channels.base import Lane
from notifications.models import Delivery

_ENDPOINT = "device__subscription__endpoint"


def origin_of(endpoint: str) -> str:
    """Scheme, host and port, as they are written."""
    return "/".join(endpoint.split("/", 3)[:3])


def rooms(lane: Lane, begun: Iterable[tuple[str, bool]]) -> dict[str, int]:
    """How many more each service takes that has pushes on their way; these are (endpoint, whether it hangs).

    Half of all the lane's places are what one may have at most. One at which many hang gets half of those for what has
    just begun, too: nobody who comes meanwhile waits until the next ones hang.
    """
    young: Counter[str] = Counter()
    hanging: Counter[str] = Counter()
    for endpoint, hangs in begun:
        (hanging if hangs else young)[origin_of(endpoint)] += 1
    found = {}
    for origin in young.keys() | hanging.keys():
        at_once = max(1, lane.at_once // 2) if 2 * hanging[origin] >= lane.at_once else lane.at_once
        found[origin] = min(at_once - young[origin], lane.most // 2 - young[origin] - hanging[origin])
    return found


def next_ones(due: QuerySet[Delivery], places: int, rooms: Mapping[str, int]) -> list[UUID]:
    """The first of what is due, as many as there are places: no service more than its room, nor than half of the places
    while others wait.

    One query, as long as no service is at its limit and not all places are taken.
    """
    due = _not_at(due, {origin for origin, room in rooms.items() if room <= 0})
    found = [*due.values_list("pk", _ENDPOINT)[:places]]
    # Where less is due than there is place for, nobody waits.
    share = places if len(found) < places else (places + 1) // 2
    taken: list[UUID] = []
    count: Counter[str] = Counter()
    beyond = _take(found, taken, count, rooms, share)
    if beyond and len(found) == places:
        others = _not_at(due, {origin_of(endpoint or "") for _, endpoint in beyond}).exclude(pk__in=taken)
        _take(others.values_list("pk", _ENDPOINT)[: places - len(taken)], taken, count, rooms, places)
        _take(beyond[: places - len(taken)], taken, count, rooms, places)
    return taken


def _take(
    found: Iterable[tuple[UUID, str | None]],
    taken: list[UUID],
    count: Counter[str],
    rooms: Mapping[str, int],
    share: int,
) -> list[tuple[UUID, str | None]]:
    """Adds to `taken` what is within its service's room and share; the others."""
    beyond = []
    for pk, endpoint in found:
        origin = origin_of(endpoint or "")
        if count[origin] < min(share, rooms.get(origin, share)):
            count[origin] += 1
            taken.append(pk)
        else:
            beyond.append((pk, endpoint))
    return beyond


def _not_at(rows: QuerySet[Delivery], origins: Iterable[str]) -> QuerySet[Delivery]:
    for origin in origins:
        rows = rows.exclude(**{f"{_ENDPOINT}__startswith": f"{origin}/"})
    return rows
