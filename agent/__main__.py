"""The agent's commands: `python3 -m agent --config FILE enrol | run | press | cancel | status | heartbeat`."""

from __future__ import annotations

import argparse
import contextlib
import logging
import signal
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

from agent import __version__
from agent.api import ApiError, Client, Stopped
from agent.config import AgentConfig, ConfigError
from agent.enrol import EnrolError, Enrolment, read_code, read_where
from agent.heartbeat import Heartbeat
from agent.key_request import OpensslError
from agent.line import Line
from agent.notices import Notice
from agent.profile import ProfileError
from agent.rdp import CommandHook, RdpError
from agent.rescue import Rescue
from agent.store import Problem, RescueStore
from agent.vpn import way_to_support

_EXIT_FAILED = 1
_EXIT_USAGE = 2
_EXIT_STOPPED = 130
_LINE_UP_S = 60.0


def main(arguments: list[str] | None = None) -> int:
    """Runs one command; returns its exit status: 0 done, 1 failed, 2 not understood, 130 interrupted."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(
        level=logging.DEBUG if options.verbose else logging.INFO,
        format="%(asctime)s %(levelname)s %(name)s %(message)s",
        stream=sys.stderr,
    )
    signal.signal(signal.SIGTERM, _terminate)
    try:
        if options.config is None:
            raise ConfigError("--config FILE is missing: the agent's settings.")
        if options.command == "enrol":
            return _enrol(options)
        return _COMMANDS[options.command](AgentConfig.load(options.config), options)
    except ConfigError as error:
        print(error, file=sys.stderr)
        return _EXIT_USAGE
    except (ApiError, RdpError, EnrolError, OpensslError, ProfileError, OSError) as error:
        print(error, file=sys.stderr)
        return _EXIT_FAILED
    except (KeyboardInterrupt, Stopped):
        print(
            "Stopped. A rescue that was open goes on at the next `press` or `run`; `cancel` ends it.", file=sys.stderr
        )
        return _EXIT_STOPPED


def _enrol(options: argparse.Namespace) -> int:
    origin, code = read_where(options.portal, allow_http=options.allow_http)
    if options.code or not code:
        # Asked for when left out: an argument is seen by every user of this machine.
        code = options.code or (input("Code: ") if sys.stdin.isatty() else sys.stdin.readline())
    enrolment = Enrolment(origin, read_code(code), options.config, openssl=options.openssl, ca_file=options.ca_file)
    try:
        answer = enrolment.run()
    except ApiError as error:
        if error.retryable:
            print("Nothing is lost: the same command with the same code is safe for 15 minutes.", file=sys.stderr)
        raise
    print(f"This machine is {answer.serial}, {answer.vpn_address} in the VPN. Its settings are in {options.config}.")
    print("Now start the agent, or restart it; `heartbeat` tries the way to support once.")
    return 0


def _press(config: AgentConfig, options: argparse.Namespace) -> int:
    ending = _rescue(config, *way_to_support(config)).press(Problem(code=options.code, text=options.text))
    return _EXIT_FAILED if ending.state == "failed" else 0


def _cancel(config: AgentConfig, options: argparse.Namespace) -> int:
    was_open = _rescue(config, *way_to_support(config)).cancel()
    print("The request is withdrawn." if was_open else "There is no open request on this machine.")
    return 0


def _status(config: AgentConfig, options: argparse.Namespace) -> int:
    record = RescueStore(config.state_dir).read()
    if record is None:
        print("No rescue is open on this machine.")
    elif not record.request_id:
        print("Help was pressed; support has not answered yet.")
    else:
        api, line = way_to_support(config)
        with _line_up(line):
            request = api.read(record.request_id)
        print(f"{request.state}: {request.message}")
    return 0


def _heartbeat(config: AgentConfig, options: argparse.Namespace) -> int:
    api, line = way_to_support(config)
    with _line_up(line):
        Heartbeat(config, api=api, rescue=_rescue(config, api, line)).beat()
    print("Support answered.")
    return 0


def _run(config: AgentConfig, options: argparse.Namespace) -> int:
    """Beats, and takes up what an earlier run left, until it is interrupted.

    A tunnel `always` is kept up all the time; with one for each press, heartbeats are sent only while it is up.
    """
    api, line = way_to_support(config)
    rescue = _rescue(config, api, line)
    stop = threading.Event()
    heartbeat = Heartbeat(config, api=api, rescue=rescue, is_due=lambda: line.state.is_up)
    is_kept = config.vpn_when == "always"
    if is_kept:
        line.hold()
    threads = [
        threading.Thread(target=_recover, args=(rescue,), name="recovery"),
        threading.Thread(target=heartbeat.beat_until, args=(stop,), name="heartbeat"),
    ]
    for thread in threads:
        thread.start()
    try:
        # Short waits: a signal that the kernel gives to another thread is seen by this one only between them.
        while not stop.wait(0.5):
            pass
    finally:
        stop.set()
        rescue.stop()
        for thread in threads:
            thread.join()
        if is_kept:
            line.release()
    return 0


def _recover(rescue: Rescue) -> None:
    log = logging.getLogger("agent")
    try:
        rescue.recover()
    except Stopped:
        log.info("stop: recovery interrupted")
    except (RdpError, OSError) as error:
        log.error("start: %s", error)


_COMMANDS = {"press": _press, "cancel": _cancel, "status": _status, "heartbeat": _heartbeat, "run": _run}


@contextlib.contextmanager
def _line_up(line: Line) -> Iterator[None]:
    """The line, up; raises ApiError when it does not come up."""
    line.hold()
    try:
        deadline = time.monotonic() + _LINE_UP_S
        while not line.wait_until_up(threading.Event(), 1.0):
            state = line.state
            if state.is_hopeless or state.is_ended_by_server or time.monotonic() > deadline:
                raise ApiError(f"the tunnel is not up: {state.name} ({state.detail or 'no answer'})", retryable=False)
        yield
    finally:
        line.release()


def _rescue(config: AgentConfig, api: Client, line: Line) -> Rescue:
    if not config.open_command:
        raise ConfigError("[rdp] open_command is missing: the agent must know how to let support in, and out again.")
    hook = CommandHook(
        config.open_command, config.close_command, port=config.rdp_port, timeout_s=config.command_timeout_s
    )
    return Rescue(config, api=api, hook=hook, display=_print_notice, store=RescueStore(config.state_dir), line=line)


def _print_notice(notice: Notice) -> None:
    operator = f" ({notice.operator_name})" if notice.operator_name else ""
    print(f"{notice.state}{operator}: {notice.message}", flush=True)


def _terminate(signum: int, frame: FrameType | None) -> None:
    # An exception, not an Event: setting an event in a handler may wait for a lock that this very thread holds.
    raise KeyboardInterrupt


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m agent", description="Asks for help from this coffee machine.")
    words: dict[str, Any] = {"type": Path, "metavar": "FILE", "help": "the agent's settings (INI)"}
    parser.add_argument("--config", default=None, **words)
    parser.add_argument("--verbose", action="store_true", help="log more")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    press = commands.add_parser("press", help="ask for help, and follow the rescue to its end")
    press.add_argument("--code", default="", help="the fault's code, such as E17")
    press.add_argument("--text", default="", help="what is wrong, in words")
    commands.add_parser("cancel", help="help is no longer needed")
    commands.add_parser("status", help="how the rescue stands")
    commands.add_parser("heartbeat", help="say once that this machine lives")
    enrol = commands.add_parser("enrol", help="make this machine known, with a code from the portal")
    enrol.add_argument(
        "portal", metavar="ADDRESS", help="the portal's https address, or the whole text of the QR picture"
    )
    enrol.add_argument("code", nargs="?", default="", help="the code; asked for when left out")
    enrol.add_argument("--openssl", default="openssl", metavar="PROGRAM", help="the openssl program")
    enrol.add_argument("--ca-file", type=Path, metavar="FILE", help="the authority of the portal's certificate")
    enrol.add_argument("--allow-http", action="store_true", help="for a trial only: send code and token in clear")
    commands.add_parser("run", help="send heartbeats, take up what an earlier run left, until interrupted")
    for command in commands.choices.values():
        # Also after the command; SUPPRESS keeps what was given before it.
        command.add_argument("--config", default=argparse.SUPPRESS, **words)
    return parser


if __name__ == "__main__":
    sys.exit(main())
