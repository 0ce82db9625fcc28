"""The agent and the portal, together: what the one sends the other takes, also when answers get lost."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
from django.core.cache import cache

from agent import enrol as enrol_module
from agent.api import ApiError, json_object
from agent.config import AgentConfig
from agent.enrol import Enrolment, read_code
from machines import enrolment
from machines.models import Machine, SecurityEvent, VpnIdentity
from tests.machines.cast import new_machine
from tests.sessions.rescues import person

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("vpn")]


@pytest.fixture(autouse=True)
def _nobody_has_tried_yet() -> None:
    cache.clear()


def _at(live_server: Any, machine: Machine, folder: Path) -> Enrolment:
    code = enrolment.issue_code(machine, user=person("Alice")).text
    return Enrolment(live_server.url, read_code(code), folder / "agent.ini")


def test_agent_enrols_with_the_code_of_the_portal(
    live_server: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    machine = new_machine()
    answer = _at(live_server, machine, tmp_path).run()
    assert (answer.serial, answer.vpn_address) == (machine.serial, machine.vpn_address)
    config = AgentConfig.load(tmp_path / "agent.ini")
    assert config.vpn_profile is not None and config.token == answer.token
    certificate = config.vpn_profile.read_text().partition("<cert>\n")[2].partition("</cert>")[0]
    identity = VpnIdentity.objects.get(machine=machine)
    assert certificate == identity.certificate
    assert identity.private_key is None, "the key was never there"
    assert answer.token not in caplog.text


def test_agent_whose_answer_got_lost_gets_the_same_and_nobody_is_alarmed(
    live_server: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = new_machine()
    enrolling = _at(live_server, machine, tmp_path)
    monkeypatch.setattr(enrol_module, "GIVE_UP_AFTER_S", 0.0)
    monkeypatch.setattr("agent.enrol.json_object", lambda text: json_object(text[:100]))
    with pytest.raises(ApiError):
        enrolling.run()
    monkeypatch.undo()
    answer = enrolling.run()
    machine.refresh_from_db()
    assert machine.frozen_at is None and VpnIdentity.objects.filter(machine=machine, revoked_at=None).count() == 1
    assert answer.serial == machine.serial


def test_second_machine_with_the_same_code_is_refused_in_words(live_server: Any, tmp_path: Path) -> None:
    machine = new_machine()
    first = _at(live_server, machine, tmp_path / "first")
    first.run()
    with pytest.raises(ApiError, match=f"answered 403: .*{machine.serial} is frozen"):
        Enrolment(first.origin, first.code, tmp_path / "second" / "agent.ini").run()
    assert SecurityEvent.objects.filter(machine=machine, kind="enrolment_reused").exists()
    assert not (tmp_path / "second" / "agent.ini").exists()
