"""The rota in the admin: a manager arranges the own fleet's, and reads in words what cannot be."""

from __future__ import annotations

from datetime import time
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse

from machines.models import Closure, Operator, Shift, Site, WorkingHours
from tests.machines.cast import new_machine
from tests.sessions.clients import client_of, manager_of_north
from tests.sessions.rescues import fleet, person

pytestmark = [pytest.mark.django_db, pytest.mark.usefixtures("vpn")]


@pytest.fixture
def manager() -> Client:
    """Fiona manages the fleet North, with every right but a superuser's."""
    return client_of(manager_of_north())


def page(model: str, row: Any = None) -> str:
    return reverse(f"admin:machines_{model}_{'change' if row else 'add'}", args=[row.pk] if row else [])


def shift_values(**values: Any) -> dict[str, Any]:
    return {
        **{"fleet": fleet().pk, "operator": person("Alice").operator.pk, "weekdays": ["0", "4"]},
        **{"starts": "22:00", "ends": "06:00", "every_weeks": 1, "rank": 1, **values},
    }


def no_rows(*prefixes: str) -> dict[str, Any]:
    return {f"{prefix}-{name}_FORMS": 0 for prefix in prefixes for name in ("TOTAL", "INITIAL")}


def errors_of(answer: Any) -> str:
    assert answer.status_code == 200, "it was taken"
    form = answer.context["adminform"].form
    formsets = [one.formset for one in answer.context["inline_admin_formsets"]]
    return str(form.errors) + "".join(str(one.errors) + str(one.non_form_errors()) for one in formsets)


def test_manager_adds_a_shift_with_ticked_days_and_reads_it_in_the_list(manager: Client) -> None:
    site = new_machine().site
    assert manager.post(page("shift"), shift_values(site=site.pk, weekdays=["4", "0"])).status_code == 302
    shift = Shift.objects.get()
    assert (shift.weekdays, shift.starts, shift.ends, shift.site) == ("04", time(22), time(6), site)
    listing = manager.get(reverse("admin:machines_shift_changelist")).content.decode()
    assert "Mon, Fri" in listing and "22:00–06:00" in listing
    boxes = manager.get(page("shift", shift)).content.decode()
    assert boxes.count("checked") == 2


def test_lists_say_all_day_and_every_site_and_forms_name_their_fields_in_words(manager: Client) -> None:
    alice, site = person("Alice").operator, new_machine().site
    whole = {"fleet": fleet("North"), "operator": alice, "weekdays": "0", "starts": time(0), "ends": time(0)}
    Shift.objects.create(**whole)
    assert str(Shift.objects.create(**{**whole, "site": site, "ends": time(8)})) == "Alice, Mo 00:00–08:00"
    listing = manager.get(reverse("admin:machines_shift_changelist")).content.decode()
    assert "all day" in listing
    assert '?site__isnull=True">every site</a>' in " ".join(listing.split()).replace("> every", ">every")
    assert "Wants text messages (SMS)" in manager.get(page("operator", alice)).content.decode()
    form = manager.get(page("fleet", fleet("North"))).content.decode()
    assert "Seconds until the next is asked" in form and "(T" not in form


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"weekdays": []}, "This field is required"),
        ({"weekdays": ["7"]}, "7 is not one of the available choices"),
        ({"every_weeks": 2}, "say which day that is"),
        ({"every_weeks": 9, "first_day": "2026-11-23"}, "less than or equal to 8"),
        ({"first_day": "2026-11-23", "last_day": "2026-11-22"}, "The last day is before the first."),
        ({"rank": 0}, "greater than or equal to 1"),
    ],
)
def test_shift_that_cannot_be_is_refused_in_words(manager: Client, values: dict[str, Any], words: str) -> None:
    assert words in errors_of(manager.post(page("shift"), shift_values(**values)))
    assert not Shift.objects.exists()


def test_manager_sees_and_chooses_nothing_of_another_fleet(manager: Client) -> None:
    charlie, south = person("Charlie", of="South").operator, new_machine("B1", of="South").site
    theirs = Shift.objects.create(
        fleet=fleet("South"), operator=charlie, weekdays="0", starts=time(8), ends=time(9), site=south
    )
    assert "Charlie" not in manager.get(reverse("admin:machines_shift_changelist")).content.decode()
    assert manager.get(page("shift", theirs)).status_code == 302
    for field, other in (("fleet", fleet("South")), ("site", south), ("operator", charlie)):
        assert "Select a valid choice" in errors_of(manager.post(page("shift"), shift_values(**{field: other.pk})))
        query = {"app_label": "machines", "model_name": "shift", "field_name": field, "term": ""}
        found = manager.get(reverse("admin:autocomplete"), query).json()["results"]
        assert str(other.pk) not in [one["id"] for one in found]
    assert Shift.objects.get() == theirs


def test_manager_of_two_fleets_keeps_them_apart(manager: Client) -> None:
    person("Fiona").operator.fleets.add(fleet("South"))
    charlie, south = person("Charlie", of="South").operator, new_machine("B1", of="South").site
    answer = manager.post(page("shift"), shift_values(operator=charlie.pk, site=south.pk))
    assert "Charlie does not work for North." in errors_of(answer)
    assert "belongs to South, the shift to North." in errors_of(answer)


def operator_values(**values: Any) -> dict[str, Any]:
    alice = person("Alice")
    return {
        **{"user": alice.pk, "fleets": [fleet().pk], "role": "operator", "time_zone": "Europe/Rome"},
        **{"is_available": "on", "languages": "", "phone": "", **no_rows("working_hours", "absences"), **values},
    }


def test_manager_says_what_an_operator_speaks_and_when_they_work(manager: Client) -> None:
    alice = person("Alice").operator
    hours: dict[str, Any] = {
        "working_hours-TOTAL_FORMS": 1,
        "working_hours-0-weekday": 0,
        "working_hours-0-operator": alice.pk,
    }
    hours |= {"working_hours-0-starts": "08:00", "working_hours-0-ends": "16:00"}
    values = operator_values(languages="IT, en;it", phone="+390212345678", wants_sms="on", **hours)
    assert manager.post(page("operator", alice), values).status_code == 302
    alice.refresh_from_db()
    assert (alice.languages, alice.phone, alice.wants_email) == (["it", "en"], "+390212345678", False)
    assert str(WorkingHours.objects.get(operator=alice)) == "Monday 08:00–16:00"
    assert 'value="it, en"' in manager.get(page("operator", alice)).content.decode()


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"languages": "italian"}, "&#x27;italian&#x27; is no language"),
        ({"languages": "it xx"}, "&#x27;xx&#x27; is no language"),
        ({"phone": "0039 02 123"}, "A phone number is international, as in +390212345678"),
        ({"wants_sms": "on"}, "there must be a phone number"),
        ({"away_until_0": "2030-01-01", "away_until_1": "08:00"}, "Who is available is not away"),
    ],
)
def test_operator_that_cannot_be_is_refused_in_words(manager: Client, values: dict[str, Any], words: str) -> None:
    alice = person("Alice").operator
    assert words in errors_of(manager.post(page("operator", alice), operator_values(**values)))
    assert Operator.objects.get(pk=alice.pk).languages == []


def test_manager_says_when_a_site_is_open(manager: Client) -> None:
    site = new_machine().site
    values = {
        **{"fleet": fleet().pk, "name": "Station", "city": "Milano", "country": "IT", "time_zone": "Europe/Rome"},
        **{"languages": "it", "closed_on_public_holidays": "on"},
        **no_rows("opening_hours", "closures"),
        **{"opening_hours-TOTAL_FORMS": 1, "opening_hours-0-site": site.pk, "opening_hours-0-weekday": 6},
        **{"opening_hours-0-opens": "18:00", "opening_hours-0-closes": "02:00"},
        **{"closures-TOTAL_FORMS": 1, "closures-0-site": site.pk, "closures-0-name": "Works"},
        **{"closures-0-first_day": "2026-12-01", "closures-0-last_day": "2026-12-03"},
    }
    backwards = {**values, "closures-0-last_day": "2026-11-30"}
    assert "The last day is before the first." in errors_of(manager.post(page("site", site), backwards))
    nowhere = {**values, "country": "XX"}
    assert "no calendar of public holidays for XX" in errors_of(manager.post(page("site", site), nowhere))
    assert manager.post(page("site", site), values).status_code == 302
    site = Site.objects.get(pk=site.pk)
    assert site.languages == ["it"] and site.closed_on_public_holidays
    assert str(site.opening_hours.get()) == "Sunday 18:00–02:00"
    assert str(site.closures.get()) == "Works, 2026-12-01 to 2026-12-03"


@pytest.mark.parametrize(
    ("given", "found"),
    [
        ({"answer_deadline_s": 224}, "after 224 s"),
        ({"answer_deadline_s": 225}, None),
        ({"answer_deadline_s": 60, "ask_supervisors_after_s": 7, "ask_last_resort_after_s": 8}, None),
        ({"ask_next_after_s": 1700}, "asking takes 1880 s"),
        ({}, None),
    ],
)
def test_fleet_gives_the_ladder_time_to_reach_its_end(
    manager: Client, given: dict[str, int], found: str | None
) -> None:
    """The installation's own times are 45, 60 and 120 s, within 1800 s."""
    values = {"name": "North", "slug": "north", "max_open_sessions": 50, **no_rows("closures", "gateway_pool"), **given}
    answer = manager.post(page("fleet", fleet()), values)
    assert (answer.status_code == 302) == (found is None)
    if found:
        assert found in errors_of(answer)
    assert fleet().answer_deadline_s == (given.get("answer_deadline_s") if found is None else None)


def test_fleet_has_its_own_ladder_and_days_off(manager: Client) -> None:
    values = {
        **{"name": "North", "slug": "north", "max_open_sessions": 50, "ask_next_after_s": 30},
        **{"last_resort_phone": "+390212345678", "last_resort_email": "on-call@example.com"},
        **no_rows("closures", "gateway_pool"),
        **{"closures-TOTAL_FORMS": 1, "closures-0-fleet": fleet().pk, "closures-0-name": "Feast"},
        **{"closures-0-first_day": "2026-12-24", "closures-0-last_day": "2026-12-26"},
    }
    too_long = manager.post(page("fleet", fleet()), {**values, "ask_supervisors_after_s": 86_401})
    assert "less than or equal to 86400" in errors_of(too_long)
    assert manager.post(page("fleet", fleet()), values).status_code == 302
    assert (fleet().ask_next_after_s, fleet().ask_supervisors_after_s) == (30, None)
    assert Closure.objects.get().fleet == fleet()
