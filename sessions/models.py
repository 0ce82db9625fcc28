"""The rows of a rescue. Only services.py writes a session's state; the database refuses what it must not write."""

from __future__ import annotations

import uuid

from django.core.validators import MaxValueValidator, MinValueValidator
from django.db import models
from django.db.models import Q
from django.db.models.functions import Coalesce
from django.utils import timezone

from machines.encryption import EncryptedTextField
from machines.models import Fleet, Machine, MachineModel, User
from sessions import states
from sessions.states import EndReason, GatewayState, State

# Sorted: a set's order differs from process to process, and each would look like a change to migrate.
OPEN_STATES = sorted(state.value for state in states.OPEN_STATES)
LIVE_GATEWAY_STATES = sorted(state.value for state in states.LIVE_GATEWAY_STATES)


def _choices(enum: type[State] | type[EndReason] | type[GatewayState]) -> list[tuple[str, str]]:
    return [(member.value, member.value.replace("_", " ").capitalize()) for member in enum]


class SupportSession(models.Model):
    """One rescue, from the press to the close."""

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    version = models.PositiveIntegerField(default=1, editable=False, help_text="Grows with every change.")
    machine = models.ForeignKey(Machine, on_delete=models.PROTECT, related_name="support_sessions")
    fleet = models.ForeignKey(Fleet, on_delete=models.PROTECT, related_name="support_sessions")
    state = models.CharField(max_length=16, choices=_choices(State), default=State.REQUESTED, db_index=True)
    end_reason = models.CharField(max_length=32, choices=_choices(EndReason), null=True, blank=True)
    notice = models.CharField(max_length=200, blank=True, help_text="What an operator should know right now.")

    problem_code = models.CharField(max_length=32, blank=True)
    problem_text = models.CharField(max_length=500, blank=True)

    operator = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, related_name="claimed_sessions")
    claimed_at = models.DateTimeField(null=True, blank=True)
    unattended_since = models.DateTimeField(null=True, blank=True, help_text="Claimed, but nobody is at the desktop.")

    requested_at = models.DateTimeField(default=timezone.now, db_index=True)
    ready_at = models.DateTimeField(null=True, blank=True, help_text="When the desktop was first held ready.")
    active_at = models.DateTimeField(null=True, blank=True, help_text="When an operator first had it on a screen.")
    closing_at = models.DateTimeField(null=True, blank=True)
    closed_at = models.DateTimeField(null=True, blank=True)
    updated_at = models.DateTimeField(default=timezone.now)

    attempts = models.PositiveIntegerField(default=0, help_text="Gateways started so far.")
    gateway_due_at = models.DateTimeField(help_text="When a desktop must be there.")
    answer_due_at = models.DateTimeField(help_text="When somebody must have claimed.")
    machine_told_at = models.DateTimeField(null=True, blank=True)
    vpn_told_at = models.DateTimeField(null=True, blank=True)

    cause = models.CharField(max_length=200, blank=True)
    fix = models.CharField(max_length=200, blank=True)
    note = models.TextField(max_length=2000, blank=True)
    closed_by = models.ForeignKey(User, null=True, blank=True, on_delete=models.PROTECT, related_name="closed_sessions")

    class Meta:
        db_table = "support_session"
        ordering = ["-requested_at"]
        indexes = [models.Index(fields=["fleet", "state", "requested_at"], name="session_queue")]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=[s.value for s in State]), name="session_state_known"),
            models.CheckConstraint(
                condition=Q(end_reason=None) | Q(end_reason__in=[r.value for r in EndReason]),
                name="session_end_reason_known",
            ),
            models.CheckConstraint(
                condition=Q(state__in=["closing", "closed"], end_reason__isnull=False, closing_at__isnull=False)
                | Q(state__in=OPEN_STATES, end_reason=None, closing_at=None),
                name="session_ends_with_a_reason",
            ),
            models.CheckConstraint(
                condition=Q(state="closed", closed_at__isnull=False) | (~Q(state="closed") & Q(closed_at=None)),
                name="session_closed_has_its_time",
            ),
            models.CheckConstraint(
                condition=Q(operator=None, claimed_at=None) | Q(operator__isnull=False, claimed_at__isnull=False),
                name="session_claim_has_its_time",
            ),
            models.UniqueConstraint(
                fields=["machine"],
                condition=Q(state__in=OPEN_STATES),
                name="one_open_session_a_machine",
            ),
        ]

    def __str__(self) -> str:
        return f"{self.machine.serial}, {self.requested_at:%Y-%m-%d %H:%M}"

    @property
    def is_open(self) -> bool:
        return self.state in OPEN_STATES


class Press(models.Model):
    """One press of a machine's help button, and the session it got; rows are only ever added (triggers see to it)."""

    machine = models.ForeignKey(Machine, on_delete=models.PROTECT, related_name="presses")
    idempotency_key = models.CharField(max_length=128, help_text="The machine's name for this press.")
    request_digest = models.CharField(
        max_length=64, help_text="HMAC of the request's body; tells a replay from a new one."
    )
    session = models.ForeignKey(SupportSession, on_delete=models.PROTECT, related_name="presses")
    at = models.DateTimeField(default=timezone.now)

    class Meta:
        db_table = "support_press"
        ordering = ["at", "id"]
        verbose_name_plural = "presses"
        constraints = [
            models.UniqueConstraint(fields=["machine", "idempotency_key"], name="one_press_an_idempotency_key")
        ]

    def __str__(self) -> str:
        return f"{self.machine.serial}, {self.at:%Y-%m-%d %H:%M:%S}"


class RdpCredential(models.Model):
    """The one-off RDP login of a session; the row is deleted in the transaction that begins its closing."""

    session = models.OneToOneField(
        SupportSession, on_delete=models.CASCADE, related_name="credential", primary_key=True
    )
    username = EncryptedTextField()
    password = EncryptedTextField()
    domain = EncryptedTextField(default="")
    port = models.PositiveIntegerField(default=3389, validators=[MinValueValidator(1), MaxValueValidator(65535)])
    security = models.CharField(max_length=8, default="any")

    class Meta:
        db_table = "support_rdp_credential"

    def __str__(self) -> str:
        return f"One-off login of session {self.session_id}"


class SessionEvent(models.Model):
    """What happened to a session, one row each; rows are only ever added (triggers see to it)."""

    session = models.ForeignKey(SupportSession, on_delete=models.PROTECT, related_name="events")
    at = models.DateTimeField(default=timezone.now)
    kind = models.CharField(max_length=40)
    from_state = models.CharField(max_length=16, blank=True)
    to_state = models.CharField(max_length=16, blank=True)
    actor = models.CharField(
        max_length=8, choices=[("machine", "Machine"), ("operator", "Operator"), ("system", "System")]
    )
    user = models.ForeignKey(User, null=True, on_delete=models.PROTECT, related_name="+")
    detail = models.JSONField(default=dict)

    class Meta:
        db_table = "support_session_event"
        ordering = ["at", "id"]

    def __str__(self) -> str:
        return f"{self.at:%H:%M:%S} {self.kind}"


class Gateway(models.Model):
    """One attempt at a gateway (guacd) for a session; its id is the driver's attempt id.

    Without a session it is a warm one: kept ready for the next press of its fleet. A trigger sees to it that only a
    ready one is claimed, and that a gateway belongs to one session for ever.
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    session = models.ForeignKey(
        SupportSession, null=True, blank=True, on_delete=models.PROTECT, related_name="gateways"
    )
    # Gone with its fleet: then nobody can claim it any more, and it is stopped.
    fleet = models.ForeignKey(Fleet, null=True, blank=True, on_delete=models.SET_NULL, related_name="gateways")
    born_warm = models.BooleanField("kept ready", default=False, help_text="Started before anybody needed it.")
    claimed_at = models.DateTimeField(null=True, blank=True, help_text="When a session took it from those kept ready.")
    attempt = models.PositiveIntegerField(default=1)
    driver = models.CharField(max_length=100)
    state = models.CharField(max_length=16, choices=_choices(GatewayState), default=GatewayState.WANTED, db_index=True)
    host = models.CharField(max_length=255, blank=True)
    port = models.PositiveIntegerField(null=True, blank=True)
    handle = models.JSONField(default=dict, blank=True, help_text="What the driver needs to find it again.")
    failure = models.CharField(max_length=500, blank=True, help_text="Why it was given up; empty for an orderly end.")
    tries = models.PositiveIntegerField(default=0, help_text="Tries at the present step.")
    due_at = models.DateTimeField(default=timezone.now, help_text="When the worker looks at it next.")
    lease_owner = models.CharField(max_length=64, blank=True)
    lease_until = models.DateTimeField(null=True, blank=True)
    keeper = models.CharField(max_length=64, blank=True, help_text="Which process keeps the desktop.")
    keeper_until = models.DateTimeField(null=True, blank=True)
    wanted_at = models.DateTimeField(default=timezone.now)
    made_room_at = models.DateTimeField(null=True, blank=True, help_text="When it found no room: warm ones make way.")
    no_room_at = models.DateTimeField(
        null=True, blank=True, help_text="When it was last looked at, if it had no room then."
    )
    ready_at = models.DateTimeField(null=True, blank=True)
    stopped_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        db_table = "support_gateway"
        ordering = ["-wanted_at"]
        constraints = [
            models.CheckConstraint(condition=Q(state__in=[s.value for s in GatewayState]), name="gateway_state_known"),
            models.UniqueConstraint(
                fields=["session"],
                condition=Q(state__in=LIVE_GATEWAY_STATES),
                name="one_live_gateway_a_session",
            ),
        ]
        indexes = [models.Index(fields=["born_warm", "driver", "wanted_at"], name="gateway_newest_of_a_kind")]

    def __str__(self) -> str:
        return f"{self.driver} {self.id.hex[:8]} ({'warm, ' if self.session_id is None else ''}{self.state})"


class ConnectionProfile(models.Model):
    """How desktops of some machines are reached; the most exact match wins: fleet and model, fleet, model, neither."""

    class Security(models.TextChoices):
        ANY = "any", "Whatever the machine offers"
        NLA = "nla", "Network level authentication"
        TLS = "tls", "TLS"
        RDP = "rdp", "RDP's own"

    name = models.CharField(max_length=80, unique=True)
    fleet = models.ForeignKey(
        Fleet, null=True, blank=True, on_delete=models.CASCADE, related_name="connection_profiles"
    )
    machine_model = models.ForeignKey(
        MachineModel, null=True, blank=True, on_delete=models.CASCADE, related_name="connection_profiles"
    )
    security = models.CharField(max_length=8, choices=Security, default=Security.ANY)
    ignore_certificate = models.BooleanField(
        default=True, help_text="Machines make their own certificates; the VPN tells which machine it is."
    )
    color_depth = models.PositiveSmallIntegerField(choices=[(8, "8"), (16, "16"), (24, "24"), (32, "32")], default=24)
    width = models.PositiveIntegerField(default=1024, validators=[MinValueValidator(64), MaxValueValidator(8192)])
    height = models.PositiveIntegerField(default=768, validators=[MinValueValidator(64), MaxValueValidator(8192)])
    dpi = models.PositiveIntegerField(default=96, validators=[MinValueValidator(48), MaxValueValidator(600)])
    server_layout = models.CharField(
        max_length=32, blank=True, help_text="Keyboard layout, as in en-us-qwerty; empty: guacd's."
    )
    allow_copy = models.BooleanField(default=True, help_text="Clipboard from the machine to the operator.")
    allow_paste = models.BooleanField(default=True, help_text="Clipboard from the operator to the machine.")
    enable_wallpaper = models.BooleanField(default=False)
    enable_font_smoothing = models.BooleanField(default=True)
    disable_gfx = models.BooleanField(default=False, help_text="For servers whose graphics pipeline fails (guacd 1.6).")

    class Meta:
        db_table = "support_connection_profile"
        ordering = ["name"]
        constraints = [
            # An expression, since SQLite has no NULLS NOT DISTINCT.
            models.UniqueConstraint(
                Coalesce("fleet", 0), Coalesce("machine_model", 0), name="one_profile_a_fleet_and_model"
            )
        ]

    def __str__(self) -> str:
        return self.name


class GuacamoleConnection(models.Model):
    """The record of one RDP connection that a keeper held through guacd; never the login it used."""

    session = models.ForeignKey(SupportSession, on_delete=models.PROTECT, related_name="connections")
    gateway = models.ForeignKey(Gateway, on_delete=models.PROTECT, related_name="connections")
    protocol = models.CharField(max_length=8, default="rdp")
    hostname = models.CharField(max_length=255)
    port = models.PositiveIntegerField()
    parameters = models.JSONField(default=dict, help_text="The handshake's values, secrets left out.")
    # Whoever knows it can join the desktop at guacd: kept encrypted, erased at the end, shown nowhere (T2).
    connection_id = EncryptedTextField(null=True)
    opened_at = models.DateTimeField(default=timezone.now)
    closed_at = models.DateTimeField(null=True, blank=True)
    status = models.PositiveIntegerField(null=True, blank=True, help_text="Guacamole's status code of the end.")
    detail = models.CharField(max_length=500, blank=True)

    class Meta:
        db_table = "support_guacamole_connection"
        ordering = ["-opened_at"]
        constraints = [
            models.UniqueConstraint(
                fields=["session"], condition=Q(closed_at=None), name="one_open_connection_a_session"
            ),
            models.CheckConstraint(
                condition=Q(closed_at=None) | Q(connection_id=None), name="ended_connection_keeps_no_id"
            ),
        ]

    def __str__(self) -> str:
        return f"{self.protocol} to {self.hostname}:{self.port}"


class Attachment(models.Model):
    """One browser at a session's desktop; before `attached_at` it is a ticket that lets it in, once."""

    class Role(models.TextChoices):
        CONTROLLER = "controller", "Controller"
        WATCHER = "watcher", "Watcher"

    session = models.ForeignKey(SupportSession, on_delete=models.PROTECT, related_name="attachments")
    user = models.ForeignKey(User, on_delete=models.PROTECT, related_name="attachments")
    role = models.CharField(max_length=16, choices=Role)
    ticket_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    ticket_expires_at = models.DateTimeField()
    attached_at = models.DateTimeField(null=True, blank=True)
    seen_at = models.DateTimeField(null=True, blank=True, help_text="When its tunnel last said that it lives.")
    detached_at = models.DateTimeField(null=True, blank=True)
    address = models.CharField(max_length=64, blank=True)
    user_agent = models.CharField(max_length=200, blank=True)
    end_detail = models.CharField(max_length=200, blank=True)

    class Meta:
        db_table = "support_attachment"
        ordering = ["-id"]
        indexes = [
            models.Index(
                fields=["session"],
                condition=Q(attached_at__isnull=False, detached_at=None),
                name="attachment_live",
            )
        ]

    def __str__(self) -> str:
        return f"{self.user} as {self.role}"


# At the end, since these rows refer to those above.
from sessions.escalation_models import Asked, Escalation, Rung  # noqa: E402
from sessions.pool_models import Pool  # noqa: E402

__all__ = [
    "LIVE_GATEWAY_STATES",
    "OPEN_STATES",
    "Asked",
    "Attachment",
    "ConnectionProfile",
    "Escalation",
    "Gateway",
    "GuacamoleConnection",
    "Pool",
    "Press",
    "RdpCredential",
    "Rung",
    "SessionEvent",
    "SupportSession",
]
