"""A mail server of one's own: enough of SMTP (RFC 5321) to take messages, and to refuse or stall as told."""

from __future__ import annotations

import email
import email.policy
import socketserver
import threading
import time
from dataclasses import dataclass
from email.message import EmailMessage
from typing import Any

from tests.waiting import LONG_S


@dataclass(frozen=True)
class Mail:
    """One message as it was handed in."""

    sender: str
    recipients: tuple[str, ...]
    raw: bytes

    @property
    def message(self) -> EmailMessage:
        found = email.message_from_bytes(self.raw, policy=email.policy.default)
        assert isinstance(found, EmailMessage)
        return found


class MailServer:
    """Takes all mail but what `refusals` says: an answer, as in "550 Nobody here", by the command it is given to.

    It stalls before its first word (`stall_s`), and before its answers (`slow_at`, seconds by command).
    """

    def __init__(self) -> None:
        self.mails: list[Mail] = []
        self.refusals: dict[str, str] = {}
        self.stall_s = 0.0
        self.slow_at: dict[str, float] = {}
        self.commands: list[str] = []
        self.talking = 0  # conversations that have begun and not ended
        self._arrived = threading.Condition()
        self._may_answer = threading.Event()
        self._may_answer.set()

    def __enter__(self) -> MailServer:
        outer = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                try:
                    outer._talk(self)
                except OSError:
                    pass  # the line was cut
                finally:
                    outer._count(-1)

        class Server(socketserver.ThreadingTCPServer):
            allow_reuse_address = daemon_threads = True

            def process_request(self, *asked: Any) -> None:
                outer._count(1)
                super().process_request(*asked)

        self._server = Server(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, args=(0.05,), name="mail server", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._may_answer.set()
        self._server.shutdown()
        self._server.server_close()

    @property
    def url(self) -> str:
        return f"smtp://127.0.0.1:{self._server.server_address[1]}"

    def hold(self) -> None:
        """Takes connections, and says nothing until `let_go`."""
        self._may_answer.clear()

    def let_go(self) -> None:
        self._may_answer.set()

    def wait_until_left(self) -> None:
        """Returns when nobody talks to it any more: what was not handed in by then is not handed in later."""
        with self._arrived:
            assert self._arrived.wait_for(lambda: not self.talking, LONG_S), f"{self.talking} still talk"

    def wait_for(self, count: int, *, timeout_s: float = LONG_S) -> list[Mail]:
        with self._arrived:
            there = self._arrived.wait_for(lambda: len(self.mails) >= count, timeout_s)
            assert there, f"{len(self.mails)} of {count} mails within {timeout_s} s"
            return self.mails[:]

    def _count(self, more: int) -> None:
        with self._arrived:
            self.talking += more
            self._arrived.notify_all()

    def _talk(self, handler: socketserver.StreamRequestHandler) -> None:
        def say(line: str) -> None:
            handler.wfile.write(f"{line}\r\n".encode())

        sender = ""
        recipients: list[str] = []
        time.sleep(self.stall_s)
        self._may_answer.wait(30)
        say("220 fake")
        while line := handler.rfile.readline():
            verb, _, rest = line.decode().strip().partition(" ")
            verb = verb.upper()
            self.commands.append(verb)
            time.sleep(self.slow_at.get(verb, 0.0))
            if refusal := self.refusals.get(verb):
                say(refusal)
            elif verb == "EHLO":
                say("250-fake")
                say("250 8BITMIME")
            elif verb == "MAIL":
                sender, recipients = rest.partition("<")[2].partition(">")[0], []
                say("250 ok")
            elif verb == "RCPT":
                recipients.append(rest.partition("<")[2].partition(">")[0])
                say("250 ok")
            elif verb == "DATA":
                say("354 go on")
                raw = bytearray()
                while (part := handler.rfile.readline()) not in (b".\r\n", b""):
                    raw += part.removeprefix(b".")
                if not part:
                    return  # broken off: that was no message
                with self._arrived:
                    self.mails.append(Mail(sender, tuple(recipients), bytes(raw)))
                    self._arrived.notify_all()
                say("250 taken")
            elif verb == "QUIT":
                say("221 bye")
                return
            else:
                say("250 ok")
