"""`manage.py demo_vpn`: the demo with a real OpenVPN, each machine in a network namespace of its own, until Ctrl-C."""

from __future__ import annotations

import os
import time
from pathlib import Path

from django.conf import settings
from django.db import connections

from machines.models import Machine
from portal.demo.errors import DemoError
from portal.demo.plan import FLEETS
from portal.demo.programs import check_port
from portal.demo.vpn import bed as beds
from portal.demo.vpn import street
from portal.demo.vpn.bed import Bed, Door
from portal.demo.vpn.lines import QUALITIES
from portal.demo.vpn.namespaces import missing
from portal.demo.vpn.services import Service
from portal.management.commands import demo

_READY_S = 120.0


class Command(demo.Command):
    help = (
        "The demo with a real OpenVPN server: machines join by identities of their own, over lines that can be made "
        "slow, lossy or dead. Needs root. `make run-vpn` starts it with the settings that it needs."
    )

    def check_places(self, street_port: int) -> None:
        if lacking := missing():
            raise DemoError(f"The demo with a VPN {lacking}. Without a VPN: make run")
        wanted = beds.environment()
        different = [name for name, value in wanted.items() if os.environ.get(name) != value]
        if different:
            raise DemoError(f"Found other settings than the demo with a VPN has: {', '.join(different)}. make run-vpn")
        if not os.access(settings.GUACD_PATH, os.X_OK):
            raise DemoError(f"GUACD_PATH: found no program at {settings.GUACD_PATH}, expected guacd.")
        host, port = settings.PUBLIC_BIND
        check_port("PUBLIC_BIND", settings.PUBLIC_BIND, example=f"{host}:{port + 100}")
        for number in range(len(_serials())):
            check_port("STREET_PORT", ("127.0.0.1", street_port + number), example=str(street_port + 100))

    def write_folder(self, folder: Path, machine: Machine, *, api_url: str, fault: str) -> None:
        # Whatever its database says: in the demo's own namespace the server has this address.
        street.write_folder(folder, machine, api_url=f"http://{beds.SERVER_INSIDE}:{beds.API_PORT}", fault=fault)

    def run_until_stopped(self, folder: Path, street_port: int, logins: list[tuple[str, str | None, str]]) -> None:
        connections.close_all()
        serials, (_, port) = _serials(), settings.PUBLIC_BIND
        doors = [Door(port, port)]
        doors += [Door(street_port + number, street.STREET_PORT, at=one) for number, one in enumerate(serials)]
        values = {**os.environ, "PUBLIC_BIND": f"127.0.0.1:{port}"}
        for name in ("server.ready", *(f"{log}.log" for log in ("openvpn", "authorise", "server"))):
            (folder / name).unlink(missing_ok=True)
        began = time.monotonic()
        self.say("  OpenVPN and the server … ", ending="")
        with Bed(folder, serials, values, doors=doors) as bed:
            try:
                bed.start_vpn()
                bed.start_server("--stop-gateways", ready_file=folder / "server.ready")
                self.say(f"{time.monotonic() - began:.1f} s")
                machines = self._switch_on(bed, folder)
                self._say_ready_with_vpn(bed, street_port, logins)
                while True:
                    for machine in machines:
                        machine.check()
                    time.sleep(0.25)
            finally:
                self.say("")
                with self.step("Ending the machines and the server"):
                    bed.supervisor.end([one for one in bed.supervisor.services if one.name.startswith("Machine ")])
                    bed.supervisor.end([bed.serve] if bed.has_server else [])

    def _switch_on(self, bed: Bed, folder: Path) -> list[Service]:
        machines = []
        with self.step("Simulated machines"):
            # One after the other: all screens at once would take longer on a small computer.
            for serial in _serials():
                path = folder / "machines" / serial
                machine = street.start_machine(bed, path)
                machine.wait_until(street.ready_file(path).exists, what="its screen is there", within_s=_READY_S)
                machines.append(machine)
        return machines

    def _say_ready_with_vpn(self, bed: Bed, street_port: int, logins: list[tuple[str, str | None, str]]) -> None:
        serials = _serials()
        self.say("\nPortafilter is ready, behind a real OpenVPN.\n")
        for number, serial in enumerate(serials):
            label = "Machines" if number == 0 else ""
            self.say(f"  {label:10} http://127.0.0.1:{street_port + number}/  {serial}, from {bed.outside(serial)}")
        self.say("             Press help there, or from a terminal: make press MACHINE=" + serials[0])
        self.say(f"  Lines      make line MACHINE={serials[0]} LINE={'|'.join(QUALITIES)}")
        self.say(f"  Logs       {demo.short(bed.folder)}/*.log")
        self.say(f"  Stop       Ctrl-C here, or: kill {os.getpid()}\n")
        self.say(f"  Portal     {settings.PUBLIC_ORIGINS[0]}/")
        self.say_logins(logins)


def _serials() -> list[str]:
    return [machine.serial for plan in FLEETS for machine in plan.machines]
