"""One conversation with a mail server, which can be cut from outside whatever its thread is waiting for.

smtplib limits each wait, not their sum: a server that answers each command slowly keeps a thread going for minutes,
while its message, long given up, is tried again elsewhere. Cut, nothing more leaves by it, also not under TLS.
"""

from __future__ import annotations

import contextlib
import smtplib
import socket
import threading

from django.core.mail.backends.smtp import EmailBackend

from notifications.mail_server import MailServer


class Line:
    """The connection of one send, from before it is there; callable from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._end: socket.socket | None = None
        self._is_cut = False

    def hold(self, connection: socket.socket) -> None:
        """Takes a new connection, before anything is said by it. Raises OSError when the line was cut meanwhile."""
        with self._lock:
            if self._is_cut:
                connection.close()
                raise TimeoutError("the time for this message is over")
            # Another handle of the same connection: TLS takes the first one away.
            self._end = connection.dup()

    def cut(self) -> None:
        """Ends the connection, and each that is still to come; whoever waits in it gets an error. Twice is once."""
        with self._lock:
            self._is_cut = True
            if self._end is not None:
                with contextlib.suppress(OSError):  # it has ended by itself
                    self._end.shutdown(socket.SHUT_RDWR)
                self._end.close()
                self._end = None


class Backend(EmailBackend):
    """Django's SMTP backend to the mail server of the settings, its connection held by a line."""

    def __init__(self, line: Line, server: MailServer, *, timeout_s: float) -> None:
        super().__init__(
            host=server.host,
            port=server.port,
            username=server.user,
            password=server.password,
            use_ssl=server.has_tls,
            use_tls=server.has_starttls,
            timeout=timeout_s,
        )
        self._line = line

    @property
    def connection_class(self) -> type[smtplib.SMTP]:
        line = self._line

        class Plain(smtplib.SMTP):
            def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
                # The one place between the connection and the first word, or TLS' handshake.
                connection: socket.socket = super()._get_socket(host, port, timeout)  # type: ignore[misc]
                line.hold(connection)
                return connection

        class Encrypted(smtplib.SMTP_SSL, Plain):
            pass

        return Encrypted if self.use_ssl else Plain
