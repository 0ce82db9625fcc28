"""Whether a gateway still had no room when it was last looked at, and not only once."""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("support", "0007_room_for_rescues"),
    ]

    operations = [
        migrations.AddField(
            model_name="gateway",
            name="no_room_at",
            field=models.DateTimeField(
                blank=True,
                help_text="When it was last looked at, if it had no room then.",
                null=True,
            ),
        ),
    ]
