"""When the certificates end that the OpenVPNs run with, for those who are not on their computer."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("machines", "0011_tcp_answering_at")]
    operations = [
        migrations.AddField(
            model_name="vpnauthority",
            name="loaded_until",
            field=models.DateTimeField(
                editable=False,
                help_text="When the certificate ends that OpenVPN runs with, as the agent last saw it.",
                null=True,
            ),
        ),
        migrations.AddField(
            model_name="vpnauthority",
            name="tcp_loaded_until",
            field=models.DateTimeField(
                editable=False,
                help_text="The same of the OpenVPN for those who come in over TCP, if there is one.",
                null=True,
            ),
        ),
    ]
