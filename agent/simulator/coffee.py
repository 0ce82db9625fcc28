"""The coffee machine behind the service screen: what is broken, what each button really does, and what that cures.

Theory of operation: a fault is a sentence on the screen; its cause is a physical fact (a jammed grinder, a cold
boiler). Buttons change facts. `clear_fault` takes the sentence away only once its cause is gone, so that guessing does
not help and the right order does. Time passes by `tick`: nothing here looks at a clock, and nothing here draws.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

BOILER_TARGET_C = 93.0
BOILER_SERVES_FROM_C = 88.0
_BOILER_HEATS_C_S = 3.5
_PRESSURE_GOOD_BAR = 9.0
_TERMINAL_BOOT_S = 3.0
_LOG_LINES = 40
NOTE_LIMIT = 200


@dataclass(frozen=True)
class Fault:
    """A fault as the machine tells it: a code for the technician, words for everybody."""

    code: str
    title: str
    detail: str
    stops: tuple[str, ...]  # the drinks that cannot be served


DRINKS = ("Espresso", "Lungo", "Cappuccino", "Latte macchiato", "Hot chocolate", "Hot water")
_COFFEE = ("Espresso", "Lungo", "Cappuccino", "Latte macchiato")
_MILK = ("Cappuccino", "Latte macchiato")

FAULTS: dict[str, Fault] = {
    fault.code: fault
    for fault in (
        Fault("E17", "Grinder jammed", "The grinder stopped under load. A bean is stuck between the burrs.", _COFFEE),
        Fault("E12", "Brew group blocked", "Water does not get through the brew group: old coffee blocks it.", _COFFEE),
        Fault("E05", "Boiler too cold", "The boiler does not reach its temperature: its controller hangs.", DRINKS),
        Fault("E22", "Milk empty", "There is no milk in the circuit, only air.", _MILK),
        Fault("E31", "Payment terminal offline", "The card reader does not answer. Nobody can pay.", DRINKS),
    )
}

# What a person can press, in the order of the screen: name, words on the button, key.
ACTIONS: tuple[tuple[str, str, str], ...] = (
    ("rinse", "Rinse brew group", "F1"),
    ("reset_grinder", "Reset grinder", "F2"),
    ("restart_boiler", "Restart boiler", "F3"),
    ("clear_fault", "Clear fault", "F4"),
    ("change_milk", "Milk carton changed", "F5"),
    ("prime_milk", "Prime milk circuit", "F6"),
    ("restart_terminal", "Restart payment", "F7"),
    ("test_drink", "Test espresso", "F8"),
)


@dataclass
class CoffeeMachine:
    """The facts; `at` in the log is what the caller passes as the time, a text such as 14:03:27."""

    fault_code: str = ""
    grinder_jammed: bool = False
    brew_blockage: int = 0  # rinses until water flows freely
    boiler_hangs: bool = False
    boiler_c: float = BOILER_TARGET_C
    milk_in_carton: bool = True
    milk_primed: bool = True
    terminal_online: bool = True
    terminal_boot_s: float = 0.0
    cups_today: int = 128
    cups_total: int = 48_213
    rinses: int = 3
    note: str = ""
    actions_done: int = 0
    log: list[dict[str, str]] = field(default_factory=list)

    @property
    def fault(self) -> Fault | None:
        return FAULTS.get(self.fault_code)

    @property
    def pressure_bar(self) -> float:
        return _PRESSURE_GOOD_BAR + 2.4 * self.brew_blockage

    def drinks(self) -> dict[str, bool]:
        """Each drink, and whether it can be served now."""
        stopped = set(self.fault.stops) if self.fault else set()
        if self.boiler_c < BOILER_SERVES_FROM_C:
            stopped.update(DRINKS)
        return {drink: drink not in stopped for drink in DRINKS}

    @property
    def serves(self) -> bool:
        return all(self.drinks().values())

    def break_down(self, code: str, *, at: str) -> None:
        """Gives the machine this fault and its cause; raises ValueError for an unknown code."""
        if code not in FAULTS:
            raise ValueError(f"found fault {code!r}, expected one of {', '.join(FAULTS)}")
        self.grinder_jammed = self.grinder_jammed or code == "E17"
        if code == "E12":
            self.brew_blockage = 2
        if code == "E05":
            self.boiler_hangs, self.boiler_c = True, 71.0
        if code == "E22":
            self.milk_in_carton = self.milk_primed = False
        if code == "E31":
            self.terminal_online, self.terminal_boot_s = False, 0.0
        self.fault_code = code
        self._say(at, f"{code} {FAULTS[code].title}")

    def do(self, action: str, *, at: str) -> str:
        """Does what a button says; returns what came of it, in words. Raises ValueError for an unknown button."""
        work: Callable[[], str] | None = getattr(self, f"_do_{action}", None)
        if work is None:
            raise ValueError(f"found action {action!r}, expected one of {', '.join(name for name, _, _ in ACTIONS)}")
        outcome = work()
        self.actions_done += 1
        self._say(at, outcome)
        return outcome

    def tick(self, seconds: float) -> None:
        """Lets time pass: water heats, the terminal starts."""
        if not self.boiler_hangs and self.boiler_c < BOILER_TARGET_C:
            self.boiler_c = min(BOILER_TARGET_C, self.boiler_c + _BOILER_HEATS_C_S * seconds)
        if self.terminal_boot_s > 0:
            self.terminal_boot_s = max(0.0, self.terminal_boot_s - seconds)
            self.terminal_online = self.terminal_boot_s == 0

    def still_wrong(self, code: str) -> str:
        """What of this fault's cause is still there, in words; nothing when it is gone."""
        if code == "E17" and self.grinder_jammed:
            return "The grinder is still jammed."
        if code == "E12" and self.brew_blockage:
            return f"The brew group is still blocked: {self.pressure_bar:.1f} bar, expected {_PRESSURE_GOOD_BAR:.1f}."
        if code == "E05" and self.boiler_c < BOILER_SERVES_FROM_C:
            return f"The boiler is at {self.boiler_c:.0f} °C, expected {BOILER_SERVES_FROM_C:.0f} °C or more."
        if code == "E22" and not self.milk_primed:
            return "There is no milk in the circuit yet."
        if code == "E31" and not self.terminal_online:
            return (
                "The payment terminal is still starting." if self.terminal_boot_s else "The terminal does not answer."
            )
        return ""

    def as_json(self) -> dict[str, Any]:
        """All that anybody may want to see of this machine."""
        fault = self.fault
        return {
            "fault": {"code": fault.code, "title": fault.title, "detail": fault.detail} if fault else None,
            "serving": self.serves,
            "drinks": self.drinks(),
            "temperatures": {"boiler_c": round(self.boiler_c, 1), "target_c": BOILER_TARGET_C},
            "pressure_bar": round(self.pressure_bar, 1),
            "grinder": "jammed" if self.grinder_jammed else "ready",
            "milk": "ready" if self.milk_primed else ("not primed" if self.milk_in_carton else "empty"),
            "payment": "online" if self.terminal_online else ("starting" if self.terminal_boot_s else "offline"),
            "counters": {
                "cups_today": self.cups_today,
                "cups_total": self.cups_total,
                "rinses": self.rinses,
                "actions": self.actions_done,
            },
            "note": self.note,
            "log": list(self.log),
        }

    def _say(self, at: str, text: str) -> None:
        self.log.append({"at": at, "text": text})
        del self.log[:-_LOG_LINES]

    def _do_rinse(self) -> str:
        self.rinses += 1
        if self.brew_blockage:
            self.brew_blockage -= 1
            if self.brew_blockage:
                return f"Rinsed: some old coffee came out, still {self.pressure_bar:.1f} bar."
            return f"Rinsed: water flows freely, {self.pressure_bar:.1f} bar."
        return "Rinsed: the brew group is clean."

    def _do_reset_grinder(self) -> str:
        if self.grinder_jammed:
            self.grinder_jammed = False
            return "Grinder turned back and forth: the bean is out, it runs."
        return "Grinder reset: it ran freely before, too."

    def _do_restart_boiler(self) -> str:
        if self.boiler_hangs:
            self.boiler_hangs = False
            return f"Boiler controller restarted: heating from {self.boiler_c:.0f} °C."
        self.boiler_c = min(self.boiler_c, 82.0)
        return f"Boiler controller restarted: it cooled to {self.boiler_c:.0f} °C meanwhile and heats again."

    def _do_change_milk(self) -> str:
        if self.milk_in_carton:
            return "The milk carton is full already."
        self.milk_in_carton = True
        return "A fresh milk carton is in. The circuit still holds air."

    def _do_prime_milk(self) -> str:
        if not self.milk_in_carton:
            return "Priming drew only air: the milk carton is empty."
        self.milk_primed = True
        return "Milk circuit primed: milk comes out of the spout."

    def _do_restart_terminal(self) -> str:
        self.terminal_online, self.terminal_boot_s = False, _TERMINAL_BOOT_S
        return "Payment terminal switched off and on: it starts."

    def _do_clear_fault(self) -> str:
        if not self.fault_code:
            return "There is no fault to clear."
        wrong = self.still_wrong(self.fault_code)
        if wrong:
            return f"{self.fault_code} stays: {wrong}"
        code, self.fault_code = self.fault_code, next((code for code in FAULTS if self._is_lasting(code)), "")
        if self.fault is not None:
            return f"{code} cleared. {self.fault_code} is still there: {self.fault.title.lower()}."
        return f"{code} cleared. The machine serves again."

    def _is_lasting(self, code: str) -> bool:
        # A boiler that only heats and a terminal that only starts come right by themselves.
        if code == "E05":
            return self.boiler_hangs
        if code == "E31" and self.terminal_boot_s:
            return False
        return bool(self.still_wrong(code))

    def _do_test_drink(self) -> str:
        if not self.drinks()["Espresso"]:
            return "No test espresso: coffee cannot be served now."
        self.cups_today += 1
        self.cups_total += 1
        return "Test espresso made: 25 ml in 27 s."
