"""The public face's pages and REST for a WSGI server; WebSockets need asgi.py, and so does TRUSTED_PROXIES."""

from __future__ import annotations

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "portal.settings")
application = get_wsgi_application()
