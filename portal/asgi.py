"""The public face: pages, REST and WebSockets. The machines' face is machine_asgi.py, with a listener of its own."""

from __future__ import annotations

import os
import warnings

from channels.auth import AuthMiddlewareStack
from channels.routing import ProtocolTypeRouter, URLRouter
from django.conf import settings
from django.core.asgi import get_asgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
# WhiteNoise serves the few small files of static/dist, found by their finders: reading one whole is what is meant,
# and a collected folder is not needed.
warnings.filterwarnings("ignore", message="StreamingHttpResponse must consume synchronous iterators")
warnings.filterwarnings("ignore", message="No directory at")
_pages = get_asgi_application()

# Models may be imported only now.
from portal.origins import ExactOrigins  # noqa: E402
from portal.proxies import BehindProxies  # noqa: E402
from portal.routing import websocket_urlpatterns  # noqa: E402

application = BehindProxies(
    ProtocolTypeRouter(
        {
            "http": _pages,
            "websocket": ExactOrigins(AuthMiddlewareStack(URLRouter(websocket_urlpatterns))),
        }
    ),
    settings.TRUSTED_PROXIES,
)
