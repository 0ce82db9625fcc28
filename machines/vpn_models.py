"""The VPN's rows: the authority, each machine's address, identities and connections, the gateways' identities, the
codes of enrolment, and profiles on their way.

An identity is a certificate, with what else its holder needs to reach the server. Private parts are encrypted, and
erased when they are handed over.
"""

from __future__ import annotations

from django.conf import settings
from django.db import models
from django.db.models import F, Q
from django.utils import timezone

from machines.encryption import EncryptedTextField


class VpnAuthority(models.Model):
    """The one that signs: its certificate and key, the server's, and the key that wraps every tls-crypt-v2 key."""

    certificate = models.TextField(editable=False)
    key = EncryptedTextField(editable=False)
    tls_crypt_key = EncryptedTextField(editable=False)
    server_certificate = models.TextField(editable=False)
    server_key = EncryptedTextField(editable=False)
    crl_number = models.PositiveBigIntegerField(default=0, editable=False)
    crl_next_update = models.DateTimeField(
        null=True, editable=False, help_text="When the newest list of revocations ends; past it nobody is admitted."
    )
    answering_at = models.DateTimeField(
        null=True, editable=False, help_text="When the authorisation agent was last at OpenVPN's side."
    )
    tcp_answering_at = models.DateTimeField(
        null=True, editable=False, help_text="The same of the OpenVPN for those who come in over TCP, if there is one."
    )
    loaded_until = models.DateTimeField(
        null=True,
        editable=False,
        help_text="When the certificate ends that OpenVPN runs with, as the agent last saw it.",
    )
    tcp_loaded_until = models.DateTimeField(
        null=True, editable=False, help_text="The same of the OpenVPN for those who come in over TCP, if there is one."
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = "VPN authority"
        verbose_name_plural = "VPN authority"
        constraints = [models.CheckConstraint(condition=Q(id=1), name="one_vpn_authority")]

    def __str__(self) -> str:
        return "VPN authority"


class VpnAddress(models.Model):
    """An address that a machine has or had. Rows stay for ever: no other machine ever gets it."""

    address = models.GenericIPAddressField(unique=True, editable=False)
    machine = models.ForeignKey("machines.Machine", on_delete=models.PROTECT, related_name="vpn_addresses")
    allocated_at = models.DateTimeField(default=timezone.now, editable=False)

    class Meta:
        verbose_name = "VPN address"
        verbose_name_plural = "VPN addresses"
        ordering = ["-allocated_at", "-id"]

    def __str__(self) -> str:
        return str(self.address)


class VpnIdentity(models.Model):
    """A certificate by which a machine is admitted, from its issue to its end."""

    machine = models.ForeignKey("machines.Machine", on_delete=models.PROTECT, related_name="vpn_identities")
    serial = models.CharField(max_length=40, unique=True, editable=False, help_text="Hexadecimal, lower case.")
    sha256 = models.CharField(max_length=64, unique=True, editable=False, help_text="The certificate's fingerprint.")
    certificate = models.TextField(editable=False)
    # Only when the key was made here.
    private_key = EncryptedTextField(null=True, editable=False)
    tls_crypt_key = EncryptedTextField(null=True, editable=False)
    issued_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(editable=False, db_index=True)
    handed_over_at = models.DateTimeField(null=True, editable=False)
    proven_at = models.DateTimeField(null=True, editable=False, help_text="Its first connection.")
    revoked_at = models.DateTimeField(null=True, editable=False)
    revoke_reason = models.CharField(max_length=80, blank=True, editable=False)

    class Meta:
        verbose_name = "VPN identity"
        verbose_name_plural = "VPN identities"
        ordering = ["-issued_at", "-id"]
        constraints = [
            models.CheckConstraint(
                condition=Q(handed_over_at=None) | Q(private_key=None, tls_crypt_key=None),
                name="handed_over_identity_keeps_no_secret",
            )
        ]

    def __str__(self) -> str:
        return f"{self.common_name} {self.serial[:8]}…"

    @property
    def common_name(self) -> str:
        """The name in the certificate; it has the shape that machines.vpn.pki.MACHINE_NAME knows."""
        return f"m-{self.machine_id}"


class GatewayIdentity(models.Model):
    """The certificate by which one attempt at a gateway is in the VPN, and its stay there. Nothing here is secret.

    The key was born with the gateway and stays there; its tls-crypt-v2 key is made anew for each hand-over.
    """

    attempt_id = models.CharField(max_length=62, unique=True, editable=False)
    address = models.GenericIPAddressField(protocol="IPv4", editable=False)
    key_sha256 = models.CharField(max_length=64, editable=False, help_text="SHA-256 of its public key.")
    serial = models.CharField(max_length=40, unique=True, editable=False, help_text="Hexadecimal, lower case.")
    sha256 = models.CharField(max_length=64, unique=True, editable=False, help_text="The certificate's fingerprint.")
    certificate = models.TextField(editable=False)
    issued_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(editable=False, db_index=True)
    revoked_at = models.DateTimeField(null=True, editable=False)
    revoke_reason = models.CharField(max_length=80, blank=True, editable=False)
    released_at = models.DateTimeField(
        null=True, editable=False, help_text="When it was surely out of the VPN; its address may be another's since."
    )
    # Its newest connection, as OpenVPN tells of it.
    client_id = models.BigIntegerField(
        null=True, editable=False, help_text="OpenVPN's number of it (CID), until OpenVPN starts again."
    )
    remote_address = models.GenericIPAddressField(null=True, editable=False)
    remote_port = models.PositiveIntegerField(null=True, editable=False)
    connected_at = models.DateTimeField(null=True, editable=False)
    left_at = models.DateTimeField(null=True, editable=False)
    left_detail = models.CharField(max_length=200, blank=True, editable=False)

    class Meta:
        verbose_name = "gateway's VPN identity"
        verbose_name_plural = "gateways' VPN identities"
        ordering = ["-issued_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["address"], condition=Q(released_at=None), name="one_gateway_an_address"),
            models.CheckConstraint(
                condition=Q(released_at=None) | Q(revoked_at__isnull=False), name="released_gateway_is_revoked"
            ),
        ]
        indexes = [
            models.Index(fields=["revoked_at"], condition=Q(released_at=None), name="gateways_in_the_vpn"),
        ]

    def __str__(self) -> str:
        return f"{self.common_name} at {self.address}"

    @property
    def common_name(self) -> str:
        """The name in the certificate; it has the shape that machines.vpn.pki.GATEWAY_NAME knows."""
        return f"g-{self.attempt_id}"


class VpnConnection(models.Model):
    """A machine's stay in the VPN, as OpenVPN tells of it."""

    identity = models.ForeignKey(VpnIdentity, on_delete=models.PROTECT, related_name="connections")
    machine = models.ForeignKey("machines.Machine", on_delete=models.PROTECT, related_name="vpn_connections")
    client_id = models.BigIntegerField(help_text="OpenVPN's number of it (CID), until OpenVPN starts again.")
    remote_address = models.GenericIPAddressField()
    remote_port = models.PositiveIntegerField()
    since = models.DateTimeField(default=timezone.now)
    heard_at = models.DateTimeField(default=timezone.now, help_text="When something last came from the machine.")
    bytes_received = models.PositiveBigIntegerField(default=0)
    bytes_sent = models.PositiveBigIntegerField(default=0)
    ended_at = models.DateTimeField(null=True, blank=True)
    end_detail = models.CharField(max_length=200, blank=True)

    class Meta:
        verbose_name = "VPN connection"
        ordering = ["-since", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["machine"], condition=Q(ended_at=None), name="one_open_vpn_connection_a_machine"
            )
        ]
        indexes = [models.Index(fields=["machine", "-since"], name="vpn_connections_of_machine")]

    def __str__(self) -> str:
        return f"{self.remote_address}:{self.remote_port} since {self.since:%Y-%m-%d %H:%M:%S}"


class TunnelEnding(models.Model):
    """The wish that a machine's tunnel ends; the authorisation agent fulfils it and says so."""

    machine = models.ForeignKey("machines.Machine", on_delete=models.PROTECT, related_name="tunnel_endings")
    requested_at = models.DateTimeField(default=timezone.now)
    reason = models.CharField(max_length=80)
    done_at = models.DateTimeField(null=True, blank=True)

    class Meta:
        ordering = ["-requested_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["machine"], condition=Q(done_at=None), name="one_tunnel_ending_a_machine")
        ]
        indexes = [models.Index(fields=["machine", "-done_at"], name="tunnel_endings_of_machine")]

    def __str__(self) -> str:
        return f"{self.requested_at:%Y-%m-%d %H:%M:%S} {self.reason}"


class EnrolmentCode(models.Model):
    """A code by which the machine on site gets its identity, once; only its SHA-256 is kept."""

    machine = models.ForeignKey("machines.Machine", on_delete=models.PROTECT, related_name="enrolment_codes")
    code_sha256 = models.CharField(max_length=64, unique=True, editable=False)
    created_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+", editable=False
    )
    created_at = models.DateTimeField(default=timezone.now, editable=False)
    expires_at = models.DateTimeField(editable=False)
    used_at = models.DateTimeField(null=True, editable=False)
    used_from = models.GenericIPAddressField(null=True, editable=False)
    used_for = models.CharField(
        max_length=64, blank=True, editable=False, help_text="SHA-256 of the public key that it was used for."
    )
    identity = models.ForeignKey(VpnIdentity, null=True, on_delete=models.PROTECT, related_name="+", editable=False)
    # What the machine was answered, to be said again should the line have lost it; erased when the code's time is up.
    answer = EncryptedTextField(null=True, editable=False)

    class Meta:
        ordering = ["-created_at", "-id"]
        constraints = [
            models.CheckConstraint(condition=Q(expires_at__gt=F("created_at")), name="enrolment_code_lives_a_while")
        ]

    def __str__(self) -> str:
        return f"of {self.created_at:%Y-%m-%d %H:%M:%S}"


class ProfileDelivery(models.Model):
    """The wish that a machine's profile goes to telemetry; the worker makes the profile and sees to it.

    `profile` is there from when it is made until it is delivered, and never again.
    """

    machine = models.ForeignKey("machines.Machine", on_delete=models.PROTECT, related_name="profile_deliveries")
    identity = models.OneToOneField(
        VpnIdentity, null=True, on_delete=models.PROTECT, related_name="delivery", editable=False
    )
    requested_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+", editable=False
    )
    requested_at = models.DateTimeField(default=timezone.now, editable=False)
    profile = EncryptedTextField(null=True, editable=False)
    attempts = models.PositiveIntegerField(default=0, editable=False)
    next_try_at = models.DateTimeField(default=timezone.now, editable=False)
    delivered_at = models.DateTimeField(null=True, editable=False)
    failed_at = models.DateTimeField(null=True, editable=False)
    last_error = models.CharField(max_length=200, blank=True, editable=False)

    class Meta:
        verbose_name_plural = "profile deliveries"
        ordering = ["-requested_at", "-id"]
        constraints = [
            models.UniqueConstraint(
                fields=["machine"],
                condition=Q(delivered_at=None, failed_at=None),
                name="one_open_profile_delivery_a_machine",
            ),
            models.CheckConstraint(
                condition=Q(delivered_at=None, failed_at=None) | Q(profile=None),
                name="ended_profile_delivery_keeps_no_profile",
            ),
        ]
        indexes = [
            models.Index(
                fields=["next_try_at"],
                condition=Q(delivered_at=None, failed_at=None),
                name="open_profile_deliveries",
            )
        ]

    def __str__(self) -> str:
        return f"of {self.requested_at:%Y-%m-%d %H:%M:%S}"


class KeptProfile(models.Model):
    """A profile that the built-in telemetry keeps until somebody downloads it, once."""

    machine = models.ForeignKey("machines.Machine", on_delete=models.PROTECT, related_name="kept_profiles")
    identity_serial = models.CharField(max_length=40, unique=True, editable=False)
    profile = EncryptedTextField(null=True, editable=False)
    kept_at = models.DateTimeField(default=timezone.now, editable=False)
    ended_at = models.DateTimeField(
        null=True, editable=False, help_text="When it was downloaded, replaced or erased; since then it is not here."
    )
    downloaded_by = models.ForeignKey(
        settings.AUTH_USER_MODEL, null=True, on_delete=models.PROTECT, related_name="+", editable=False
    )

    class Meta:
        ordering = ["-kept_at", "-id"]
        constraints = [
            models.UniqueConstraint(fields=["machine"], condition=Q(ended_at=None), name="one_kept_profile_a_machine"),
            models.CheckConstraint(condition=Q(ended_at=None) | Q(profile=None), name="ended_profile_is_not_kept"),
        ]

    def __str__(self) -> str:
        return f"of {self.kept_at:%Y-%m-%d %H:%M:%S}"
