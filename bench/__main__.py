"""`python -m bench list | run NAME… | all | idle`: measures against limits and peers; figures in bench/results."""

from __future__ import annotations

import argparse
import importlib
import os
import subprocess
import sys

# Only for what the tests' harness reads of its own settings; the measured server has its own environment.
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "tests.settings")

from bench import figures

MEASUREMENTS = ("press", "warm", "pixels", "mouse", "relay", "stall", "vpn", "notify", "start")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("list", help="what can be measured")
    run = commands.add_parser("run", help="measure these")
    run.add_argument("names", nargs="+", choices=MEASUREMENTS, metavar="NAME")
    commands.add_parser("all", help="measure everything, one after the other")
    commands.add_parser("table", help="print what was measured last")
    idle = commands.add_parser("idle", help="keep quiet lines open for long under Global Accelerator's cuts")
    idle.add_argument("--minutes", type=float, default=60, help="how long (default: 60)")
    options = parser.parse_args()
    if options.command == "idle":
        from bench.idle import measure

        figures.keep("idle", measure(options.minutes))
        print(figures.table(["idle"]))
        return 0
    if options.command == "list":
        for name in MEASUREMENTS:
            print(f"{name:8} {(importlib.import_module(f'bench.{name}').__doc__ or '').splitlines()[0]}")
        return 0
    names = options.names if options.command == "run" else list(MEASUREMENTS)
    if options.command == "run" and len(names) == 1:
        figures.keep(names[0], importlib.import_module(f"bench.{names[0]}").measure())
    elif options.command != "table":
        # A process each: settings, database and browser are each measurement's own.
        failed = [name for name in names if subprocess.run([sys.executable, "-m", "bench", "run", name]).returncode]
        if failed:
            print(f"Not measured: {', '.join(failed)}", file=sys.stderr)
            return 1
    print(figures.table(names))
    return 0


if __name__ == "__main__":
    sys.exit(main())
