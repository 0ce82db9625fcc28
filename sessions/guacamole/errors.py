"""What the protocol package raises: whose fault it is, where it is, what was found and what was expected.

Messages never carry the value of an argument: a password, a typed key or a clipboard may be among them.
"""

from __future__ import annotations


class ProtocolError(Exception):
    """The Guacamole protocol was broken; the subclass says by whom.

    `offset` counts characters since the start of that peer's stream, or is None where no place can be named.
    """

    def __init__(self, found: str, expected: str, *, offset: int | None = None) -> None:
        place = "" if offset is None else f" at character {offset}"
        super().__init__(f"found {found}{place}, expected {expected}")
        self.found = found
        self.expected = expected
        self.offset = offset


class LocalProtocolError(ProtocolError):
    """We were about to send what may not be sent; nothing was sent."""


class ArgumentRefused(LocalProtocolError):
    """A connection argument may not be set, or not to this; `name` is the argument, its value is not kept."""

    def __init__(self, name: str, found: str, expected: str) -> None:
        super().__init__(f"{name}: {found}", expected)
        self.name = name


class RemoteProtocolError(ProtocolError):
    """The peer sent what the protocol does not allow; the connection cannot be used any more."""


class TruncatedInput(RemoteProtocolError):
    """The peer stopped in the middle of an instruction, or of the handshake."""


class ConnectionRefused(RemoteProtocolError):
    """guacd answered `error` to the handshake; `status` is its code.

    guacd's own words are left out: they do not tell a wrong password from a dead machine.
    """

    def __init__(self, status: int) -> None:
        super().__init__(f"error {status}", "ready")
        self.status = status
