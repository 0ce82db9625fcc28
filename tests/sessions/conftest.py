"""What several tests of the rescues share."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest
from django.db import connections

from sessions.api import waiting


@pytest.fixture(scope="session")
def poll_pool(django_db_setup: None) -> Iterator[None]:
    """The polls' threads keep their connections, as they should; PostgreSQL drops no database that is in use."""
    yield
    together = threading.Barrier(waiting.POOL_THREADS)

    def leave() -> None:
        together.wait(10)  # so that each thread gets one
        connections.close_all()

    for left in [waiting._pool.submit(leave) for _ in range(waiting.POOL_THREADS)]:
        left.result(20)
