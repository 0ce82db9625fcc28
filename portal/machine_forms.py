"""What people type about machines. Each field is checked where it is used; here it is only read."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from django import forms

from machines.models import MachineModel, Site, User
from machines.selectors import fleets_of


class _SitesByFleet(forms.ModelChoiceField):  # type: ignore[type-arg]
    """Sites under their fleets' names, where there are several."""

    def label_from_instance(self, obj: Any) -> str:
        return f"{obj.name}, {obj.city}"


class RegisterForm(forms.Form):
    """A machine that is to be known from now on; its fleet is its site's."""

    serial = forms.CharField(
        max_length=64,
        strip=True,
        widget=forms.TextInput(
            attrs={
                "autocomplete": "off",
                "autocapitalize": "characters",
                "spellcheck": "false",
                "placeholder": "IT-0042",
            }
        ),
    )
    site = _SitesByFleet(queryset=Site.objects.none(), empty_label="Choose a site")
    model = forms.ModelChoiceField(queryset=MachineModel.objects.all(), empty_label="Choose a model")
    name = forms.CharField(
        max_length=80,
        required=False,
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

    def refuse(self, errors: dict[str, list[str]]) -> None:
        """Puts the registration's own words beside the fields."""
        for name, words in errors.items():
            for one in words:
                self.add_error(name if name in self.fields else None, one)


class ReasonForm(forms.Form):
    """Why a machine is frozen or an identity revoked."""

    reason = forms.CharField(max_length=80, strip=True, error_messages={"required": "Say why, in a few words."})
