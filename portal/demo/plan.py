"""What the demo consists of: two tenants, places in several countries, machines with something wrong, and people."""

from __future__ import annotations

from dataclasses import dataclass


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
    notes: str = ""


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
    supervisor: bool = False
    superuser: bool = False


@dataclass(frozen=True)
class PlannedFleet:
    """A tenant with its machines and people."""

    name: str
    slug: str
    machines: tuple[PlannedMachine, ...]
    people: tuple[PlannedPerson, ...]


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
    "Keys at the information desk, track 4 side.",
)
LISBON = PlannedSite(
    "Gare do Oriente", "Avenida Dom João II, 1990-233 Lisboa", "Lisbon", "PT", "Europe/Lisbon", 38.7678, -9.0993
)
WARSAW = PlannedSite(
    "Warszawa Centralna", "Aleje Jerozolimskie 54, 00-024 Warszawa", "Warsaw", "PL", "Europe/Warsaw", 52.2289, 21.0032
)
TORONTO = PlannedSite(
    "Union Station", "65 Front Street West, Toronto, ON", "Toronto", "CA", "America/Toronto", 43.6452, -79.3806
)
TOKYO = PlannedSite(
    "Tokyo Station, Yaesu side",
    "1-9-1 Marunouchi, Chiyoda-ku",
    "Tokyo",
    "JP",
    "Asia/Tokyo",
    35.6812,
    139.7671,
    "Ask the station office first; the hall closes at 00:30.",
)
SAO_PAULO = PlannedSite(
    "Terminal Tietê",
    "Avenida Cruzeiro do Sul 1800, São Paulo",
    "São Paulo",
    "BR",
    "America/Sao_Paulo",
    -23.5161,
    -46.6252,
)
HELSINKI = PlannedSite(
    "Rautatieasema", "Kaivokatu 1, 00100 Helsinki", "Helsinki", "FI", "Europe/Helsinki", 60.1719, 24.9414
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
            "alice", "Alice", "Rossi", "Europe/Rome", "supervisor, and may use /admin/", supervisor=True, superuser=True
        ),
        PlannedPerson("bob", "Bob", "Kowalski", "Europe/Warsaw", "operator, Alice's colleague"),
    ),
)
NORTH = PlannedFleet(
    name="Pohjoinen Kahvi",
    slug="pohjoinen-kahvi",
    machines=(PlannedMachine("FI-0001", "Main hall", BREZZA, HELSINKI, "127.64.2.1", "E17"),),
    people=(
        PlannedPerson(
            "charlie", "Charlie", "Virtanen", "Europe/Helsinki", "of another fleet, sees only that", supervisor=True
        ),
    ),
)
FLEETS = (EVERYWHERE, NORTH)
