"""Hints to open pages cost whoever makes a change nothing, whatever Redis does (F9)."""

from __future__ import annotations

import socket
import threading
import uuid
from collections.abc import Iterator

import pytest
from pytest_django.fixtures import Settings

from notifications import live
from tests.waiting import LONG_S


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


def test_redis_that_hangs_is_waited_for_once(
    hung_redis: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert live.LONGEST_S <= 2
    monkeypatch.setattr(live, "LONGEST_S", 0.5)
    monkeypatch.setattr(live, "LEFT_ALONE_S", 600.0)  # whatever holds these twenty up

    def tell() -> None:
        for _ in range(20):
            live.session_changed(fleet_id=1, session_id=uuid.uuid4())

    worker = threading.Thread(target=tell, daemon=True)
    worker.start()
    worker.join(LONG_S)
    assert not worker.is_alive()
    assert [one.levelname for one in caplog.records if "are not taken within" in one.getMessage()] == ["WARNING"]
    assert not [one for one in caplog.records if "was not sent" in one.getMessage()]
