"""Whether a process is replaced is not for its database to decide: no database is allowed in these tests (F10)."""

from __future__ import annotations

import pytest

from portal.asgi import application as public_application
from tests.sessions.machine_face import Caller

FACES = {
    "public": Caller(app=public_application, headers={"Host": "10.60.1.5:8000"}),
    "machines": Caller(address="10.1.1.1"),
}


@pytest.mark.parametrize("face", FACES)
def test_face_is_alive_without_a_database(face: str) -> None:
    answer = FACES[face]("GET", "/healthz?alive")
    assert (answer.status, answer.json) == (200, {"status": "alive"})
    assert answer.headers["cache-control"] == "no-store"


@pytest.mark.parametrize("face", FACES)
def test_face_that_is_asked_how_it_is_looks_for_its_database(face: str) -> None:
    """Or the answer above would say nothing about these tests."""
    with pytest.raises((AssertionError, RuntimeError)):
        assert FACES[face]("GET", "/healthz").status == 200
