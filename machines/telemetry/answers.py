"""What telemetry elsewhere says, read strictly: every text has a limit and every error names what was found.

The same shapes are the REST contract's (docs/telemetry.openapi.yaml) and those in which the last good answer is kept.
Members that are not known here are passed over, so that the contract can grow.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from machines.telemetry.base import Candidate, Duty, LastWord

CANDIDATES_LIMIT = 50
_FAULTS_LIMIT = 50
_USERNAME = re.compile(r"[\w.@+-]{1,150}")
# The first and last moments that there are stand for "never" elsewhere, and no other zone's clock can show them.
_YEARS = range(1970, 2200)
_VERSION = re.compile(r"[\w.:+-]{0,64}", re.ASCII)


class AnswerError(ValueError):
    """An answer is not what was agreed; the text names the member, what was found and what was expected."""


def read_json(body: bytes) -> Mapping[str, Any]:
    """The JSON object in a body. Raises AnswerError."""
    try:
        found = json.loads(body, parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        raise AnswerError(f"found {_shown(body[:60])}, expected a JSON object") from None
    if not isinstance(found, dict):
        raise AnswerError(f"found {_kind(found)}, expected a JSON object")
    return found


def read_duty(document: Mapping[str, Any], *, source: str) -> Duty:
    """Who is responsible. Raises AnswerError."""
    rows = document.get("candidates")
    if not isinstance(rows, list) or len(rows) > CANDIDATES_LIMIT:
        raise AnswerError(f"candidates: found {_kind(rows)}, expected a list of {CANDIDATES_LIMIT} at most")
    candidates = []
    for number, row in enumerate(rows):
        where = f"candidates[{number}]"
        if not isinstance(row, dict):
            raise AnswerError(f"{where}: found {_kind(row)}, expected an object with username and why")
        username = row.get("username")
        if not isinstance(username, str) or not _USERNAME.fullmatch(username):
            expected = "1 to 150 letters, digits and @.+-_"
            raise AnswerError(f"{where}.username: found {_shown(username)}, expected {expected}")
        why = _text(row.get("why", ""), f"{where}.why", longest=120).strip() or "named by telemetry"
        candidates.append(Candidate(username=username, why=why))
    next_at = document.get("next_at")
    return Duty(
        candidates=tuple(candidates),
        source=source,
        next_at=None if next_at is None else _moment(next_at, "next_at"),
    )


def duty_document(duty: Duty) -> dict[str, Any]:
    """The same as plain values, for `read_duty`."""
    return {
        "candidates": [{"username": one.username, "why": one.why} for one in duty.candidates],
        "next_at": duty.next_at.isoformat() if duty.next_at else None,
    }


def read_last_word(document: Mapping[str, Any]) -> LastWord:
    """What a machine last said, and when. Raises AnswerError."""
    at, connected = document.get("at"), document.get("connected")
    if connected is not None and not isinstance(connected, bool):
        raise AnswerError(f"connected: found {_shown(connected)}, expected true, false or null")
    faults = document.get("faults", [])
    if not isinstance(faults, list) or len(faults) > _FAULTS_LIMIT:
        raise AnswerError(f"faults: found {_kind(faults)}, expected a list of {_FAULTS_LIMIT} at most")
    version = document.get("profile_version", "")
    if not isinstance(version, str) or not _VERSION.fullmatch(version):
        expected = "up to 64 letters, digits and .:+-_"
        raise AnswerError(f"profile_version: found {_shown(version)}, expected {expected}")
    return LastWord(
        at=None if at is None else _moment(at, "at"),
        is_connected=connected,
        software=_text(document.get("software", ""), "software", longest=80),
        faults=tuple(_text(one, f"faults[{number}]", longest=200) for number, one in enumerate(faults)),
        profile_version=version,
    )


def _text(value: object, where: str, *, longest: int) -> str:
    if not isinstance(value, str) or len(value) > longest or not value.isprintable():
        raise AnswerError(f"{where}: found {_shown(value)}, expected one line of up to {longest} characters")
    return value


def _moment(value: object, where: str) -> datetime:
    try:
        found = datetime.fromisoformat(value) if isinstance(value, str) and len(value) <= 40 else None
        if found is not None and found.tzinfo is not None and found.astimezone(UTC).year in _YEARS:
            return found.astimezone(UTC)
    except (ValueError, OverflowError):
        pass
    raise AnswerError(f"{where}: found {_shown(value)}, expected a time with its offset, as in 2026-11-23T07:00:00Z")


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


def _kind(value: object) -> str:
    if isinstance(value, list):
        return f"a list of {len(value)}"
    return {dict: "an object", str: "a text", bool: "true or false", type(None): "nothing"}.get(type(value), "a number")


def _shown(value: object) -> str:
    if isinstance(value, dict | list):
        return _kind(value)
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
