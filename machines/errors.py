"""Errors of the fleet's services; the REST layers turn them into problem+json."""


class FleetError(Exception):
    """Base of this app's errors; `code` is what a program branches on, the text is what a person reads."""

    code = "fleet_error"


class TokenRefused(FleetError):
    """The token is missing, malformed, unknown, revoked, or its machine is switched off."""

    code = "token_refused"


class AddressRefused(FleetError):
    """The token is good, but the call came from another address than the machine's own."""

    code = "address_refused"
