"""Languages that people speak, as lists of ISO 639-1 codes."""

from __future__ import annotations

import re
from typing import Any

from django import forms
from django.core.exceptions import ValidationError
from django.db import models

# ISO 639-1, https://www.loc.gov/standards/iso639-2/php/English_list.php
_CODES = """
aa ab ae af ak am an ar as av ay az ba be bg bi bm bn bo br bs ca ce ch co cr cs cu cv cy da de dv dz ee el en eo es
et eu fa ff fi fj fo fr fy ga gd gl gn gu gv ha he hi ho hr ht hu hy hz ia id ie ig ii ik io is it iu ja jv ka kg ki
kj kk kl km kn ko kr ks ku kv kw ky la lb lg li ln lo lt lu lv mg mh mi mk ml mn mr ms mt my na nb nd ne ng nl nn no
nr nv ny oc oj om or os pa pi pl ps pt qu rm rn ro ru rw sa sc sd se sg si sk sl sm sn so sq sr ss st su sv sw ta te
tg th ti tk tl tn to tr ts tt tw ty ug uk ur uz ve vi vo wa wo xh yi yo za zh zu
"""
CODES = frozenset(_CODES.split())
LIMIT = 20


def validate_languages(codes: object) -> None:
    """Raises ValidationError for what is no list of at most LIMIT different codes."""
    if not isinstance(codes, list) or not all(isinstance(code, str) for code in codes):
        raise ValidationError(f"Found {_shown(codes)}; expected a list of language codes, as in it, en.")
    if wrong := [code for code in codes if code not in CODES]:
        raise ValidationError(
            f"{_shown(wrong[0])} is no language; expected two-letter codes of ISO 639-1, as in it, en."
        )
    if len(set(codes)) != len(codes):
        twice = next(code for code in codes if codes.count(code) > 1)
        raise ValidationError(f"{twice} is there twice.")
    if len(codes) > LIMIT:
        raise ValidationError(f"Found {len(codes)} languages; expected {LIMIT} at most.")


class LanguagesFormField(forms.Field):
    """Codes with commas or blanks between them, in any case; each once."""

    widget = forms.TextInput

    def to_python(self, value: Any) -> list[str]:
        codes = value if isinstance(value, list) else re.split(r"[\s,;]+", str(value or ""))
        return list(dict.fromkeys(str(code).lower() for code in codes if code))

    def prepare_value(self, value: Any) -> Any:
        return ", ".join(value) if isinstance(value, list) else value


class LanguagesField(models.JSONField):
    """A list of language codes, the best-spoken first; a form shows it as `it, en`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs["default"] = list
        kwargs["blank"] = True
        super().__init__(*args, **kwargs)
        self.validators = [*self.default_validators, validate_languages]

    def deconstruct(self) -> Any:
        name, path, args, kwargs = super().deconstruct()
        del kwargs["default"], kwargs["blank"]
        return name, path, args, kwargs

    def formfield(self, **kwargs: Any) -> Any:
        return LanguagesFormField(
            required=False, label=kwargs.get("label") or str(self.verbose_name).capitalize(), help_text=self.help_text
        )


def _shown(found: object) -> str:
    return repr(found)[:40]
