"""One installation behind a real OpenVPN for all of these tests; skipped aloud where that cannot be had.

The tests mostly wait: where there are several processes, each has one of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from portal.demo.vpn.namespaces import missing
from tests.chromium import CHROMIUM, FLAGS
from tests.e2e.people import Person
from tests.vpn.bed import ROOT, Installation, installed

LACKING = missing()
# Each test has places of its own, so that none waits for what another has left.
PLACES = [f"A{number}" for number in range(1, 20)]
# As in production but for two: 120 s without a sign of life, and 30 s to tell a machine that its rescue is over.
GONE_S, TELL_S = 50, 5


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.vpn)
            if LACKING:
                item.add_marker(pytest.mark.skip(reason=f"a real OpenVPN {LACKING}"))


@pytest.fixture(scope="package")
def vpn() -> Iterator[Installation]:
    """The server, OpenVPN and the authorisation agent, running."""
    if not (ROOT / "static/dist/rescue.js").exists():
        pytest.fail("static/dist is not built: found no rescue.js there, expected what `npm run build` makes")
    times = {"MACHINE_GONE_S": str(GONE_S), "MACHINE_TELL_DEADLINE_S": str(TELL_S)}
    with installed(PLACES, VPN_HEALTH_BIND="127.0.0.1:8080", **times) as installation:
        yield installation
        said = "\n".join(installation.log_of(name) for name in ("server", "authorise"))
        faults = [line for line in said.splitlines() if "Traceback" in line]
        assert faults == [], f"the server or the authorisation agent had faults of its own: {said[-4000:]}"


@pytest.fixture(scope="package")
def places() -> Iterator[str]:
    return iter(PLACES)


@pytest.fixture
def place(places: Iterator[str]) -> Callable[[], str]:
    """The serial and place of a machine that no other test has."""
    return lambda: next(places)


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def _signed_in() -> dict[str, Any]:
    return {}


@pytest.fixture
def sign_in(vpn: Installation, browser: Browser, _signed_in: dict[str, Any]) -> Iterator[Callable[[str], Person]]:
    """Gives a person a browser of their own, signed in and with the queue open."""
    contexts: list[BrowserContext] = []

    def enter(name: str) -> Person:
        context = browser.new_context(viewport={"width": 1440, "height": 900}, storage_state=_signed_in.get(name))
        contexts.append(context)
        person = Person(name, context, vpn.address)
        if name not in _signed_in:
            person.sign_in(vpn.password)
            _signed_in[name] = context.storage_state()
        person.open_queue()
        return person

    yield enter
    for context in contexts:
        context.close()
