"""The few things the service screen is made of: cards, lines of text, buttons for fingers."""

from __future__ import annotations

import tkinter as tk
from collections.abc import Callable
from dataclasses import dataclass
from tkinter import font as tkfont
from typing import Literal

from agent.simulator.drawing import mix, rounded

BACKGROUND = "#15110e"
CARD = "#211a16"
RAISED = "#30261f"
LINE = "#3d3129"
TEXT = "#f7efe6"
MUTED = "#ab9c8d"
CREMA = "#e3a857"
GOOD = "#6cc18a"
BAD = "#ef6a55"
SUPPORT = "#5aa9e6"
DARK = "#1a1410"

Anchor = Literal["nw", "n", "ne", "w", "center", "e", "sw", "s", "se"]
_FAMILIES = ("DejaVu Sans", "Noto Sans", "Liberation Sans")


class Page:
    """A canvas that fills the screen; places are given for 1024x768 and scaled to the size there is."""

    def __init__(self, root: tk.Tk, *, width: int, height: int) -> None:
        self.canvas = tk.Canvas(root, width=width, height=height, bg=BACKGROUND, highlightthickness=0, bd=0)
        self.canvas.place(x=0, y=0)
        self.scale = min(width / 1024, height / 768)
        self._left = round((width - 1024 * self.scale) / 2)
        self._top = round((height - 768 * self.scale) / 2)
        have = set(tkfont.families(root))
        self._family = next((family for family in _FAMILIES if family in have), "Helvetica")
        self._pictures: dict[tuple[object, ...], tk.PhotoImage] = {}

    def at(self, x: float, y: float) -> tuple[int, int]:
        return self._left + round(x * self.scale), self._top + round(y * self.scale)

    def length(self, value: float) -> int:
        return max(1, round(value * self.scale))

    def font(self, size: int, *, bold: bool = False) -> tuple[str, int, str]:
        """A font whose size is in pixels of the 1024x768 page."""
        return self._family, -self.length(size), "bold" if bold else "normal"

    def width_of(self, text: str, *, size: int) -> float:
        """How wide a line of text is on the 1024x768 page."""
        return tkfont.Font(font=self.font(size)).measure(text) / self.scale

    def picture(self, width: float, height: float, radius: float, colour: str, border: str = "") -> tk.PhotoImage:
        key = (self.length(width), self.length(height), self.length(radius), colour, border)
        if key not in self._pictures:
            self._pictures[key] = tk.PhotoImage(data=rounded(*key))
        return self._pictures[key]

    def card(self, x: float, y: float, width: float, height: float, colour: str = CARD, border: str = LINE) -> int:
        picture = self.picture(width, height, 14, colour, border)
        return self.canvas.create_image(*self.at(x, y), image=picture, anchor="nw")

    def text(
        self,
        x: float,
        y: float,
        text: str = "",
        *,
        size: int = 15,
        bold: bool = False,
        colour: str = TEXT,
        anchor: Anchor = "nw",
        width: float = 0,
        centred: bool = False,
    ) -> int:
        left, top = self.at(x, y)
        return self.canvas.create_text(
            left,
            top,
            text=text,
            font=self.font(size, bold=bold),
            fill=colour,
            anchor=anchor,
            width=self.length(width) if width else 0,
            justify="center" if centred else "left",
        )

    def say(self, item: int, text: str, colour: str | None = None) -> None:
        """Changes a line of text; only what differs is redrawn, so that an idle screen streams next to nothing."""
        if self._option(item, "text") != text:
            self.canvas.itemconfigure(item, text=text)
        if colour is not None and self._option(item, "fill") != colour:
            self.canvas.itemconfigure(item, fill=colour)

    def show(self, item: int, picture: tk.PhotoImage) -> None:
        if self._option(item, "image") != str(picture):
            self.canvas.itemconfigure(item, image=picture)

    def _option(self, item: int, name: str) -> str:
        return str(self.canvas.itemcget(item, name))  # type: ignore[no-untyped-call]  # typeshed leaves it out

    def reveal(self, items: list[int], visible: bool) -> None:
        state = "normal" if visible else "hidden"
        for item in items:
            if self._option(item, "state") != state:
                self.canvas.itemconfigure(item, state=state)


@dataclass(frozen=True)
class Look:
    """A button's colours."""

    fill: str
    ink: str
    border: str = ""


PLAIN = Look(RAISED, TEXT, LINE)
PRIMARY = Look(CREMA, DARK)
QUIET = Look(CARD, MUTED, LINE)


class Button:
    """A flat button: it lights up under a finger and acts when the finger leaves it."""

    def __init__(
        self,
        page: Page,
        box: tuple[float, float, float, float],
        label: str,
        act: Callable[[], None],
        *,
        hint: str = "",
        look: Look | None = None,
        size: int = 16,
    ) -> None:
        x, y, width, height = box
        self._page = page
        self._box = box
        self._act = act
        self._look = look = look or PLAIN
        self._is_down = False
        self._image = page.canvas.create_image(*page.at(x, y), image=self._picture(0), anchor="nw")
        middle = y + height / 2 - (9 if hint else 0)
        self._label = page.text(
            x + width / 2,
            middle,
            label,
            size=size,
            bold=True,
            colour=look.ink,
            anchor="center",
            width=width - 20,
            centred=True,
        )
        self._items = [self._image, self._label]
        if hint:
            self._items.append(
                page.text(
                    x + width / 2,
                    y + height - 19,
                    hint,
                    size=12,
                    colour=mix(look.ink, look.fill, 0.35),
                    anchor="center",
                )
            )
        for item in self._items:
            page.canvas.tag_bind(item, "<ButtonPress-1>", self._press)
            page.canvas.tag_bind(item, "<ButtonRelease-1>", self._release)

    @property
    def place(self) -> list[int]:
        """Where it is on the screen: x, y, width, height in pixels."""
        x, y, width, height = self._box
        return [*self._page.at(x, y), self._page.length(width), self._page.length(height)]

    def reveal(self, visible: bool) -> None:
        self._page.reveal(self._items, visible)

    def relabel(self, label: str) -> None:
        self._page.say(self._label, label)

    def flash(self) -> None:
        """Lights up for a moment, as when its key was pressed."""
        self._page.show(self._image, self._picture(0.22))
        self._page.canvas.after(160, lambda: self._page.show(self._image, self._picture(0)))

    def _press(self, event: tk.Event[tk.Misc]) -> None:
        self._is_down = True
        self._page.show(self._image, self._picture(0.22))

    def _release(self, event: tk.Event[tk.Misc]) -> None:
        x, y, width, height = self.place
        self._page.show(self._image, self._picture(0))
        if self._is_down and x <= event.x < x + width and y <= event.y < y + height:
            self._act()
        self._is_down = False

    def _picture(self, light: float) -> tk.PhotoImage:
        _, _, width, height = self._box
        look = self._look
        fill = mix(look.fill, "#ffffff", light) if light else look.fill
        return self._page.picture(width, height, 14, fill, look.border)
