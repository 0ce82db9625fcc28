"""When the authorisation agent was last at the side of the OpenVPN over TCP, where there is one."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("machines", "0010_gateway_identities")]
    operations = [
        migrations.AddField(
            model_name="vpnauthority",
            name="tcp_answering_at",
            field=models.DateTimeField(
                editable=False,
                help_text="The same of the OpenVPN for those who come in over TCP, if there is one.",
                null=True,
            ),
        ),
    ]
