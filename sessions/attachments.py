"""Who is at a session's desktop: tickets that let a browser in once, and the record of its coming and going.

A ticket is 256 random bits, kept as SHA-256, good for 30 seconds and one use, bound to session, person and role
(T7, T11).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import partial
from uuid import UUID

from django.db import transaction
from django.db.models import Exists, OuterRef, Q
from django.utils import timezone

from machines import selectors as fleet_selectors
from machines.models import User
from sessions import services
from sessions.errors import NotAllowed, SessionClosed, TicketRefused
from sessions.models import Attachment, SupportSession
from sessions.passes import each
from sessions.states import OPEN_STATES, State

TICKET_LIFE = timedelta(seconds=30)
# A tunnel says every few seconds that it lives; one not heard of for this long died with its process.
STALE_AFTER = timedelta(seconds=30)


def issue_ticket(session: SupportSession, *, user: User, role: str, now: datetime | None = None) -> str:
    """A ticket for one browser to join the desktop as controller or watcher.

    Raises SessionClosed, or NotAllowed when the role is not this person's or the machine is switched off.
    """
    now = now or timezone.now()
    if not session.is_open:
        raise SessionClosed(session)
    if not session.machine.is_active:
        raise NotAllowed("This machine was switched off for remote help by a manager.")
    if role == Attachment.Role.CONTROLLER and session.operator_id != user.pk:
        raise NotAllowed("Only the operator who has claimed this rescue can control it. You can watch.")
    if not fleet_selectors.fleets_of(user).filter(pk=session.fleet_id).exists():
        raise NotAllowed("This rescue belongs to a fleet that you do not work for.")
    ticket = secrets.token_urlsafe(32)
    Attachment.objects.create(
        session=session, user=user, role=role, ticket_sha256=_sha256(ticket), ticket_expires_at=now + TICKET_LIFE
    )
    return ticket


def redeem_ticket(
    ticket: str, *, session_id: UUID, user: User, address: str = "", user_agent: str = "", now: datetime | None = None
) -> Attachment:
    """The attachment that a ticket opens; of two that come with the same ticket one wins. Raises TicketRefused."""
    now = now or timezone.now()
    with transaction.atomic():
        redeemed = Attachment.objects.filter(
            ticket_sha256=_sha256(ticket),
            session_id=session_id,
            user=user,
            attached_at=None,
            ticket_expires_at__gt=now,
        ).update(attached_at=now, seen_at=now, address=address[:64], user_agent=user_agent[:200])
        if not redeemed:
            raise TicketRefused("This ticket is unknown, used or too old. Open the desktop again.")
        attachment = Attachment.objects.select_related("session__fleet", "user").get(ticket_sha256=_sha256(ticket))
        services.record(attachment.session, "attached", now=now, user=user, role=attachment.role)
        _follow(session_id, now=now)
    return attachment


def heard(attachment_ids: Iterable[int], *, now: datetime | None = None) -> int:
    """Their tunnels live; says how many of them are still attached: one taken for dead meanwhile has to join again."""
    return Attachment.objects.filter(pk__in=list(attachment_ids), detached_at=None).update(
        seen_at=now or timezone.now()
    )


def detach(attachment: Attachment, *, detail: str = "", now: datetime | None = None) -> None:
    """A browser has left the desktop; leaving twice changes nothing."""
    now = now or timezone.now()
    with transaction.atomic():
        left = Attachment.objects.filter(pk=attachment.pk, attached_at__isnull=False, detached_at=None).update(
            detached_at=now, end_detail=detail[:200]
        )
        if not left:
            return
        services.record(attachment.session, "detached", now=now, user=attachment.user, role=attachment.role)
        _follow(attachment.session_id, now=now)


def detach_stale(*, now: datetime) -> int:
    """Takes away the attachments whose tunnels died without a word; says how many."""
    stale = Attachment.objects.filter(
        attached_at__isnull=False, detached_at=None, seen_at__lt=now - STALE_AFTER
    ).select_related("session", "user")
    gone = partial(detach, detail="The tunnel was not heard of any more.", now=now)
    each(stale, gone, "detach one who is gone")
    # Tickets that nobody used say nothing to anybody. Looking first spares an idle pass its write.
    unused = Attachment.objects.filter(attached_at=None, ticket_expires_at__lt=now - timedelta(hours=1))
    if unused.exists():
        with transaction.atomic():
            unused.delete()
    return len(stale)


def follow_all(*, now: datetime) -> None:
    """Puts right the sessions whose state does not say who is at the desktop.

    A desktop that became ready while its operator's screen had joined already is one; a process that died between an
    attachment's commit and its session's is another.
    """
    controllers = Attachment.objects.filter(
        session=OuterRef("pk"), user=OuterRef("operator"), role=Attachment.Role.CONTROLLER,
        attached_at__isnull=False, detached_at=None,
    )  # fmt: skip
    sessions = SupportSession.objects.filter(state__in=OPEN_STATES).annotate(present=Exists(controllers))
    is_wrong = (
        Q(present=True, state=State.READY)
        | Q(present=False, state=State.ACTIVE)
        | Q(present=True, unattended_since__isnull=False)
        | Q(present=False, operator__isnull=False, unattended_since=None)
    )
    wrong = sessions.filter(is_wrong).values_list("pk", flat=True)
    each(wrong, partial(_follow, now=now), "put right who is at a desktop")


def _follow(session_id: UUID, *, now: datetime) -> None:
    """Makes the session's state say whether its operator is at the desktop.

    The row is locked before the look: of one who comes and one who goes at the same moment, the later look sees both.
    """
    with transaction.atomic():
        session = SupportSession.objects.select_for_update().get(pk=session_id)
        present = Attachment.objects.filter(
            session_id=session_id,
            role=Attachment.Role.CONTROLLER,
            attached_at__isnull=False,
            detached_at=None,
            user=session.operator_id,
        ).exists()
        services.controllers_changed(session, present=present, now=now)


def _sha256(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
