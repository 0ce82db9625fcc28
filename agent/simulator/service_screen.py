"""The coffee machine's service screen: run by a Python with Tk, one process a machine.

It reads commands from stdin and writes events to stdout, both one JSON object a line; end of input ends it. What there
is to see of the machine it keeps in a JSON file, replaced whole after every change.

Commands: {"do": "support", "state", "message", "operator"}, {"do": "fault", "code"}.
Events: {"event": "up"}, {"event": "help"}, {"event": "cancel"}.
"""

from __future__ import annotations

import functools
import json
import os
import sys
import tkinter as tk
from datetime import datetime, timezone, tzinfo
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from agent.files import write_json
from agent.simulator.coffee import ACTIONS, DRINKS, NOTE_LIMIT, CoffeeMachine
from agent.simulator.support_panel import SupportPanel, SupportView
from agent.simulator.widgets import (
    BACKGROUND,
    BAD,
    CREMA,
    DARK,
    GOOD,
    MUTED,
    PRIMARY,
    RAISED,
    SUPPORT,
    TEXT,
    Button,
    Page,
)

_TICK_MS = 500
_LOG_SHOWN = 4
_ACTIVE = "active"


class ServiceScreen:
    """Draws the machine and lets people press its buttons."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self._settings = settings
        self._state_file = Path(settings["state_file"])
        self._zone = _zone(settings["time_zone"])
        self._machine = CoffeeMachine()
        self._support = SupportView()
        self._input = b""
        self._ticks = 0
        self._written: dict[str, Any] | None = None
        self._root = tk.Tk()
        self._root.geometry(f"{settings['width']}x{settings['height']}+0+0")
        self._root.configure(bg=BACKGROUND)
        self._root.title(settings["name"])
        self._page = Page(self._root, width=settings["width"], height=settings["height"])
        self._buttons: dict[str, Button] = {}
        self._draw_header()
        self._draw_fault()
        self._draw_tiles()
        self._draw_drinks()
        self._draw_actions()
        self._draw_note()
        self._panel = SupportPanel(self._page, on_help=lambda: _emit("help"), on_cancel=lambda: _emit("cancel"))
        self._draw_log()
        if settings["fault"]:
            self._machine.break_down(settings["fault"], at=self._time())
        self._root.tk.createfilehandler(sys.stdin.fileno(), tk.READABLE, self._read_commands)

    def run(self) -> None:
        """Shows the screen until stdin ends."""
        self._refresh()
        self._root.update()
        self._entry.focus_force()  # no window manager gives the focus here
        self._root.after(_TICK_MS, self._tick)
        _emit("up")
        self._root.mainloop()

    # Drawing

    def _draw_header(self) -> None:
        page, settings = self._page, self._settings
        page.card(24, 20, 52, 52, CREMA, CREMA)
        page.text(50, 45, "☕", size=30, colour=DARK, anchor="center")
        page.text(92, 18, settings["name"], size=23, bold=True)
        page.text(92, 51, f"{settings['model']}  ·  {settings['serial']}  ·  {settings['site']}", size=14, colour=MUTED)
        self._clock = page.text(1000, 15, size=31, bold=True, anchor="ne")
        self._date = page.text(1000, 54, size=13, colour=MUTED, anchor="ne")
        self._strip = page.card(24, 86, 976, 36, RAISED, "")
        self._strip_text = page.text(44, 104, size=14, bold=True, anchor="w")

    def _draw_fault(self) -> None:
        page = self._page
        page.card(24, 136, 648, 116)
        self._fault_mark = page.card(40, 152, 96, 84, BAD, "")
        self._fault_code = page.text(88, 194, size=30, bold=True, colour=DARK, anchor="center")
        self._fault_title = page.text(156, 156, size=23, bold=True)
        self._fault_detail = page.text(156, 192, size=14, colour=MUTED, width=500)

    def _draw_tiles(self) -> None:
        page = self._page
        self._tiles: dict[str, tuple[int, int]] = {}
        for number, name in enumerate(("Boiler", "Pressure", "Grinder", "Milk", "Payment")):
            x = 24 + number * 132
            page.card(x, 264, 120, 84)
            page.text(x + 16, 277, name, size=13, colour=MUTED)
            value = page.text(x + 16, 299, size=20, bold=True)
            bar = page.card(x + 16, 332, 88, 4, GOOD, "")
            self._tiles[name] = (value, bar)

    def _draw_drinks(self) -> None:
        page = self._page
        self._drinks: dict[str, tuple[int, int]] = {}
        x = 24.0
        widths = [page.width_of(drink, size=11) + 38 for drink in DRINKS]
        gap = (648 - sum(widths)) / (len(DRINKS) - 1)
        for drink, width in zip(DRINKS, widths):  # noqa: B905 - 3.9 has no strict
            page.card(x, 360, width, 34, BACKGROUND)
            dot = page.text(x + 12, 377, "●", size=9, colour=GOOD, anchor="w")
            name = page.text(x + 26, 377, drink, size=11, anchor="w")
            self._drinks[drink] = (dot, name)
            x += width + gap

    def _draw_actions(self) -> None:
        for number, (name, label, key) in enumerate(ACTIONS):
            row, column = divmod(number, 4)
            box = (24 + column * 165, 408 + row * 112, 153, 100)
            look = PRIMARY if name == "clear_fault" else None
            button = Button(self._page, box, label, functools.partial(self._do, name), hint=key, look=look)
            self._buttons[name] = button
            self._root.bind_all(f"<{key}>", functools.partial(self._key, name))

    def _draw_note(self) -> None:
        page = self._page
        page.card(24, 636, 408, 108)
        page.text(44, 650, "Service note", size=13, colour=MUTED)
        self._note_box = (40, 676, 376, 50)
        page.card(*self._note_box, BACKGROUND)
        self._note = tk.StringVar()
        self._note.trace_add("write", self._note_changed)
        self._entry = tk.Entry(
            self._root,
            textvariable=self._note,
            font=page.font(17),
            bg=BACKGROUND,
            fg=TEXT,
            insertbackground=CREMA,
            selectbackground=SUPPORT,
            relief="flat",
            highlightthickness=0,
            insertwidth=2,
            insertofftime=0,  # a blinking cursor would stream for nothing
        )
        x, y = page.at(54, 683)
        self._entry.place(x=x, y=y, width=page.length(348), height=page.length(36))
        page.card(444, 636, 228, 108)
        page.text(464, 650, "Cups", size=13, colour=MUTED)
        self._cups = page.text(464, 672, size=26, bold=True)
        self._cups_total = page.text(464, 712, size=13, colour=MUTED)

    def _draw_log(self) -> None:
        page = self._page
        page.card(688, 520, 312, 224)
        page.text(708, 535, "What happened", size=13, colour=MUTED)
        self._log_lines: list[tuple[int, int]] = []
        for number in range(_LOG_SHOWN):
            y = 562 + number * 45
            self._log_lines.append((page.text(708, y, size=12, colour=MUTED), page.text(776, y, size=12, width=212)))

    # What changes

    def _do(self, name: str) -> None:
        self._machine.do(name, at=self._time())
        self._refresh()

    def _key(self, name: str, event: tk.Event[tk.Misc]) -> str:
        self._buttons[name].flash()
        self._do(name)
        return "break"

    def _note_changed(self, *_: str) -> None:
        text = self._note.get()
        if len(text) > NOTE_LIMIT:
            self._note.set(text[:NOTE_LIMIT])
            return
        self._machine.note = text
        self._write_state()

    def _tick(self) -> None:
        self._root.after(_TICK_MS, self._tick)
        self._machine.tick(_TICK_MS / 1000)
        self._ticks += 1
        self._panel.beat(self._ticks)
        self._refresh()

    def _read_commands(self, *_: object) -> None:
        data = os.read(sys.stdin.fileno(), 65536)
        if not data:
            self._root.destroy()
            return
        *lines, self._input = (self._input + data).split(b"\n")
        for line in lines:
            self._obey(json.loads(line))
        self._refresh()

    def _obey(self, command: dict[str, Any]) -> None:
        if command["do"] == "fault":
            self._machine.break_down(command["code"], at=self._time())
        elif command["do"] == "support":
            self._support = SupportView(command["state"], command["message"], command["operator"])

    def _refresh(self) -> None:
        page, machine, now = self._page, self._machine, datetime.now(self._zone)
        page.say(self._clock, f"{now:%H:%M:%S}")
        page.say(self._date, f"{now:%A} {now.day} {now:%B}")
        self._refresh_strip()
        fault = machine.fault
        page.show(self._fault_mark, page.picture(96, 84, 14, BAD if fault else GOOD))
        page.say(self._fault_code, fault.code if fault else "OK")
        page.say(self._fault_title, fault.title if fault else "Everything works")
        page.say(self._fault_detail, fault.detail if fault else "No fault is known. The machine serves all its drinks.")
        self._refresh_tiles()
        for drink, can_serve in machine.drinks().items():
            dot, name = self._drinks[drink]
            page.say(dot, "●" if can_serve else "○", GOOD if can_serve else BAD)
            page.say(name, drink, TEXT if can_serve else MUTED)
        page.say(self._cups, f"{machine.cups_today} today")
        page.say(self._cups_total, f"{machine.cups_total:,} in all  ·  {machine.rinses} rinses")
        newest = [*reversed(machine.log)][:_LOG_SHOWN]
        newest += [{"at": "", "text": ""}] * (_LOG_SHOWN - len(newest))
        for (at, text), entry in zip(self._log_lines, newest):  # noqa: B905 - 3.9 has no strict
            page.say(at, entry["at"])
            page.say(text, entry["text"])
        self._panel.show(self._support)
        self._write_state()

    def _refresh_strip(self) -> None:
        page, machine, support = self._page, self._machine, self._support
        if support.state == _ACTIVE:
            colour, ink, words = (
                SUPPORT,
                DARK,
                f"●  Remote support active: {support.operator or 'support'} sees this screen",
            )
        elif machine.serves:
            colour, ink, words = RAISED, GOOD, "In service: all drinks available"
        else:
            drinks = machine.drinks()
            served = [drink for drink in DRINKS if drinks[drink]]
            colour, ink = RAISED, BAD
            words = f"Limited service: only {' and '.join(served).lower()}" if 0 < len(served) < 3 else "Out of service"
            words = f"Limited service: {len(served)} of {len(DRINKS)} drinks" if len(served) >= 3 else words
        page.show(self._strip, page.picture(976, 36, 14, colour))
        page.say(self._strip_text, words, ink)

    def _refresh_tiles(self) -> None:
        machine = self._machine
        facts = machine.as_json()
        boiler = facts["temperatures"]
        good = {
            "Boiler": (f"{boiler['boiler_c']:.0f} °C", boiler["boiler_c"] >= 88),
            "Pressure": (f"{facts['pressure_bar']:.1f} bar", machine.brew_blockage == 0),
            "Grinder": (facts["grinder"].capitalize(), not machine.grinder_jammed),
            "Milk": (facts["milk"].capitalize(), machine.milk_primed),
            "Payment": (facts["payment"].capitalize(), machine.terminal_online),
        }
        for name, (words, is_good) in good.items():
            value, bar = self._tiles[name]
            self._page.say(value, words, TEXT if is_good else BAD)
            self._page.show(bar, self._page.picture(88, 4, 14, GOOD if is_good else BAD))

    def _write_state(self) -> None:
        state = self._machine.as_json()
        state["help"] = {
            "state": self._support.state,
            "message": self._support.message,
            "operator": self._support.operator,
        }
        note_x, note_y, note_width, note_height = self._note_box
        state["widgets"] = {
            **{name: button.place for name, button in {**self._buttons, **self._panel.buttons}.items()},
            "note": [*self._page.at(note_x, note_y), self._page.length(note_width), self._page.length(note_height)],
        }
        if state != self._written:
            write_json(self._state_file, state, durable=False)
            self._written = state

    def _time(self) -> str:
        return f"{datetime.now(self._zone):%H:%M:%S}"


def _emit(event: str) -> None:
    print(json.dumps({"event": event}), flush=True)


def _zone(name: str) -> tzinfo:
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError):  # a Debian without tzdata
        return timezone.utc  # noqa: UP017 - Python 3.9 has no datetime.UTC


if __name__ == "__main__":
    ServiceScreen(json.loads(sys.argv[1])).run()
