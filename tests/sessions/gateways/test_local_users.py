"""With GATEWAY_UIDS each local gateway is a user of its own, which is how the VPN's firewall knows it."""

from __future__ import annotations

import os
import subprocess
import uuid
from collections.abc import Iterator

import pytest
from pytest_django.fixtures import Settings

from sessions.gateways import processes
from sessions.gateways.base import GatewayError, GatewayRequest
from sessions.gateways.local import LocalGateways
from tests.sessions.gateways.conftest import new_request

pytestmark = [pytest.mark.real, pytest.mark.skipif(os.getuid() != 0, reason="only root can start programs as others")]
UIDS = range(61100, 61103)


@pytest.fixture
def local(settings: Settings) -> Iterator[LocalGateways]:
    settings.INSTALLATION = f"test-{uuid.uuid4()}"
    settings.GATEWAY_UIDS = UIDS
    driver = LocalGateways()
    yield driver
    for attempt_id in driver.running():
        driver.stop(attempt_id, {})
    for file in (".lock", ".last-uid"):
        (driver._folder / file).unlink(missing_ok=True)
    if driver._folder.exists():
        driver._folder.rmdir()


def _users_of(request: GatewayRequest) -> set[int]:
    # guacd's process for the look whether it can do RDP may just be going.
    users = {processes.user_of(one.pid) for one in processes.find(PORTAFILTER_GATEWAY=request.attempt_id)}
    return {user for user in users if user is not None}


def test_each_gateway_is_a_user_of_its_own_and_the_handle_says_which(local: LocalGateways) -> None:
    first, second = new_request(), new_request()
    handles = [local.start(request).handle for request in (first, second)]
    assert [handle["uid"] for handle in handles] == [61100, 61101]
    assert (_users_of(first), _users_of(second)) == ({61100}, {61101})
    described = local.describe(first.attempt_id, {})
    assert described.handle["uid"] == 61100


def test_gateway_keeps_no_group_of_ours(local: LocalGateways) -> None:
    request = new_request()
    status = local.start(request)
    with open(f"/proc/{status.handle['pid']}/status", encoding="ascii") as file:
        rows = dict(line.split(":", 1) for line in file if ":" in line)
    assert rows["Uid"].split() == ["61100"] * 4
    assert rows["Gid"].split() == ["61100"] * 4
    assert rows["Groups"].split() in ([], ["61100"])


def test_user_of_a_gateway_that_ended_is_the_last_to_be_taken_again(local: LocalGateways) -> None:
    """Its passage may still be there for a moment."""
    first = new_request()
    local.stop(first.attempt_id, local.start(first).handle)
    assert [local.start(new_request()).handle["uid"] for _ in range(3)] == [61101, 61102, 61100]


def test_user_that_somebody_else_is_gets_no_gateway(local: LocalGateways) -> None:
    stranger = subprocess.Popen(["sleep", "600"], user=61100)
    try:
        assert local.start(new_request()).handle["uid"] == 61101
    finally:
        stranger.kill()
        stranger.wait()


def test_no_user_left_is_said(local: LocalGateways) -> None:
    for _ in UIDS:
        local.start(new_request())
    with pytest.raises(GatewayError, match="All 3 users of GATEWAY_UIDS"):
        local.start(new_request())
