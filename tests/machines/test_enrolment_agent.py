"""The machine's own agent enrols at the real server: both sides mean the same by the contract between them."""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache

from agent.enrol import Enrolment, read_code, read_where
from machines import enrolment, identities, services
from machines.models import VpnIdentity
from tests.machines.cast import new_machine
from tests.sessions.rescues import person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("vpn")]


@pytest.fixture(autouse=True)
def _nobody_has_tried_yet() -> None:
    cache.clear()


def enrol(server: Any, code: str, folder: Path) -> Any:
    origin, _ = read_where(server.url)
    return Enrolment(origin=origin, code=read_code(code), config_path=folder / "agent.ini").run()


def test_agent_becomes_the_machine_that_the_code_was_made_for(live_server: Any, tmp_path: Path) -> None:
    machine = new_machine()
    code = enrolment.issue_code(machine, user=person("Alice")).text
    answer = enrol(live_server, code, tmp_path)
    assert (answer.serial, answer.vpn_address) == (machine.serial, machine.vpn_address)
    assert services.authenticate_machine(answer.token, peer_address=machine.vpn_address) == machine
    profile = tmp_path / "profile.ovpn"
    assert stat.S_IMODE(profile.stat().st_mode) == 0o600
    text = profile.read_text()
    assert "BEGIN PRIVATE KEY" in text or "BEGIN EC PRIVATE KEY" in text
    (identity,) = VpnIdentity.objects.all()
    assert identities.allow_list().machines[f"m-{machine.pk}"].fingerprints == {identity.sha256}


def test_agent_whose_answer_was_lost_asks_again_and_nothing_is_frozen(live_server: Any, tmp_path: Path) -> None:
    machine = new_machine()
    code = enrolment.issue_code(machine, user=person("Alice")).text
    agent = Enrolment(origin=live_server.url, code=read_code(code), config_path=tmp_path / "agent.ini")
    # The answer comes, and the machine loses its power before it is on the disk.
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Enrolment, "_write", lambda *_: (_ for _ in ()).throw(OSError("power")))
        with pytest.raises(OSError, match="power"):
            agent.run()
    answer = enrol(live_server, code, tmp_path)
    machine.refresh_from_db()
    assert machine.frozen_at is None
    assert answer.serial == machine.serial
    assert VpnIdentity.objects.count() == 1


def test_another_machine_with_the_same_code_is_refused_and_the_first_frozen(live_server: Any, tmp_path: Path) -> None:
    machine = new_machine()
    code = enrolment.issue_code(machine, user=person("Alice")).text
    enrol(live_server, code, tmp_path / "first")
    with pytest.raises(Exception, match="frozen"):
        enrol(live_server, code, tmp_path / "second")
    machine.refresh_from_db()
    assert machine.frozen_at is not None
