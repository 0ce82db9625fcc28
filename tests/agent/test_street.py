"""The street view: who may look, who may press, and what is pressed."""

from __future__ import annotations

import http.client
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast
from urllib.parse import urlsplit

import pytest

from agent.notices import Notice
from agent.simulator.config import MachineConfig
from agent.simulator.machine import SimulatedMachine
from agent.simulator.street import StreetView


@dataclass
class FakeMachine:
    """A machine without a screen: it keeps what was pressed."""

    config: MachineConfig
    pressed: list[tuple[object, ...]] = field(default_factory=list)
    rescue: Notice = field(default_factory=lambda: Notice("", ""))
    size: tuple[int, int] = (1024, 768)
    mark: int = 7

    def click(self, x: int, y: int) -> None:
        self.pressed.append(("click", x, y))

    def type_text(self, text: str) -> None:
        self.pressed.append(("type", text))

    def key(self, name: str) -> None:
        if name == "rm -rf":
            raise ValueError("an X key name such as F2 or Return")
        self.pressed.append(("key", name))

    def picture_mark(self) -> int:
        return self.mark

    def screenshot(self) -> bytes:
        return b"\x89PNG picture"


@pytest.fixture
def machine(tmp_path: Path) -> FakeMachine:
    config = MachineConfig.write(
        tmp_path / "m",
        token="a.b",
        serial="IT 42/<b>",
        name="<script>alert(1)</script>",
        address="127.64.0.1",
        api_url="http://127.0.0.1:1",
    )
    return FakeMachine(config)


@pytest.fixture
def street(machine: FakeMachine) -> Iterator[StreetView]:
    view = StreetView({machine.config.serial: cast(SimulatedMachine, machine)}, port=0)
    view.start()
    yield view
    view.stop()


_HERE = "/machines/IT%2042%2F%3Cb%3E/"


def _call(street: StreetView, method: str, path: str, body: Any = None, **headers: str) -> tuple[int, str, str]:
    host = urlsplit(street.url).netloc
    connection = http.client.HTTPConnection(host, timeout=10)
    data = body if isinstance(body, str) else json.dumps(body) if body is not None else None
    sent = {name.replace("_", "-"): value for name, value in headers.items()}
    if method == "POST":
        sent.setdefault("Origin", f"http://{host}")
    connection.request(method, path, data, sent)
    response = connection.getresponse()
    text = response.read().decode(errors="replace")
    connection.close()
    return response.status, text, response.getheader("ETag", "")


def test_pages_show_every_machine_and_run_no_name_as_markup(street: StreetView) -> None:
    for path in ("/", _HERE):
        status, page, _ = _call(street, "GET", path)
        assert status == 200 and "&lt;script&gt;alert(1)&lt;/script&gt;" in page and "<script>alert" not in page
        assert f'src="{_HERE}screen.png"' in page and "style=" not in page


def test_unchanged_picture_is_not_sent_again(street: StreetView, machine: FakeMachine) -> None:
    status, _, mark = _call(street, "GET", _HERE + "screen.png")
    assert (status, mark) == (200, '"00000007"')
    assert _call(street, "GET", _HERE + "screen.png", If_None_Match=mark)[:2] == (304, "")
    machine.mark = 8
    assert _call(street, "GET", _HERE + "screen.png", If_None_Match=mark)[0] == 200


def test_what_is_pressed_on_the_picture_is_pressed_on_the_screen(street: StreetView, machine: FakeMachine) -> None:
    assert _call(street, "POST", _HERE + "click", {"x": 12, "y": 34})[0] == 204
    assert _call(street, "POST", _HERE + "click", {"x": -5, "y": 99999})[0] == 204
    assert _call(street, "POST", _HERE + "type", {"text": "é"})[0] == 204
    assert _call(street, "POST", _HERE + "key", {"key": "F2"})[0] == 204
    assert machine.pressed == [("click", 12, 34), ("click", 0, 767), ("type", "é"), ("key", "F2")]


@pytest.mark.parametrize(
    ("action", "body", "status"),
    [
        ("click", {"x": 1}, 400),
        ("click", {"x": "left", "y": 1}, 400),
        ("click", "not json", 400),
        ("click", [1, 2], 400),
        ("type", {"text": ""}, 400),
        ("type", {"text": "a\x07"}, 400),
        ("type", {"text": "x" * 201}, 400),
        ("type", {"text": "x" * 5000}, 400),
        ("key", {"key": "rm -rf"}, 400),
        ("explode", {}, 404),
    ],
)
def test_nonsense_is_refused_and_presses_nothing(
    street: StreetView, machine: FakeMachine, action: str, body: object, status: int
) -> None:
    assert _call(street, "POST", _HERE + action, body)[0] == status
    assert machine.pressed == []


@pytest.mark.parametrize("origin", ["http://evil.example", "null", ""])
def test_foreign_page_cannot_press(street: StreetView, machine: FakeMachine, origin: str) -> None:
    assert _call(street, "POST", _HERE + "click", {"x": 1, "y": 1}, Origin=origin)[0] == 403
    assert machine.pressed == []


def test_foreign_name_for_this_computer_sees_nothing(street: StreetView) -> None:
    for host in ("rebound.example:80", "", "127.0.0.1.evil.example"):
        assert _call(street, "GET", "/", Host=host)[0] == 421
    assert _call(street, "GET", "/", Host="localhost:5000")[0] == 200


@pytest.mark.parametrize("path", ["/machines/IT-9/", "/machines/", "/../machine.json", "/street.py", _HERE + "token"])
def test_nothing_else_is_served(street: StreetView, path: str) -> None:
    assert _call(street, "GET", path)[0] == 404
