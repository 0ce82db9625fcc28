"""Which gateway may reach which machine: told from the rows, for the firewall of the VPN."""

from __future__ import annotations

import pytest
from django.utils import timezone

from machines import passages
from machines.passages import Passage
from sessions import selectors, services
from sessions.models import Gateway, SupportSession
from sessions.states import EndReason
from tests.sessions import rescues

pytestmark = pytest.mark.django_db


def _gateway(session: SupportSession, state: str = "ready", /, **values: object) -> Gateway:
    return Gateway.objects.create(session=session, driver="local", state=state, **values)


def test_live_gateway_of_an_open_rescue_has_its_machines_port() -> None:
    session = rescues.press("A1")
    _gateway(session, host="127.0.0.1", port=4822, handle={"pid": 7, "uid": 61003})
    assert selectors.passages() == [Passage("uid:61003", session.machine.vpn_address, 3390)]
    assert passages.wanted() == frozenset(selectors.passages())


def test_gateway_on_another_computer_is_known_by_its_address() -> None:
    session = rescues.press("A1")
    _gateway(session, host="10.88.0.2", port=4822)
    assert selectors.passages() == [Passage("10.88.0.2", session.machine.vpn_address, 3390)]


def test_rescue_that_is_over_has_no_passage() -> None:
    session = rescues.press("A1")
    _gateway(session, handle={"uid": 61003})
    services.end(session, EndReason.CANCELLED, detail="", now=timezone.now())
    assert selectors.passages() == []


@pytest.mark.parametrize("state", ["stopping", "stopped"])
def test_gateway_that_was_given_up_has_no_passage(state: str) -> None:
    _gateway(rescues.press("A1"), state, handle={"uid": 61003})
    assert selectors.passages() == []


@pytest.mark.parametrize("values", [{}, {"host": "guacd.example"}, {"handle": {"uid": 0}}])
def test_gateway_that_no_rule_can_hold_has_no_passage_and_harms_no_other(values: dict[str, object]) -> None:
    _gateway(rescues.press("A1"), **values)
    other = rescues.press("A2")
    _gateway(other, handle={"uid": 61004})
    assert selectors.passages() == [Passage("uid:61004", other.machine.vpn_address, 3390)]


def test_gateway_in_the_vpn_comes_from_its_address_there() -> None:
    session = rescues.press("A1")
    _gateway(session, host="10.0.1.2", port=4822, handle={"task": "arn", "vpn_address": "10.77.0.9"})
    assert selectors.passages() == [Passage("10.77.0.9", session.machine.vpn_address, 3390)]


def test_identities_in_the_vpn_count_while_the_gateways_row_lives() -> None:
    row = _gateway(rescues.press("A1"), "wanted")
    assert selectors.live_attempts() == [str(row.pk)]
    for state in ("stopping", "stopped"):
        Gateway.objects.filter(pk=row.pk).update(state=state)
        assert selectors.live_attempts() == []
