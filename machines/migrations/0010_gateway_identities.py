"""The identities by which gateways are in the VPN."""

import django.utils.timezone
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("machines", "0009_warm_gateways"),
    ]

    operations = [
        migrations.CreateModel(
            name="GatewayIdentity",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("attempt_id", models.CharField(editable=False, max_length=62, unique=True)),
                ("address", models.GenericIPAddressField(editable=False, protocol="IPv4")),
                ("key_sha256", models.CharField(editable=False, help_text="SHA-256 of its public key.", max_length=64)),
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
                ("issued_at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                ("expires_at", models.DateTimeField(db_index=True, editable=False)),
                ("revoked_at", models.DateTimeField(editable=False, null=True)),
                ("revoke_reason", models.CharField(blank=True, editable=False, max_length=80)),
                (
                    "released_at",
                    models.DateTimeField(
                        editable=False,
                        help_text="When it was surely out of the VPN; its address may be another's since.",
                        null=True,
                    ),
                ),
                (
                    "client_id",
                    models.BigIntegerField(
                        editable=False, help_text="OpenVPN's number of it (CID), until OpenVPN starts again.", null=True
                    ),
                ),
                ("remote_address", models.GenericIPAddressField(editable=False, null=True)),
                ("remote_port", models.PositiveIntegerField(editable=False, null=True)),
                ("connected_at", models.DateTimeField(editable=False, null=True)),
                ("left_at", models.DateTimeField(editable=False, null=True)),
                ("left_detail", models.CharField(blank=True, editable=False, max_length=200)),
            ],
            options={
                "verbose_name": "gateway's VPN identity",
                "verbose_name_plural": "gateways' VPN identities",
                "ordering": ["-issued_at", "-id"],
                "indexes": [
                    models.Index(
                        condition=models.Q(("released_at", None)), fields=["revoked_at"], name="gateways_in_the_vpn"
                    )
                ],
                "constraints": [
                    models.UniqueConstraint(
                        condition=models.Q(("released_at", None)), fields=("address",), name="one_gateway_an_address"
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("released_at", None), ("revoked_at__isnull", False), _connector="OR"),
                        name="released_gateway_is_revoked",
                    ),
                ],
            },
        ),
    ]
