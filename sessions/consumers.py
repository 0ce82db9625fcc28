"""This app's WebSockets."""

from __future__ import annotations

from sessions.live_line import LiveConsumer

__all__ = ["LiveConsumer"]
