"""The demo's machines behind a VPN: what each of them has in its folder, and its process at its place."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from django.utils import timezone

from agent.files import write_text
from agent.simulator.config import MachineConfig
from machines import identities
from machines.models import Machine, VpnIdentity
from machines.vpn import pki
from portal.demo.folders import described
from portal.demo.vpn.bed import ROOT, Bed
from portal.demo.vpn.services import Service

PROFILE = "profile.ovpn"
STREET_PORT = 8090  # in the machine's own namespace
_RDP_PORT = 3389
_BEGIN, _END = "<cert>\n", "</cert>\n"
# A simulated machine is a computer of its own: nothing of the server's settings or secrets is its.
_PLAIN = ("PATH", "HOME", "LANG", "TMPDIR")


def write_folder(folder: Path, machine: Machine, *, api_url: str, fault: str = "") -> MachineConfig:
    """Makes FOLDER what the simulator needs to be this machine behind its tunnel; an identity that is good stays."""
    config = MachineConfig.write(
        folder,
        **described(folder, machine),
        api_url=api_url,
        rdp_port=_RDP_PORT,
        fault=fault,
        vpn_profile=PROFILE,
    )
    if not _has_good_identity(folder / PROFILE, machine):
        # Nobody holds the others any more.
        identities.revoke_all(machine, reason="lost by the demo")
        identity = identities.issue_identity(machine)
        write_text(folder / PROFILE, identities.hand_over(identity))
    return config


def start_machine(bed: Bed, folder: Path) -> Service:
    """Switches on the machine of this folder at the place that has the folder's name; see `is_on`."""
    ready = ready_file(folder)
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "agent.simulator", "run", "--folder", str(folder)]
    values: Mapping[str, str] = {name: os.environ[name] for name in _PLAIN if name in os.environ}
    return bed.service(
        f"Machine {folder.name}",
        [*command, "--street-port", str(STREET_PORT), "--ready-file", str(ready)],
        log=f"machine-{folder.name}.log",
        place=folder.name,
        is_kept=False,
        values={**values, "PYTHONPATH": str(ROOT)},
        stop_s=25.0,
    )


def ready_file(folder: Path) -> Path:
    """What is there as soon as the machine of this folder is on."""
    return folder / "ready"


def _has_good_identity(profile: Path, machine: Machine) -> bool:
    try:
        text = profile.read_text(encoding="ascii")
        certificate = x509.load_pem_x509_certificate(text.partition(_BEGIN)[2].partition(_END)[0].encode())
    except (OSError, ValueError):
        return False
    live = VpnIdentity.objects.filter(machine=machine, revoked_at=None, expires_at__gt=timezone.now())
    return live.filter(sha256=pki.sha256_of(certificate)).exists()
