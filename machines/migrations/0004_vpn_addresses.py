"""Every address that a machine has is remembered from now on."""

from django.db import migrations


def forwards(apps, schema_editor):
    database = schema_editor.connection.alias
    machines = apps.get_model("machines", "Machine").objects.using(database)
    address = apps.get_model("machines", "VpnAddress")
    rows = [
        address(address=found, machine_id=machine, allocated_at=since)
        for machine, found, since in machines.values_list("pk", "vpn_address", "created_at")
    ]
    address.objects.using(database).bulk_create(rows, batch_size=500)


class Migration(migrations.Migration):
    dependencies = [("machines", "0003_vpn")]
    operations = [migrations.RunPython(forwards, migrations.RunPython.noop)]
