"""The demo: what it makes, what it keeps at the second run, and that nothing of it is left at its end."""

from __future__ import annotations

import io
import ipaddress
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from django.apps import apps
from django.conf import settings
from django.core.management import CommandError, call_command
from django.test import Client

from machines.errors import TokenRefused
from machines.models import (
    Fleet,
    Machine,
    MachineModel,
    OpeningHours,
    Operator,
    Shift,
    Site,
    User,
    WorkingHours,
)
from machines.selectors import fleets_of, machines_for
from machines.services import authenticate_machine
from machines.telemetry.builtin import BuiltinTelemetry
from portal.demo.errors import DemoError
from portal.demo.plan import EVERYWHERE, FLEETS
from portal.demo.seeding import seed_fleet, seed_machine
from tests import migrated

ROOT = Path(__file__).resolve().parents[2]
MILANO = EVERYWHERE.machines[0]
LOGINS = ("alice", "bob", "charlie", "dora", "emi")


@pytest.fixture
def folder(tmp_path: Path, settings: Any) -> Path:
    """The demo's folder in a state folder of its own."""
    settings.STATE_DIR = tmp_path
    return tmp_path / "demo"


def seed() -> dict[str, str]:
    """Runs the seeding; answers with what is said beside each user name."""
    said = io.StringIO()
    call_command("demo", seed_only=True, stdout=said)
    return _logins(said.getvalue())


def _logins(said: str) -> dict[str, str]:
    return dict(re.findall(r"as +(\w+) +(\S+)", said))


def token_of(folder: Path, serial: str) -> str:
    return (folder / "machines" / serial / "token").read_text().strip()


@pytest.mark.django_db
class TestSeeding:
    def test_makes_two_fleets_whose_rows_are_all_valid(self, folder: Path) -> None:
        seed()
        assert Fleet.objects.count() == 2
        assert len({site.country for site in Site.objects.all()}) >= 6
        profiles = apps.get_model("support", "ConnectionProfile")
        for model in (Fleet, Site, MachineModel, Machine, Operator, Shift, OpeningHours, WorkingHours, profiles):
            assert model.objects.exists()
            for row in model.objects.all():
                row.full_clean()

    def test_leaves_the_history_empty(self, folder: Path) -> None:
        seed()
        assert not apps.get_model("support", "SupportSession").objects.exists()

    def test_second_run_changes_nothing_and_says_the_same_logins(self, folder: Path) -> None:
        rota = (Shift, OpeningHours, WorkingHours)
        tables = (Fleet, Site, MachineModel, Machine, Operator, User, apps.get_model("machines", "MachineToken"), *rota)
        first = seed()
        rows = {table: list(table.objects.order_by("pk").values()) for table in tables}
        assert seed() == first
        assert {table: list(table.objects.order_by("pk").values()) for table in tables} == rows

    def test_keeps_what_people_have_changed(self, folder: Path) -> None:
        seed()
        Machine.objects.filter(serial=MILANO.serial).update(name="Beside the kiosk")
        Operator.objects.get(user__username="bob").fleets.clear()
        seed()
        assert Machine.objects.get(serial=MILANO.serial).name == "Beside the kiosk"
        assert not fleets_of(User.objects.get(username="bob"))

    def test_brings_back_what_was_deleted(self, folder: Path) -> None:
        seed()
        apps.get_model("support", "ConnectionProfile").objects.all().delete()
        User.objects.get(username="bob").delete()
        bob = seed()["bob"]
        assert Client().login(username="bob", password=bob)
        assert apps.get_model("support", "ConnectionProfile").objects.count() == 2
        assert Shift.objects.filter(operator__user__username="bob").count() == 4

    def test_at_every_hour_of_the_week_somebody_is_asked_first_and_somebody_next(self, folder: Path) -> None:
        seed()
        fleet = Fleet.objects.get(slug=EVERYWHERE.slug)
        first: dict[str, set[str]] = {}
        for machine in Machine.objects.filter(fleet=fleet).select_related("site", "model", "fleet"):
            for hour in range(0, 7 * 24, 4):
                now = datetime(2026, 11, 23, tzinfo=UTC) + timedelta(hours=hour)
                asked = BuiltinTelemetry().who_is_responsible(machine, now=now).candidates
                assert len(asked) >= 2, (machine.serial, now)
                first.setdefault(machine.site.city, set()).add(asked[0].username)
        bobs, doras = ("Milano", "Lisbon", "Warsaw"), ("Toronto", "São Paulo")
        expected = {**{city: {"bob"} for city in bobs}, **{city: {"dora"} for city in doras}}
        assert first == {**expected, "Tokyo": {"emi", "dora"}}

    def test_demo_from_before_there_was_a_rota_gets_one(self, folder: Path) -> None:
        seed()
        rows = {table: list(table.objects.order_by("pk").values()) for table in (Fleet, Site)}
        for table in (Shift, OpeningHours, WorkingHours):
            table.objects.all().delete()
        Fleet.objects.update(
            ask_next_after_s=None, ask_supervisors_after_s=None, ask_last_resort_after_s=None, last_resort_email=""
        )
        Site.objects.update(languages=[])
        Operator.objects.update(languages=[])
        seed()
        assert {table: list(table.objects.order_by("pk").values()) for table in (Fleet, Site)} == rows
        assert (Shift.objects.count(), OpeningHours.objects.count(), WorkingHours.objects.count()) == (10, 7, 7)

    def test_rota_that_people_have_changed_stays(self, folder: Path) -> None:
        seed()
        Shift.objects.filter(site__city="Milano").update(rank=4)
        Fleet.objects.update(last_resort_email="", ask_next_after_s=None)
        seed()
        assert list(Shift.objects.filter(site__city="Milano").values_list("rank", flat=True)) == [4]
        assert not Fleet.objects.exclude(last_resort_email="", ask_next_after_s=None).exists()

    def test_machine_takes_the_next_address_when_another_has_the_planned_one(self, folder: Path) -> None:
        other = Fleet.objects.create(name="Other", slug="other")
        first = seed_machine(other, MILANO)
        second = seed_machine(Fleet.objects.create(name="Third", slug="third"), MILANO)
        assert (first.vpn_address, second.vpn_address) == ("127.64.1.1", "127.64.1.2")

    def test_says_what_to_do_where_machines_are_not_on_this_computer(self, settings: Any) -> None:
        settings.VPN_NETWORK = ipaddress.ip_network("10.8.0.0/16")
        with pytest.raises(DemoError, match=r"expected an address in the machines' network 10\.8\.0\.0/16.*defaults"):
            seed_fleet(EVERYWHERE)
        assert not Machine.objects.exists()

    def test_tenants_see_their_own_machines_only(self, folder: Path) -> None:
        seed()
        seen = {name: {machine.serial for machine in machines_for(User.objects.get(username=name))} for name in LOGINS}
        assert (
            seen["alice"]
            == seen["bob"]
            == seen["dora"]
            == seen["emi"]
            == {machine.serial for machine in FLEETS[0].machines}
        )
        assert seen["charlie"] == {machine.serial for machine in FLEETS[1].machines}


@pytest.mark.django_db
class TestSecrets:
    def test_machine_is_known_by_the_token_in_its_folder(self, folder: Path) -> None:
        seed()
        machine = authenticate_machine(token_of(folder, MILANO.serial), peer_address=MILANO.address)
        assert machine.serial == MILANO.serial

    def test_lost_token_is_issued_anew_and_the_lost_one_ends(self, folder: Path) -> None:
        seed()
        lost = token_of(folder, MILANO.serial)
        (folder / "machines" / MILANO.serial / "token").unlink()
        seed()
        authenticate_machine(token_of(folder, MILANO.serial), peer_address=MILANO.address)
        with pytest.raises(TokenRefused):
            authenticate_machine(lost, peer_address=MILANO.address)

    def test_token_of_another_database_is_replaced(self, folder: Path) -> None:
        seed()
        (folder / "machines" / MILANO.serial / "token").write_text("0123456789abcdef.of-another-database-altogether\n")
        seed()
        authenticate_machine(token_of(folder, MILANO.serial), peer_address=MILANO.address)

    def test_only_the_owner_reads_tokens_and_passwords(self, folder: Path) -> None:
        seed()
        secrets = [folder / "logins.json", *folder.glob("machines/*/token")]
        assert len(secrets) == 1 + Machine.objects.count()
        assert {oct(path.stat().st_mode & 0o777) for path in secrets} == {"0o600"}

    def test_no_secret_is_in_a_machine_s_settings(self, folder: Path) -> None:
        seed()
        assert token_of(folder, MILANO.serial).partition(".")[2]
        for path in folder.glob("machines/*/machine.json"):
            assert token_of(folder, path.parent.name).partition(".")[2] not in path.read_text()

    @pytest.mark.parametrize("username", LOGINS)
    def test_login_that_is_said_works(self, folder: Path, username: str) -> None:
        assert Client().login(username=username, password=seed()[username])

    def test_password_that_somebody_chose_stays_and_is_not_said(self, folder: Path) -> None:
        first = seed()
        user = User.objects.get(username="alice")
        user.set_password("chosen by alice")
        user.save()
        said = io.StringIO()
        call_command("demo", seed_only=True, stdout=said)
        assert "the password that you chose" in said.getvalue()
        assert first["alice"] not in said.getvalue()
        assert Client().login(username="alice", password="chosen by alice")

    def test_lost_passwords_are_made_anew(self, folder: Path) -> None:
        first = seed()
        (folder / "logins.json").unlink()
        second = seed()
        assert first["alice"] != second["alice"]
        assert Client().login(username="alice", password=second["alice"])


@contextmanager
def listening() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        yield listener.getsockname()[1]


def free_ports(count: int) -> list[int]:
    listeners = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    try:
        return [listener.getsockname()[1] for listener in listeners]
    finally:
        for listener in listeners:
            listener.close()


@pytest.mark.django_db
class TestRefusals:
    @pytest.mark.parametrize("name", ["PUBLIC_BIND", "MACHINE_API_BIND", "STREET_PORT"])
    def test_port_in_use_is_named_with_the_setting_that_chooses_another(
        self, name: str, folder: Path, settings: Any, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        ports = dict(zip(("PUBLIC_BIND", "MACHINE_API_BIND", "STREET_PORT"), free_ports(3), strict=True))
        with listening() as port:
            ports[name] = port
            settings.PUBLIC_BIND = ("127.0.0.1", ports["PUBLIC_BIND"])
            settings.MACHINE_API_BIND = ("127.0.0.1", ports["MACHINE_API_BIND"])
            monkeypatch.setenv("STREET_PORT", str(ports["STREET_PORT"]))
            with pytest.raises(CommandError) as refusal:
                call_command("demo", stdout=io.StringIO())
        assert f"Port {port} of 127.0.0.1 cannot be used: Address already in use." in str(refusal.value)
        assert f"{name}=" in str(refusal.value)
        assert not Fleet.objects.exists()

    def test_malformed_street_port_is_named(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STREET_PORT", "high street")
        with pytest.raises(CommandError, match="STREET_PORT: found 'high street', expected a whole number"):
            call_command("demo", stdout=io.StringIO())


class Demo:
    """`manage.py demo` as a newcomer has it, with ports and a database of its own."""

    def __init__(self, state: Path, **environment: str) -> None:
        self.public, self.machines, self.street = free_ports(3)
        self.state = state
        self.output = state / "said"
        self._mark = f"STATE_DIR={state}"
        self._environment = {
            **os.environ,
            "STATE_DIR": str(state),
            "INSTALLATION": str(state),
            "DATABASE_URL": f"sqlite:///{state / 'demo.sqlite3'}",
            "PUBLIC_BIND": f"127.0.0.1:{self.public}",
            "MACHINE_API_BIND": f"127.0.0.1:{self.machines}",
            "STREET_PORT": str(self.street),
            **environment,
        }
        migrated.copy_to(state / "demo.sqlite3")

    def manage(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "manage.py", *arguments]
        return subprocess.run(command, cwd=ROOT, env=self._environment, capture_output=True, text=True, check=False)

    @contextmanager
    def running(self) -> Iterator[subprocess.Popen[bytes]]:
        with open(self.output, "wb") as output:
            command = [sys.executable, "manage.py", "demo"]
            process = subprocess.Popen(command, cwd=ROOT, env=self._environment, stdout=output, stderr=output)
        try:
            wait_until(
                lambda: "charlie" in self.logins() or process.poll() is not None,
                "the logins",
                self.all_said,
                timeout_s=120,
            )
            assert process.poll() is None, self.said()
            yield process
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                process.wait(60)

    def press(self, serial: str) -> None:
        """Presses help on a machine from a terminal; returns when its screen says that the desktop is ready."""
        folder = str(self.state / "demo" / "machines")
        command = [sys.executable, "-m", "agent.simulator", "press", "--folder", folder, "--machine", serial]
        lines: list[str] = []
        with subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as pressing:
            assert pressing.stdout is not None
            for line in pressing.stdout:
                lines.append(line)
                if line.startswith("ready"):
                    break
            pressing.kill()
        assert lines and lines[-1].startswith("ready"), "".join(lines) + self.all_said()

    def said(self) -> str:
        return self.output.read_text()

    def all_said(self) -> str:
        """What the demo and all of its programs have written."""
        logs = [self.output, *sorted((self.state / "demo").glob("*.log")), *sorted(self.state.rglob("run/*.log"))]
        return "".join(f"--- {log.relative_to(self.state)}\n{log.read_text(errors='replace')}" for log in logs)

    def logins(self) -> dict[str, str]:
        return _logins(self.said())

    def processes(self) -> list[str]:
        """What runs with this demo's state folder in its environment, guacd too."""
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            try:
                names = (path / "environ").read_bytes().split(b"\0")
                command = (path / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            except OSError:
                continue
            marks = (self._mark, f"PORTAFILTER_INSTALLATION={self._environment['INSTALLATION']}")
            if command and any(mark.encode() in names for mark in marks):
                found.append(command)
        return found


_ENGINE = """#!/bin/sh
# A container engine that knows just what the demo and ./setup should ask of it; its one container is a real guacd.
image=docker.io/guacamole/guacd:1.6.0
echo "$*" >>"{calls}"
case "$1 $2 $3" in
    "info  ") exit 0 ;;
    "image inspect $image") [ -e "{calls}.pulled" ]; exit ;;
    "pull $image ") touch "{calls}.pulled"; exit 0 ;;
    "rm --force portafilter-guacd-"*) echo "Error: No such container: $3" >&2; exit 1 ;;
    "run --rm --name")
        if [ "$5 $6 $7 $8 $9" = "--network host --entrypoint /opt/guacamole/sbin/guacd $image" ]; then
            shift 9
            if [ "$1 $2 $3 $4 $6 $7 $#" = "-f -b 127.0.0.1 -l -L info 7" ]; then exec "{guacd}" "$@"; fi
        fi
        ;;
esac
echo "refused: $*" >>"{calls}"
exit 125
"""


def fake_engine(folder: Path, *, guacd: str = "false") -> Path:
    """Makes a `docker` in the folder; answers with the file in which its calls are."""
    folder.mkdir()
    calls = folder / "calls"
    program = folder / "docker"
    program.write_text(_ENGINE.format(calls=calls, guacd=guacd))
    program.chmod(0o755)
    return calls


_SETUP_WITHOUT_GUACD = """
set -eu
. ./functions
program() {{ case $1 in guacd) return 1 ;; podman) return 1 ;; docker) command -v docker >/dev/null ;; esac; }}
any_file() {{ true; }}
is_debian_12() {{ false; }}
purpose={purpose}
packages
take_turn
guacd_in_a_container
"""


def setup_without_guacd(folder: Path, purpose: str) -> subprocess.CompletedProcess[str]:
    """What ./setup says about guacd in a folder of its own, on a system that is no Debian and has all but guacd."""
    lines = (ROOT / "setup").read_text().splitlines()
    assert lines[-1] == 'main "$@"'
    (folder / "functions").write_text("\n".join(lines[:-1]).replace('cd "$(dirname "$0")"', ":"))
    return subprocess.run(
        ["sh", "-c", _SETUP_WITHOUT_GUACD.format(purpose=purpose)],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


class TestSetup:
    def test_image_is_fetched_once_where_guacd_cannot_be_installed(self, tmp_path: Path) -> None:
        calls = fake_engine(tmp_path / "bin")
        for _ in range(2):
            done = setup_without_guacd(tmp_path, "run")
            assert done.returncode == 0, done.stdout + done.stderr
        image = "docker.io/guacamole/guacd:1.6.0"
        look = ["info", f"image inspect {image}"]
        assert calls.read_text().splitlines() == [*look, f"pull {image}", *look]

    def test_guacd_is_named_as_missing_where_no_engine_answers(self, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "docker").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / "docker").chmod(0o755)
        done = setup_without_guacd(tmp_path, "run")
        assert done.returncode == 1
        assert "missing, by the names of Debian 12's packages: guacd" in done.stderr

    def test_tests_want_the_program_itself(self, tmp_path: Path) -> None:
        calls = fake_engine(tmp_path / "bin")
        assert "packages: guacd" in setup_without_guacd(tmp_path, "test").stderr
        assert not calls.exists()


def wait_until(holds: Any, what: str, told: Any, *, timeout_s: float = 60) -> None:
    deadline = time.monotonic() + timeout_s
    while not holds():
        assert time.monotonic() < deadline, f"{what}: not within {timeout_s:g} s. {told()}"
        time.sleep(0.05)


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=10) as answer:
        return int(answer.status)


@pytest.mark.real
@pytest.mark.timeout(300)
class TestRunning:
    def test_help_pressed_in_a_terminal_has_its_desktop_held_and_the_end_leaves_nothing(self, tmp_path: Path) -> None:
        demo = Demo(tmp_path)
        with demo.running() as process:
            assert status_of(f"http://127.0.0.1:{demo.public}/accounts/login/") == 200
            assert status_of(f"http://localhost:{demo.public}/accounts/login/") == 200
            assert status_of(f"http://127.0.0.1:{demo.street}/") == 200
            assert any("Xvfb" in command for command in demo.processes())
            assert "runs already, as process" in demo.manage("demo").stderr
            assert set(demo.logins()) == set(LOGINS)

            demo.press(MILANO.serial)
            assert any("guacd" in command for command in demo.processes())

            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, demo.said()
        assert demo.processes() == []
        assert "Killed" not in demo.said()

    def test_guacd_runs_in_a_container_where_there_is_no_program_but_an_engine(self, tmp_path: Path) -> None:
        calls = fake_engine(tmp_path / "bin", guacd=settings.GUACD_PATH)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        demo = Demo(tmp_path, GUACD_PATH=str(tmp_path / "no-guacd"), PATH=path)
        with demo.running() as process:
            assert "guacd in a container of docker" in demo.said()
            demo.press(MILANO.serial)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0, demo.all_said()
        wait_until(lambda: not demo.processes(), "the end of all programs", demo.processes)
        said = calls.read_text().splitlines()
        assert [line.split()[0] for line in said] == ["info", "rm", "run", "rm"], said
        assert "refused" not in calls.read_text()

    def test_next_start_says_the_same_logins_and_killed_it_takes_its_programs_with_it(self, tmp_path: Path) -> None:
        demo = Demo(tmp_path)
        first = _logins(demo.manage("demo", "--seed-only").stdout)
        with demo.running() as process:
            assert demo.logins() == first
            process.kill()
            process.wait()
            wait_until(lambda: not demo.processes(), "the end of all programs", demo.processes)

    def test_server_that_dies_ends_the_demo_with_its_last_words(self, tmp_path: Path) -> None:
        demo = Demo(tmp_path)
        with demo.running() as process:
            demo.press(MILANO.serial)
            server = next(
                int(path.parent.name)
                for path in Path("/proc").glob("[0-9]*/cmdline")
                if f"{tmp_path}/demo/server.ready".encode() in path.read_bytes()
            )
            os.kill(server, signal.SIGKILL)
            assert process.wait(60) == 1
        assert "The server ended by itself" in demo.said()
        assert "server.log" in demo.said()
        assert demo.processes() == []
