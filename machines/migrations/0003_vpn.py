"""Machines get identities in the VPN, an address for ever, and may be frozen."""

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models

import machines.encryption


class Migration(migrations.Migration):
    dependencies = [
        ("machines", "0002_append_only"),
    ]

    operations = [
        migrations.AddField(
            model_name="fleet",
            name="vpn_network",
            field=models.CharField(
                blank=True,
                help_text="Where its machines get their addresses, as in 10.77.4.0/22; empty: anywhere in VPN_NETWORK.",
                max_length=43,
                verbose_name="VPN network",
            ),
        ),
        migrations.AddField(
            model_name="machine",
            name="frozen_at",
            field=models.DateTimeField(
                blank=True,
                editable=False,
                help_text="Since when it is admitted nowhere, until somebody has looked.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="machine",
            name="frozen_reason",
            field=models.CharField(blank=True, editable=False, max_length=200),
        ),
        migrations.CreateModel(
            name="VpnAddress",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("address", models.GenericIPAddressField(editable=False, unique=True)),
                ("allocated_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                (
                    "machine",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT, related_name="vpn_addresses", to="machines.machine"
                    ),
                ),
            ],
            options={
                "verbose_name": "VPN address",
                "verbose_name_plural": "VPN addresses",
                "ordering": ["-allocated_at", "-id"],
            },
        ),
        migrations.CreateModel(
            name="VpnAuthority",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("certificate", models.TextField(editable=False)),
                ("key", machines.encryption.EncryptedTextField(editable=False)),
                ("tls_crypt_key", machines.encryption.EncryptedTextField(editable=False)),
                ("server_certificate", models.TextField(editable=False)),
                ("server_key", machines.encryption.EncryptedTextField(editable=False)),
                ("crl_number", models.PositiveBigIntegerField(default=0, editable=False)),
                (
                    "crl_next_update",
                    models.DateTimeField(
                        editable=False,
                        help_text="When the newest list of revocations ends; past it nobody is admitted.",
                        null=True,
                    ),
                ),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
            ],
            options={
                "verbose_name": "VPN authority",
                "verbose_name_plural": "VPN authority",
                "constraints": [models.CheckConstraint(condition=models.Q(("id", 1)), name="one_vpn_authority")],
            },
        ),
        migrations.CreateModel(
            name="VpnIdentity",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "serial",
                    models.CharField(editable=False, help_text="Hexadecimal, lower case.", max_length=40, unique=True),
                ),
                (
                    "sha256",
                    models.CharField(
                        editable=False, help_text="The certificate's fingerprint.", max_length=64, unique=True
                    ),
                ),
                ("certificate", models.TextField(editable=False)),
                ("private_key", machines.encryption.EncryptedTextField(editable=False, null=True)),
                ("tls_crypt_key", machines.encryption.EncryptedTextField(editable=False, null=True)),
                ("issued_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("expires_at", models.DateTimeField(db_index=True, editable=False)),
                ("handed_over_at", models.DateTimeField(editable=False, null=True)),
                ("proven_at", models.DateTimeField(editable=False, help_text="Its first connection.", null=True)),
                ("revoked_at", models.DateTimeField(editable=False, null=True)),
                ("revoke_reason", models.CharField(blank=True, editable=False, max_length=80)),
                (
                    "machine",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="vpn_identities",
                        to="machines.machine",
                    ),
                ),
            ],
            options={
                "verbose_name": "VPN identity",
                "verbose_name_plural": "VPN identities",
                "ordering": ["-issued_at", "-id"],
            },
        ),
        migrations.CreateModel(
            name="VpnConnection",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "client_id",
                    models.BigIntegerField(help_text="OpenVPN's number of it (CID), until OpenVPN starts again."),
                ),
                ("remote_address", models.GenericIPAddressField()),
                ("remote_port", models.PositiveIntegerField()),
                ("since", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "heard_at",
                    models.DateTimeField(
                        default=django.utils.timezone.now, help_text="When something last came from the machine."
                    ),
                ),
                ("bytes_received", models.PositiveBigIntegerField(default=0)),
                ("bytes_sent", models.PositiveBigIntegerField(default=0)),
                ("ended_at", models.DateTimeField(blank=True, null=True)),
                ("end_detail", models.CharField(blank=True, max_length=200)),
                (
                    "machine",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="vpn_connections",
                        to="machines.machine",
                    ),
                ),
                (
                    "identity",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="connections",
                        to="machines.vpnidentity",
                    ),
                ),
            ],
            options={
                "verbose_name": "VPN connection",
                "ordering": ["-since", "-id"],
            },
        ),
        migrations.CreateModel(
            name="EnrolmentCode",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("code_sha256", models.CharField(editable=False, max_length=64, unique=True)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("expires_at", models.DateTimeField(editable=False)),
                ("used_at", models.DateTimeField(editable=False, null=True)),
                ("used_from", models.GenericIPAddressField(editable=False, null=True)),
                (
                    "created_by",
                    models.ForeignKey(
                        editable=False,
                        null=True,
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "machine",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="enrolment_codes",
                        to="machines.machine",
                    ),
                ),
            ],
            options={
                "ordering": ["-created_at", "-id"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("expires_at__gt", models.F("created_at"))),
                        name="enrolment_code_lives_a_while",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="TunnelEnding",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("requested_at", models.DateTimeField(default=django.utils.timezone.now)),
                ("reason", models.CharField(max_length=80)),
                ("done_at", models.DateTimeField(blank=True, null=True)),
                (
                    "machine",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.PROTECT,
                        related_name="tunnel_endings",
                        to="machines.machine",
                    ),
                ),
            ],
            options={
                "ordering": ["-requested_at", "-id"],
                "indexes": [models.Index(fields=["machine", "-done_at"], name="tunnel_endings_of_machine")],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("done_at", None)), fields=("machine",), name="one_tunnel_ending_a_machine"
                    )
                ],
            },
        ),
        migrations.AddConstraint(
            model_name="vpnidentity",
            constraint=models.CheckConstraint(
                condition=models.Q(
                    ("handed_over_at", None), models.Q(("private_key", None), ("tls_crypt_key", None)), _connector="OR"
                ),
                name="handed_over_identity_keeps_no_secret",
            ),
        ),
        migrations.AddIndex(
            model_name="vpnconnection",
            index=models.Index(fields=["machine", "-since"], name="vpn_connections_of_machine"),
        ),
        migrations.AddConstraint(
            model_name="vpnconnection",
            constraint=models.UniqueConstraint(
                condition=models.Q(("ended_at", None)), fields=("machine",), name="one_open_vpn_connection_a_machine"
            ),
        ),
    ]
