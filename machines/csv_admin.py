"""CSV in the admin: many machines in, and the chosen ones out."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from django import forms
from django.contrib import admin, messages
from django.core.exceptions import PermissionDenied
from django.db.models import QuerySet
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect
from django.template.response import TemplateResponse
from django.urls import URLPattern, path

from machines import csv_machines
from machines.csv_machines import COLUMNS, ROWS_LIMIT, SIZE_LIMIT, CsvRefused
from machines.models import Machine, User
from machines.vpn.base import has_vpn

if TYPE_CHECKING:
    _Base = admin.ModelAdmin[Machine]
else:
    _Base = object


class ImportForm(forms.Form):
    """The file; profiles are offered where there is a VPN to make them for."""

    file = forms.FileField(widget=forms.ClearableFileInput(attrs={"accept": ".csv,text/csv"}))
    with_profiles = forms.BooleanField(required=False, initial=True)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if not has_vpn():
            del self.fields["with_profiles"]


class CsvMixin(_Base):
    """For the machines' admin: an import page and an export action, within the fleets that the person manages."""

    def get_urls(self) -> list[URLPattern]:
        view = self.admin_site.admin_view(self.import_view)
        return [path("import/", view, name="machines_machine_import"), *super().get_urls()]

    def import_view(self, request: HttpRequest) -> HttpResponse:
        """Takes all of a file, or says line by line why not; the file itself is kept nowhere."""
        if not self.has_add_permission(request):
            raise PermissionDenied
        person = request.user
        assert isinstance(person, User)  # the admin lets nobody else in
        form = ImportForm(request.POST or None, request.FILES or None)
        errors: list[csv_machines.CellError] = []
        file_name = ""
        if request.method == "POST" and form.is_valid():
            file = form.cleaned_data["file"]
            file_name = file.name
            try:
                made = csv_machines.import_machines(
                    file.read(SIZE_LIMIT + 1),
                    user=person,
                    with_profiles=form.cleaned_data.get("with_profiles", False),
                )
            except CsvRefused as error:
                errors = error.errors
            else:
                messages.success(request, f"{len(made)} machine{'s' * (len(made) != 1)} registered.")
                return redirect("admin:machines_machine_changelist")
        context = {
            **self.admin_site.each_context(request),
            "title": "Import machines from CSV",
            "opts": self.model._meta,
            "form": form,
            "errors": errors,
            "file_name": file_name,
            "columns": COLUMNS,
            "rows_limit": ROWS_LIMIT,
        }
        status = 400 if errors or form.errors else 200
        return TemplateResponse(request, "admin/machines/machine/import.html", context, status=status)

    @admin.action(description="Export as CSV", permissions=["view"])
    def export_csv(self, request: HttpRequest, machines: QuerySet[Machine]) -> HttpResponse:
        text = csv_machines.export_machines(machines.select_related("model", "site", "fleet"))
        response = HttpResponse(text, content_type="text/csv; charset=utf-8")
        response["Content-Disposition"] = 'attachment; filename="machines.csv"'
        return response
