#!/usr/bin/env python3
"""Plays OpenVPN as 2.6.14 was seen to behave: `fake_openvpn.py` with the agent's options, told by files what to do.

Beside the profile: `script`, one word a line, the first is used up by each run (`connect` when there is none):
connect | refuse | halt | silent | crash. `runs` counts the starts, one line of JSON each. While it is connected, a line
written to `do` is done: halt, lose, back, traffic N. Strict: options that it does not know, or a second tunnel at the
same time, end it with status 64.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path

_KNOWN = {"--cd": 1, "--config": 1, "--management": 2, "--management-client": 0, "--script-security": 1}


def main(arguments: list[str]) -> int:
    options: dict[str, list[str]] = {}
    while arguments:
        name = arguments.pop(0)
        if name not in _KNOWN:
            print(f"Options error: Unrecognized option {name}", flush=True)
            return 64
        options[name] = [arguments.pop(0) for _ in range(_KNOWN[name])]
    if set(options) != set(_KNOWN) or options["--script-security"] != ["1"] or options["--management"][1] != "unix":
        print("Options error: something is missing", flush=True)
        return 64
    os.chdir(options["--cd"][0])
    profile = Path(options["--config"][0])
    folder = profile.parent
    word = _next_word(folder / "script")
    with open(folder / "runs", "a", encoding="utf-8") as runs:
        print(json.dumps({"pid": os.getpid(), "group": os.getpgid(0), "word": word}), file=runs)
    if word == "crash":
        print("Options error: In profile.ovpn:1: no such thing", flush=True)
        return 1
    tunnel = open(folder / "tunnel", "w", encoding="utf-8")  # noqa: SIM115 - held as long as we live
    try:
        fcntl.flock(tunnel, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        (folder / "two-at-once").touch()
        return 64
    management = socket.socket(socket.AF_UNIX)
    management.connect(options["--management"][0])
    asked = b""
    while asked.count(b"\n") < 2:
        asked += management.recv(100)
    assert asked == b"state on all\nbytecount 2\n", asked
    return _Run(management, folder / "do").play(word)


def _next_word(script: Path) -> str:
    words = script.read_text(encoding="utf-8").split() if script.exists() else []
    script.write_text("\n".join(words[1:]), encoding="utf-8")
    return words[0] if words else "connect"


class _Run:
    def __init__(self, management: socket.socket, orders: Path) -> None:
        self._management = management
        self._orders = orders
        signal.signal(signal.SIGTERM, self._terminate)

    def play(self, word: str) -> int:
        self._say(">INFO:OpenVPN Management Interface Version 5", "1795440247,CONNECTING,,,,,,", "END")
        self._state("WAIT")
        if word == "refuse":
            self._state("AUTH", "GET_CONFIG")
            self._say(">PASSWORD:Verification Failed: 'Auth' ['no open support\x1b session']")
            return self._leave()
        if word in ("connect", "halt"):
            self._connect()
        while word != "halt":
            if not self._is_heard():
                return self._leave()  # as OpenVPN does when its management client is gone
            if self._orders.exists():
                order, _, value = self._orders.read_text(encoding="utf-8").strip().partition(" ")
                self._orders.unlink()
                if order == "halt":
                    break
                if order == "lose":
                    self._say(">STATE:1795440253,RECONNECTING,ping-restart,,,,,")
                elif order == "back":
                    self._connect()
                elif order == "traffic":
                    self._say(f">BYTECOUNT:{int(value)},10")
        self._say(">NOTIFY:info,server-pushed-halt,")
        return self._leave()

    def _connect(self) -> None:
        self._state("AUTH", "GET_CONFIG")
        self._say(">STATE:1795440247,ASSIGN_IP,,127.64.7.7,,,,")
        self._say(">STATE:1795440247,CONNECTED,SUCCESS,127.64.7.7,192.0.2.1,1194,,")

    def _state(self, *names: str) -> None:
        for name in names:
            self._say(f">STATE:1795440247,{name},,,,,,")

    def _say(self, *lines: str) -> None:
        for line in lines:
            self._management.sendall(f"{line}\r\n".encode())

    def _is_heard(self) -> bool:
        self._management.settimeout(0.01)
        try:
            return bool(self._management.recv(100))
        except TimeoutError:
            return True

    def _leave(self) -> int:
        try:
            self._say(">STATE:1795440253,EXITING,exit-with-notification,,,,,")
        except OSError:
            pass
        return 0

    def _terminate(self, signum: int, frame: object) -> None:
        time.sleep(0.05)  # it says goodbye first
        sys.exit(self._leave())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
