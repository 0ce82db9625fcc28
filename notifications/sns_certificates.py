"""The certificates that SNS signs by: noted when a message first names one, fetched by the worker, kept as rows.

A message is only ever a reason to note an address, and only one at the exact host of the topic's region; what is there
is trusted because TLS says who serves it. Nothing is fetched in a request (T18).
"""

from __future__ import annotations

import http.client
import logging
import ssl
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from urllib.parse import urlsplit

from django.db import IntegrityError, transaction
from django.db.models import F

from notifications import bell
from notifications.models import SnsCertificate
from notifications.sns_messages import Topic, is_certificate_url, load_certificate

logger = logging.getLogger(__name__)

# SNS changes its certificate a few times a year; whoever invents addresses is not to fill the table.
NEW_A_DAY = 5
TRIES = 6
SIZE_LIMIT = 16 * 1024
_TIMEOUT_S = 5.0
_FIRST_DELAY = timedelta(seconds=5)
_LONGEST_DELAY = timedelta(minutes=10)


class CannotFetch(Exception):
    """A certificate cannot be had; the text says why."""


def pem_at(url: str) -> str | None:
    """The certificate that is kept of this address, if it was fetched."""
    row = SnsCertificate.objects.filter(url=url, fetched_at__isnull=False).only("pem").first()
    return row.pem if row else None


def note(url: str, topic: Topic, *, now: datetime) -> bool:
    """Has the worker fetch a certificate that nobody knew; whether it will come.

    False when it was given up, or when NEW_A_DAY others were noted within a day. Raises ValueError for an address that
    is none of a certificate of the topic's region.
    """
    if not is_certificate_url(url, topic):
        raise ValueError("Expected the address of a certificate of SNS.")
    known = SnsCertificate.objects.filter(url=url).values_list("fetched_at", "next_try_at").first()
    if known is not None:
        return any(moment is not None for moment in known)
    if SnsCertificate.objects.filter(noted_at__gt=now - timedelta(days=1)).count() >= NEW_A_DAY:
        return False
    try:
        with transaction.atomic():
            SnsCertificate.objects.create(url=url, noted_at=now, next_try_at=now)
    except IntegrityError:  # somebody else noted it meanwhile
        return True
    transaction.on_commit(bell.ring)
    return True


def fetch_due(topic: Topic, *, now: Callable[[], datetime], fetch: Callable[[str], bytes] | None = None) -> int:
    """Fetches what was noted and is due; how many certificates came. Outside any transaction."""
    due = SnsCertificate.objects.filter(next_try_at__lte=now()).order_by("next_try_at", "pk")
    return sum(_fetch_one(row, topic, now, fetch or fetch_from_sns) for row in list(due[:NEW_A_DAY]))


def fetch_from_sns(url: str) -> bytes:
    """What is at the address: over TLS, no redirects, SIZE_LIMIT bytes and 5 s at most. Raises CannotFetch."""
    parts = urlsplit(url)
    host = parts.hostname or ""
    deadline = time.monotonic() + _TIMEOUT_S
    connection = http.client.HTTPSConnection(host, 443, timeout=_TIMEOUT_S, context=ssl.create_default_context())
    try:
        connection.request("GET", parts.path, headers={"Accept": "*/*"})
        response = connection.getresponse()
        if response.status != 200:
            raise CannotFetch(f"{host} answered {response.status}, expected 200")
        found = b""
        while chunk := response.read1(4096):
            found += chunk
            if len(found) > SIZE_LIMIT:
                raise CannotFetch(f"{host} sent more than {SIZE_LIMIT} bytes")
            if time.monotonic() > deadline:
                raise CannotFetch(f"{host} took longer than {_TIMEOUT_S:.0f} s")
        return found
    except ssl.SSLError as error:
        raise CannotFetch(f"{host} could not prove who it is ({error.reason or 'TLS failed'})") from error
    except (OSError, http.client.HTTPException) as error:
        raise CannotFetch(f"{host} cannot be reached ({type(error).__name__})") from error
    finally:
        connection.close()


def _fetch_one(row: SnsCertificate, topic: Topic, now: Callable[[], datetime], fetch: Callable[[str], bytes]) -> bool:
    """Fetches one, unless another process has taken it: its next try is moved before anything is asked."""
    begun, tries = now(), row.tries + 1
    delay = min(_FIRST_DELAY * 2 ** min(row.tries, 10), _LONGEST_DELAY)
    mine = SnsCertificate.objects.filter(pk=row.pk, tries=row.tries, next_try_at=row.next_try_at)
    next_try_at = begun + delay if tries < TRIES else None
    if not mine.update(tries=F("tries") + 1, next_try_at=next_try_at):
        return False
    it = SnsCertificate.objects.filter(pk=row.pk)
    if not is_certificate_url(row.url, topic):  # of a topic that was chosen before
        it.update(next_try_at=None, problem="It is not of the region of NOTIFY_SNS_TOPIC.")
        return False
    try:
        pem = fetch(row.url).decode("ascii")
        certificate = load_certificate(pem)
        ends, begins = certificate.not_valid_after_utc, certificate.not_valid_before_utc
        if not begins <= begun <= ends:
            raise ValueError(f"found one that is good from {begins:%Y-%m-%d} to {ends:%Y-%m-%d}")
    except (CannotFetch, ValueError) as error:
        words = f"{error}."[:300]
        logger.warning("The certificate %s that SNS signs by was not had: %s", row, words)
        it.update(problem=words)
        return False
    it.update(pem=pem, not_before=begins, not_after=ends, fetched_at=now(), next_try_at=None, problem="")
    logger.info("SNS signs by %s, good until %s", row, f"{ends:%Y-%m-%d}")
    return True
