"""The shapes of what the public face says of rescues, for its documentation; selectors.py makes the values."""

from __future__ import annotations

from rest_framework import serializers

from machines.api.public import NamedSerializer, SiteSerializer
from sessions.models import Attachment
from sessions.states import EndReason, State


class MachineOfCardSerializer(NamedSerializer):
    serial = serializers.CharField()
    model = serializers.CharField()


class FaultShownSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """What the machine says is wrong."""

    code = serializers.CharField()
    text = serializers.CharField()


class AttachedSerializer(NamedSerializer):
    role = serializers.ChoiceField(choices=Attachment.Role.choices)
    since = serializers.DateTimeField()


class ClipboardSerializer(serializers.Serializer):  # type: ignore[type-arg]
    copy = serializers.BooleanField(help_text="From the machine to the operator.")
    paste = serializers.BooleanField(help_text="From the operator to the machine.")


class AskedPersonSerializer(serializers.Serializer):  # type: ignore[type-arg]
    id = serializers.IntegerField(allow_null=True, help_text="Null for the address of last resort.")
    name = serializers.CharField()
    at = serializers.DateTimeField()
    rung = serializers.ChoiceField(choices=["operators", "supervisors", "last_resort"])
    reached = serializers.ChoiceField(
        choices=["reached", "trying", "failed", "none"],
        help_text="How far the messages to them have got; none: there is no way to send one.",
    )


class AskingSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """Who is asked to take a rescue that waits, or was for one that nobody came to."""

    sentence = serializers.CharField()
    people = AskedPersonSerializer(many=True)
    next = serializers.CharField(help_text="Whom the next step asks, in words; empty: nobody.")
    next_at = serializers.DateTimeField(allow_null=True, help_text="When the next step is due; null: never.")
    stood_in = serializers.CharField(help_text="Why another answer stood in for telemetry's own; empty: it did not.")


class MissedSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """It ended without anybody having come."""

    at = serializers.DateTimeField()
    looked_at = serializers.DateTimeField(allow_null=True)
    looked_by = NamedSerializer(allow_null=True, help_text="The supervisor who has looked at it.")


class CardSerializer(serializers.Serializer):  # type: ignore[type-arg]
    """A rescue, as the person who asks may see it."""

    id = serializers.UUIDField()
    version = serializers.IntegerField(help_text="Grows with every change.")
    state = serializers.ChoiceField(choices=[s.value for s in State])
    state_label = serializers.CharField()
    end_reason = serializers.ChoiceField(choices=[r.value for r in EndReason], allow_null=True)
    sentence = serializers.CharField(help_text="What is going on, or how it ended and what to do next.")
    machine = MachineOfCardSerializer()
    site = SiteSerializer()
    fleet = NamedSerializer()
    problem = FaultShownSerializer()
    operator = NamedSerializer(allow_null=True)
    requested_at = serializers.DateTimeField()
    claimed_at = serializers.DateTimeField(allow_null=True)
    ready_at = serializers.DateTimeField(allow_null=True)
    closing_at = serializers.DateTimeField(allow_null=True)
    closed_at = serializers.DateTimeField(allow_null=True)
    updated_at = serializers.DateTimeField()
    attached = AttachedSerializer(many=True)
    desktop = serializers.BooleanField(help_text="Whether the machine's desktop is held now.")
    clipboard = ClipboardSerializer(help_text="What the connection profile lets through.")
    attempt = serializers.IntegerField()
    notice = serializers.CharField()
    cause = serializers.CharField()
    fix = serializers.CharField()
    note = serializers.CharField()
    closed_by = NamedSerializer(allow_null=True)
    asking = AskingSerializer(allow_null=True, help_text="Null when nobody is being asked.")
    missed = MissedSerializer(allow_null=True, help_text="Null when somebody came, or it is open.")
    may = serializers.ListField(
        child=serializers.ChoiceField(
            choices=["claim", "release", "control", "watch", "take_over", "handover", "close"]
        )
    )


class CardPageSerializer(serializers.Serializer):  # type: ignore[type-arg]
    count = serializers.IntegerField()
    next = serializers.URLField(allow_null=True)
    previous = serializers.URLField(allow_null=True)
    results = CardSerializer(many=True)


class EventSerializer(serializers.Serializer):  # type: ignore[type-arg]
    at = serializers.DateTimeField()
    kind = serializers.CharField()
    sentence = serializers.CharField()
    actor = serializers.CharField()


class EventsSerializer(serializers.Serializer):  # type: ignore[type-arg]
    results = EventSerializer(many=True)


class ColleaguesSerializer(serializers.Serializer):  # type: ignore[type-arg]
    results = NamedSerializer(many=True)


class CausesSerializer(serializers.Serializer):  # type: ignore[type-arg]
    causes = serializers.ListField(child=serializers.CharField())
    fixes = serializers.ListField(child=serializers.CharField())


class TicketSerializer(serializers.Serializer):  # type: ignore[type-arg]
    ticket = serializers.CharField(help_text="Lets one browser join once; it goes into the tunnel's first message.")
    expires_in_s = serializers.IntegerField()
    role = serializers.ChoiceField(choices=Attachment.Role.choices)
