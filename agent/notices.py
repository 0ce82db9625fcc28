"""What the person at the machine reads."""

from __future__ import annotations

from dataclasses import dataclass

from agent.api import ApiError, SupportRequest
from agent.line import HALTED, REFUSED, LineState
from agent.rdp import RdpError

_OFFLINE = "The line to support is down just now. We keep trying; there is nothing you need to do."
_OFFLINE_WORDS = {
    HALTED: "Support has ended the line to this machine; nobody can see this screen. We ask whether more is to come.",
    REFUSED: "Support does not let this machine in just now. We keep trying; there is nothing you need to do.",
}


@dataclass(frozen=True)
class Notice:
    """What the person at the machine should now know.

    `state` is the server's, or one of ours: preparing, asking, offline (still trying), failed, cancelled (both final).
    """

    state: str
    message: str
    operator_name: str = ""
    request_id: str = ""
    end_reason: str = ""


def notice_of(request: SupportRequest) -> Notice:
    """What the server says of the request."""
    return Notice(request.state, request.message, request.operator_name, request.id, request.end_reason)


def offline_notice(state: LineState, *, request_id: str) -> Notice:
    """That there is no answer, and what the line has to do with it."""
    return Notice("offline", _OFFLINE_WORDS.get(state.name, _OFFLINE), request_id=request_id)


def failed_notice(error: Exception) -> Notice:
    """Why nobody will come, and what to do instead."""
    if isinstance(error, RdpError):
        words = "This screen could not be made ready for support. Please call the number on the machine."
    elif isinstance(error, ApiError) and error.retryable:
        words = "Support could not be reached. Please try again in a few minutes."
    else:
        words = "Support could not take the request. Please call the number on the machine."
    return Notice("failed", words)
