"""How a delivery's row changes while it is sent: guarded UPDATEs, so that of several senders one has it.

pending → sent, failed or expired. A lease says which sender has it just now, and `tries` counts the leases: a row that
was leased once may have arrived, whatever is known of it. Single UPDATEs for many rows, and on SQLite no transaction
around them: nobody else can write while one lasts.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db.models import F, Q, QuerySet

from machines.models import Operator, User
from notifications import bell, outbox, push_shares, row_locks, subscriptions
from notifications.channels.base import DeliveryError, Lane, Parcel
from notifications.models import Delivery, PushDevice

# Longer than the longest send (channels.base.LONGEST_SEND_S) and the wait for the database after it.
LEASE = timedelta(seconds=30)
MAX_REFUSALS = 5
# A clock or key of ours that is wrong makes push services refuse every device: that is found within a day.
REFUSED_FOR = timedelta(days=1)
MAX_FORGOTTEN = 500
_FIRST_DELAY_S, _LONGEST_DELAY_S = 1.0, 60.0
_SENT_TO_THE = timedelta(minutes=1)

State = Delivery.State


@dataclass(frozen=True, slots=True)
class Result:
    """What became of one leased row; without an error it was handed over."""

    delivery: Delivery
    error: DeliveryError | None = None


def lease(
    lanes: Mapping[str, Lane],
    free: Mapping[str, int],
    *,
    owner: str,
    now: datetime,
    hanging: Collection[int] = (),
    rooms: Mapping[str, int] | None = None,
) -> list[Delivery]:
    """Takes what is due, as many rows a channel as there are free places in its lane.

    What else is for the `hanging` devices waits: however much there is, it takes no place from anybody.
    `rooms` are what push services take that have something on its way (`push_shares`).
    """
    due: list[UUID] = []
    for channel in lanes:
        if (places := free.get(channel, 0)) > 0:
            rows = Delivery.objects.filter(_unleased(now), channel=channel, state=State.PENDING, next_try_at__lte=now)
            rows = rows.filter(expires_at__gt=now).exclude(device__in=hanging)
            rows = rows.order_by("next_try_at")
            if channel == Delivery.Channel.WEB_PUSH:
                due += push_shares.next_ones(rows, places, rooms or {})
            else:
                due += rows.values_list("pk", flat=True)[:places]
    if not due:
        return []
    until = now + LEASE
    unleased = Delivery.objects.filter(_unleased(now), state=State.PENDING)
    row_locks.update_free(unleased, due, lease_owner=owner, lease_until=until, tries=F("tries") + 1)
    return list(
        Delivery.objects.filter(pk__in=due, state=State.PENDING, lease_owner=owner, lease_until=until)
        .select_related("recipient__operator", "device__subscription")
        .order_by("next_try_at")
    )


def keep_wanted(leased: Sequence[Delivery], *, owner: str, now: datetime) -> list[Delivery]:
    """Withdraws, before anything is sent, the leased rows that nobody wants any more; the others."""
    verdicts: dict[tuple[UUID | None, str, int | None], bool] = {}
    wanted: list[Delivery] = []
    unwanted: list[Delivery] = []
    for delivery in leased:
        about = (delivery.subject, delivery.kind, delivery.recipient_id)
        if about not in verdicts:
            verdicts[about] = outbox.is_wanted(delivery)
        (wanted if verdicts[about] else unwanted).append(delivery)
    if unwanted:
        words = "Taken back: it was no longer needed."
        row_locks.update(
            _leased(unwanted, owner), state=State.WITHDRAWN, ended_at=now, tries=F("tries") - 1, outcome=words
        )
    return wanted


def parcel_of(delivery: Delivery) -> Parcel:
    """What its channel needs. Raises DeliveryError when there is nobody (any more) whom it may go to."""
    person, device = delivery.recipient, delivery.device
    if person is None and not delivery.address:
        raise DeliveryError("The person's account was removed.", permanent=True)
    if person is not None and not person.is_active:
        raise DeliveryError("The person's account is switched off.", permanent=True)
    address = delivery.address
    if delivery.channel == Delivery.Channel.WEB_PUSH:
        if device is None or person is None or device.user_id != person.pk:
            raise DeliveryError("The device was removed.", permanent=True)
        if device.disabled_at is not None:
            raise DeliveryError(device.last_problem or "The device is switched off.", permanent=True)
    elif person is not None:
        address = person.email if delivery.channel == Delivery.Channel.EMAIL else _phone_of(person)
    subscription = device.subscription if device is not None else None
    return Parcel(
        id=delivery.pk,
        kind=delivery.kind,
        title=delivery.title,
        body=delivery.body,
        url=str(delivery.payload.get("url", "")),
        tag=str(delivery.payload.get("tag", "")),
        expires_at=delivery.expires_at,
        created_at=delivery.created_at,
        subject=str(delivery.subject or ""),
        actions=tuple(delivery.payload.get("actions", ())),
        urgency=str(delivery.payload.get("urgency", "high")),
        is_silent=delivery.is_silent,
        address=address,
        endpoint=subscription.endpoint if subscription else "",
        p256dh=subscription.p256dh if subscription else "",
        auth=subscription.auth if subscription else "",
    )


def settle(results: Sequence[Result], lanes: Mapping[str, Lane], *, owner: str, now: datetime) -> None:
    """Notes what became of leased rows; those that were withdrawn meanwhile stay so, and what replaces them is due."""
    sent = [result.delivery for result in results if result.error is None]
    for channel in {delivery.channel for delivery in sent}:
        rows = [delivery for delivery in sent if delivery.channel == channel]
        words = lanes[channel].words if channel in lanes else "It was taken."
        changed = row_locks.update(
            _leased(rows, owner),
            state=State.SENT, sent_at=now, ended_at=now, outcome=words, lease_owner="", lease_until=None,
        )  # fmt: skip
        if changed < len(rows):
            _make_replacements_due(rows, now=now)
    _note_good_devices(sent, now=now)
    for result in results:
        if result.error is not None:
            _settle_failure(result.delivery, result.error, owner=owner, now=now)


def give_back(deliveries: Sequence[Delivery], *, owner: str) -> None:
    """Frees rows whose sending was broken off; they may have arrived."""
    if deliveries:
        row_locks.update(_leased(deliveries, owner), lease_owner="", lease_until=None)


def expire(*, now: datetime) -> int:
    """Ends what is of no use any more; of what is just being sent, its sender says what became of it."""
    late = Delivery.objects.filter(_unleased(now), state=State.PENDING, expires_at__lte=now)
    return row_locks.update(late, state=State.EXPIRED, ended_at=now, outcome="It could not be sent in time.")


def forget_old(*, now: datetime) -> int:
    """Deletes what ended more than MESSAGES_KEPT_DAYS ago, the oldest first and few at a time; how many rows.

    On SQLite nobody writes meanwhile: a whole year's rows would take as long as a press may.
    """
    old = Delivery.objects.filter(ended_at__lt=now - timedelta(days=settings.MESSAGES_KEPT_DAYS))
    keys = list(old.order_by("ended_at").values_list("pk", flat=True)[:MAX_FORGOTTEN])
    return row_locks.delete_free(old, keys) if keys else 0


def back_off_s(tries: int) -> float:
    """Seconds until the next try: 1, 2, 4 … 60, each up to half as long again, so that not all come at once."""
    delay_s = min(_FIRST_DELAY_S * 2.0 ** min(max(tries - 1, 0), 10), _LONGEST_DELAY_S)
    return delay_s * random.uniform(1, 1.5)


def _settle_failure(delivery: Delivery, error: DeliveryError, *, owner: str, now: datetime) -> None:
    row = _leased([delivery], owner)
    words = str(error)[:280]
    if error.permanent:
        # The device first: who dies between the two asks its push service once more.
        if delivery.device is not None and delivery.channel == Delivery.Channel.WEB_PUSH:
            _note_bad_device(delivery.device, error, now=now)
        changed = row.update(state=State.FAILED, ended_at=now, outcome=words, lease_owner="", lease_until=None)
    else:
        delay_s = back_off_s(delivery.tries)
        if error.retry_after_s is not None:
            delay_s = max(delay_s, error.retry_after_s)
        next_try_at = now + timedelta(seconds=delay_s)
        if next_try_at >= delivery.expires_at:
            # Whoever waits for it learns at once that it will not arrive.
            changed = row.update(
                state=State.EXPIRED,
                ended_at=now,
                outcome=f"Not sent in time: {words}",
                lease_owner="",
                lease_until=None,
            )
        else:
            changed = row.update(next_try_at=next_try_at, outcome=words, lease_owner="", lease_until=None)
        if delivery.device is not None and delivery.device.last_problem != words[:200]:
            PushDevice.objects.filter(pk=delivery.device.pk).update(last_problem=words[:200])
    if not changed:
        _make_replacements_due([delivery], now=now)


def _note_good_devices(sent: Iterable[Delivery], *, now: datetime) -> None:
    stale = [
        device.pk
        for device in (delivery.device for delivery in sent)
        if device is not None
        and (
            device.failures
            or device.last_problem
            or not device.last_sent_at
            or device.last_sent_at < now - _SENT_TO_THE
        )
    ]
    if stale:
        PushDevice.objects.filter(pk__in=stale).update(last_sent_at=now, failures=0, last_problem="")


def _note_bad_device(device: PushDevice, error: DeliveryError, *, now: datetime) -> None:
    rows = PushDevice.objects.filter(pk=device.pk, disabled_at=None)
    if error.is_gone:
        # It stays in its owner's list: who believes that it calls must read that it does not.
        rows.update(disabled_at=now, last_problem=subscriptions.GONE)
        return
    rows.update(failures=F("failures") + 1, last_problem=str(error)[:200])
    words = f"Switched off after {MAX_REFUSALS} refusals in a row: {error}"
    took_nothing = Q(last_sent_at=None) | Q(last_sent_at__lte=now - REFUSED_FOR)
    rows.filter(took_nothing, failures__gte=MAX_REFUSALS).update(disabled_at=now, last_problem=words[:200])


def _make_replacements_due(deliveries: Iterable[Delivery], *, now: datetime) -> None:
    keys = [outbox.replacement_key(delivery.pk) for delivery in deliveries]
    if Delivery.objects.filter(key__in=keys, state=State.PENDING, next_try_at__gt=now, tries=0).update(next_try_at=now):
        bell.ring()


def _phone_of(person: User) -> str:
    """Without a query: `lease` has fetched the operator, if there is one."""
    operator: Operator | None = getattr(person, "operator", None)
    return operator.phone if operator is not None else ""


def _unleased(now: datetime) -> Q:
    return Q(lease_until=None) | Q(lease_until__lte=now)


def _leased(deliveries: Sequence[Delivery], owner: str) -> QuerySet[Delivery]:
    return Delivery.objects.filter(pk__in=[one.pk for one in deliveries], lease_owner=owner, state=State.PENDING)
