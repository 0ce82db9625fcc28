"""Labels and help of the admin in words; the tables stay as they are."""

import re

import django.core.validators
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("machines", "0007_rota"),
    ]

    operations = [
        migrations.AlterField(
            model_name="fleet",
            name="answer_deadline_s",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Empty: the installation's default.",
                null=True,
                verbose_name="seconds until an unclaimed request ends",
            ),
        ),
        migrations.AlterField(
            model_name="fleet",
            name="ask_last_resort_after_s",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="After the supervisors; empty: the installation's default.",
                null=True,
                validators=[django.core.validators.MaxValueValidator(86400)],
                verbose_name="seconds until the last resort is told",
            ),
        ),
        migrations.AlterField(
            model_name="fleet",
            name="ask_next_after_s",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="After the one before, without a claim; empty: the installation's default.",
                null=True,
                validators=[django.core.validators.MaxValueValidator(86400)],
                verbose_name="seconds until the next is asked",
            ),
        ),
        migrations.AlterField(
            model_name="fleet",
            name="ask_supervisors_after_s",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="After the last of those on duty; empty: the installation's default.",
                null=True,
                validators=[django.core.validators.MaxValueValidator(86400)],
                verbose_name="seconds until the supervisors are asked",
            ),
        ),
        migrations.AlterField(
            model_name="fleet",
            name="last_resort_email",
            field=models.EmailField(
                blank=True,
                help_text="Told when nobody else has answered.",
                max_length=254,
                verbose_name="e-mail address of last resort",
            ),
        ),
        migrations.AlterField(
            model_name="fleet",
            name="last_resort_phone",
            field=models.CharField(
                blank=True,
                help_text="Gets an SMS then, as in +390212345678.",
                max_length=16,
                validators=[
                    django.core.validators.RegexValidator(
                        re.compile("\\A\\+[1-9][0-9]{6,14}\\Z"),
                        "A phone number is international, as in +390212345678: no blanks, no 00.",
                    )
                ],
                verbose_name="phone number of last resort",
            ),
        ),
        migrations.AlterField(
            model_name="fleet",
            name="max_open_sessions",
            field=models.PositiveIntegerField(
                default=50,
                help_text="How many may be open at once; a press beyond that waits for a gateway.",
                verbose_name="open rescues at most",
            ),
        ),
        migrations.AlterField(
            model_name="operator",
            name="is_available",
            field=models.BooleanField(
                default=True, help_text="Off: not asked, until switched on again.", verbose_name="available"
            ),
        ),
        migrations.AlterField(
            model_name="operator",
            name="wants_email",
            field=models.BooleanField(
                default=True, help_text="Messages also come by e-mail.", verbose_name="wants e-mail"
            ),
        ),
        migrations.AlterField(
            model_name="operator",
            name="wants_sms",
            field=models.BooleanField(
                default=False,
                help_text="Messages also come by SMS, to the phone number below.",
                verbose_name="wants text messages (SMS)",
            ),
        ),
    ]
