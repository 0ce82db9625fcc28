"""The machines' schema tells the truth: schemathesis makes calls of all kinds from it, and each keeps to it."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.openapi import from_asgi
from schemathesis.specs.openapi.checks import negative_data_rejection

from portal.machine_asgi import application
from sessions import services
from sessions.models import RdpCredential
from tests.sessions.machine_face import REQUESTS, Caller, caller_of
from tests.sessions.rescues import press

pytestmark = [pytest.mark.django_db(transaction=True), pytest.mark.usefixtures("poll_pool")]

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")


def seen_from(address: str) -> Callable[[Any, Any, Any], Awaitable[None]]:
    """The application as a machine at this address reaches it."""

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await application({**scope, "client": (address, 40000)} if scope["type"] == "http" else scope, receive, send)

    return app


@pytest.fixture
def a1(transactional_db: None) -> Caller:
    return caller_of("A1")


@pytest.fixture
def machine_schema(a1: Caller) -> Any:
    return from_asgi("/api/schema/", seen_from(a1.address))


CALLS = [
    ("POST", REQUESTS),
    ("GET", f"{REQUESTS}{{request_id}}/"),
    ("POST", f"{REQUESTS}{{request_id}}/cancel/"),
    ("POST", "/api/v1/heartbeat/"),
]


@pytest.mark.parametrize(("method", "path"), CALLS)
@pytest.mark.parametrize("mode", list(GenerationMode))
@pytest.mark.timeout(180)
def test_every_answer_keeps_to_the_schema(
    machine_schema: Any, a1: Caller, mode: GenerationMode, method: str, path: str
) -> None:
    statuses = set()
    words = a1("GET", "/api/schema/").content.decode()

    @settings(max_examples=30, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
    @given(case=machine_schema[path][method].as_strategy(generation_mode=mode))
    def call(case: Any) -> None:
        given_id = (case.path_parameters or {}).get("request_id")
        if isinstance(given_id, str) and _UUID.fullmatch(given_id):
            # A request that is over: no wait, and its answers are more than 404.
            known = services.cancel(press("A1", key="known"))
            case.path_parameters["request_id"] = str(known.pk)
        # Where the token given here mends just what was wrong with the call, it is rightly taken.
        mended = "Authorization" not in (case.headers or {})
        answer = case.call_and_validate(
            headers={"Authorization": f"Bearer {a1.token}"}, excluded_checks=[negative_data_rejection] if mended else []
        )
        statuses.add(answer.status_code)
        assert b"Traceback" not in answer.content
        for login in RdpCredential.objects.all():
            # A password that is a word of the schema is in many an answer.
            is_telling = len(login.password) > 3 and login.password not in words
            assert not is_telling or login.password.encode() not in answer.content

    call()
    assert statuses & ({200, 201} if mode is GenerationMode.POSITIVE else {400, 401, 404}), statuses


def test_schema_names_this_faces_calls_and_no_other(a1: Caller) -> None:
    document = a1("GET", "/api/schema/").json
    assert set(document["paths"]) == {
        REQUESTS, f"{REQUESTS}{{request_id}}/", f"{REQUESTS}{{request_id}}/cancel/", "/api/v1/heartbeat/",
    }  # fmt: skip
    for operations in document["paths"].values():
        for operation in operations.values():
            assert operation["security"] == [{"machineToken": []}]
            assert {"401", "403", "405", "500"} <= set(operation["responses"])
