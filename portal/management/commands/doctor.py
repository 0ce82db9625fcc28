"""`manage.py doctor`: what is wrong with a deployment, a line each, and what to do about it."""

from __future__ import annotations

import json
import logging
import sys
from argparse import ArgumentParser
from collections.abc import Callable

from django.core.management.base import BaseCommand, CommandError

from portal.doctor import cloud, gateways, here, messages, things
from portal.doctor.findings import Check, Verdict, examine


class Command(BaseCommand):
    help = (
        "Says in words what is wrong with this deployment. It looks only, and changes nothing. Ends with 1 when "
        "something is wrong."
    )
    # What `check` would say is said here too, but a nonsensical setting must not keep the rest from being looked at.
    requires_system_checks: list[str] = []

    def add_arguments(self, parser: ArgumentParser) -> None:
        parser.add_argument("--json", action="store_true", help="For programs: a list of check, verdict and words.")
        parser.add_argument("--seconds", type=float, default=30, help="Each check may take so long (default: 30).")
        parser.add_argument("--quiet", action="store_true", help="Leave out what is well.")

    def handle(self, *args: object, json: bool, seconds: float, quiet: bool, **options: object) -> None:
        if not 1 <= seconds <= 600:
            raise CommandError(f"--seconds: found {seconds:g}, expected 1 to 600")
        # What goes wrong is said in the lines; an engineer needs no trace of each.
        logging.disable(logging.CRITICAL)
        try:
            lines = self._lines(seconds, quiet)
        finally:
            logging.disable(logging.NOTSET)
        self._write_json(lines) if json else self._write(lines)
        if any(line["verdict"] == Verdict.WRONG for line in lines):
            sys.exit(1)

    def _lines(self, seconds: float, quiet: bool) -> list[dict[str, str]]:
        return [
            {"check": check, "verdict": finding.verdict.value, "words": finding.words}
            for check, finding in examine(all_checks(), limit_s=seconds)
            if not (quiet and finding.verdict is Verdict.OK)
        ]

    def _write_json(self, lines: list[dict[str, str]]) -> None:
        self.stdout.write(json.dumps(lines, indent=2, ensure_ascii=False))

    def _write(self, lines: list[dict[str, str]]) -> None:
        styles: dict[str, Callable[[str], str]] = {
            Verdict.OK: self.style.SUCCESS,
            Verdict.ATTENTION: self.style.WARNING,
            Verdict.WRONG: self.style.ERROR,
        }
        width = max((len(line["check"]) for line in lines), default=0)
        for line in lines:
            verdict = styles[line["verdict"]](f"{line['verdict']:9}")
            self.stdout.write(f"{verdict} {line['check']:{width}}  {line['words']}")
        counts = [sum(line["verdict"] == verdict for line in lines) for verdict in (Verdict.WRONG, Verdict.ATTENTION)]
        self.stdout.write(f"{counts[0]} wrong, {counts[1]} for attention.")


def all_checks() -> list[Check]:
    """Those that apply to what was chosen here."""
    aws = cloud.Cloud() if cloud.uses_aws() else None
    found = here.checks()
    if aws is not None:
        found += cloud.checks(aws)
    return [*found, *gateways.checks(aws), *messages.checks(aws), *things.checks(aws)]
