"""What the doctor's checks found, as tests compare it."""

from __future__ import annotations

from collections.abc import Iterator

from portal.doctor.findings import Check, Finding, Verdict, examine
from tests.waiting import LONG_S


def lines(checks: list[Check], limit_s: float = 2 * LONG_S) -> list[tuple[str, str, str]]:
    return [(name, found.verdict.value, found.words) for name, found in examine(checks, limit_s=limit_s)]


def said(found: Iterator[Finding]) -> list[tuple[Verdict, str]]:
    return [(one.verdict, one.words) for one in found]


def only(found: Iterator[Finding]) -> Finding:
    (one,) = found
    return one
