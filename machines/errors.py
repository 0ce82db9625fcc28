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


class IdentityError(FleetError):
    """An identity in the VPN cannot be made, given or used; the text says what was found and what was expected."""

    code = "identity_error"


class RequestRefused(IdentityError):
    """The machine's certificate request (CSR) is not one that can be signed."""

    code = "csr_refused"


class AlreadyHandedOver(IdentityError):
    """A profile is given out once; what was secret in it is no longer here."""

    code = "already_handed_over"


class GatewayRefused(IdentityError):
    """A gateway gets no identity, now and later: its attempt is over, or it is not the one that it was."""

    code = "gateway_refused"


class NoAddressLeft(FleetError):
    """Every address that the fleet's machines may have was given out."""

    code = "no_address_left"


class NotAllowed(FleetError):
    """The person may not do that."""

    code = "not_allowed"


class RegistrationRefused(FleetError):
    """A machine cannot be registered like this; `errors` has a sentence or more for each field by its name."""

    code = "invalid"

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__(" ".join(f"{field}: {' '.join(words)}" for field, words in errors.items()))
        self.errors = errors


class AvailabilityRefused(FleetError):
    """Times like these cannot be somebody's; `errors` has a sentence or more for each field by its name."""

    code = "invalid"

    def __init__(self, errors: dict[str, list[str]]) -> None:
        super().__init__(" ".join(sentence for words in errors.values() for sentence in words))
        self.errors = errors


class EnrolmentRefused(FleetError):
    """An enrolment code is unknown, out of time, or was used for another key; `code` says which."""

    def __init__(self, message: str, *, code: str) -> None:
        super().__init__(message)
        self.code = code


class NoVpn(FleetError):
    """This installation has no VPN that machines join."""

    code = "no_vpn"
