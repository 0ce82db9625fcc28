"""Hints to open pages cost whoever makes a change nothing, whatever Redis does (F9)."""

from __future__ import annotations

import socket
import threading
import time
import uuid
from collections.abc import Iterator

import pytest
from pytest_django.fixtures import Settings

from notifications import live


@pytest.fixture
def hung_redis(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """It takes connections, and never says a word."""
    monkeypatch.setattr(live, "_left_alone_until", float("-inf"))
    monkeypatch.setattr(live, "_loop", None)  # as in a process that is a worker alone
    with socket.create_server(("127.0.0.1", 0)) as listener:
        address = f"redis://127.0.0.1:{listener.getsockname()[1]}/0"
        layer = {"BACKEND": "channels_redis.core.RedisChannelLayer", "CONFIG": {"hosts": [address]}}
        settings.CHANNEL_LAYERS = {"default": layer}
        yield


def test_redis_that_hangs_holds_up_no_worker(hung_redis: None) -> None:
    def tell() -> None:
        for _ in range(20):
            live.session_changed(fleet_id=1, session_id=uuid.uuid4())

    worker, begun = threading.Thread(target=tell, daemon=True), time.monotonic()
    worker.start()
    worker.join(4)
    assert not worker.is_alive() and time.monotonic() - begun < 4
