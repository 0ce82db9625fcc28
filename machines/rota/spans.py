"""Stretches of time and what is common to them; every list here is in order, and its stretches do not touch."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from typing import NamedTuple

EVER = datetime.max.replace(tzinfo=UTC)
SINCE_EVER = datetime.min.replace(tzinfo=UTC)


class Span(NamedTuple):
    """From `start` until just before `end`, both in UTC."""

    start: datetime
    end: datetime


def merged(spans: Iterable[Span]) -> list[Span]:
    """The same time with as few stretches as possible; empty ones are left out."""
    found: list[Span] = []
    for span in sorted(span for span in spans if span.start < span.end):
        if found and span.start <= found[-1].end:
            found[-1] = Span(found[-1].start, max(found[-1].end, span.end))
        else:
            found.append(span)
    return found


def common(one: list[Span], other: list[Span]) -> list[Span]:
    """The time that is in both."""
    return merged(Span(max(a.start, b.start), min(a.end, b.end)) for a in one for b in other)


def without(spans: list[Span], taken: Iterable[Span]) -> list[Span]:
    """The time that is in none of those taken."""
    left = spans
    for gone in taken:
        left = merged(
            part
            for span in left
            for part in (Span(span.start, min(span.end, gone.start)), Span(max(span.start, gone.end), span.end))
        )
    return left


def end_of(spans: list[Span], moment: datetime) -> datetime | None:
    """Until when the stretch lasts that the moment is in; None if it is in none."""
    return next((span.end for span in spans if span.start <= moment < span.end), None)
