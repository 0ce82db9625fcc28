"""What machines send about themselves."""

from __future__ import annotations

from rest_framework import serializers

from machines.api.fields import StrictSerializer, Text, WholeNumber


class HeartbeatSerializer(StrictSerializer):
    """A sign of life; what is left out stays as it was."""

    software = Text(longest=80, required=False)
    faults = serializers.ListField(child=Text(shortest=1, longest=200), max_length=50, required=False)
    rtt_ms = WholeNumber(least=0, most=3_600_000, required=False)
