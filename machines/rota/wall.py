"""What a clock on the wall shows, as moments in UTC; daylight saving is nobody's worry but this module's.

When clocks are put forward, the times left out begin and end at that moment. When they are put back, a time that comes
twice begins with its first coming and ends with its last. So of two stretches that meet at a time on the wall, the
second never begins after the first has ended.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, tzinfo

_SECOND = timedelta(seconds=1)


def first_moment(wall: datetime, zone: tzinfo) -> datetime:
    """When clocks in the zone first show this time or, if it is left out, a later one. `wall` is naive."""
    before, after = _offsets(wall, zone)
    if after > before:
        return _jump(wall, before, after, zone)
    return (wall - before).replace(tzinfo=UTC)


def end_moment(wall: datetime, zone: tzinfo) -> datetime:
    """When clocks in the zone have shown an earlier time for the last time. `wall` is naive."""
    last = wall - _SECOND
    before, after = _offsets(last, zone)
    if after > before:
        return _jump(last, before, after, zone)
    return (last - after + _SECOND).replace(tzinfo=UTC)


def _offsets(wall: datetime, zone: tzinfo) -> tuple[timedelta, timedelta]:
    """The zone's offsets for the first and the last coming of this time (PEP 495); the second is larger in a gap."""
    before = wall.replace(tzinfo=zone, fold=0).utcoffset()
    after = wall.replace(tzinfo=zone, fold=1).utcoffset()
    return before or timedelta(), after or timedelta()


def _jump(wall: datetime, before: timedelta, after: timedelta, zone: tzinfo) -> datetime:
    """The moment at which clocks jump over this time; it is a whole second between the two readings."""
    low = (wall - after).replace(tzinfo=UTC, microsecond=0)
    high = (wall - before).replace(tzinfo=UTC, microsecond=0) + _SECOND
    while high - low > _SECOND:
        middle = low + timedelta(seconds=(high - low) // _SECOND // 2)
        if middle.astimezone(zone).utcoffset() == before:
            low = middle
        else:
            high = middle
    return high
