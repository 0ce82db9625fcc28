"""Browsers that ask for messages: taken, listed, named, tried and removed by their owner alone.

The one module that touches django-webpush: its rows are kept, its views and its sender are not used. They let anybody
join a group, send to any address, follow redirects and know no time-out (T17).

Whoever has an endpoint and both its keys has the browser: with them a subscription changes hands, as on a shared
computer; with the endpoint alone it does not.
"""

from __future__ import annotations

import base64
import hmac
from collections.abc import Collection
from datetime import datetime, timedelta
from functools import lru_cache
from hashlib import sha256

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from django.conf import settings
from django.db import IntegrityError, transaction
from django.db.models import QuerySet
from django.utils import timezone
from webpush.models import SubscriptionInfo

from machines.models import User
from notifications import outbox, wording
from notifications.errors import NoWebPush, SubscriptionRefused, SubscriptionTaken, TooManyDevices
from notifications.models import MAX_NAME_CHARS, Delivery, PushDevice
from notifications.push_rules import EndpointRefused, check_endpoint, decode_base64url

MAX_DEVICES = 20
# What its owner reads of a device that its push service says is gone.
GONE = "Its browser no longer takes messages. Switch it on again there."
_TEST_LASTS = timedelta(minutes=5)
_ONE_TEST_IN_S = 5


def subscribe(
    user: User, *, endpoint: str, p256dh: str, auth: str, browser: str, user_agent: str, name: str
) -> PushDevice:
    """Takes a browser's subscription for the user; the same one again changes its name and keys.

    Raises SubscriptionRefused (bad address or keys), SubscriptionTaken (another's, without its keys), TooManyDevices
    and NoWebPush.
    """
    if not settings.VAPID_PRIVATE_KEY:
        raise NoWebPush("This installation does not send messages to browsers: it has no VAPID_PRIVATE_KEY.")
    try:
        check_endpoint(endpoint, settings.PUSH_SERVICES)
    except EndpointRefused as error:
        raise SubscriptionRefused(str(error)) from error
    p256dh, auth = _checked_keys(p256dh, auth)
    browser = wording.one_line(browser)[:100]
    values = {"p256dh": p256dh, "auth": auth, "browser": browser, "user_agent": wording.one_line(user_agent)[:500]}
    name = _clean_name(name) or _clean_name(browser) or "Browser"
    try:
        return _take(user, endpoint, values, name)
    except IntegrityError:
        return _take(user, endpoint, values, name)  # at the same moment from another tab: now it is there


def devices_of(user: User) -> QuerySet[PushDevice]:
    """The user's own devices, the oldest first."""
    return PushDevice.objects.filter(user=user)


def rename(user: User, device_id: int, name: str) -> PushDevice:
    """Names a device of the user's. Raises PushDevice.DoesNotExist (another's, too) and SubscriptionRefused."""
    device = devices_of(user).get(pk=device_id)
    clean = _clean_name(name)
    if not clean:
        raise SubscriptionRefused("A device needs a name, as in: my phone.")
    device.name = clean
    device.save(update_fields=["name"])
    return device


def remove(user: User, device_id: int) -> None:
    """Removes a device of the user's, with its subscription. Raises PushDevice.DoesNotExist (another's, too)."""
    forget([devices_of(user).get(pk=device_id).pk])


def remove_endpoint(user: User, endpoint: str) -> bool:
    """Removes the user's device at this endpoint, as the browser itself knows it; False when there is none."""
    device = devices_of(user).filter(endpoint_sha256=_digest(endpoint)).first()
    if device is None:
        return False
    forget([device.pk])
    return True


def send_test(user: User, device_id: int, *, now: datetime | None = None) -> Delivery:
    """Sends one message to a device of the user's, however often it is asked for within some seconds.

    Raises PushDevice.DoesNotExist (another's, too) and SubscriptionRefused for a device that is switched off.
    """
    now = now or timezone.now()
    device = devices_of(user).get(pk=device_id)
    if device.disabled_at is not None:
        raise SubscriptionRefused(f"{device.last_problem} Remove it here and get messages on that device again.")
    message = outbox.Message(
        kind=Delivery.Kind.TEST,
        title="Messages arrive here",
        body=f"{device.name} will be told when somebody needs help.",
        url="/account/devices/",
        tag=f"test-{device.pk}",
        expires_at=now + _TEST_LASTS,
        fleet=None,
        actions=("open",),
    )
    with transaction.atomic():
        return outbox.post_to_device(
            message, device=device, key=f"test:{int(now.timestamp()) // _ONE_TEST_IN_S}", now=now
        )


def forget(device_ids: Collection[int]) -> None:
    """Removes devices and their subscriptions, whosever they are."""
    SubscriptionInfo.objects.filter(device__in=device_ids).delete()


def vapid_public_key() -> str:
    """What browsers subscribe with (applicationServerKey), base64url; empty where there is no Web Push."""
    return _public_key(settings.VAPID_PRIVATE_KEY) if settings.VAPID_PRIVATE_KEY else ""


def _take(user: User, endpoint: str, values: dict[str, str], name: str) -> PushDevice:
    with transaction.atomic():
        device = (
            PushDevice.objects.select_for_update(of=("self",))
            .select_related("subscription")
            .filter(endpoint_sha256=_digest(endpoint))
            .first()
        )
        if device is None or device.user_id != user.pk:
            _check_room(user)
        if device is None:
            # The same browser subscribes anew after it was gone: what its owner reads of that is over.
            gone = devices_of(user).filter(name=name, last_problem=GONE, disabled_at__isnull=False).first()
            forget([gone.pk] if gone else [])
            subscription = SubscriptionInfo.objects.create(endpoint=endpoint, **values)
            return PushDevice.objects.create(
                user=user, subscription=subscription, endpoint_sha256=_digest(endpoint), name=name
            )
        if device.user_id != user.pk:
            _check_has_browser(device, values)
        for field, value in values.items():
            setattr(device.subscription, field, value)
        device.subscription.save(update_fields=list(values))
        if device.user_id != user.pk:
            # What was meant for the one who had this browser is not shown to the next.
            outbox.withdraw_from_device(device, now=timezone.now())
        device.user, device.name = user, name
        device.failures, device.last_problem, device.disabled_at = 0, "", None
        device.save(update_fields=["user", "name", "failures", "last_problem", "disabled_at"])
        return device


def _check_room(user: User) -> None:
    if devices_of(user).count() >= MAX_DEVICES:
        gone = devices_of(user).filter(last_problem=GONE, disabled_at__isnull=False)
        forget(list(gone.values_list("pk", flat=True)))  # they take nobody's room
    if devices_of(user).count() >= MAX_DEVICES:
        raise TooManyDevices(f"You get messages on {MAX_DEVICES} devices already. Remove one that you do not use.")


def _check_has_browser(device: PushDevice, values: dict[str, str]) -> None:
    known = device.subscription
    has_keys = hmac.compare_digest(known.auth.encode(), values["auth"].encode()) and hmac.compare_digest(
        known.p256dh.encode(), values["p256dh"].encode()
    )
    if not has_keys:
        raise SubscriptionTaken("This subscription is somebody else's. Let the browser subscribe anew.")


def _checked_keys(p256dh: str, auth: str) -> tuple[str, str]:
    """Both keys in their one spelling: base64url without padding."""
    try:
        point, secret = decode_base64url(p256dh[:200]), decode_base64url(auth[:200])
        ec.EllipticCurvePublicKey.from_encoded_point(ec.SECP256R1(), point)
    except ValueError as error:
        raise SubscriptionRefused(
            "The subscription's key p256dh is no point of the curve P-256 in base64url."
        ) from error
    if len(point) != 65 or len(secret) != 16:
        raise SubscriptionRefused(
            f"The subscription's keys have {len(point)} and {len(secret)} bytes, expected 65 (p256dh) and 16 (auth)."
        )
    return _encode(point), _encode(secret)


def _clean_name(name: str) -> str:
    return wording.shorten(wording.one_line(name), max_chars=MAX_NAME_CHARS)


def _digest(endpoint: str) -> str:
    return sha256(endpoint.encode("utf-8", "surrogatepass")).hexdigest()


@lru_cache(maxsize=4)
def _public_key(private_key: str) -> str:
    number = int.from_bytes(decode_base64url(private_key), "big")
    public = ec.derive_private_key(number, ec.SECP256R1()).public_key()
    return _encode(public.public_bytes(Encoding.X962, PublicFormat.UncompressedPoint))


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")
