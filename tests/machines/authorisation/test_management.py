"""OpenVPN's management protocol: what really came over a socket, cut anywhere, and what a machine may try with it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.authorisation import management as protocol
from machines.authorisation.management import (
    Connecting,
    Disconnected,
    Established,
    Event,
    Management,
    ManagementError,
    Notice,
    Reply,
    Traffic,
)

STATUS = (
    "TITLE\tOpenVPN 2.6.14 x86_64-pc-linux-gnu\r\n"
    "TIME\t2026-11-23 10:00:00\t1795428000\r\n"
    "HEADER\tCLIENT_LIST\tCommon Name\tReal Address\tVirtual Address\tVirtual IPv6 Address\tBytes Received\tBytes Sent"
    "\tConnected Since\tConnected Since (time_t)\tUsername\tClient ID\tPeer ID\tData Channel Cipher\r\n"
    "CLIENT_LIST\tm-7\t192.0.2.7:40001\t10.77.1.7\t\t3123\t4456\t2026-11-23 09:59:00\t1795427940\tUNDEF\t12\t0"
    "\tAES-256-GCM\r\n"
    "CLIENT_LIST\tm-9\t192.0.2.9:40009\t\t\t80\t70\t2026-11-23 09:59:59\t1795427999\tUNDEF\t14\t1\t\r\n"
    "CLIENT_LIST\tUNDEF\t192.0.2.8:40002\t\t\t80\t70\t2026-11-23 09:59:59\t1795427999\tUNDEF\t13\t1\t\r\n"
    "HEADER\tROUTING_TABLE\tVirtual Address\tCommon Name\tReal Address\tLast Ref\tLast Ref (time_t)\r\n"
    "ROUTING_TABLE\t10.77.1.7\tm-7\t192.0.2.7:40001\t2026-11-23 09:59:30\t1795427970\r\n"
    "GLOBAL_STATS\tMax bcast/mcast queue length\t0\r\n"
    "END\r\n"
)
TALK = (
    ">INFO:OpenVPN Management Interface Version 5 -- type 'help' for more info\r\n"
    + STATUS
    + "SUCCESS: bytecount interval changed\r\n"
    ">CLIENT:CONNECT,0,1\r\n"
    ">CLIENT:ENV,n_clients=0\r\n"
    ">CLIENT:ENV,IV_PLAT=linux\r\n"
    ">CLIENT:ENV,UV_NOTE=END\r\n"
    ">CLIENT:ENV,untrusted_port=40001\r\n"
    ">CLIENT:ENV,untrusted_ip=192.0.2.7\r\n"
    ">CLIENT:ENV,common_name=m-7\r\n"
    ">CLIENT:ENV,END\r\n"
    "SUCCESS: client-auth command succeeded\r\n"
    ">CLIENT:ADDRESS,0,10.77.1.7,1\r\n"
    ">CLIENT:ESTABLISHED,0\r\n"
    ">CLIENT:ENV,common_name=m-7\r\n"
    ">CLIENT:ENV,END\r\n"
    ">BYTECOUNT_CLI:0,3412,5511\r\n"
    ">CLIENT:REAUTH,0,2\r\n"
    ">CLIENT:ENV,common_name=m-7\r\n"
    ">CLIENT:ENV,END\r\n"
    "ERROR: client-auth-nt command failed\r\n"
    ">CLIENT:DISCONNECT,0\r\n"
    ">CLIENT:ENV,bytes_received=9000\r\n"
    ">CLIENT:ENV,END\r\n"
).encode()


def asked() -> Management:
    """A connection that waits for the answers in TALK."""
    management = Management()
    for command in (
        protocol.status(),
        protocol.report_traffic(2),
        protocol.admit(0, 1, address="10.77.1.7", netmask="255.255.240.0"),
        protocol.confirm(0, 2),
    ):
        management.send(command)
    return management


WHOLE: list[Event] = asked().receive(TALK)


def test_talk_becomes_events() -> None:
    kinds = [type(event) for event in WHOLE]
    assert kinds[:6] == [Notice, Reply, Reply, Connecting, Reply, Notice]
    assert kinds[6:] == [Established, Traffic, Connecting, Reply, Disconnected]
    connecting = WHOLE[3]
    assert isinstance(connecting, Connecting)
    assert (connecting.client_id, connecting.key_id, connecting.is_new) == (0, 1, True)
    assert connecting.environment["common_name"] == "m-7"
    assert connecting.environment["UV_NOTE"] == "END"
    assert WHOLE[7] == Traffic(0, 3412, 5511)
    reauth, refused = WHOLE[8], WHOLE[9]
    assert isinstance(reauth, Connecting) and not reauth.is_new
    assert refused == Reply("client-auth-nt 0 2", False, "client-auth-nt command failed")


def test_talk_cut_anywhere_becomes_the_same_events() -> None:
    for at in range(1, len(TALK)):
        management = asked()
        assert management.receive(TALK[:at]) + management.receive(TALK[at:]) == WHOLE, at


@given(st.lists(st.integers(0, len(TALK)), max_size=20).map(sorted))
def test_talk_cut_in_many_places_becomes_the_same_events(cuts: list[int]) -> None:
    management = asked()
    events: list[Event] = []
    for start, end in zip([0, *cuts], [*cuts, len(TALK)], strict=True):
        events += management.receive(TALK[start:end])
    assert events == WHOLE


def test_status_lists_who_is_in_or_waits_and_leaves_out_who_has_no_name_yet() -> None:
    reply = WHOLE[1]
    assert isinstance(reply, Reply)
    assert protocol.read_status(reply) == [
        protocol.StatusRow(12, "m-7", "192.0.2.7", 40001, "10.77.1.7", 3123, 4456, 1795427940),
        protocol.StatusRow(14, "m-9", "192.0.2.9", 40009, "", 80, 70, 1795427999),
    ]


def test_status_without_the_known_columns_is_refused() -> None:
    with pytest.raises(ManagementError, match="Real Address"):
        protocol.read_status(
            Reply(
                "status 3", True, "", ("HEADER\tCLIENT_LIST\tCommon Name\tVirtual Address", "CLIENT_LIST\tm-7\t1.2.3.4")
            )
        )


# A machine's values: anything but the end of a line, which OpenVPN itself never lets through.
hostile = st.text(st.characters(blacklist_characters="\n"), max_size=200) | st.sampled_from(
    ["END", "=END", "m-1", ">CLIENT:ENV,END", "\r", "SUCCESS: client-auth command succeeded", ">CLIENT:CONNECT,1,1", ""]
)


@given(values=st.lists(hostile, max_size=20))
def test_no_value_of_a_machine_ends_its_block_or_names_another(values: list[str]) -> None:
    lines = [f">CLIENT:ENV,UV_{number}={value}" for number, value in enumerate(values)]
    talk = "\n".join([">CLIENT:CONNECT,5,6", ">CLIENT:ENV,common_name=m-7", *lines, ">CLIENT:ENV,END", ""])
    events = Management().receive(talk.encode("utf-8", "replace"))
    assert [type(event) for event in events] == [Connecting]
    (event,) = events
    assert isinstance(event, Connecting)
    assert event.environment["common_name"] == "m-7"
    assert set(event.environment) == {"common_name", *(f"UV_{number}" for number in range(len(values)))}


def test_name_that_is_given_twice_names_nothing() -> None:
    (event,) = Management().receive(
        b">CLIENT:CONNECT,5,6\n>CLIENT:ENV,common_name=m-7\n>CLIENT:ENV,common_name=m-8\n"
        b">CLIENT:ENV,common_name=m-7\n>CLIENT:ENV,END\n"
    )
    assert isinstance(event, Connecting)
    assert "common_name" not in event.environment


@given(st.binary(max_size=300))
def test_noise_is_an_error_or_an_event_and_nothing_else(noise: bytes) -> None:
    management = asked()
    try:
        events = management.receive(noise + b"\n")
    except ManagementError:
        return
    assert all(isinstance(event, Event) for event in events)


@pytest.mark.parametrize(
    "talk",
    [
        b"SUCCESS: nobody asked\n",
        b">CLIENT:CONNECT,one,two\n",
        b">CLIENT:ESTABLISHED,1,2\n",
        b">CLIENT:CONNECT,1\n",
        b">CLIENT:CONNECT,1,2\n>BYTECOUNT_CLI:1,2,3\n",
        b">BYTECOUNT_CLI:1,2\n",
        b"ENTER PASSWORD:\n",
        b"x" * (protocol.MAX_LINE + 1),
    ],
)
def test_what_the_protocol_does_not_have_is_an_error(talk: bytes) -> None:
    with pytest.raises(ManagementError):
        Management().receive(talk)


def test_another_commands_answer_is_not_taken_for_a_list_of_nobody() -> None:
    management = Management()
    management.send(protocol.status())
    with pytest.raises(ManagementError, match="expected the lines"):
        management.receive(b"SUCCESS: bytecount interval changed\r\n")


def test_environment_without_an_end_is_an_error() -> None:
    talk = b">CLIENT:CONNECT,1,2\n" + b"".join(
        b">CLIENT:ENV,UV_%d=x\n" % n for n in range(protocol.MAX_BLOCK_LINES + 1)
    )
    with pytest.raises(ManagementError, match="client 1"):
        Management().receive(talk)


@given(st.text(max_size=30))
def test_words_to_openvpn_are_plain_or_refused(text: str) -> None:
    try:
        command = protocol.deny(1, 2, log=text, shown="No.")
    except ValueError:
        return
    assert command.line == f'client-deny 1 2 "{text}" "No."'
    assert "\n" not in text and '"' not in text and "\\" not in text


@pytest.mark.parametrize("address", ["10.77.1.7\nclient-auth 1 1", "10.77.1.7 255", "::1", "m-1"])
def test_addresses_to_openvpn_are_addresses_or_refused(address: str) -> None:
    with pytest.raises(ValueError):
        protocol.admit(1, 2, address=address, netmask="255.255.240.0")
    with pytest.raises(ValueError):
        protocol.forget(address, 1194)


def test_bytes_of_an_admission_are_what_openvpn_expects() -> None:
    command = protocol.admit(3, 4, address="10.77.1.7", netmask="255.255.240.0")
    assert Management().send(command) == b"client-auth 3 4\nifconfig-push 10.77.1.7 255.255.240.0\nEND\n"
