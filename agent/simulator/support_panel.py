"""The right-hand side of the service screen: the help button, and what support lets the person at the machine know."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from agent.simulator.widgets import BAD, CREMA, DARK, GOOD, MUTED, QUIET, SUPPORT, TEXT, Button, Look, Page

_WAITING = ("preparing", "asking", "offline", "requested", "starting", "ready")
_HELP = Look(CREMA, DARK)
_SEEN = "Support can see and use this screen."
_UNSEEN = "Nobody can see this screen\nunless you ask for help."


@dataclass(frozen=True)
class SupportView:
    """How the rescue stands, in the words of the agent (`agent.notices.Notice`); an empty state is none."""

    state: str = ""
    message: str = ""
    operator: str = ""

    @property
    def is_open(self) -> bool:
        return self.state in _WAITING or self.state == "active"

    @property
    def headline(self) -> str:
        """What a person who glances at the screen should read."""
        if self.state == "active":
            return f"{self.operator or 'Support'} is here"
        if self.state == "ready" and self.operator:
            return f"{self.operator} is coming"
        if self.state in ("preparing", "asking"):
            return "Calling support"
        if self.state == "offline":
            return "The line is down"
        if self.state in _WAITING:
            return "Waiting for support"  # whether anybody comes is for the message to say
        return {"closing": "Closing", "closed": "Call ended", "cancelled": "Withdrawn", "failed": "Not reached"}.get(
            self.state, ""
        )

    @property
    def colour(self) -> str:
        if self.state in ("failed", "offline"):
            return BAD
        if self.state in ("closing", "closed"):
            return GOOD
        return SUPPORT if self.is_open else MUTED


class SupportPanel:
    """Shows one of two things: the help button, or how the rescue stands with a way to withdraw."""

    def __init__(self, page: Page, *, on_help: Callable[[], None], on_cancel: Callable[[], None]) -> None:
        self._page = page
        self._view: SupportView | None = None
        page.card(688, 136, 312, 372)
        help_button = Button(page, (708, 224, 272, 128), "Help", on_help, look=_HELP, size=38)
        cancel_button = Button(page, (708, 446, 272, 46), "No longer needed", on_cancel, look=QUIET, size=14)
        self.buttons = {"help": help_button, "cancel": cancel_button}
        self._title = page.text(708, 154, size=20, bold=True)
        self._subtitle = page.text(708, 186, size=13, colour=MUTED, width=272)
        self._mark = page.card(708, 224, 272, 128, SUPPORT, "")
        self._headline = page.text(844, 282, size=21, bold=True, colour=DARK, anchor="center", width=252, centred=True)
        self._dots = page.text(844, 328, size=18, bold=True, colour=DARK, anchor="center")
        self._outcome = page.text(708, 370, size=16, bold=True)
        self._message = page.text(708, 370, size=14, colour=TEXT, width=272)
        self._after = page.text(708, 396, size=14, colour=TEXT, width=272)

    def show(self, view: SupportView) -> None:
        """Draws the view, if it is another than the last."""
        if view == self._view:
            return
        self._view = view
        page = self._page
        self.buttons["help"].reveal(not view.is_open)
        self.buttons["cancel"].reveal(view.is_open)
        page.reveal([self._mark, self._headline, self._dots], view.is_open)
        is_over = bool(view.headline) and not view.is_open
        page.reveal([self._message], not is_over)
        page.reveal([self._outcome, self._after], is_over)
        page.say(self._title, "Support" if view.is_open else "Need help?")
        page.say(self._subtitle, _SEEN if view.is_open else "Somebody will look after it from afar.")
        page.show(self._mark, page.picture(272, 128, 14, view.colour))
        page.say(self._headline, view.headline)
        page.say(self._dots, "")
        page.say(self._message, view.message if view.is_open else _UNSEEN, TEXT if view.is_open else MUTED)
        page.say(self._outcome, view.headline, view.colour)
        page.say(self._after, view.message)

    def beat(self, tick: int) -> None:
        """Two beats a second: dots that walk while somebody waits."""
        if self._view is not None and self._view.is_open and self._view.state != "active":
            self._page.say(self._dots, ("●○○", "○●○", "○○●")[tick // 2 % 3])
