"""HTTP as AWS' JSON protocols have it, with connections that are kept."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

# Method, path, headers in small letters, body; it gives status and body, or None to hang up.
AnswerTo = Callable[[str, str, dict[str, str], bytes], tuple[int, bytes] | None]


class Server(ThreadingHTTPServer):
    """One thread a connection."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Who called was killed, or has lost patience."""


def handler_of(answer_to: AnswerTo, faults: list[str]) -> type[BaseHTTPRequestHandler]:
    """What serves one connection; what goes wrong in here is put to `faults`."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = 65536  # an answer is one packet
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            length = int(self.headers.get("content-length", 0))
            body = self.rfile.read(length)
            if len(body) < length:
                self.close_connection = True  # who sent it has died in the middle
                return
            headers = {name.lower(): value for name, value in self.headers.items()}
            try:
                answer = answer_to("POST", self.path, headers, body)
            except Exception as error:
                faults.append(repr(error))
                raise
            if answer is None:
                self.close_connection = True
                return
            status, text = answer
            self.send_response(status)
            self.send_header("Content-Type", headers.get("content-type", "application/x-amz-json-1.1"))
            self.send_header("x-amzn-RequestId", str(uuid.uuid4()))
            self.send_header("Content-Length", str(len(text)))
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, format: str, *arguments: object) -> None:
            """`calls` has it."""

    return Handler
