"""What people type about machines. Each field is checked where it is used; here it is only read."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from django import forms

from machines.models import MachineModel, Site, User, serial_validator
from machines.registration import name_validator
from machines.selectors import fleets_of


class _SitesByFleet(forms.ModelChoiceField):  # type: ignore[type-arg]
    """Sites under their fleets' names, where there are several."""

    def label_from_instance(self, obj: Any) -> str:
        return f"{obj.name}, {obj.city}"


class RegisterForm(forms.Form):
    """A machine that is to be known from now on; its fleet is its site's."""

    serial = forms.CharField(
        strip=True,
        validators=[serial_validator],
        error_messages={"required": "Type the serial from its type plate."},
        widget=forms.TextInput(
            attrs={
                "autocomplete": "off",
                "autocapitalize": "characters",
                "spellcheck": "false",
                "placeholder": "IT-0042",
            }
        ),
    )
    site = _SitesByFleet(
        queryset=Site.objects.none(),
        empty_label="Choose a site",
        error_messages={"required": "Choose where it stands.", "invalid_choice": "Choose a site of your fleets."},
    )
    model = forms.ModelChoiceField(
        queryset=MachineModel.objects.all(),
        empty_label="Choose a model",
        error_messages={"required": "Choose what it is.", "invalid_choice": "Choose a model that is known here."},
    )
    name = forms.CharField(
        required=False,
        validators=[name_validator],
        widget=forms.TextInput(attrs={"autocomplete": "off", "placeholder": "Lobby, left"}),
    )

    def __init__(self, *args: Any, user: User, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        sites = Site.objects.filter(fleet__in=fleets_of(user)).select_related("fleet").order_by("fleet__name", "name")
        field = self.fields["site"]
        assert isinstance(field, _SitesByFleet)
        field.queryset = sites
        fleets = [(fleet, list(rows)) for fleet, rows in groupby(sites, key=lambda site: site.fleet.name)]
        if len(fleets) > 1:
            label = field.label_from_instance
            groups: list[Any] = [(fleet, [(site.pk, label(site)) for site in rows]) for fleet, rows in fleets]
            field.widget.choices = [("", "Choose a site"), *groups]
        self.has_sites = bool(fleets)
        # Where there is but one to choose, it is chosen.
        for name, rows in (("site", list(sites)), ("model", list(MachineModel.objects.all()[:2]))):
            if len(rows) == 1:
                self.fields[name].initial = rows[0].pk

    def refuse(self, errors: dict[str, list[str]]) -> None:
        """Puts the registration's own words beside the fields."""
        for name, words in errors.items():
            for one in words:
                self.add_error(name if name in self.fields else None, one)


class ReasonForm(forms.Form):
    """Why a machine is frozen or an identity revoked."""

    reason = forms.CharField(max_length=80, strip=True, error_messages={"required": "Say why, in a few words."})
