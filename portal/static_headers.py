"""How long browsers keep our style sheets, scripts and pictures, whose names stay the same from release to release."""

from __future__ import annotations

from wsgiref.headers import Headers

# For a minute they are not asked for at all; for ten more the kept one is used while the new one is fetched (RFC 5861),
# so that nobody who has waited on the queue waits for a script when they claim.
_KEPT = "max-age=60, stale-while-revalidate=600, public"


def keep_while_asking(headers: Headers, path: str, url: str) -> None:
    """What WhiteNoise calls for each file."""
    headers["Cache-Control"] = _KEPT
