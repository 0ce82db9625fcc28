"""What repeats itself week by week, by the clock on some wall."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, tzinfo

from machines.rota.spans import Span, merged
from machines.rota.wall import end_moment, first_moment

_DAY = timedelta(days=1)
EVERY_DAY = frozenset(range(7))
# A Monday, for weeks that are counted from nowhere in particular.
_ANCHOR = date(1970, 1, 5)


@dataclass(frozen=True, slots=True)
class Weekly:
    """Begins at `starts` on some days and ends at the next `ends`: the same time as `starts` is that of the next day.

    `weekdays` are 0 (Monday) to 6. First and last day bound the days on which it begins; with `every_weeks` above 1
    only each so manieth ISO week counts, beginning with the first day's.
    """

    weekdays: frozenset[int]
    starts: time
    ends: time
    first_day: date | None = None
    last_day: date | None = None
    every_weeks: int = 1

    def begins_on(self, day: date) -> bool:
        if day.weekday() not in self.weekdays:
            return False
        if (self.first_day and day < self.first_day) or (self.last_day and day > self.last_day):
            return False
        return (
            self.every_weeks == 1
            or (_monday(day) - _monday(self.first_day or _ANCHOR)).days // 7 % self.every_weeks == 0
        )

    def span_of(self, day: date, zone: tzinfo) -> Span:
        """What begins on this day; where clocks are put forward over all of it, it ends before it begins."""
        ends_on = day if self.ends > self.starts else day + _DAY
        return Span(
            first_moment(datetime.combine(day, self.starts), zone),
            end_moment(datetime.combine(ends_on, self.ends), zone),
        )


WHOLE_DAYS = Weekly(EVERY_DAY, time(0), time(0))


def spans(
    plan: Iterable[Weekly], zone: tzinfo, since: datetime, until: datetime, *, closed: Collection[date] = ()
) -> list[Span]:
    """All of the plan that touches the time from `since` to `until`; nothing begins on the closed days."""
    days = [day for day in _days(since, until, zone) if day not in closed]
    found = (one.span_of(day, zone) for one in plan for day in days if one.begins_on(day))
    return merged(span for span in found if span.end > since and span.start <= until)


def _days(since: datetime, until: datetime, zone: tzinfo) -> Iterator[date]:
    # Two days before: what lasts 24 hours may have begun the day before, and clocks have jumped whole days over.
    day = since.astimezone(zone).date() - 2 * _DAY
    last = until.astimezone(zone).date()
    while day <= last:
        yield day
        day += _DAY


def _monday(day: date) -> date:
    return day - day.weekday() * _DAY
