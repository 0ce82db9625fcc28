"""The simulated machines from a terminal: `python3 -m agent.simulator run | list | state | press | … --folder F`."""

from __future__ import annotations

import argparse
import base64
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from agent.config import ConfigError
from agent.files import write_json
from agent.simulator.children import MissingProgram
from agent.simulator.coffee import FAULTS
from agent.simulator.display import DisplayError
from agent.simulator.fleet import Fleet, ask_simulator
from agent.simulator.screen import ScreenError

_EXIT_FAILED = 1
_EXIT_INTERRUPTED = 130


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit status: 0 done, 1 failed, 130 interrupted."""
    options = _parser().parse_args(arguments)
    try:
        if options.command == "run":
            return _run(options)
        return _COMMANDS[options.command](options)
    except (ConfigError, MissingProgram, DisplayError, ScreenError, ValueError, OSError) as error:
        print(error, file=sys.stderr)
        return _EXIT_FAILED
    except KeyboardInterrupt:
        return _EXIT_INTERRUPTED


def _run(options: argparse.Namespace) -> int:
    """Keeps the machines of a folder until SIGTERM or SIGINT, then leaves nothing running."""
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s [%(threadName)s] %(message)s",
        stream=sys.stderr,
    )
    stop = threading.Event()
    wanted: list[int] = []

    def end(signum: int, frame: FrameType | None) -> None:
        wanted.append(signum)  # nothing that takes a lock: this thread may hold it

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    fleet = Fleet(options.folder, street_port=None if options.no_street else options.street_port)
    try:
        fleet.start(on_up=lambda machine: print(f"{machine.config.serial}  {machine.config.name}: on", flush=True))
        if fleet.street_url:
            print(f"The street: {fleet.street_url}", flush=True)
        if options.ready_file is not None:
            ready = {"street_url": fleet.street_url, "machines": sorted(fleet.machines), "pid": os.getpid()}
            write_json(options.ready_file, ready)
        # Short waits: a signal that the kernel gives to another thread is seen by this one only between them.
        while not wanted:
            stop.wait(0.25)
    finally:
        fleet.stop()
        if options.ready_file is not None:
            options.ready_file.unlink(missing_ok=True)
    return 0


def _list(options: argparse.Namespace) -> int:
    for machine in _only(ask_simulator(options.folder, {"do": "list"}))["machines"]:
        port = f"RDP open on {machine['rdp_port']}" if machine["rdp_port"] else "RDP shut"
        rescue = machine["rescue"]["state"] or "no rescue"
        fault = machine["fault"] or "no fault"
        where = f"{machine['name']}, {machine['site']}"
        print(f"{machine['serial']}  {machine['address']}  {where}: {fault}; {rescue}; {port}")
    return 0


def _state(options: argparse.Namespace) -> int:
    print(json.dumps(_ask_one(options, "state"), indent=2, ensure_ascii=False))
    return 0


def _press(options: argparse.Namespace) -> int:
    request = {"do": "press", "machine": options.machine, "code": options.code, "text": options.text}
    state = ""
    for line in ask_simulator(options.folder, request):
        operator = f" ({line['operator']})" if line["operator"] else ""
        print(f"{line['state']}{operator}: {line['message']}", flush=True)
        state = line["state"]
        if options.no_wait and state not in ("preparing", "asking", "offline"):
            break
    return _EXIT_FAILED if state == "failed" else 0


def _cancel(options: argparse.Namespace) -> int:
    was_open = _ask_one(options, "cancel")["was_open"]
    print("The request is withdrawn." if was_open else "There is no open request on this machine.")
    return 0


def _fault(options: argparse.Namespace) -> int:
    _ask_one(options, "fault", code=options.code)
    print(f"The machine now has {options.code}: {FAULTS[options.code].title.lower()}.")
    return 0


def _screenshot(options: argparse.Namespace) -> int:
    options.output.write_bytes(base64.b64decode(_ask_one(options, "screenshot")["png"]))
    print(options.output)
    return 0


_COMMANDS = {
    "list": _list,
    "state": _state,
    "press": _press,
    "cancel": _cancel,
    "fault": _fault,
    "screenshot": _screenshot,
}


def _ask_one(options: argparse.Namespace, command: str, **values: Any) -> dict[str, Any]:
    return _only(ask_simulator(options.folder, {"do": command, "machine": options.machine, **values}))


def _only(answers: Iterator[dict[str, Any]]) -> dict[str, Any]:
    for answer in answers:
        return answer
    raise ValueError("The simulator ended before it answered.")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m agent.simulator", description="Simulated coffee machines.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, words: str, *, one_machine: bool = True) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=words, description=words)
        added.add_argument("--folder", type=Path, required=True, metavar="FOLDER", help="where the machines are")
        if one_machine:
            added.add_argument("--machine", metavar="SERIAL", help="which one; may be left out where there is only one")
        return added

    run = command("run", "switch the machines of a folder on, until interrupted", one_machine=False)
    run.add_argument("--street-port", type=int, default=8090, help="where to see them in a browser (0: any free port)")
    run.add_argument("--no-street", action="store_true", help="show them nowhere, as in a network namespace")
    run.add_argument("--ready-file", type=Path, metavar="PATH", help="written when all screens are up")
    run.add_argument("--verbose", action="store_true", help="log more")
    command("list", "what there is, and how it stands", one_machine=False)
    command("state", "all that one machine shows, as JSON")
    press = command("press", "press help, and print what the person at the machine reads")
    press.add_argument("--code", help="the fault's code (default: what the screen shows)")
    press.add_argument("--text", help="what is wrong, in words (default: what the screen shows)")
    press.add_argument("--no-wait", action="store_true", help="return as soon as support has answered")
    command("cancel", "press “no longer needed”")
    fault = command("fault", "break a machine")
    fault.add_argument("code", choices=sorted(FAULTS))
    screenshot = command("screenshot", "keep a picture of the screen")
    screenshot.add_argument("--output", type=Path, required=True, metavar="FILE", help="a PNG")
    return parser


if __name__ == "__main__":
    sys.exit(main())
