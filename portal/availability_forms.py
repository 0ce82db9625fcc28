"""What operators type about when they may be asked. What it means is checked where it is used; here it is only read."""

from __future__ import annotations

import zoneinfo
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any

from django import forms
from django.conf.locale import LANG_INFO

from machines.availability import Hours
from machines.languages import CODES, LanguagesFormField
from machines.models import Operator
from machines.rota_models import Weekday

# A day's work may have a break.
STRETCHES = 2
_NAMES = {code: str(info["name"]) for code, info in LANG_INFO.items() if code in CODES and "name" in info}
_CODES = {name.lower(): code for code, name in _NAMES.items()}


def language_names(codes: Iterable[str]) -> list[str]:
    """The languages by name; by code where we have no name."""
    return [_NAMES.get(code, code) for code in codes]


class _Time(forms.TimeInput):
    input_type = "time"

    def __init__(self) -> None:
        super().__init__(format="%H:%M")


class _Moment(forms.DateTimeInput):
    input_type = "datetime-local"

    def __init__(self) -> None:
        super().__init__(format="%Y-%m-%dT%H:%M")


class WallField(forms.DateTimeField):
    """What the person's own clock shows: a time without a zone."""

    widget = _Moment

    def to_python(self, value: Any) -> datetime | None:
        found = super().to_python(value)
        return found.replace(tzinfo=None) if found else None


class AwayForm(forms.Form):
    """Away for a while, or until one is back."""

    until = WallField(
        required=False, error_messages={"invalid": "Type a day and a time, as in 2026-11-24 07:30, or choose them."}
    )


@dataclass(frozen=True, slots=True)
class Day:
    """A weekday's fields: its name, and for each stretch from and to."""

    name: str
    stretches: list[tuple[forms.BoundField, forms.BoundField]]
    errors: list[str]
    has_second: bool


class HoursForm(forms.Form):
    """Working hours, weekday by weekday, in one's own time zone."""

    time_zone = forms.ChoiceField(
        error_messages={"required": "Choose your time zone.", "invalid_choice": "Choose a time zone of the list."}
    )

    def __init__(self, data: Any = None, *, operator: Operator) -> None:
        rows = list(operator.working_hours.all())
        initial: dict[str, Any] = {"time_zone": operator.time_zone}
        self._counts: dict[Weekday, int] = {}
        for weekday in Weekday:
            mine = [row for row in rows if row.weekday == weekday]
            self._counts[weekday] = max(STRETCHES, len(mine))
            for at, row in enumerate(mine):
                initial[f"from_{weekday}_{at}"], initial[f"to_{weekday}_{at}"] = row.starts, row.ends
        super().__init__(data, initial=initial)
        zone = self.fields["time_zone"]
        assert isinstance(zone, forms.ChoiceField)
        zone.choices = list(_zones(operator.time_zone))
        for weekday, count in self._counts.items():
            for at in range(count):
                for part, words in (("from", "from"), ("to", "until")):
                    label = f"{weekday.label} {words}" + (", after the break" if at else "")
                    self.fields[f"{part}_{weekday}_{at}"] = forms.TimeField(
                        required=False,
                        widget=_Time(),
                        label=label,
                        error_messages={"invalid": f"{label}: found what is no time, expected one as in 08:30."},
                    )
                    self.fields[f"{part}_{weekday}_{at}"].widget.attrs["aria-label"] = label

    @property
    def days(self) -> Iterator[Day]:
        for weekday, count in self._counts.items():
            pairs = [(self[f"from_{weekday}_{at}"], self[f"to_{weekday}_{at}"]) for at in range(count)]
            errors = [str(error) for pair in pairs for field in pair for error in field.errors]
            has_second = any(field.value() for pair in pairs[1:] for field in pair)
            yield Day(weekday.label, pairs, errors, has_second)

    def clean(self) -> dict[str, Any]:
        cleaned: dict[str, Any] = super().clean() or {}
        for weekday, count in self._counts.items():
            for at in range(count):
                names = f"from_{weekday}_{at}", f"to_{weekday}_{at}"
                if any(name in self.errors for name in names):
                    continue
                starts, ends = (cleaned.get(name) for name in names)
                day = weekday.label
                if starts is None and ends is not None:
                    self.add_error(names[0], f"{day}: found an end without a beginning. Type both, or neither.")
                elif ends is None and starts is not None:
                    self.add_error(names[1], f"{day}: found a beginning without an end. Type both, or neither.")
        return cleaned

    @property
    def hours(self) -> list[Hours]:
        """What was typed, as rows; of a valid form."""
        found = []
        for weekday, count in self._counts.items():
            for at in range(count):
                starts = self.cleaned_data[f"from_{weekday}_{at}"]
                if starts is not None:
                    found.append(Hours(weekday.value, starts, self.cleaned_data[f"to_{weekday}_{at}"]))
        return found


class AbsenceForm(forms.Form):
    """A while in which one is not asked, by one's own clock."""

    starts_at = WallField(error_messages={"required": "Say from when.", "invalid": "Type a day and a time."})
    ends_at = WallField(error_messages={"required": "Say until when.", "invalid": "Type a day and a time."})
    note = forms.CharField(
        required=False, max_length=120, strip=True, widget=forms.TextInput(attrs={"placeholder": "Holiday"})
    )


class _NamedLanguages(LanguagesFormField):
    """Takes names as well as codes, and shows names: Italian, English."""

    def to_python(self, value: Any) -> list[str]:
        if isinstance(value, str):
            parts = [part.strip() for part in value.replace(";", ",").split(",")]
            value = " ".join(_CODES.get(part.lower(), part) for part in parts)
        return super().to_python(value)

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(language_names(value)) if isinstance(value, list) else value


class WaysForm(forms.Form):
    """Languages, and how one wants to be told."""

    languages = _NamedLanguages(required=False)
    wants_email = forms.BooleanField(required=False)
    wants_sms = forms.BooleanField(required=False)
    phone = forms.CharField(
        required=False,
        max_length=32,
        strip=True,
        widget=forms.TextInput(attrs={"type": "tel", "autocomplete": "tel", "placeholder": "+390212345678"}),
    )

    @property
    def refused_language(self) -> str:
        """What is wrong with the languages in this form's words, which takes names as well; empty: no such word."""
        wrong = [code for code in self.cleaned_data.get("languages", []) if code not in CODES]
        return f"Found {wrong[0][:40]}, expected names or codes of languages, as in Italian, en." if wrong else ""


def _zones(own: str) -> Iterator[tuple[str, Any]]:
    """Time zones under their regions; UTC, and one's own if it goes by an old name, come first."""
    names = sorted(name for name in zoneinfo.available_timezones() if _is_a_place(name))
    yield "UTC", "UTC"
    if own != "UTC" and own not in names:
        yield own, own
    for region, inside in groupby(names, key=lambda name: name.partition("/")[0]):
        yield region, [(name, name.partition("/")[2].replace("_", " ").replace("/", ", ")) for name in inside]


def _is_a_place(name: str) -> bool:
    return "/" in name and name.partition("/")[0] not in {"Etc", "SystemV", "US", "Canada", "Brazil", "Chile", "Mexico"}
