"""What the demo consists of: two tenants, places in several countries, broken machines, and people on duty."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import time

EVERY_DAY = "0123456"
MIDNIGHT = time(0)
# So that one sees the next person asked while one looks on.
ASK_NEXT_AFTER_S = 30


@dataclass(frozen=True)
class PlannedModel:
    """A make of machine."""

    name: str
    manufacturer: str
    notes: str = ""


@dataclass(frozen=True)
class PlannedSite:
    """A place; coordinates in degrees, north and east positive."""

    name: str
    address: str
    city: str
    country: str
    time_zone: str
    latitude: float
    longitude: float
    languages: tuple[str, ...]
    notes: str = ""
    opening_hours: tuple[time, time] | None = None  # each day; None: always open


@dataclass(frozen=True)
class PlannedMachine:
    """A machine; `fault` is what the simulator breaks at its start ("" for nothing)."""

    serial: str
    name: str
    model: PlannedModel
    site: PlannedSite
    address: str
    fault: str = ""


@dataclass(frozen=True)
class PlannedPerson:
    """Somebody who signs in; `about` is said beside the login."""

    username: str
    first_name: str
    last_name: str
    time_zone: str
    about: str
    languages: tuple[str, ...]
    skills: tuple[PlannedModel, ...] = ()  # none: all models
    working_hours: tuple[time, time] | None = None  # each day, by the person's own clock; None: at any time
    supervisor: bool = False
    superuser: bool = False


@dataclass(frozen=True)
class PlannedShift:
    """A person's duty each day, by the clock of the site; with `site` None at all of the fleet's."""

    username: str
    site: PlannedSite | None
    starts: time = MIDNIGHT
    ends: time = MIDNIGHT  # the same as the start: 24 hours
    rank: int = 1


@dataclass(frozen=True)
class PlannedFleet:
    """A tenant with its machines and people, and who is on duty where."""

    name: str
    slug: str
    machines: tuple[PlannedMachine, ...]
    people: tuple[PlannedPerson, ...]
    shifts: tuple[PlannedShift, ...]
    last_resort_email: str


AURORA = PlannedModel("Aurora 9", "Officine Moka", "Whole beans, fresh milk, card reader.")
BREZZA = PlannedModel("Brezza 4", "Officine Moka", "Small, for offices. No milk circuit to prime by hand.")
TORRE = PlannedModel("Torre 12", "Vapore", "Tall, for stations. Two grinders.")

MILANO = PlannedSite(
    "Stazione Centrale",
    "Piazza Duca d'Aosta 1, 20124 Milano",
    "Milano",
    "IT",
    "Europe/Rome",
    45.4862,
    9.2046,
    ("it",),
    "Keys at the information desk, track 4 side.",
)
LISBON = PlannedSite(
    "Gare do Oriente",
    "Avenida Dom João II, 1990-233 Lisboa",
    "Lisbon",
    "PT",
    "Europe/Lisbon",
    38.7678,
    -9.0993,
    ("pt",),
)
WARSAW = PlannedSite(
    "Warszawa Centralna",
    "Aleje Jerozolimskie 54, 00-024 Warszawa",
    "Warsaw",
    "PL",
    "Europe/Warsaw",
    52.2289,
    21.0032,
    ("pl",),
)
TORONTO = PlannedSite(
    "Union Station",
    "65 Front Street West, Toronto, ON",
    "Toronto",
    "CA",
    "America/Toronto",
    43.6452,
    -79.3806,
    ("en", "fr"),
)
TOKYO = PlannedSite(
    "Tokyo Station, Yaesu side",
    "1-9-1 Marunouchi, Chiyoda-ku",
    "Tokyo",
    "JP",
    "Asia/Tokyo",
    35.6812,
    139.7671,
    ("ja", "en"),
    "Ask the station office first; the hall closes at 00:30.",
    opening_hours=(time(5), time(0, 30)),
)
SAO_PAULO = PlannedSite(
    "Terminal Tietê",
    "Avenida Cruzeiro do Sul 1800, São Paulo",
    "São Paulo",
    "BR",
    "America/Sao_Paulo",
    -23.5161,
    -46.6252,
    ("pt",),
)
HELSINKI = PlannedSite(
    "Rautatieasema", "Kaivokatu 1, 00100 Helsinki", "Helsinki", "FI", "Europe/Helsinki", 60.1719, 24.9414, ("fi", "sv")
)

EVERYWHERE = PlannedFleet(
    name="Caffè Ovunque",
    slug="caffe-ovunque",
    machines=(
        PlannedMachine("IT-0042", "Platform 4, left", AURORA, MILANO, "127.64.1.1", "E17"),
        PlannedMachine("PT-0007", "Upper hall", AURORA, LISBON, "127.64.1.2", "E05"),
        PlannedMachine("PL-0311", "Waiting room", BREZZA, WARSAW, "127.64.1.3", "E22"),
        PlannedMachine("CA-0118", "Great Hall, east", TORRE, TORONTO, "127.64.1.4", "E31"),
        PlannedMachine("JP-0205", "Ticket gates", TORRE, TOKYO, "127.64.1.5"),
        PlannedMachine("BR-0064", "Platform 30", AURORA, SAO_PAULO, "127.64.1.6", "E12"),
    ),
    people=(
        PlannedPerson(
            "alice",
            "Alice",
            "Rossi",
            "Europe/Rome",
            "supervisor, and may use /admin/; asked when no operator answers",
            ("it", "en"),
            supervisor=True,
            superuser=True,
        ),
        PlannedPerson(
            "bob",
            "Bob",
            "Kowalski",
            "Europe/Warsaw",
            "operator, asked first in Milan, Lisbon and Warsaw",
            ("pl", "it", "en"),
        ),
        PlannedPerson(
            "dora",
            "Dora",
            "Tremblay",
            "America/Toronto",
            "operator, asked first in Toronto, São Paulo and Tokyo, and second elsewhere",
            ("en", "fr", "pt"),
        ),
        PlannedPerson(
            "emi",
            "Emi",
            "Sato",
            "Asia/Tokyo",
            "operator, asked first in Tokyo by day",
            ("ja", "en"),
            skills=(TORRE,),
            working_hours=(time(7), time(21)),
        ),
    ),
    # At every hour of the week somebody is first and somebody next, whenever the demo is looked at.
    shifts=(
        PlannedShift("bob", MILANO),
        PlannedShift("bob", LISBON),
        PlannedShift("bob", WARSAW),
        PlannedShift("dora", TORONTO),
        PlannedShift("dora", SAO_PAULO),
        PlannedShift("emi", TOKYO, time(8), time(20)),
        PlannedShift("dora", TOKYO, time(20), time(8)),
        PlannedShift("dora", None, rank=1),
        PlannedShift("bob", None, rank=2),
    ),
    last_resort_email="headquarters@example.com",
)
NORTH = PlannedFleet(
    name="Pohjoinen Kahvi",
    slug="pohjoinen-kahvi",
    machines=(PlannedMachine("FI-0001", "Main hall", BREZZA, HELSINKI, "127.64.2.1", "E17"),),
    people=(
        PlannedPerson(
            "charlie",
            "Charlie",
            "Virtanen",
            "Europe/Helsinki",
            "of another fleet, sees only that",
            ("fi", "en"),
            supervisor=True,
        ),
    ),
    shifts=(PlannedShift("charlie", HELSINKI),),
    last_resort_email="kahvi@example.com",
)
FLEETS = (EVERYWHERE, NORTH)
