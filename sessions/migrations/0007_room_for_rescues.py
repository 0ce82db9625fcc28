"""What makes warm gateways leave room: a number for all fleets together, and rescues that go first."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("support", "0006_warm_gateways"),
    ]

    operations = [
        migrations.AddField(
            model_name="gateway",
            name="made_room_at",
            field=models.DateTimeField(blank=True, help_text="When it found no room: warm ones make way.", null=True),
        ),
        migrations.AddField(
            model_name="pool",
            name="presses",
            field=models.PositiveIntegerField(
                default=0, db_default=0, help_text="So often help was pressed in the last weeks."
            ),
        ),
        migrations.AddField(
            model_name="pool",
            name="wished",
            field=models.PositiveSmallIntegerField(default=0, db_default=0, help_text="So many it would have alone."),
        ),
    ]
