"""The street view: a web page on loopback for whoever stands in front of the simulated machines.

It shows each machine's screen as it is, and clicks and keys on the picture are pressed on that screen. It is for one
person on this computer: only loopback may ask, only by a loopback name, and only a page of its own may press.
"""

from __future__ import annotations

import functools
import html
import json
import logging
import threading
from collections.abc import Mapping
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from agent.simulator.display import DisplayError

if TYPE_CHECKING:
    from agent.simulator.machine import SimulatedMachine

log = logging.getLogger("agent.simulator.street")

_FILES = Path(__file__).resolve().parent / "street_view"
_STATIC = {"street.css": "text/css; charset=utf-8", "street.js": "text/javascript; charset=utf-8"}
_NAMES = ("127.0.0.1", "localhost")
_BODY_LIMIT = 4096
_TEXT_LIMIT = 200
_HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": (
        "default-src 'self'; img-src 'self' blob: data:; frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
    ),
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class StreetView:
    """The web server; `url` is where it is."""

    def __init__(self, machines: Mapping[str, SimulatedMachine], *, port: int) -> None:
        handler = functools.partial(_Handler, machines)
        self._server = ThreadingHTTPServer(("127.0.0.1", port), handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}/"

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, args=(0.1,), name="street view", daemon=True).start()

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Refused(Exception):
    """A request that is not answered with what it asked for."""

    def __init__(self, status: HTTPStatus, words: str) -> None:
        super().__init__(words)
        self.status = status


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "street-view"
    sys_version = ""
    timeout = 60

    def __init__(self, machines: Mapping[str, SimulatedMachine], *args: Any) -> None:
        self._machines = machines
        super().__init__(*args)

    def do_GET(self) -> None:
        self._answer(self._get)

    def do_POST(self) -> None:
        self._answer(self._post)

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)

    def _answer(self, work: Any) -> None:
        try:
            self._check_host()
            work()
        except _Refused as error:
            self.close_connection = True  # a body that was not read must not be taken for the next request
            self._send(str(error), "text/plain; charset=utf-8", status=error.status)
        except (DisplayError, OSError) as error:
            self.close_connection = True
            self._send(str(error), "text/plain; charset=utf-8", status=HTTPStatus.SERVICE_UNAVAILABLE)

    def _check_host(self) -> None:
        # A page of the internet may point its own name at 127.0.0.1 (DNS rebinding): that name is in Host then.
        name = urlsplit(f"//{self.headers.get('Host', '')}").hostname
        if name not in _NAMES:
            raise _Refused(HTTPStatus.MISDIRECTED_REQUEST, f"Found the host {name!r}, expected {' or '.join(_NAMES)}.")

    def _get(self) -> None:
        path = urlsplit(self.path).path
        if path == "/":
            return self._send(_street(self._machines), "text/html; charset=utf-8")
        if path.lstrip("/") in _STATIC:
            name = path.lstrip("/")
            return self._send((_FILES / name).read_bytes(), _STATIC[name])
        machine, action = self._machine(path)
        if action == "":
            return self._send(_corner(machine), "text/html; charset=utf-8")
        if action == "screen.png":
            return self._send_picture(machine)
        raise _Refused(HTTPStatus.NOT_FOUND, "There is nothing here.")

    def _post(self) -> None:
        origin = self.headers.get("Origin", "")
        if origin != f"http://{self.headers.get('Host', '')}":
            raise _Refused(HTTPStatus.FORBIDDEN, f"Found the origin {origin!r}, expected this page's own.")
        machine, action = self._machine(urlsplit(self.path).path)
        body = self._body()
        try:
            if action == "click":
                x, y = int(body["x"]), int(body["y"])
                width, height = machine.size
                machine.click(min(max(x, 0), width - 1), min(max(y, 0), height - 1))
            elif action == "type":
                text = str(body["text"])
                if not 0 < len(text) <= _TEXT_LIMIT or not text.isprintable():
                    raise ValueError(f"1 to {_TEXT_LIMIT} printable characters")
                machine.type_text(text)
            elif action == "key":
                machine.key(str(body["key"]))
            else:
                raise _Refused(HTTPStatus.NOT_FOUND, "There is nothing here.")
        except (KeyError, TypeError, ValueError) as error:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"{action}: expected {error}.") from error
        self._send("", "text/plain; charset=utf-8", status=HTTPStatus.NO_CONTENT)

    def _machine(self, path: str) -> tuple[SimulatedMachine, str]:
        steps = path.split("/")
        if len(steps) != 4 or steps[1] != "machines" or unquote(steps[2]) not in self._machines:
            raise _Refused(HTTPStatus.NOT_FOUND, "There is no such machine in this street.")
        return self._machines[unquote(steps[2])], steps[3]

    def _body(self) -> dict[str, Any]:
        length = self.headers.get("Content-Length", "")
        if not length.isascii() or not length.isdigit() or len(length) > 6 or int(length) > _BODY_LIMIT:
            raise _Refused(HTTPStatus.BAD_REQUEST, f"Found the length {length[:20]!r}, expected at most {_BODY_LIMIT}.")
        try:
            body = json.loads(self.rfile.read(int(length)))
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise _Refused(HTTPStatus.BAD_REQUEST, "Expected a JSON object.")
        return body

    def _send_picture(self, machine: SimulatedMachine) -> None:
        mark = f'"{machine.picture_mark():08x}"'
        if self.headers.get("If-None-Match") == mark:
            return self._send("", "image/png", status=HTTPStatus.NOT_MODIFIED, ETag=mark)
        self._send(machine.screenshot(), "image/png", ETag=mark)

    def _send(self, content: str | bytes, kind: str, *, status: HTTPStatus = HTTPStatus.OK, **headers: str) -> None:
        data = content.encode() if isinstance(content, str) else content
        self.send_response(status)
        for name, value in {**_HEADERS, "Content-Type": kind, **headers}.items():
            self.send_header(name, value)
        if status not in (HTTPStatus.NO_CONTENT, HTTPStatus.NOT_MODIFIED):
            self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)


def _page(title: str, body: str) -> str:
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="dark">
<title>{html.escape(title)}</title>
<link rel="stylesheet" href="/street.css">
<link rel="icon" href="data:,">
<script type="module" src="/street.js"></script>
</head>
<body>
{body}
</body>
</html>
"""


def _picture(machine: SimulatedMachine, *, every_ms: int) -> str:
    width, height = machine.size
    source = f"/machines/{quote(machine.config.serial, safe='')}/screen.png"
    name = html.escape(f"Screen of {machine.config.name}")
    return f'<img class="screen" src="{source}" data-every="{every_ms}" width="{width}" height="{height}" alt="{name}">'


def _street(machines: Mapping[str, SimulatedMachine]) -> str:
    cards = []
    for machine in machines.values():
        config = machine.config
        cards.append(
            f'<li><a href="/machines/{quote(config.serial, safe="")}/">{_picture(machine, every_ms=1500)}'
            f"<strong>{html.escape(config.name)}</strong>"
            f"<span>{html.escape(config.site)} · {html.escape(config.serial)}</span></a></li>"
        )
    number = len(cards)
    return _page(
        "The street",
        f"""<header><h1>The street</h1>
<p>{number} simulated coffee machine{"" if number == 1 else "s"}, as the people in front of them see them.
Choose one.</p></header>
<main><ul class="street">{"".join(cards)}</ul></main>""",
    )


def _corner(machine: SimulatedMachine) -> str:
    config = machine.config
    return _page(
        config.name,
        f"""<header><a class="back" href="/">← The street</a><h1>{html.escape(config.name)}</h1>
<p>{html.escape(config.site)} · {html.escape(config.serial)} · {html.escape(config.address)}.
You stand in front of it: click its buttons, or type.</p></header>
<main class="corner"><div class="machine" tabindex="0" data-machine="/machines/{quote(config.serial, safe="")}/">
{_picture(machine, every_ms=250)}</div>
<p class="lost" hidden>The simulator does not answer. Is it still running?</p></main>""",
    )
