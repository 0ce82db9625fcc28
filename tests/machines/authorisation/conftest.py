"""What the tests with a real OpenVPN share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machines.authorisation.bed import Bed


@pytest.fixture
def agent(bed: Bed) -> Iterator[None]:
    """The authorisation agent is at work, beside the OpenVPN of the bed."""
    with bed.agent():
        yield
