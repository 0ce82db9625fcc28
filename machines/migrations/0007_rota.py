"""The rota: who is on duty where and when, what people speak and can, and how soon a fleet asks the next one."""

import re

import django.core.validators
import django.db.models.deletion
import django.utils.timezone
from django.db import migrations, models

import machines.languages
import machines.rota_models


class Migration(migrations.Migration):
    dependencies = [
        ("machines", "0006_answering_at"),
    ]

    operations = [
        migrations.AddField(
            model_name="fleet",
            name="ask_last_resort_after_s",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Seconds after that until the address of last resort is asked; empty: the installation's default.",
                null=True,
                validators=[django.core.validators.MaxValueValidator(86400)],
            ),
        ),
        migrations.AddField(
            model_name="fleet",
            name="ask_next_after_s",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Seconds without a claim until the next person is asked; empty: the installation's default.",
                null=True,
                validators=[django.core.validators.MaxValueValidator(86400)],
            ),
        ),
        migrations.AddField(
            model_name="fleet",
            name="ask_supervisors_after_s",
            field=models.PositiveIntegerField(
                blank=True,
                help_text="Seconds after the last of them until the supervisors are asked; empty: the installation's default.",
                null=True,
                validators=[django.core.validators.MaxValueValidator(86400)],
            ),
        ),
        migrations.AddField(
            model_name="fleet",
            name="last_resort_email",
            field=models.EmailField(blank=True, help_text="Told when nobody else has answered.", max_length=254),
        ),
        migrations.AddField(
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
            ),
        ),
        migrations.AddField(
            model_name="operator",
            name="away_until",
            field=models.DateTimeField(
                blank=True, help_text="When that switch comes on again by itself; empty: by hand.", null=True
            ),
        ),
        migrations.AddField(
            model_name="operator",
            name="is_available",
            field=models.BooleanField(default=True, help_text="Off: not asked, until switched on again."),
        ),
        migrations.AddField(
            model_name="operator",
            name="languages",
            field=machines.languages.LanguagesField(help_text="As in it, en."),
        ),
        migrations.AddField(
            model_name="operator",
            name="skills",
            field=models.ManyToManyField(
                blank=True,
                help_text="The models they can repair; none chosen: all.",
                related_name="operators",
                to="machines.machinemodel",
            ),
        ),
        migrations.AddField(
            model_name="operator",
            name="wants_email",
            field=models.BooleanField(default=True, help_text="Messages also come by e-mail."),
        ),
        migrations.AddField(
            model_name="operator",
            name="wants_sms",
            field=models.BooleanField(default=False, help_text="Messages also come by SMS."),
        ),
        migrations.AddField(
            model_name="site",
            name="closed_on_public_holidays",
            field=models.BooleanField(
                default=False, help_text="Those of its whole country; add what is a region's own as closures."
            ),
        ),
        migrations.AddField(
            model_name="site",
            name="languages",
            field=machines.languages.LanguagesField(
                help_text="Spoken there, as in it, en: who speaks one is asked first. Empty: any."
            ),
        ),
        migrations.AlterField(
            model_name="operator",
            name="phone",
            field=models.CharField(
                blank=True,
                help_text="For SMS, as in +390212345678.",
                max_length=32,
                validators=[
                    django.core.validators.RegexValidator(
                        re.compile("\\A\\+[1-9][0-9]{6,14}\\Z"),
                        "A phone number is international, as in +390212345678: no blanks, no 00.",
                    )
                ],
            ),
        ),
        migrations.AddConstraint(
            model_name="operator",
            constraint=models.CheckConstraint(
                condition=models.Q(("is_available", False), ("away_until", None), _connector="OR"),
                name="only_who_is_away_comes_back",
                violation_error_message="Who is available is not away: switch it off, or leave the time empty.",
            ),
        ),
        migrations.CreateModel(
            name="KeptAnswer",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("source", models.CharField(editable=False, max_length=32)),
                ("answer", models.JSONField(editable=False)),
                ("at", models.DateTimeField(default=django.utils.timezone.now, editable=False)),
                (
                    "machine",
                    models.OneToOneField(
                        on_delete=django.db.models.deletion.CASCADE, related_name="kept_answer", to="machines.machine"
                    ),
                ),
            ],
            options={
                "ordering": ["-at"],
            },
        ),
        migrations.CreateModel(
            name="Absence",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("starts_at", models.DateTimeField()),
                ("ends_at", models.DateTimeField(db_index=True)),
                ("note", models.CharField(blank=True, max_length=120)),
                (
                    "operator",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="absences", to="machines.operator"
                    ),
                ),
            ],
            options={
                "ordering": ["starts_at"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(("ends_at__gt", models.F("starts_at"))),
                        name="absence_lasts",
                        violation_error_message="The end is not after the start.",
                    )
                ],
            },
        ),
        migrations.CreateModel(
            name="Closure",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("name", models.CharField(max_length=80)),
                ("first_day", models.DateField()),
                ("last_day", models.DateField()),
                (
                    "fleet",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="closures",
                        to="machines.fleet",
                    ),
                ),
                (
                    "site",
                    models.ForeignKey(
                        blank=True,
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="closures",
                        to="machines.site",
                    ),
                ),
            ],
            options={
                "ordering": ["first_day", "name"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            models.Q(("fleet__isnull", False), ("site", None)),
                            models.Q(("fleet", None), ("site__isnull", False)),
                            _connector="OR",
                        ),
                        name="closure_of_site_or_fleet",
                        violation_error_message="A closure belongs to a site or to a fleet.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(("last_day__gte", models.F("first_day"))),
                        name="closure_has_days",
                        violation_error_message="The last day is before the first.",
                    ),
                ],
            },
        ),
        migrations.CreateModel(
            name="OpeningHours",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "weekday",
                    models.PositiveSmallIntegerField(
                        choices=[
                            (0, "Monday"),
                            (1, "Tuesday"),
                            (2, "Wednesday"),
                            (3, "Thursday"),
                            (4, "Friday"),
                            (5, "Saturday"),
                            (6, "Sunday"),
                        ]
                    ),
                ),
                ("opens", models.TimeField()),
                (
                    "closes",
                    models.TimeField(
                        help_text="At or before the opening: on the next day. 00:00 to 00:00: the whole day."
                    ),
                ),
                (
                    "site",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="opening_hours", to="machines.site"
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "opening hours",
                "ordering": ["weekday", "opens"],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("weekday__lte", 6)), name="opening_hours_weekday"),
                    models.UniqueConstraint(fields=("site", "weekday", "opens"), name="one_opening_a_moment"),
                ],
            },
        ),
        migrations.CreateModel(
            name="Shift",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("weekdays", machines.rota_models.WeekdaysField(help_text="The days on which it begins.")),
                ("starts", models.TimeField()),
                (
                    "ends",
                    models.TimeField(help_text="Before the start: on the next day. The same as the start: 24 hours."),
                ),
                ("first_day", models.DateField(blank=True, help_text="Empty: since ever.", null=True)),
                (
                    "last_day",
                    models.DateField(
                        blank=True, help_text="The last day on which it begins; empty: for ever.", null=True
                    ),
                ),
                (
                    "every_weeks",
                    models.PositiveSmallIntegerField(
                        default=1,
                        help_text="1: each week. 2: every second one, counted from the week of the first day.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(8),
                        ],
                    ),
                ),
                (
                    "rank",
                    models.PositiveSmallIntegerField(
                        default=1,
                        help_text="1 is asked first, 2 next, and so on.",
                        validators=[
                            django.core.validators.MinValueValidator(1),
                            django.core.validators.MaxValueValidator(9),
                        ],
                    ),
                ),
                (
                    "fleet",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="shifts", to="machines.fleet"
                    ),
                ),
                (
                    "operator",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="shifts", to="machines.operator"
                    ),
                ),
                (
                    "site",
                    models.ForeignKey(
                        blank=True,
                        help_text="Empty: every site of the fleet, each by its own clock.",
                        null=True,
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="shifts",
                        to="machines.site",
                    ),
                ),
            ],
            options={
                "ordering": ["fleet", "site", "rank", "weekdays", "starts"],
                "constraints": [
                    models.CheckConstraint(
                        condition=models.Q(
                            ("first_day", None),
                            ("last_day", None),
                            ("last_day__gte", models.F("first_day")),
                            _connector="OR",
                        ),
                        name="shift_has_days",
                        violation_error_message="The last day is before the first.",
                    ),
                    models.CheckConstraint(
                        condition=models.Q(
                            ("every_weeks", 1),
                            models.Q(("every_weeks__gt", 1), ("first_day__isnull", False)),
                            _connector="OR",
                        ),
                        name="shift_of_some_weeks_has_a_first",
                        violation_error_message="Weeks are counted from the first day's; say which day that is.",
                    ),
                    models.CheckConstraint(condition=models.Q(("rank__gte", 1)), name="shift_has_a_rank"),
                ],
            },
        ),
        migrations.CreateModel(
            name="WorkingHours",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                (
                    "weekday",
                    models.PositiveSmallIntegerField(
                        choices=[
                            (0, "Monday"),
                            (1, "Tuesday"),
                            (2, "Wednesday"),
                            (3, "Thursday"),
                            (4, "Friday"),
                            (5, "Saturday"),
                            (6, "Sunday"),
                        ]
                    ),
                ),
                ("starts", models.TimeField()),
                (
                    "ends",
                    models.TimeField(help_text="Before the start: on the next day. The same as the start: 24 hours."),
                ),
                (
                    "operator",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE,
                        related_name="working_hours",
                        to="machines.operator",
                    ),
                ),
            ],
            options={
                "verbose_name_plural": "working hours",
                "ordering": ["weekday", "starts"],
                "constraints": [
                    models.CheckConstraint(condition=models.Q(("weekday__lte", 6)), name="working_hours_weekday"),
                    models.UniqueConstraint(
                        fields=("operator", "weekday", "starts"), name="one_start_of_work_a_moment"
                    ),
                ],
            },
        ),
    ]
