"""Which stacks an installation consists of, in which order they come, and what one takes from those before it.

A parameter of a template is filled by, in this order: the parameters' file; an output of an earlier stack of the same
name; `Name`; the template's own default. What none of them fills is told before AWS is asked for anything.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).parent / "cloudformation"


@dataclass(frozen=True, slots=True)
class Step:
    """One stack is made or changed.

    `withheld` are parameters that a later step of the same stack gives for the first time; until then the template's
    default holds, and after that what the stack already has. `before` is what the deploy tool looks at first, `after`
    what it does once the stack is there.
    """

    stack: str
    withheld: tuple[str, ...] = ()
    before: str = ""
    after: str = ""


# The subscription of notify is confirmed by the portal, and SNS takes none for an address that it does not reach, so
# that stack comes twice. In app every process must find the database as its code knows it: the stack migrate has the
# task that brings it there.
STEPS = (
    Step("network"),
    Step("data", after="secrets"),
    Step("notify", withheld=("PortalOrigin",)),
    Step("gateways"),
    Step("migrate", after="migrate"),
    Step("vpn"),
    Step("private-api"),
    Step("telemetry"),
    Step("app"),
    Step("edge"),
    Step("notify", before="portal"),
    Step("watch"),
)
STACKS = tuple(dict.fromkeys(step.stack for step in STEPS))
# What is charged for and holds rows or recordings: `destroy` keeps it unless it is told otherwise.
KEPT = ("data",)


def path_of(stack: str) -> Path:
    """The template of a stack."""
    return FOLDER / f"{stack}.yaml"


def name_of(installation: str, stack: str) -> str:
    """What the stack of an installation is called in CloudFormation."""
    return f"{installation}-{stack}"
