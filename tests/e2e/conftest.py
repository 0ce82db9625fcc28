"""The server as a child process, simulated machines with a real desktop, and people with a real browser."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, sync_playwright

from agent.simulator import MachineConfig, SimulatedMachine
from tests.chromium import CHROMIUM, FLAGS
from tests.e2e.installation import ROOT, Installation
from tests.e2e.people import Person


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents:
            item.add_marker(pytest.mark.e2e)
            # The first one's begins with the start of a server, and all processors may be busy.
            item.add_marker(pytest.mark.timeout(300))


@pytest.fixture(scope="package")
def installation(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """One server for all of these tests; a test that stops it starts it again."""
    if not (ROOT / "static/dist/rescue.js").exists():
        pytest.fail("static/dist is not built: found no rescue.js there, expected what `npm run build` makes")
    installation = Installation(tmp_path_factory.mktemp("installation"))
    try:
        installation.prepare()
        installation.start()
        yield installation
        faults = [line for line in installation.log().splitlines() if "Traceback" in line or " ERROR " in line]
        assert faults == [], f"the server had faults of its own; its log is {installation.log_file}"
    finally:
        installation.remove()


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """Chromium. Playwright's loop runs in this thread: for this package only, so that asyncio tests never meet it."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="package")
def serials(installation: Installation) -> Iterator[str]:
    return iter(installation.machines)


@pytest.fixture
def machine(installation: Installation, serials: Iterator[str], tmp_path: Path) -> Iterator[SimulatedMachine]:
    """A machine that no other test has, switched on, with a jammed grinder."""
    serial = next(serials)
    config = MachineConfig.write(
        tmp_path / serial,
        serial=serial,
        name=f"Lobby {serial}",
        address=installation.machines[serial],
        api_url=installation.machine_api,
        token=installation.tokens[serial],
        rdp_port=0,
        fault="E17",
    )
    with SimulatedMachine(config) as machine:
        yield machine


@pytest.fixture(scope="package")
def _signed_in() -> dict[str, Any]:
    """The cookies of those who have signed in; a password is checked slowly on purpose."""
    return {}


@pytest.fixture
def sign_in(
    installation: Installation, browser: Browser, _signed_in: dict[str, Any]
) -> Iterator[Callable[..., Person]]:
    """Gives a person a browser of their own, signed in with their password (once a run) and with the queue open."""
    contexts: list[BrowserContext] = []
    people: list[Person] = []

    def enter(name: str, **options: Any) -> Person:
        cookies = _signed_in.get(name)
        context = browser.new_context(viewport={"width": 1440, "height": 900}, storage_state=cookies, **options)
        contexts.append(context)
        person = Person(name, context, installation.address)
        people.append(person)
        if cookies is None:
            person.sign_in(installation.password)
            _signed_in[name] = context.storage_state()
        person.open_queue()
        return person

    yield enter
    complaints = [f"{person.name}: {complaint}" for person in people for complaint in person.complaints]
    for context in contexts:
        context.close()
    assert complaints == [], "a page raised an error, opened a dialog or broke the content security policy"
