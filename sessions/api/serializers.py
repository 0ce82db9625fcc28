"""What a machine sends when it asks for help."""

from __future__ import annotations

from typing import Any

from machines.api.fields import Choice, StrictSerializer, Text, WholeNumber
from sessions.models import ConnectionProfile
from sessions.services import RdpLogin

SECURITY_MODES = tuple(ConnectionProfile.Security.values)


class RdpSerializer(StrictSerializer):
    """The one-off login; the machine's address is not asked for, its VPN address is the only one dialled (T12)."""

    username = Text(shortest=1, longest=256)
    password = Text(shortest=1, longest=256)
    port = WholeNumber(least=1, most=65535, required=False)
    domain = Text(longest=256, required=False)
    security = Choice(SECURITY_MODES, required=False)


class ProblemSerializer(StrictSerializer):
    """What the machine says is wrong."""

    code = Text(
        longest=32,
        pattern=r"([A-Za-z0-9][A-Za-z0-9._-]{0,31})?",
        expected="up to 32 letters, digits, dots, dashes or underscores",
        required=False,
    )
    text = Text(longest=500, required=False)


class AskSerializer(StrictSerializer):
    """A press of the help button."""

    rdp = RdpSerializer()
    problem = ProblemSerializer(required=False)

    def arguments(self) -> dict[str, Any]:
        """What presses.request_support takes of it."""
        problem = self.validated_data.get("problem", {})
        return {
            "login": RdpLogin(**self.validated_data["rdp"]),
            "problem_code": problem.get("code", ""),
            "problem_text": problem.get("text", ""),
        }


class NothingSerializer(StrictSerializer):
    """An empty object, or no body at all."""
