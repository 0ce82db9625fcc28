"""Whether this process can serve, and what is degraded; for load balancers and for whoever looks."""

from __future__ import annotations

import logging
from datetime import timedelta

from django.db import Error, connection
from django.http import HttpRequest, HttpResponseBase, JsonResponse
from django.utils import timezone
from django.utils.deprecation import MiddlewareMixin
from django.views.decorators.http import require_safe

from machines import identities
from notifications import sns_health
from sessions.models import Gateway, Pool, SupportSession
from sessions.states import GatewayState, State

logger = logging.getLogger(__name__)

# A worker that lives takes up a request within a second or two, and a gateway's next step when it is due.
BEHIND_S = 15
# A claim leaves a gap in a pool for a minute or so; for longer, gateways do not start as they should.
POOL_SHORT_S = 600


class HealthMiddleware(MiddlewareMixin):
    """Answers /healthz before anything looks at the name in the request: load balancers ask a process by its address.

    The answer holds nothing of the request, so any name may be in it.
    """

    def process_request(self, request: HttpRequest) -> HttpResponseBase | None:
        return healthz(request) if request.path == "/healthz" else None


@require_safe
def healthz(request: HttpRequest) -> JsonResponse:
    """200 `ok`; 200 `degraded` when something of it needs somebody; 503 `down` without a database.

    That is: the worker is behind; for ten minutes fewer gateways were ready than should be; the VPN; SNS.

    `?alive` is 200 for as long as the process serves, and asks no database: for whoever would take this process away,
    which brings no database back.

    What they need is for the logs and the admin: this is for anybody.
    """
    if "alive" in request.GET:
        return _answer(200, status="alive")
    try:
        with connection.cursor() as cursor:
            cursor.execute("SELECT 1")
        worker = "behind" if _worker_is_behind() else "ok"
        pool = "short" if _pool_is_short() else "ok"
        vpn = "needs attention" if identities.server_health() else "ok"
        notifications = "needs attention" if sns_health.sentences() else "ok"
    except Error as error:
        logger.error("The database does not answer: %s", type(error).__name__, exc_info=error)
        unknown = dict.fromkeys(("worker", "pool", "vpn", "notifications"), "unknown")
        return _answer(503, status="down", database="unreachable", **unknown)
    status = "ok" if {worker, pool, vpn, notifications} == {"ok"} else "degraded"
    return _answer(200, status=status, database="ok", worker=worker, pool=pool, vpn=vpn, notifications=notifications)


def _worker_is_behind() -> bool:
    """Told from the rows alone, so it holds wherever the worker runs."""
    late = timezone.now() - timedelta(seconds=BEHIND_S)
    return (
        # One with a notice was looked at: its fleet has no gateway free, and the worker has said so.
        SupportSession.objects.filter(state=State.REQUESTED, notice="", updated_at__lt=late).exists()
        or Gateway.objects.filter(
            state__in=[GatewayState.WANTED, GatewayState.STARTING, GatewayState.STOPPING], due_at__lt=late
        ).exists()
    )


def _pool_is_short() -> bool:
    """No rescue waits for that alone: it gets a gateway of its own. But those may fail for the same reason."""
    long_ago = timezone.now() - timedelta(seconds=POOL_SHORT_S)
    return Pool.objects.filter(size__gt=0, short_since__lt=long_ago).exists()


def _answer(status_code: int, **members: str) -> JsonResponse:
    return JsonResponse(members, status=status_code, headers={"Cache-Control": "no-store"})
