"""The security record can only grow."""

from django.db import migrations

from machines.append_only import make_append_only


def forwards(apps, schema_editor):
    make_append_only(schema_editor, "machines_securityevent")


class Migration(migrations.Migration):
    dependencies = [("machines", "0001_initial")]
    operations = [migrations.RunPython(forwards)]
