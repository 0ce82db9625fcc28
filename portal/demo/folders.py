"""What the simulator reads: a folder a machine, with its settings and its token (the agent's side of the database)."""

from __future__ import annotations

import hashlib
from pathlib import Path

from agent.simulator.config import MachineConfig
from machines.models import Machine, MachineToken
from machines.services import issue_token, revoke_token


def write_machine_folder(folder: Path, machine: Machine, *, api_url: str, fault: str = "") -> MachineConfig:
    """Makes FOLDER what the simulator needs to be this machine; an earlier token that still works stays."""
    return MachineConfig.write(
        folder,
        **described(folder, machine),
        address=machine.vpn_address,
        api_url=api_url,
        # Any that is free: another demo has machines at the same addresses, and this computer may have RDP of its own.
        rdp_port=0,
        fault=fault,
    )


def described(folder: Path, machine: Machine) -> dict[str, str]:
    """What a machine's settings say of the machine itself, with its token."""
    return {
        "token": ensure_token(folder, machine),
        "serial": machine.serial,
        "name": machine.name or machine.serial,
        "model": machine.model.name,
        "site": f"{machine.site.name}, {machine.site.city}"[:80],
        "time_zone": machine.site.time_zone,
    }


def ensure_token(folder: Path, machine: Machine) -> str:
    """The machine's token in FOLDER, if it still works.

    One that was lost or no longer fits is issued anew, and the machine's others end: nobody holds them.
    """
    token = _kept_token(folder, machine)
    if token is None:
        for lost in machine.tokens.filter(revoked_at=None):
            revoke_token(lost)
        token = issue_token(machine)
    return token


def _kept_token(folder: Path, machine: Machine) -> str | None:
    try:
        token = (folder / "token").read_text(encoding="utf-8").strip()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    prefix, _, secret = token.partition(".")
    digest = hashlib.sha256(secret.encode()).hexdigest()
    live = MachineToken.objects.filter(machine=machine, prefix=prefix, secret_sha256=digest, revoked_at=None)
    return token if live.exists() else None
