"""Redis goes away, or hangs: nobody waits for it, and nothing fails that does not need it (F9)."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest
from django.test import Client
from pytest_django.fixtures import Settings

from portal import hints_cache
from sessions import services
from tests.sessions.clients import client_of
from tests.sessions.rescues import person, press
from tests.throwaway import redis
from tests.waiting import LONG_S


@pytest.fixture(autouse=True)
def _asked_at_once() -> Iterator[None]:
    hints_cache._left_alone_until = float("-inf")
    yield
    hints_cache._left_alone_until = float("-inf")


@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """What takes connections, and never says a word."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener


def cache_at(url: str) -> hints_cache.RedisHints:
    return hints_cache.RedisHints(url, {})


def test_redis_that_is_there_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hints_cache, "WAIT_S", LONG_S)  # it is there, however long this computer takes
    with redis() as url:
        cache = cache_at(url)
        assert cache.add("count", 0) and cache.incr("count", 2) == 2
        cache.set("word", "here")
        assert (cache.get("word"), cache.add("word", "there"), cache.get("none", 7)) == ("here", False, 7)


def test_redis_that_is_away_is_an_empty_cache() -> None:
    cache = cache_at("redis://127.0.0.1:1/0")
    assert cache.add("count", 0) is True
    assert (cache.incr("count"), cache.get("count", 5), cache.get_many(["count"])) == (1, 5, {})
    cache.set("count", 1)
    assert cache.delete("count") is False


def test_redis_that_hangs_is_waited_for_once(silent: socket.socket, monkeypatch: pytest.MonkeyPatch) -> None:
    assert hints_cache.WAIT_S <= 0.5
    monkeypatch.setattr(hints_cache, "LEFT_ALONE_S", 600.0)  # whatever holds these fifty up
    cache = cache_at(f"redis://127.0.0.1:{silent.getsockname()[1]}/0")
    for _ in range(50):
        assert cache.get("word") is None
    silent.setblocking(False)
    silent.accept()[0].close()
    with pytest.raises(BlockingIOError):
        silent.accept()


@pytest.mark.django_db
def test_what_is_limited_goes_on_without_redis(settings: Settings) -> None:
    nowhere = "redis://127.0.0.1:1/0"
    settings.CACHES = {
        "default": {"BACKEND": "django.core.cache.backends.redis.RedisCache", "LOCATION": nowhere},
        "hints": {"BACKEND": "portal.hints_cache.RedisHints", "LOCATION": nowhere},
    }
    alice = client_of(person("Alice"))
    rescue = services.claim(press(), user=person("Alice"))
    for path, body, status in (
        (f"/api/v1/sessions/{rescue.pk}/attachments/", {"role": "controller"}, 201),
        ("/api/v1/devices/", {}, 400),  # its members are missing, and no more is wrong
    ):
        assert alice.post(path, body, content_type="application/json").status_code == status
    assert Client().post("/enrol/", {}, content_type="application/json").status_code == 400
