"""Messages to people: posted and withdrawn in the transaction of what caused them, sent later by the sender.

The rows are the truth; nothing outside is called here. A row is one message to one recipient over one channel (and,
for Web Push, to one device). Its key is unique, so posting twice changes nothing.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from django.conf import settings
from django.db import InterfaceError, OperationalError, transaction
from django.db.models import Q, QuerySet

from machines.models import Fleet, Operator, User
from notifications import bell, row_locks, sns, wording
from notifications.models import Delivery, PushDevice

logger = logging.getLogger(__name__)

Channel, State = Delivery.Channel, Delivery.State
Judge = Callable[[UUID, str, int | None], bool]

MAX_TITLE_CHARS = 120
MAX_BODY_CHARS = 500
# No send takes longer: then it is known whether a message that was withdrawn under way has arrived.
_UNDER_WAY = timedelta(seconds=6)
_MAX_KEY_CHARS = 150

_judge: Judge | None = None


@dataclass(frozen=True, slots=True)
class Message:
    """What people read, and what a screen needs beside it; never a secret (T10).

    Messages with one `tag` replace each other on a screen. `url` is a path of the portal. After `expires_at` it is of
    no use. `urgency` is Web Push's (RFC 8030): very-low, low, normal or high.
    """

    kind: str
    title: str
    body: str
    url: str
    tag: str
    expires_at: datetime
    fleet: Fleet | None
    subject: UUID | None = None
    actions: tuple[str, ...] = ()
    urgency: str = "high"
    is_silent: bool = False


def post(
    message: Message,
    *,
    to: Iterable[User],
    key: str,
    now: datetime,
    channels: Collection[str] | None = None,
) -> list[Delivery]:
    """Puts the message down for each person, over each channel that they have and want; the rows with these keys.

    In the caller's transaction, with what caused it. Somebody with neither a device nor an address has no row. A loud
    message takes back what would silently replace the one before it on the same screens.
    """
    people = {user.pk: user for user in to if user.is_active}
    if not people:
        return []
    rows: list[Delivery] = []
    if _is_wanted(Channel.WEB_PUSH, channels) and settings.VAPID_PRIVATE_KEY:
        for device in PushDevice.objects.filter(user__in=people, disabled_at=None):
            user = people[device.user_id]
            rows.append(_row(message, Channel.WEB_PUSH, key, now=now, user=user, device=device))
    by_mail = _is_wanted(Channel.EMAIL, channels) and bool(settings.NOTIFY_EMAIL_URL)
    by_phone = _is_wanted(Channel.SMS, channels) and settings.SMS != "none"
    if by_mail or by_phone:
        for operator in Operator.objects.filter(user__in=people):
            user = people[operator.user_id]
            if by_mail and user.email and operator.wants_email:
                rows.append(_row(message, Channel.EMAIL, key, now=now, user=user))
            if by_phone and operator.phone and operator.wants_sms:
                rows.append(_row(message, Channel.SMS, key, now=now, user=user))
    if message.subject is not None and not message.is_silent:
        silent = Delivery.objects.filter(
            subject=message.subject, recipient__in=people, is_silent=True, state=State.PENDING
        )
        words = "Out of date: there is a newer message."
        row_locks.update(silent, state=State.WITHDRAWN, ended_at=now, outcome=words)
        if sns.is_chosen():
            _await_sns(rows, message.subject, key, now=now)
    return _add(rows)


def reachable(users: Iterable[User]) -> set[int]:
    """Who of these people `post` would put a message down for, whatever becomes of it; their ids, in two queries."""
    people = {user.pk: user for user in users if user.is_active}
    found: set[int] = set()
    if people and settings.VAPID_PRIVATE_KEY:
        devices = PushDevice.objects.filter(user__in=people, disabled_at=None)
        found.update(devices.values_list("user_id", flat=True))
    by_mail, by_phone = bool(settings.NOTIFY_EMAIL_URL), settings.SMS != "none"
    if people and (by_mail or by_phone):
        for operator in Operator.objects.filter(user__in=people):
            has_mail = by_mail and operator.wants_email and people[operator.user_id].email
            if has_mail or (by_phone and operator.wants_sms and operator.phone):
                found.add(operator.user_id)
    return found


def post_to_address(message: Message, *, email: str = "", phone: str = "", key: str, now: datetime) -> list[Delivery]:
    """Puts the message down for an address of last resort, which is nobody's account; the rows with these keys."""
    rows = []
    if email and settings.NOTIFY_EMAIL_URL:
        rows.append(_row(message, Channel.EMAIL, key, now=now, address=email))
    if phone and settings.SMS != "none":
        rows.append(_row(message, Channel.SMS, key, now=now, address=phone))
    return _add(rows)


def is_address_reachable(*, email: str = "", phone: str = "") -> bool:
    """Whether `post_to_address` would put a message down: there is an address, and a way to it here."""
    return bool(email and settings.NOTIFY_EMAIL_URL) or bool(phone and settings.SMS != "none")


def post_to_device(message: Message, *, device: PushDevice, key: str, now: datetime) -> Delivery:
    """Puts the message down for one device alone, in the caller's transaction; the row with this key."""
    return _add([_row(message, Channel.WEB_PUSH, key, now=now, user=device.user, device=device)])[0]


def withdraw_from_device(device: PushDevice, *, now: datetime) -> int:
    """Takes back what is not sent to a device, which is about to be another person's; how many messages that were."""
    pending = Delivery.objects.filter(device=device, state=State.PENDING)
    words = "Taken back: the device is somebody else's now."
    return row_locks.update(pending, state=State.WITHDRAWN, ended_at=now, outcome=words)


def withdraw(subject: UUID, *, now: datetime, replacement: Message | None, keep: Collection[int] = ()) -> int:
    """Takes back what is not sent, and replaces what may be on screens; how many rows that concerned.

    In the caller's transaction. Each device that got a message about the subject, or may have got it, gets the
    replacement once, silently. The users in `keep` are left alone. Called again it changes nothing.
    """
    about = Delivery.objects.filter(subject=subject).exclude(recipient__in=[*keep])
    loud = about.filter(state=State.PENDING, is_silent=False)
    words = "Taken back: it was no longer needed."
    withdrawn = row_locks.update(loud, state=State.WITHDRAWN, ended_at=now, outcome=words)
    replacements = [] if replacement is None else _replacements(about, replacement, now=now)
    if replacements:
        _add(replacements)
    return withdrawn + len(replacements)


def standing(subject: UUID, *, kinds: Collection[str] | None = None) -> dict[int, str]:
    """How far the messages about something have got, by recipient: reached, trying, failed or none (taken back).

    One that arrived over any channel is `reached`; somebody without any row is not in the answer. Silent messages do
    not count; `kinds` looks at some kinds of messages alone.
    """
    rows = Delivery.objects.filter(subject=subject, is_silent=False, recipient__isnull=False)
    if kinds is not None:
        rows = rows.filter(kind__in=kinds)
    ranks = ("none", "failed", "trying", "reached")
    found: dict[int, str] = {}
    for user_id, state in rows.values_list("recipient_id", "state"):
        if user_id is not None:
            found[user_id] = max(found.get(user_id, "none"), _standing_of(state), key=ranks.index)
    return found


def recent_for(fleets: Iterable[Fleet], *, since: datetime | None = None) -> QuerySet[Delivery]:
    """What was told to whom in these fleets, the newest first; for supervisors, without tests."""
    rows = Delivery.objects.filter(fleet__in=list(fleets)).exclude(kind=Delivery.Kind.TEST)
    if since is not None:
        rows = rows.filter(created_at__gte=since)
    return rows.select_related("recipient", "fleet")


def failures_for(fleets: Iterable[Fleet], *, since: datetime) -> QuerySet[Delivery]:
    """What did not arrive, the newest first; each row's `outcome` says why in words."""
    return recent_for(fleets, since=since).filter(state__in=[State.FAILED, State.EXPIRED])


def register_judge(judge: Judge | None) -> None:
    """Names who says, right before each send, whether (subject, kind, recipient's id) is still wanted."""
    global _judge
    _judge = judge


def is_wanted(delivery: Delivery) -> bool:
    """The judge's word. A judge that fails keeps nobody from being told; without a database the error passes."""
    if _judge is None or delivery.subject is None:
        return True
    try:
        return _judge(delivery.subject, delivery.kind, delivery.recipient_id)
    except (OperationalError, InterfaceError):
        raise
    except Exception:
        logger.exception("Could not find out whether delivery %s is still wanted: it is sent", delivery.pk)
        return True


def release(process: str) -> None:
    """Frees what a process that is dead has leased; `process` begins its senders' names."""
    leased = Delivery.objects.filter(state=State.PENDING, lease_owner__startswith=f"{process}:")
    freed = row_locks.update(leased, lease_owner="", lease_until=None)
    if freed:
        transaction.on_commit(bell.ring)


def replacement_key(delivery_id: UUID) -> str:
    """The key of the message that replaces this one on its screen."""
    return f"replaces:{delivery_id}"


def _is_wanted(channel: str, channels: Collection[str] | None) -> bool:
    return channels is None or channel in channels


def _row(
    message: Message,
    channel: str,
    key: str,
    *,
    now: datetime,
    user: User | None = None,
    address: str = "",
    device: PushDevice | None = None,
    whole_key: str = "",
) -> Delivery:
    if len(key) > _MAX_KEY_CHARS:
        raise ValueError(f"found a key of {len(key)} characters, expected {_MAX_KEY_CHARS} at most")
    return Delivery(
        fleet=message.fleet,
        subject=message.subject,
        kind=message.kind,
        recipient=user,
        address=address,
        channel=channel,
        device=device,
        device_name=device.name if device else "",
        key=whole_key or f"{key}:{user.pk if user else ''}:{channel}:{device.pk if device else ''}",
        title=wording.shorten(wording.one_line(message.title), max_chars=MAX_TITLE_CHARS),
        body=wording.shorten(wording.lines(message.body), max_chars=MAX_BODY_CHARS),
        is_silent=message.is_silent,
        payload={
            "url": message.url,
            "tag": message.tag,
            "actions": list(message.actions),
            "urgency": message.urgency,
        },
        next_try_at=now,
        expires_at=message.expires_at,
        created_at=now,
    )


def _await_sns(rows: Iterable[Delivery], subject: UUID, key: str, *, now: datetime) -> None:
    """Leaves pushes to the worker that SNS calls; what it has not brought by the end of its grace goes out anyway."""
    pushes = [row for row in rows if row.channel == Channel.WEB_PUSH]
    for row in pushes:
        row.next_try_at = now + sns.grace()
    if pushes:
        sns.announce(subject=subject, key=key, now=now)


def _add(rows: Sequence[Delivery]) -> list[Delivery]:
    """Inserts what is not there; the rows as they are in the database."""
    if not rows:
        return []
    Delivery.objects.bulk_create(rows, ignore_conflicts=True)
    transaction.on_commit(bell.ring)
    there = {row.key: row for row in Delivery.objects.filter(key__in=[row.key for row in rows])}
    return [there[row.key] for row in rows if row.key in there]


def _replacements(about: QuerySet[Delivery], message: Message, *, now: datetime) -> list[Delivery]:
    """A silent row for each device whose last loud message has arrived, or may have."""
    may_have_arrived = Q(state=State.SENT) | Q(tries__gt=0, state__in=[State.WITHDRAWN, State.EXPIRED])
    loud = about.filter(may_have_arrived, is_silent=False, channel=Channel.WEB_PUSH)
    last: dict[int, Delivery] = {}
    for row in loud.filter(device__disabled_at=None).select_related("device", "recipient").order_by("created_at"):
        if row.device is not None and row.device.user_id == row.recipient_id:
            last[row.device.pk] = row
    keys = {replacement_key(row.pk) for row in last.values()}
    replaced = set(Delivery.objects.filter(key__in=keys).values_list("key", flat=True)) if keys else set()
    rows = []
    for row in last.values():
        key = replacement_key(row.pk)
        if key in replaced:
            continue
        new = _row(message, Channel.WEB_PUSH, "", now=now, user=row.recipient, device=row.device, whole_key=key)
        new.is_silent = True
        if row.state == State.WITHDRAWN and row.lease_until is not None and row.lease_until > now:
            # It is on its way just now: what replaces it must come after it. The sender makes it due at once then.
            new.next_try_at = now + _UNDER_WAY
        rows.append(new)
    return rows


def _standing_of(state: str) -> str:
    match state:
        case State.SENT:
            return "reached"
        case State.PENDING:
            return "trying"
        case State.FAILED | State.EXPIRED:
            return "failed"
    return "none"
