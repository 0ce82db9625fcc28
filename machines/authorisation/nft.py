"""Runs nft, the program of nftables: a script on its standard input, no shell, nothing of ours in its arguments."""

from __future__ import annotations

import shutil
import subprocess

_TIMEOUT_S = 10.0
# Where Debian has it; an agent's PATH may lack it.
_PATH = "/usr/sbin:/sbin:/usr/bin:/bin:/usr/local/sbin"


class NftError(Exception):
    """The rules could not be changed; what was there before is untouched, as a script is one transaction."""


def run(script: str) -> None:
    """Carries out a script. Raises NftError with the first thing that nft said."""
    program = shutil.which("nft", path=_PATH)
    if program is None:
        raise NftError("Found no program nft. Install the package nftables: without it machines are not kept apart.")
    try:
        done = subprocess.run(
            [program, "-f", "-"],
            input=script.encode(), capture_output=True, timeout=_TIMEOUT_S, check=False, env={"LC_ALL": "C"},
        )  # fmt: skip
    except (OSError, subprocess.SubprocessError) as error:
        raise NftError(f"nft could not be run: {error}.") from error
    if done.returncode != 0:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise NftError(
            f"nft refused the rules (code {done.returncode}): {said[0][:200] if said else 'it said nothing'}"
        )
