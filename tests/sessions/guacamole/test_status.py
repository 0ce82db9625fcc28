"""The status codes are Apache's."""

from __future__ import annotations

from sessions.guacamole import Status


def test_codes_used_by_the_tunnel_are_those_of_the_protocol() -> None:
    assert [int(status) for status in Status] == [
        *(0, 256, 512, 513, 514, 515, 516, 517, 518, 519, 520, 521, 522, 523),
        *(768, 769, 771, 776, 781, 783, 797),
    ]


def test_close_codes_are_those_of_apaches_endpoint() -> None:
    by_close_code = {
        1000: {0},
        1002: {516, 518, 522, 523, 768, 776},
        1003: {783},
        1008: {513, 517, 521, 769, 771, 797},
        1009: {781},
        1011: {256, 512, 514, 515, 519, 520},
    }
    assert {code: {int(s) for s in Status if s.websocket_code == code} for code in by_close_code} == by_close_code


def test_close_reason_is_the_decimal_code() -> None:
    assert Status.SESSION_CLOSED.close_reason == "523"


def test_unknown_code_is_a_server_error() -> None:
    assert Status.from_code(519) is Status.UPSTREAM_NOT_FOUND
    assert Status.from_code(4242) is Status.SERVER_ERROR
