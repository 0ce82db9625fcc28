"""The migrations make what the models say, in every process alike."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from django.db import DatabaseError, connections, transaction
from django.db.migrations.executor import MigrationExecutor
from django.utils import timezone
from pytest_django import DjangoDbBlocker


@pytest.mark.parametrize("hash_seed", ["1", "2"])
def test_no_migration_is_missing_whatever_order_sets_have(hash_seed: str) -> None:
    result = subprocess.run(
        [sys.executable, "manage.py", "makemigrations", "--check", "--dry-run", "machines", "support", "notifications"],
        cwd=Path(__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": hash_seed},
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.fixture
def empty_database(tmp_path: Path, django_db_blocker: DjangoDbBlocker) -> Iterator[str]:
    """The alias of a database without a table, of the kind that the tests run on."""
    alias = "before"
    name = str(tmp_path / "before.sqlite3")
    with django_db_blocker.unblock():
        is_postgresql = connections["default"].vendor == "postgresql"
        if is_postgresql:
            name = f"before_{os.getpid()}"
            with connections["default"]._nodb_cursor() as cursor:
                cursor.execute(f"CREATE DATABASE {name}")
        connections.settings[alias] = {**connections.settings["default"], "NAME": name}
        try:
            yield alias
        finally:
            connections[alias].close()
            del connections[alias], connections.settings[alias]
            if is_postgresql:
                with connections["default"]._nodb_cursor() as cursor:
                    cursor.execute(f"DROP DATABASE {name}")


def migrate(alias: str, app: str, name: str) -> Any:
    """Takes the database to a migration; the models as they were then."""
    executor = MigrationExecutor(connections[alias])
    return executor.migrate([(app, name)]).apps


def test_sessions_from_before_keep_the_key_of_their_press_and_the_law_stays(empty_database: str) -> None:
    apps = migrate(empty_database, "support", "0003_machine_withdrawn")

    def rows(model: str, app: str = "machines") -> Any:
        return apps.get_model(app, model).objects.using(empty_database)

    fleet = rows("Fleet").create(name="North", slug="north")
    site = rows("Site").create(fleet=fleet, name="Station", city="Milano", country="IT", time_zone="Europe/Rome")
    aurora = rows("MachineModel").create(name="Aurora 9")
    machine = rows("Machine").create(fleet=fleet, site=site, model=aurora, serial="A1", vpn_address="127.64.0.1")
    now = timezone.now()
    times = {"gateway_due_at": now, "answer_due_at": now}
    sessions, made = rows("SupportSession", "support"), {}
    for key in ("k1", "k2"):
        made[key] = sessions.create(
            machine=machine, fleet=fleet, idempotency_key=key, request_digest=f"digest of {key}",
            requested_at=now - timedelta(days=1), **times,
        )  # fmt: skip
        if key == "k1":
            ended = {"end_reason": "cancelled", "closing_at": now}
            sessions.filter(pk=made[key].pk).update(state="closing", **ended)
            sessions.filter(pk=made[key].pk).update(state="closed", closed_at=now)

    apps = migrate(empty_database, "support", "0004_press")

    presses = rows("Press", "support")
    assert set(presses.values_list("idempotency_key", "request_digest", "session", "machine", "at")) == {
        (key, f"digest of {key}", made[key].pk, machine.pk, made[key].requested_at) for key in ("k1", "k2")
    }
    open_one = rows("SupportSession", "support").filter(pk=made["k2"].pk)
    against_the_law: list[Callable[[], object]] = [
        lambda: open_one.update(state="closed", end_reason="cancelled", closing_at=now, closed_at=now),
        lambda: presses.filter(idempotency_key="k1").update(idempotency_key="k3"),
        lambda: presses.all()._raw_delete(empty_database),
    ]
    for act in against_the_law:
        with pytest.raises(DatabaseError), transaction.atomic(using=empty_database):
            act()

    apps = migrate(empty_database, "support", "0005_escalation")

    # Who waits is asked for as if help had been pressed just now; what is over stays as it was.
    ladders = rows("Escalation", "support").values_list("session", "answer_due_at", "next_at", "rung", "turn")
    assert list(ladders) == [(made["k2"].pk, now, made["k2"].requested_at, "operators", 0)]
    for act in against_the_law:
        with pytest.raises(DatabaseError), transaction.atomic(using=empty_database):
            act()


def test_machines_from_before_keep_their_addresses_for_ever_and_the_record_stays(empty_database: str) -> None:
    apps = migrate(empty_database, "machines", "0002_append_only")

    def rows(model: str) -> Any:
        return apps.get_model("machines", model).objects.using(empty_database)

    fleet = rows("Fleet").create(name="North", slug="north")
    site = rows("Site").create(fleet=fleet, name="Station", city="Milano", country="IT", time_zone="Europe/Rome")
    aurora = rows("MachineModel").create(name="Aurora 9")
    machine = rows("Machine").create(fleet=fleet, site=site, model=aurora, serial="A1", vpn_address="127.64.0.1")
    rows("SecurityEvent").create(kind="token_issued", machine=machine)

    apps = migrate(empty_database, "machines", "0004_vpn_addresses")

    assert list(rows("VpnAddress").values_list("address", "machine", "allocated_at")) == [
        ("127.64.0.1", machine.pk, machine.created_at)
    ]
    assert rows("Machine").get().frozen_at is None and rows("Fleet").get().vpn_network == ""
    with pytest.raises(DatabaseError), transaction.atomic(using=empty_database):
        rows("SecurityEvent").update(kind="other")


def test_gateways_from_before_are_their_sessions_fleets_and_stay_their_sessions(empty_database: str) -> None:
    migrate(empty_database, "machines", "0008_words")
    apps = migrate(empty_database, "support", "0005_escalation")

    def rows(model: str, app: str = "machines") -> Any:
        return apps.get_model(app, model).objects.using(empty_database)

    made = {}
    for number, name in enumerate(("North", "South"), 1):
        fleet = rows("Fleet").create(name=name, slug=name.lower())
        site = rows("Site").create(fleet=fleet, name="Station", city="Milano", country="IT", time_zone="Europe/Rome")
        aurora = rows("MachineModel").create(name=f"Aurora {number}")
        machine = rows("Machine").create(
            fleet=fleet, site=site, model=aurora, serial="A1", vpn_address=f"127.64.0.{number}"
        )
        now = timezone.now()
        session = rows("SupportSession", "support").create(
            machine=machine, fleet=fleet, gateway_due_at=now, answer_due_at=now
        )
        made[rows("Gateway", "support").create(session=session, driver="local", state="ready").pk] = fleet.pk

    apps = migrate(empty_database, "support", "0006_warm_gateways")

    gateways = rows("Gateway", "support")
    assert dict(gateways.values_list("pk", "fleet")) == made
    assert set(gateways.values_list("born_warm", "claimed_at")) == {(False, None)}
    with pytest.raises(DatabaseError, match="claimed once"), transaction.atomic(using=empty_database):
        gateways.update(session=None)
