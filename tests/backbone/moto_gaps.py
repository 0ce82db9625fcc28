"""Where moto's CloudFormation does less than its own API, and refuses what AWS takes: closed for the tests alone."""

from __future__ import annotations

from typing import Any

import pytest
from moto.elbv2.models import FakeLoadBalancer, elbv2_backends


def close(monkeypatch: pytest.MonkeyPatch) -> None:
    """A load balancer is of its template's type; moto makes each for HTTP, and then refuses the listener for UDP."""

    def create(
        cls: type[FakeLoadBalancer], resource_name: str, cloudformation_json: Any, account_id: str, region_name: str,
        **_: Any,
    ) -> FakeLoadBalancer:  # fmt: skip
        given = cloudformation_json["Properties"]
        return elbv2_backends[account_id][region_name].create_load_balancer(
            given.get("Name", resource_name), given.get("SecurityGroups"), given.get("Subnets"),
            scheme=given.get("Scheme", "internet-facing"), loadbalancer_type=given.get("Type"),
        )  # fmt: skip

    monkeypatch.setattr(FakeLoadBalancer, "create_from_cloudformation_json", classmethod(create))
