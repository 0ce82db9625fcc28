"""A Global Accelerator for the tests of this folder that ask for one: one server and one client for all of a file."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from machines.aws import Aws
from tests.fakes.global_accelerator import FakeGlobalAccelerator, running


@pytest.fixture(scope="module")
def _global_accelerator() -> Iterator[FakeGlobalAccelerator]:
    with running() as fake:
        yield fake


@pytest.fixture(scope="module")
def aws_calls() -> Aws:
    """Clients are dear to make: the first call makes one, in the surroundings of that test. It has patience."""
    return Aws("us-west-2", setting="", connect_s=30, answer_s=30)


@pytest.fixture
def aws(
    _global_accelerator: FakeGlobalAccelerator, settings: Any, monkeypatch: pytest.MonkeyPatch
) -> Iterator[FakeGlobalAccelerator]:
    """With nothing in it; ACCELERATOR is `portafilter`."""
    settings.ACCELERATOR = "portafilter"
    fake = _global_accelerator
    fake.clear()
    for name, value in fake.surroundings.items():
        monkeypatch.setenv(name, value)
    yield fake
    assert fake.refused == [], "AWS would not even have read these"
