"""`/hooks/sns/` on the public face: where SNS delivers the topic's messages.

Nothing outside is called here, whatever a message says: what is unknown is noted for the worker, and SNS comes again.
What is refused leaves a row in the security record, so many an hour; an address that sends rubbish is not read at all
for the rest of the minute.
"""

from __future__ import annotations

import ipaddress
import logging
from datetime import timedelta
from http import HTTPStatus

from django.core.cache import cache
from django.core.exceptions import SuspiciousOperation
from django.http import Http404, HttpRequest, HttpResponse, JsonResponse, UnreadablePostError
from django.utils import timezone
from django.views.decorators.cache import never_cache
from django.views.decorators.csrf import csrf_exempt

from machines import services
from machines.models import SecurityEvent
from notifications import sns, sns_certificates, sns_messages
from notifications.sns_messages import NotAMessage, Refused, Topic

logger = logging.getLogger(__name__)

RUBBISH_A_MINUTE = 60  # from one address
ROWS_AN_HOUR = 20
# SNS comes again 20 s later as a rule; by then the worker has the certificate.
_COME_AGAIN_S = 20


@csrf_exempt
@never_cache
def receive(request: HttpRequest) -> HttpResponse:
    """Takes one message of the topic.

    200: heard, now or before. 503: come again. 403: not to be believed. 400, 413: no message.
    404: this installation does not go through SNS.
    """
    topic = sns.chosen_topic()
    if topic is None:
        raise Http404("Messages do not go through SNS here.")
    if request.method != "POST":
        return _problem(405, "method_not_allowed", "Amazon SNS posts here; nobody else need.", Allow="POST")
    counter = f"sns.rubbish.{_neighbourhood(request)}"
    if _rubbish(counter) >= RUBBISH_A_MINUTE:
        # Not 429, after which SNS may give a message up: its senders' addresses are everybody's who uses SNS.
        return _problem(503, "too_many", "Too much from this address could not be believed.", **{"Retry-After": "60"})
    try:
        body = request.read(sns_messages.BODY_LIMIT + 1)
        if len(body) > sns_messages.BODY_LIMIT:
            return _not_taken(request, counter, 413, f"found more than {sns_messages.BODY_LIMIT} bytes")
        return _take(body, topic)
    except (UnreadablePostError, SuspiciousOperation):
        return _not_taken(request, counter, 400, "the body could not be read")
    except NotAMessage as error:
        return _not_taken(request, counter, 400, str(error))
    except Refused as error:
        return _not_taken(request, counter, 403, str(error))


def _take(body: bytes, topic: Topic) -> HttpResponse:
    now = timezone.now()
    message = sns_messages.parse(body)
    sns_messages.check(message, topic, now=now)
    pem = sns_certificates.pem_at(message.certificate_url)
    if pem is None:
        if not sns_certificates.note(message.certificate_url, topic, now=now):
            raise Refused("The certificate that it names cannot be had, or too many unknown ones were named today.")
        words = "The certificate that this is signed by is being fetched. Come again."
        return _problem(503, "certificate_unknown", words, **{"Retry-After": str(_COME_AGAIN_S)})
    sns_messages.verify(message, pem, now=now)
    is_new = sns.hear(message, topic, now=now)
    return JsonResponse({"heard": "now" if is_new else "before"})


def _not_taken(request: HttpRequest, counter: str, status: int, words: str) -> HttpResponse:
    """The answer, the same whatever was wrong in detail: only the security record has that."""
    _rubbish(counter, more=1)
    since = timezone.now() - timedelta(hours=1)
    if SecurityEvent.objects.filter(kind="sns_refused", at__gt=since)[:ROWS_AN_HOUR].count() < ROWS_AN_HOUR:
        address = request.META.get("REMOTE_ADDR", "")[:64]
        services.record_security_event("sns_refused", address=address, detail={"status": status, "words": words})
        logger.warning("Refused a message at /hooks/sns/ from %s: %s", address, words)
    code, detail = {
        400: ("not_a_message", "This is no message of Amazon SNS."),
        403: ("not_believed", "This message is not to be believed. It was noted."),
        413: ("body_too_large", f"Expected a message of at most {sns_messages.BODY_LIMIT} bytes."),
    }[status]
    return _problem(status, code, detail)


def _rubbish(counter: str, *, more: int = 0) -> int:
    """How much came from an address in a minute; none where the cache is away, which keeps nobody from being heard."""
    try:
        cache.add(counter, 0, timeout=60)
        return int(cache.incr(counter, more))
    except Exception as error:  # of many kinds, by the cache's own
        logger.warning("Cannot count what is refused at /hooks/sns/ (%s)", type(error).__name__)
        return 0


def _problem(status: int, code: str, detail: str, **headers: str) -> HttpResponse:
    """RFC 9457, as everywhere (machines.api.problems is for the REST faces alone)."""
    document = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": status,
        "detail": detail,
        "code": code,
    }
    return JsonResponse(document, status=status, content_type="application/problem+json", headers=headers)


def _neighbourhood(request: HttpRequest) -> str:
    """An IPv4 address itself, an IPv6 one's /64; no other text gets into a cache's key."""
    try:
        found = ipaddress.ip_address(request.META.get("REMOTE_ADDR", ""))
    except ValueError:
        return "unknown"
    return str(ipaddress.ip_network((found, 64), strict=False)) if found.version == 6 else str(found)
