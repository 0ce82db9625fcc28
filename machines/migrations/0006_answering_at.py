"""When the authorisation agent was last at OpenVPN's side: without it nobody knows whether a machine is silent."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("machines", "0005_enrolment")]
    operations = [
        migrations.AddField(
            model_name="vpnauthority",
            name="answering_at",
            field=models.DateTimeField(
                editable=False, help_text="When the authorisation agent was last at OpenVPN's side.", null=True
            ),
        ),
    ]
