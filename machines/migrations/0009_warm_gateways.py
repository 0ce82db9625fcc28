"""How many gateways a fleet has ready before help is pressed."""

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("machines", "0008_words"),
    ]

    operations = [
        migrations.AddField(
            model_name="fleet",
            name="warm_gateways",
            field=models.PositiveSmallIntegerField(
                blank=True,
                help_text="So many are started before help is pressed, 0 to 20; empty: the installation's default.",
                null=True,
                validators=[django.core.validators.MaxValueValidator(20)],
                verbose_name="gateways kept ready",
            ),
        ),
    ]
