"""Of several senders one has a row; and a row is looked at once more before it is sent."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from django.db import connection
from django.test.utils import CaptureQueriesContext
from django.utils import timezone
from pytest_django.fixtures import Settings

from machines.models import User
from notifications import delivery_rows, push_shares, sender
from notifications.channels.base import LONGEST_SEND_S, DeliveryError, Lane, lanes
from notifications.models import Delivery, PushDevice
from tests.fakes.push_service import Answer, Browser
from tests.notifications.posting import VAPID_PRIVATE_KEY, post, subscribe
from tests.sessions.rescues import person

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _has_web_push(settings: Settings) -> None:
    settings.VAPID_PRIVATE_KEY = VAPID_PRIVATE_KEY
    settings.PUSH_SERVICES = ["https://fcm.googleapis.com"]
    settings.NOTIFY_VIA = "direct"


def asked(name: str = "Alice") -> Delivery:
    user = person(name)
    subscribe(user, Browser(f"https://fcm.googleapis.com/{name}", [], Answer()))
    (row,) = post(user)
    return row


def lease(owner: str, *, places: int = 10, after_s: float = 0) -> list[Delivery]:
    now = timezone.now() + timedelta(seconds=after_s)
    return delivery_rows.lease(lanes(), {"web_push": places}, owner=owner, now=now)


def test_row_is_one_senders_until_its_lease_ends() -> None:
    row = asked()
    assert lease("first") == [row]
    assert lease("second") == [] == lease("first")
    assert lease("second", after_s=31) == [row]
    row.refresh_from_db()
    assert (row.lease_owner, row.tries) == ("second", 2)


def test_sender_that_looked_at_the_same_moment_gets_nothing() -> None:
    """The other one leases between this one's look and its UPDATE."""
    row = asked()
    others: list[list[Delivery]] = []

    def between(execute: Callable[..., Any], sql: str, *arguments: Any) -> Any:
        if sql.startswith("UPDATE") and not others:
            others.append([])
            others[0] = lease("quick")
        return execute(sql, *arguments)

    with connection.execute_wrapper(between):
        assert lease("slow") == []
    assert others == [[row]]


def test_late_word_of_a_sender_that_lost_its_lease_counts_nothing() -> None:
    asked()
    (first,) = lease("first")
    (second,) = lease("second", after_s=31)
    gone = DeliveryError("Too late.", permanent=True)
    delivery_rows.settle([delivery_rows.Result(first, gone)], lanes(), owner="first", now=timezone.now())
    second.refresh_from_db()
    assert (second.state, second.lease_owner) == ("pending", "second")


def test_no_more_is_leased_than_there_are_places() -> None:
    for name in ("Alice", "Bob", "Carla"):
        asked(name)
    assert len(lease("first", places=2)) == 2
    assert len(lease("second", places=0)) == 0
    assert len(lease("second", places=2)) == 1


SERVICES = {"https://fcm.googleapis.com": "f", "https://updates.push.services.mozilla.com": "m"}


@pytest.fixture
def waiting(settings: Settings) -> Callable[[str], None]:
    """Messages wait in this order: `f` is one at the one service, `m` at the other."""
    settings.PUSH_SERVICES = list(SERVICES)

    def post_all(order: str) -> None:
        alice, now = person("Alice"), timezone.now() - timedelta(minutes=1)
        origins = {letter: origin for origin, letter in SERVICES.items()}
        for number, letter in enumerate(order):
            subscribe(alice, Browser(f"{origins[letter]}/{number}", [], Answer()))
        rows = {row.device_id: row for row in post(alice)}
        for number, device in enumerate(PushDevice.objects.order_by("id")):
            row = rows[device.pk]
            Delivery.objects.filter(pk=row.pk).update(next_try_at=now + timedelta(seconds=number))

    return post_all


@pytest.mark.parametrize(
    ("order", "rooms", "leased"),
    [
        ("f" * 9 + "m" * 5, {}, "fffmmm"),
        ("f" * 9 + "m", {}, "fffffm"),
        ("f" * 9, {}, "ffffff"),
        ("fffm", {}, "fffm"),
        ("f" * 9 + "m" * 5, {"f": 0}, "mmmmm"),
        ("f" * 9 + "m" * 5, {"f": 2}, "ffmmmm"),
        ("f" * 9 + "m" * 2, {"f": 4, "m": 1}, "ffffm"),
        ("f" * 4 + "m", {"f": 2}, "ffm"),
        ("f" * 9, {"f": -3}, ""),
    ],
)
def test_push_service_gets_its_room_and_half_of_the_places_while_others_wait(
    waiting: Callable[[str], None], order: str, rooms: dict[str, int], leased: str
) -> None:
    waiting(order)
    of_origins = {origin: rooms[letter] for origin, letter in SERVICES.items() if letter in rooms}
    rows = delivery_rows.lease(lanes(), {"web_push": 6}, owner="first", now=timezone.now(), rooms=of_origins)
    found = [SERVICES[push_shares.origin_of(row.device.subscription.endpoint)] for row in rows if row.device]
    assert "".join(sorted(found)) == leased


def test_push_service_at_which_much_hangs_keeps_half_of_all_places_free() -> None:
    lane = Lane("", at_once=8, most=32, words="")
    good, bad = "https://good.example/1", "https://bad.example/1"

    def room(young: int, hanging: int) -> int:
        begun = [(good, False), *[(bad, False)] * young, *[(bad, True)] * hanging]
        found = push_shares.rooms(lane, begun)
        assert found["https://good.example"] == 7
        return found["https://bad.example"]

    assert [room(3, 0), room(8, 0), room(0, 3)] == [5, 0, 8]
    assert [room(0, 4), room(3, 8), room(0, 14), room(2, 14), room(0, 16)] == [4, 1, 2, 0, 0]


def test_lease_outlasts_the_longest_send() -> None:
    longest = LONGEST_SEND_S + sender._LAST_SENDS_S
    assert delivery_rows.LEASE.total_seconds() > longest


@pytest.mark.parametrize("change", ["device", "owner", "disabled", "person", "removed"])
def test_what_changed_since_posting_is_seen_before_sending(change: str) -> None:
    row = asked()
    (leased,) = lease("first")
    assert delivery_rows.parcel_of(leased).endpoint.endswith("/Alice")
    devices = PushDevice.objects.all()
    match change:
        case "device":
            devices.delete()
        case "owner":
            devices.update(user=person("Bob"))
        case "disabled":
            devices.update(disabled_at=timezone.now())
        case "person":
            User.objects.update(is_active=False)
        case "removed":
            person("Alice").delete()
    Delivery.objects.update(lease_until=None)
    (leased,) = lease("second")
    assert leased.pk == row.pk
    with pytest.raises(DeliveryError) as refused:
        delivery_rows.parcel_of(leased)
    assert refused.value.permanent and str(refused.value).endswith(".")


def ended(count: int, *, days_ago: float, state: str = "sent") -> None:
    at = timezone.now() - timedelta(days=days_ago)
    values = {"kind": "asked", "channel": "email", "title": "Help", "next_try_at": at, "expires_at": at}
    Delivery.objects.bulk_create(
        Delivery(
            **values, key=uuid.uuid4().hex, state=state, created_at=at, ended_at=None if state == "pending" else at
        )
        for _ in range(count)
    )


def test_what_ended_long_ago_is_forgotten_few_at_a_time(monkeypatch: pytest.MonkeyPatch, settings: Settings) -> None:
    monkeypatch.setattr(delivery_rows, "MAX_FORGOTTEN", 4)
    for state in ("sent", "failed", "expired", "withdrawn"):
        ended(2, days_ago=91, state=state)
    ended(1, days_ago=500, state="pending")
    ended(3, days_ago=89)
    assert [delivery_rows.forget_old(now=timezone.now()) for _ in range(3)] == [4, 4, 0]
    assert Delivery.objects.count() == 4
    settings.MESSAGES_KEPT_DAYS = 7
    assert delivery_rows.forget_old(now=timezone.now()) == 3
    assert set(Delivery.objects.values_list("state", flat=True)) == {"pending"}


def test_old_messages_are_found_by_an_index() -> None:
    with CaptureQueriesContext(connection) as queries:
        delivery_rows.forget_old(now=timezone.now())
    assert len(queries) == 1, "nothing is written where nothing is old"
    with connection.cursor() as cursor:
        if connection.vendor == "postgresql":
            cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute(f"EXPLAIN {'' if connection.vendor == 'postgresql' else 'QUERY PLAN '}{queries[0]['sql']}")
        plan = str(cursor.fetchall())
    assert "deliveries_ended" in plan, plan


def test_back_off_grows_to_a_minute_and_is_never_the_same_for_all() -> None:
    for tries, expected_s in ((1, 1), (2, 2), (5, 16), (7, 60), (500, 60)):
        delays = [delivery_rows.back_off_s(tries) for _ in range(20)]
        assert all(expected_s <= delay_s <= expected_s * 1.5 for delay_s in delays)
        assert len(set(delays)) > 1
