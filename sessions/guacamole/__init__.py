"""The Guacamole protocol without any input or output.

Theory of operation
===================

Nothing in this package opens a socket, waits, logs or knows Django. Bytes go in, what to send and what to know come
out, so that each rule can be tested at every split of the bytes and the same code serves the keeper, the tunnel, the
tests' scripted peers and the benchmark.

====================  ================================================================================================
`codec`               instructions to text and back; the only place that knows how they are written
`arguments`           which of guacd's connection arguments we ever set, and to what
`handshake`           from TCP connection to `ready`: opens a desktop, or joins one
`upward`              browser → guacd: allow-list by role, arity, ranges; written anew
`downward`            guacd → browser: allow-list; verbatim once proven well-formed; the hot path
`status`              the protocol's status codes and their WebSocket close codes
`errors`              whose fault it was, what was found, what was expected; never a secret
====================  ================================================================================================

One connection is one `Handshake`, then its `take_rest()` and all that follows through one `DownwardFilter`; each
message of the browser goes through one `UpwardFilter`, which must be told of each `sync` before the browser sees it::

    handshake = Handshake.join(connection_id, read_only=False)
    write(handshake.start())
    while not handshake.done:
        write(handshake.receive(read()))
    down, up = DownwardFilter(), UpwardFilter(role=Role.CONTROLLER)
    result = down.receive(handshake.take_rest())
    if result.last_sync is not None:
        up.note_sync(result.last_sync)
    send_to_browser(result.text)

Errors are of two families: `LocalProtocolError` is ours, nothing was sent; `RemoteProtocolError` is the peer's, and
that connection is over. What a browser does wrong is no exception but a `Rejected` with the status to close with.
"""

from sessions.guacamole.arguments import ALLOWED_ARGUMENTS
from sessions.guacamole.codec import (
    MAX_ELEMENT_LENGTH,
    MAX_ELEMENTS,
    MAX_INSTRUCTION_LENGTH,
    MAX_LENGTH_DIGITS,
    Decoder,
    Instruction,
    decode,
    encode,
)
from sessions.guacamole.downward import Downward, DownwardFilter
from sessions.guacamole.errors import (
    ArgumentRefused,
    ConnectionRefused,
    LocalProtocolError,
    ProtocolError,
    RemoteProtocolError,
    TruncatedInput,
)
from sessions.guacamole.handshake import Display, Handshake
from sessions.guacamole.status import Status
from sessions.guacamole.upward import Rejected, Role, Upward, UpwardFilter

__all__ = [
    "ALLOWED_ARGUMENTS",
    "MAX_ELEMENTS",
    "MAX_ELEMENT_LENGTH",
    "MAX_INSTRUCTION_LENGTH",
    "MAX_LENGTH_DIGITS",
    "ArgumentRefused",
    "ConnectionRefused",
    "Decoder",
    "Display",
    "Downward",
    "DownwardFilter",
    "Handshake",
    "Instruction",
    "LocalProtocolError",
    "ProtocolError",
    "Rejected",
    "RemoteProtocolError",
    "Role",
    "Status",
    "TruncatedInput",
    "Upward",
    "UpwardFilter",
    "decode",
    "encode",
]
