"""The leases of all kinds that a process may hold when it dies: whoever finds it dead, frees them all."""

from __future__ import annotations

from notifications import outbox
from sessions import gateway_rows


def forget_process(name: str) -> None:
    """Frees gateways, desktops, and messages that were being sent; `name` is that of the process's SignOfLife."""
    gateway_rows.forget_process(name)
    outbox.release(name)
