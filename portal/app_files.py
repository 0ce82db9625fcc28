"""What makes the pages an app on a device: the service worker, the manifest, and the page without a network.

The build (static/build.mjs) makes all three. They are the same for everybody and say nothing of anyone, so they need no
login; a browser looks for a new worker when nobody is signed in, too.
"""

from __future__ import annotations

from pathlib import Path

from csp.decorators import csp
from django.contrib.staticfiles import finders
from django.http import Http404, HttpRequest, HttpResponse
from django.views.decorators.http import require_safe

# A worker may call the portal and show its pictures, and load no script besides itself.
_OF_THE_WORKER = {"default-src": ["'none'"], "connect-src": ["'self'"], "img-src": ["'self'"]}


@require_safe
@csp(_OF_THE_WORKER)
def service_worker(request: HttpRequest) -> HttpResponse:
    """At the root, since a worker rules over what is below its own address; never from a cache, or it would live on."""
    return _built("sw.js", "text/javascript; charset=utf-8", kept="no-cache")


@require_safe
def manifest(request: HttpRequest) -> HttpResponse:
    """Name, icons and colours for the home screen."""
    return _built("manifest.webmanifest", "application/manifest+json", kept="public, max-age=3600")


@require_safe
def offline(request: HttpRequest) -> HttpResponse:
    """What the worker shows when no page can be fetched."""
    return _built("offline.html", "text/html; charset=utf-8", kept="no-cache")


def _built(name: str, media_type: str, *, kept: str) -> HttpResponse:
    found = finders.find(name)
    if found is None:
        raise Http404(f"static/dist has no {name}: expected what ./setup makes there")
    return HttpResponse(Path(found).read_bytes(), content_type=media_type, headers={"Cache-Control": kept})
