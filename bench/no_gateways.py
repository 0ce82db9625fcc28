"""Gateways that never come: for measuring what goes before and beside a desktop, and no guacd."""

from __future__ import annotations

from sessions.gateways.base import GatewayRequest, GatewayStatus, Handle


class NeverReady:
    """Chosen by GATEWAY=bench.no_gateways.NeverReady."""

    def start(self, request: GatewayRequest) -> GatewayStatus:
        return GatewayStatus("starting")

    def describe(self, attempt_id: str, handle: Handle) -> GatewayStatus:
        return GatewayStatus("starting")

    def stop(self, attempt_id: str, handle: Handle) -> None:
        return

    def running(self) -> list[str]:
        return []
