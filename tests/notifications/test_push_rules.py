"""Where pushes may go, and what is said about addresses that they may not go to (T17)."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Iterator
from datetime import timedelta
from typing import Any
from uuid import uuid4

import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from django.utils import timezone
from pytest_django.fixtures import Settings

from notifications.channels.base import DeliveryError, Parcel
from notifications.channels.public_resolver import InwardAddress, PublicResolver, is_public
from notifications.channels.web_push import WebPush
from notifications.push_rules import (
    DEFAULT_SERVICES,
    EndpointRefused,
    check_endpoint,
    check_vapid_key,
    parse_services,
)
from tests.fakes.push_service import Answer, Browser, PushService
from tests.notifications.posting import VAPID_PRIVATE_KEY
from tests.waiting import until

SERVICES = DEFAULT_SERVICES.split(",")
GOOD = [
    "https://fcm.googleapis.com/fcm/send/abc:APA91b-_x",
    "https://FCM.googleapis.com/fcm/send/abc",
    "https://fcm.googleapis.com:443/fcm/send/abc",
    "https://updates.push.services.mozilla.com/wpush/v2/gAAA",
    "https://wns2-par02p.notify.windows.com/w/?token=BQYAAA%2b",
    "https://web.push.apple.com/QGuQ",
]
BAD = [
    "http://169.254.169.254/latest/meta-data/",
    "https://169.254.169.254/latest/meta-data/",
    "https://localhost/x",
    "https://127.0.0.1/x",
    "https://2130706433/x",
    "https://0x7f000001/x",
    "https://0177.0.0.1/x",
    "https://127.1/x",
    "https://[::1]/x",
    "https://[::ffff:127.0.0.1]/x",
    "https://[fe80::1%25eth0]/x",
    "http://fcm.googleapis.com/x",
    "ftp://fcm.googleapis.com/x",
    "//fcm.googleapis.com/x",
    "https:fcm.googleapis.com/x",
    "https://fcm.googleapis.com",
    "https://fcm.googleapis.com:22/x",
    "https://fcm.googleapis.com:80/x",
    "https://fcm.googleapis.com:0/x",
    "https://fcm.googleapis.com:99999/x",
    "https://fcm.googleapis.com:/x",
    "https://fcm.googleapis.com./x",
    "https://user@fcm.googleapis.com/x",
    "https://fcm.googleapis.com@127.0.0.1/x",
    "https://127.0.0.1#@fcm.googleapis.com/x",
    "https://127.0.0.1\\@fcm.googleapis.com/x",
    "https://fcm.googleapis.com\\@127.0.0.1/x",
    "https://127.0.0.1?@fcm.googleapis.com/x",
    "https://fcm.googleapis.com.evil.example/x",
    "https://evilfcm.googleapis.com/x",
    "https://push.apple.com/x",
    "https://.push.apple.com/x",
    "https://-.push.apple.com/x",
    "https://a..push.apple.com/x",
    "https://evil.example/.push.apple.com/x",
    "https://evilpush.apple.com/x",
    "https://fcm.googleapis.com/x#fragment",
    "https://fcm.googleapis.com/a b",
    "https://fcm.googleapis.com/\r\nHost: evil",
    "https://fcm.google\tapis.com/x",
    "https://fcm。googleapis。com/x",
    "https://ｆcm.googleapis.com/x",
    " https://fcm.googleapis.com/x",
    "javascript:alert(1)",
    "",
    "https://fcm.googleapis.com/" + "x" * 500,
]


@pytest.fixture
def listener() -> Iterator[tuple[int, list[Any]]]:
    """A socket on this computer: its port, and who connected."""
    met: list[Any] = []
    server = socket.create_server(("127.0.0.1", 0))

    def accept() -> None:
        while True:
            try:
                met.append(server.accept())
            except OSError:
                return

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    yield server.getsockname()[1], met
    server.shutdown(socket.SHUT_RDWR)
    server.close()
    thread.join(5)


class Names(AbstractResolver):
    """A name server of one's own: each look-up gets the next answer, the last one for ever."""

    def __init__(self, *answers: str) -> None:
        self.answers, self.asked = list(answers), 0

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        self.asked += 1
        address = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        kind = socket.AF_INET6 if ":" in address else socket.AF_INET
        return [{"hostname": host, "host": address, "port": port, "family": kind, "proto": 0, "flags": 0}]

    async def close(self) -> None:
        return


def parcel(browser: Browser, endpoint: str = "") -> Parcel:
    now = timezone.now()
    return Parcel(
        id=uuid4(), kind="asked", title="Help", body="", url="/", tag="t", created_at=now,
        expires_at=now + timedelta(minutes=1), endpoint=endpoint or browser.endpoint,
        p256dh=browser.p256dh, auth=browser.auth,
    )  # fmt: skip


async def nobody_came(listener: tuple[int, list[Any]]) -> None:
    port, met = listener
    # A connection made just now would be taken before this one.
    socket.create_connection(("127.0.0.1", port)).close()
    await asyncio.to_thread(until, lambda: met, "the last connection was taken")
    assert len(met) == 1


@pytest.mark.parametrize("endpoint", GOOD)
def test_the_known_push_services_are_taken(endpoint: str) -> None:
    found = check_endpoint(endpoint, SERVICES)
    assert found.origin == f"https://{found.host}" and found.host == found.host.lower()


@pytest.mark.parametrize("endpoint", BAD)
def test_address_elsewhere_or_ambiguous_is_refused(endpoint: str) -> None:
    with pytest.raises(EndpointRefused):
        check_endpoint(endpoint, SERVICES)


def test_http_and_this_computer_count_only_as_they_are_written_out() -> None:
    services = ["http://127.0.0.1:8099"]
    assert check_endpoint("http://127.0.0.1:8099/push/x", services).may_be_inside
    for other in ("http://127.0.0.1:8098/push/x", "https://127.0.0.1:8099/push/x", "http://localhost:8099/push/x"):
        with pytest.raises(EndpointRefused):
            check_endpoint(other, services)


@pytest.mark.parametrize(
    "entry", ["push.example.com", "https://*", "https://*.com", "http://*.example.com", "https://*.example.com:444",
              "https://a.example/x", "https://u@a.example", "https://A.example", "https://a.example:99999", "https://[::1]"],
)  # fmt: skip
def test_setting_that_cannot_be_meant_is_refused_by_name(entry: str) -> None:
    with pytest.raises(ValueError, match="found '"):
        parse_services((entry,))


@pytest.mark.parametrize(
    "key", ["short", "!" * 43, "A" * 43, VAPID_PRIVATE_KEY + "AA"], ids=["short", "strange", "As", "long"]
)
def test_vapid_key_that_is_none_is_refused_without_showing_it(key: str) -> None:
    with pytest.raises(ValueError) as refused:
        check_vapid_key(key)
    assert key not in str(refused.value)
    assert check_vapid_key(VAPID_PRIVATE_KEY) == VAPID_PRIVATE_KEY


@pytest.mark.parametrize(
    "address",
    ["127.0.0.1", "10.0.0.1", "100.64.0.1", "169.254.169.254", "192.168.1.1", "0.0.0.0", "224.0.0.1", "255.255.255.255",
     "::1", "::", "fe80::1%eth0", "fd00::1", "ff02::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "64:ff9b::7f00:1",
     "64:ff9b::a9fe:a9fe", "2002:7f00:1::", "fec0::1", "no address"],
)  # fmt: skip
def test_inward_addresses_are_not_public_however_they_are_wrapped(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["142.250.180.10", "2a00:1450:4002:402::200a", "::ffff:142.250.180.10"])
def test_addresses_of_the_internet_are_public(address: str) -> None:
    assert is_public(address)


async def test_rebinding_name_is_looked_at_each_time() -> None:
    resolver = PublicResolver(inner=Names("142.250.180.10", "127.0.0.1"))
    assert (await resolver.resolve("push.example.com", 443))[0]["host"] == "142.250.180.10"
    with pytest.raises(InwardAddress):
        await resolver.resolve("push.example.com", 443)


async def test_name_that_leads_inward_is_never_connected_to(
    listener: tuple[int, list[Any]], settings: Settings
) -> None:
    """The second answer of a rebinding name; the first, a public one, was for whoever looked before."""
    port, _ = listener
    settings.VAPID_PRIVATE_KEY = VAPID_PRIVATE_KEY
    settings.PUSH_SERVICES = [f"https://push.example.com:{port}"]
    for address in ("127.0.0.1", "::ffff:127.0.0.1"):
        names = Names(address)
        channel = WebPush(resolver=names)
        with PushService() as service, pytest.raises(DeliveryError, match="not public") as refused:
            await channel.send(parcel(service.browser(), f"https://push.example.com:{port}/x"))
        await channel.close()
        assert refused.value.permanent and names.asked
    await nobody_came(listener)


async def test_address_kept_from_former_rules_is_looked_at_again_before_sending(
    listener: tuple[int, list[Any]], settings: Settings
) -> None:
    port, _ = listener
    settings.VAPID_PRIVATE_KEY = VAPID_PRIVATE_KEY
    settings.PUSH_SERVICES = SERVICES
    channel = WebPush(resolver=Names("127.0.0.1"))
    with PushService() as service:
        browser = service.browser()
    for endpoint in (f"http://127.0.0.1:{port}/x", f"https://localhost:{port}/x", f"https://2130706433:{port}/x"):
        with pytest.raises(DeliveryError) as refused:
            await channel.send(parcel(browser, endpoint))
        assert refused.value.permanent
    await channel.close()
    await nobody_came(listener)


async def test_redirect_is_not_followed(push_service: PushService, listener: tuple[int, list[Any]]) -> None:
    port, _ = listener
    channel = WebPush()
    for status in (301, 302, 303, 307, 308):
        moved = push_service.browser(always=Answer(status, {"Location": f"http://127.0.0.1:{port}/inside"}))
        with pytest.raises(DeliveryError, match="redirects are not followed") as refused:
            await channel.send(parcel(moved))
        assert refused.value.permanent
    await channel.close()
    await nobody_came(listener)
