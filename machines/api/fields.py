"""Serializer parts for what machines send: strict, and their errors say what was expected instead."""

from __future__ import annotations

import re
from typing import Any

from drf_spectacular.drainage import set_override
from rest_framework import serializers

# Control characters have no place in logins, faults and logs (T6, T20); half surrogates cannot be stored.
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f-\x9f\ud800-\udfff]*")
PRINTABLE_PATTERN = r"^[^\u0000-\u001f\u007f-\u009f]*$"


class Text(serializers.Field[str, Any, str, Any]):
    """A string of `shortest` to `longest` characters, taken as it is: nothing is trimmed or changed."""

    def __init__(
        self, *, longest: int, shortest: int = 0, pattern: str = "", expected: str = "", **kwargs: Any
    ) -> None:
        super().__init__(**kwargs)
        self._range = (shortest, longest)
        self._pattern = re.compile(pattern) if pattern else _PRINTABLE
        size = f"{shortest} to {longest} characters" if shortest else f"up to {longest} characters"
        self._expected = expected or f"{size} of text without control characters"
        set_override(
            self,
            "field",
            {
                "type": "string",
                "minLength": shortest,
                "maxLength": longest,
                "pattern": f"^{pattern}$" if pattern else PRINTABLE_PATTERN,
            },
        )

    def to_internal_value(self, data: Any) -> str:
        shortest, longest = self._range
        if not isinstance(data, str) or not shortest <= len(data) <= longest or not self._pattern.fullmatch(data):
            raise serializers.ValidationError(self._expected)
        return data

    def to_representation(self, value: str) -> str:
        return value


class WholeNumber(serializers.Field[int, Any, int, Any]):
    """A JSON integer in a range; neither a text nor true, which Python counts as numbers."""

    def __init__(self, *, least: int, most: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._range = (least, most)
        set_override(self, "field", {"type": "integer", "minimum": least, "maximum": most})

    def to_internal_value(self, data: Any) -> int:
        least, most = self._range
        # JSON does not tell 5 from 5.0, and some encoders write the latter.
        is_whole = isinstance(data, int) or (isinstance(data, float) and data.is_integer())
        if isinstance(data, bool) or not is_whole or not least <= data <= most:
            raise serializers.ValidationError(f"a whole number from {least} to {most}")
        return int(data)

    def to_representation(self, value: int) -> int:
        return value


class Choice(serializers.Field[str, Any, str, Any]):
    """One of a few words."""

    def __init__(self, words: tuple[str, ...], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self._words = words
        set_override(self, "field", {"type": "string", "enum": list(words)})

    def to_internal_value(self, data: Any) -> str:
        if not isinstance(data, str) or data not in self._words:
            raise serializers.ValidationError("one of " + ", ".join(self._words), code="invalid_choice")
        return data

    def to_representation(self, value: str) -> str:
        return value


class StrictSerializer(serializers.Serializer[Any]):
    """An object that refuses members it does not know: a misspelt one is an error, not silence."""

    default_error_messages = {"invalid": "an object"}

    def to_internal_value(self, data: Any) -> Any:
        if isinstance(data, dict) and (unknown := [key for key in data if key not in self.fields]):
            known = ", ".join(self.fields) or "no members"
            raise serializers.ValidationError({key: f"only these members: {known}" for key in unknown[:10]})
        return super().to_internal_value(data)
