"""Who is let in, who waits, who is turned away and who is cut off: decisions over time, without OpenVPN."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from machines.authorisation import admission as words
from machines.authorisation import ways
from machines.authorisation.admission import Admission
from machines.authorisation.allow_list import Allowed, AllowList
from machines.authorisation.management import Connecting, Disconnected, Established, StatusRow, Traffic
from machines.authorisation.outcomes import (
    Admit,
    Alarm,
    Confirm,
    Deny,
    Ending,
    Forget,
    Halt,
    Joined,
    Known,
    Left,
    Moment,
    Outcome,
    Restart,
    TunnelEnded,
)
from machines.authorisation.ways import Way

A1, A2 = "a1" * 32, "a2" * 32
LIST = AllowList({"m-1": Allowed("10.77.1.1", frozenset({A1})), "m-2": Allowed("10.77.1.2", frozenset({A2}))})
HOME, AWAY = "192.0.2.7", "198.51.100.9"
BEGINNING = datetime(2026, 11, 23, 10, 0, tzinfo=UTC)


class Scene:
    """An admission and a clock; everything that was decided, in order."""

    def __init__(self, allow_list: AllowList = LIST) -> None:
        self.at = 0.0
        self.admission = Admission(allow_list)
        self.wish(allow_list)

    @property
    def now(self) -> Moment:
        return Moment(self.at, BEGINNING + timedelta(seconds=self.at))

    def wish(self, allow_list: AllowList = LIST, *endings: Ending) -> None:
        self.admission.wish(allow_list, endings, read_at=self.at)

    def later(self, seconds: float, allow_list: AllowList | None = None) -> list[Outcome]:
        self.at += seconds
        if allow_list is not None:
            self.wish(allow_list)
        return self.admission.review(self.now)

    def asks(
        self, client_id: int, name: str = "m-1", fingerprint: str = A1, *, address: str = HOME, is_new: bool = True
    ) -> list[Outcome]:
        environment = {
            "common_name": name,
            "tls_digest_sha256_0": ":".join(fingerprint[at : at + 2] for at in range(0, len(fingerprint), 2)),
            "untrusted_ip": address,
            "untrusted_port": str(40000 + client_id),
        }
        taken = self.admission.take(Connecting(client_id, 1, is_new, environment), self.now)
        return taken + self.admission.review(self.now, tuple(Way))

    def gets_in(self, client_id: int, name: str = "m-1", fingerprint: str = A1, *, address: str = HOME) -> Joined:
        assert any(isinstance(one, Admit) for one in self.asks(client_id, name, fingerprint, address=address))
        (joined,) = self.admission.take(Established(client_id, {}), self.now)
        assert isinstance(joined, Joined)
        return joined

    def is_heard(self, client_id: int, count: int) -> None:
        self.admission.take(Traffic(client_id, count, 0), self.now)

    def goes(self, client_id: int) -> list[Outcome]:
        return self.admission.take(Disconnected(client_id, {"bytes_received": "9", "bytes_sent": "8"}), self.now)


def test_machine_of_the_list_gets_its_own_address() -> None:
    assert Scene().asks(0) == [Admit(0, 1, "10.77.1.1")]
    assert Scene().asks(0, "m-2", A2) == [Admit(0, 1, "10.77.1.2")]


@pytest.mark.parametrize(("name", "fingerprint"), [("m-1", A2), ("m-3", A1), ("m-2", A1)])
def test_certificate_under_another_name_is_refused(name: str, fingerprint: str) -> None:
    scene = Scene()
    assert scene.asks(0, name, fingerprint) == []
    denied, alarm = scene.later(0.5, LIST)
    assert isinstance(denied, Deny) and denied.shown == words.NOT_ADMITTED
    assert isinstance(alarm, Alarm) and (alarm.kind, alarm.common_name) == ("vpn_refused", name)
    assert scene.later(60, LIST) == []


def test_stranger_waits_for_a_list_that_was_read_after_it_came() -> None:
    scene = Scene(AllowList())
    assert scene.asks(0) == []
    assert scene.later(0.5, LIST) == [Admit(0, 1, "10.77.1.1")]


def test_stranger_does_not_wait_for_a_database_that_is_away() -> None:
    scene = Scene(AllowList())
    assert scene.asks(0) == []
    assert isinstance(scene.later(words.FRESH_LIST_S)[0], Deny)


@given(name=st.text(max_size=40), fingerprint=st.text(max_size=70), address=st.text(max_size=20))
def test_nothing_a_machine_can_say_gets_it_in(name: str, fingerprint: str, address: str) -> None:
    scene = Scene()
    environment = {"common_name": name, "tls_digest_sha256_0": fingerprint, "untrusted_ip": address}
    outcomes = scene.admission.take(Connecting(0, 1, True, environment), scene.now)
    outcomes += scene.admission.review(scene.now) + scene.later(5, LIST)
    assert [type(one) for one in outcomes] == [Deny, Alarm]


def test_revoked_machine_is_halted_once_and_then_dropped() -> None:
    scene = Scene()
    joined = scene.gets_in(0)
    nobody = AllowList()
    assert scene.later(1, nobody) == [Halt(0)]
    assert scene.later(1, nobody) == []
    assert scene.later(1, nobody) == [Forget(HOME, 40000)]
    assert scene.later(1, nobody) == []
    (left,) = scene.goes(0)
    assert left == Left(joined.key, "It is no longer admitted.", scene.now.wall, 9, 8)


def test_new_keys_are_for_those_who_are_still_admitted() -> None:
    scene = Scene()
    scene.gets_in(0)
    assert scene.asks(0, is_new=False) == [Confirm(0, 1)]
    scene.wish(AllowList())
    outcomes = scene.asks(0, is_new=False)
    assert isinstance(outcomes[0], Deny) and outcomes[1:] == [Halt(0)]


def test_new_keys_with_anothers_certificate_end_the_tunnel() -> None:
    scene = Scene()
    scene.gets_in(0)
    outcomes = scene.asks(0, "m-2", A2, is_new=False)
    assert isinstance(outcomes[0], Deny) and Halt(0) in outcomes


# --- the same identity in two places ----------------------------------------------------------------------------------


def test_second_place_is_refused_as_soon_as_the_first_is_heard() -> None:
    scene = Scene()
    scene.gets_in(0)
    scene.at += 60
    scene.is_heard(0, 100)
    scene.at += 1
    assert scene.asks(1, address=AWAY) == []
    scene.at += 4
    scene.is_heard(0, 200)
    denied, alarm = scene.admission.review(scene.now)
    assert isinstance(denied, Deny) and (denied.client_id, denied.shown) == (1, words.ELSEWHERE)
    assert isinstance(alarm, Alarm) and alarm.kind == "vpn_duplicate"
    assert alarm.detail["first"] == f"{HOME}:40000" and alarm.detail["second"] == f"{AWAY}:40001"
    assert scene.admission.count() == 1


def test_machine_on_a_new_line_gets_in_when_the_old_one_stays_silent() -> None:
    scene = Scene()
    scene.gets_in(0)
    scene.at += 1
    assert scene.asks(1, address=AWAY) == []
    scene.is_heard(0, 0)  # what the server sends counts for nothing
    assert scene.later(5) == []
    assert scene.later(words.HEARD_S) == [Admit(1, 1, "10.77.1.1")]


def test_traffic_from_just_before_its_arrival_makes_no_thief_of_a_machine_on_a_new_line() -> None:
    scene = Scene()
    scene.gets_in(0)
    assert scene.asks(1, address=AWAY) == []
    scene.at += 1.5
    scene.is_heard(0, 100)  # told by the round of reports that was due
    assert scene.later(5) == []
    assert scene.later(words.HEARD_S) == [Admit(1, 1, "10.77.1.1")]


def test_machine_on_a_new_line_gets_in_at_once_when_the_old_one_has_gone() -> None:
    scene = Scene()
    scene.gets_in(0)
    scene.at += 1
    assert scene.asks(1, address=AWAY) == []
    scene.goes(0)
    assert scene.later(0.1) == [Admit(1, 1, "10.77.1.1")]


def test_machine_that_starts_again_at_its_place_gets_in_at_once() -> None:
    scene = Scene()
    scene.gets_in(0)
    assert scene.asks(1) == [Admit(1, 1, "10.77.1.1")]


def test_two_machines_behind_one_router_with_one_identity_are_noticed() -> None:
    scene = Scene()
    scene.gets_in(0)
    alarms = []
    for client_id in range(1, 8):
        scene.at += 5
        outcomes = scene.asks(client_id)
        alarms += [one for one in outcomes if isinstance(one, Alarm)]
        scene.admission.take(Established(client_id, {}), scene.now)
        scene.goes(client_id - 1)
    assert alarms and alarms[0].kind == "vpn_duplicate"


def test_who_is_told_to_end_stands_in_nobodys_way() -> None:
    scene = Scene()
    scene.gets_in(0)
    scene.wish(LIST, Ending(5, "m-1", scene.now.wall))
    assert scene.later(0) == [Halt(0)]
    scene.at += 2
    assert scene.asks(1, address=AWAY) == [Admit(1, 1, "10.77.1.1")]


# --- wishes that tunnels end ------------------------------------------------------------------------------------------


def test_wish_is_fulfilled_when_the_machine_has_gone_and_not_before() -> None:
    scene = Scene()
    scene.gets_in(0)
    scene.wish(LIST, Ending(5, "m-1", scene.now.wall))
    assert scene.later(0) == [Halt(0)]
    assert scene.later(3) == []
    scene.goes(0)
    assert scene.later(0) == [TunnelEnded(5, "m-1")]
    assert scene.later(1) == []


def test_wish_for_who_is_not_there_is_fulfilled_at_once() -> None:
    scene = Scene()
    scene.gets_in(0, "m-2", A2)
    scene.wish(LIST, Ending(5, "m-1", scene.now.wall))
    assert scene.later(0) == [TunnelEnded(5, "m-1")]


def test_tunnel_that_came_after_the_wish_is_not_meant() -> None:
    scene = Scene()
    wish = Ending(5, "m-1", scene.now.wall)
    scene.at += 10
    scene.gets_in(0)
    scene.wish(LIST, wish)
    assert scene.later(0) == [TunnelEnded(5, "m-1")]


# --- gateways ---------------------------------------------------------------------------------------------------------

GATEWAY = "g-7f3e5a0c-0000-4000-8000-00000000000a"
G1 = "b1" * 32
WITH_GATEWAY = AllowList(LIST.machines, {GATEWAY: Allowed("10.77.0.2", frozenset({G1}))})


def test_gateway_gets_its_own_address_and_one_whose_attempt_is_over_hears_so() -> None:
    assert Scene(WITH_GATEWAY).asks(0, GATEWAY, G1) == [Admit(0, 1, "10.77.0.2")]
    scene = Scene(LIST)
    assert scene.asks(0, GATEWAY, G1) == []
    denied, alarm = scene.later(0.5, LIST)
    assert isinstance(denied, Deny) and denied.shown == words.OVER
    assert isinstance(alarm, Alarm) and alarm.common_name == GATEWAY


def test_gateway_counts_as_out_only_when_its_tunnel_is_gone() -> None:
    scene = Scene(WITH_GATEWAY)
    joined = scene.gets_in(0, GATEWAY, G1)
    leaving = Ending(7, GATEWAY, None)
    scene.wish(LIST, leaving)
    assert scene.later(0) == [Halt(0)]
    assert scene.later(1) == []
    assert scene.later(1) == [Forget(HOME, 40000)]  # it was asked, and has not gone
    assert [type(one) for one in scene.goes(0)] == [Left] and joined.key
    assert scene.later(0) == [TunnelEnded(7, GATEWAY)]
    assert scene.later(1) == []


def test_gateway_that_comes_just_when_it_is_over_is_out_before_that_is_said() -> None:
    scene = Scene(LIST)
    scene.at += 0.1
    assert scene.asks(0, GATEWAY, G1) == []
    scene.admission.wish(LIST, [Ending(7, GATEWAY, None)], read_at=scene.at - 0.05)  # read before it came
    assert scene.later(0) == []
    scene.at += 0.3
    scene.wish(LIST, Ending(7, GATEWAY, None))
    assert [type(one) for one in scene.later(0)] == [Deny, Alarm, TunnelEnded]


def test_number_of_a_machines_wish_and_of_a_gateways_are_not_confused() -> None:
    scene = Scene(WITH_GATEWAY)
    scene.gets_in(0, GATEWAY, G1)
    scene.wish(WITH_GATEWAY, Ending(7, "m-1", scene.now.wall))
    assert scene.later(0) == [TunnelEnded(7, "m-1")]
    scene.goes(0)
    scene.wish(LIST, Ending(7, "m-1", scene.now.wall), Ending(7, GATEWAY, None))
    assert scene.later(0) == [TunnelEnded(7, GATEWAY)]


# --- when something was away ------------------------------------------------------------------------------------------


def row(client_id: int, name: str = "m-1", *, address: str = "10.77.1.1", since: datetime = BEGINNING) -> StatusRow:
    return StatusRow(client_id, name, HOME, 40000 + client_id, address, 5, 6, int(since.timestamp()))


def known(joined: Joined) -> Known:
    return Known(
        joined.key, joined.common_name, joined.fingerprint, joined.client_id, joined.remote_address,
        joined.remote_port, joined.at,
    )  # fmt: skip


def test_tunnels_of_an_earlier_run_are_taken_over() -> None:
    joined = Scene().gets_in(0)
    scene = Scene()
    assert scene.admission.reconcile([row(0)], [known(joined)], scene.now) == []
    assert scene.later(60) == []
    assert list(scene.admission.heard()) == [joined.key]
    assert scene.later(0, AllowList()) == [Halt(0)]


def test_tunnel_that_nobody_wrote_down_is_sent_round_and_dropped_if_it_stays() -> None:
    scene = Scene()
    assert scene.admission.reconcile([row(0)], [], scene.now) == [Restart(0)]
    assert scene.later(words.REVOKED_GOODBYE_S) == [Forget(HOME, 40000)]
    assert scene.goes(0) == []


def test_who_asked_while_nobody_was_there_is_sent_round_but_not_who_asks_now() -> None:
    scene = Scene(AllowList())
    scene.asks(1, "m-2", A2)
    outcomes = scene.admission.reconcile([row(0, address=""), row(1, "m-2", address="")], [], scene.now)
    assert outcomes == [Restart(0)]
    assert scene.later(0.1, LIST) == [Admit(1, 1, "10.77.1.2")]


@pytest.mark.parametrize(
    "other",
    [row(0, address="10.77.1.9"), row(0, "m-2"), row(0, since=BEGINNING + timedelta(hours=1))],
    ids=["another address", "another name", "another time"],
)
def test_tunnel_that_is_not_as_it_was_written_down_is_sent_round(other: StatusRow) -> None:
    joined = Scene().gets_in(0)
    scene = Scene()
    outcomes = scene.admission.reconcile([other], [known(joined)], scene.now)
    assert Restart(0) in outcomes
    assert [one.key for one in outcomes if isinstance(one, Left)] == [joined.key]


def test_those_who_left_meanwhile_have_left() -> None:
    scene = Scene()
    first, second = scene.gets_in(0), scene.gets_in(1, "m-2", A2)
    scene.admission.lose()
    outcomes = scene.admission.reconcile([row(0)], [], scene.now)
    assert [one.key for one in outcomes if isinstance(one, Left)] == [second.key]
    assert list(scene.admission.heard()) == [first.key]


BOTH = (Way.FIRST, Way.TCP)


def test_machine_that_comes_the_other_way_replaces_its_tunnel_there() -> None:
    scene = Scene()
    over_tcp = ways.number(Way.TCP, 1)  # another number than the first, though OpenVPN has the same for both
    scene.gets_in(1)
    assert any(isinstance(one, Admit) for one in scene.asks(over_tcp))
    scene.admission.take(Established(over_tcp, {}), scene.now)
    assert scene.admission.over(Way.TCP) == {"10.77.1.1"} and not scene.admission.over(Way.FIRST)
    assert scene.admission.review(scene.now, BOTH) == [Forget(HOME, 40001, Way.FIRST)]
    (left,) = scene.goes(1)
    assert isinstance(left, Left) and left.detail == "A newer connection took its place."
    assert scene.admission.count() == 1


def test_what_one_openvpn_cannot_be_told_waits_for_it_and_holds_up_nobody() -> None:
    scene = Scene()
    scene.gets_in(1)
    scene.wish(AllowList({"m-2": LIST.machines["m-2"]}))
    assert scene.admission.review(scene.now, [Way.TCP]) == []
    assert scene.admission.review(scene.now, BOTH) == [Halt(1)]
    other = Scene()
    joined = other.gets_in(1)
    other.wish(LIST, Ending(7, "m-1", other.now.wall))
    other.admission.lose(Way.FIRST)
    assert other.admission.review(other.now, [Way.TCP]) == []
    (left,) = other.admission.abandon(Way.FIRST, [], other.now)
    assert isinstance(left, Left) and left.key == joined.key
    assert other.admission.review(other.now, [Way.TCP]) == [TunnelEnded(7, "m-1")]


def test_who_is_at_the_other_openvpn_is_left_alone_when_one_comes_back() -> None:
    scene = Scene()
    scene.gets_in(ways.number(Way.TCP, 1), "m-2", A2)
    scene.admission.lose(Way.FIRST)
    assert scene.admission.reconcile([], [], scene.now, Way.FIRST) == []
    assert scene.admission.count() == 1


def test_who_waited_when_openvpn_went_is_forgotten() -> None:
    scene = Scene(AllowList())
    scene.asks(0)
    scene.admission.lose()
    scene.admission.reconcile([], [], scene.now)
    assert scene.later(60, LIST) == []


@given(st.lists(st.tuples(st.sampled_from(["ask", "in", "go", "hear", "list", "none", "wait"]), st.integers(0, 4))))
def test_whatever_happens_only_those_on_the_list_are_let_in_and_all_others_told_to_go(
    steps: list[tuple[str, int]],
) -> None:
    scene = Scene()
    allowed = LIST
    for step, number in steps:
        outcomes: list[Outcome] = []
        match step:
            case "ask":
                name, fingerprint = [("m-1", A1), ("m-2", A2), ("m-3", A1)][number % 3]
                outcomes = scene.asks(number, name, fingerprint, address=[HOME, AWAY][number % 2])
            case "in":
                scene.admission.take(Established(number, {}), scene.now)
            case "go":
                scene.goes(number)
            case "hear":
                scene.is_heard(number, int(scene.at) + 1)
            case "list" | "none":
                allowed = LIST if step == "list" else AllowList()
                scene.wish(allowed)
            case "wait":
                outcomes = scene.later(number * 4)
        for one in outcomes + scene.admission.review(scene.now):
            if isinstance(one, Admit):
                assert one.address in {entry.address for entry in allowed.machines.values()}
    scene.later(1, AllowList())
    told = scene.later(20, AllowList())
    assert not any(isinstance(one, Admit) for one in told)
    assert not any(client.forget_at for client in scene.admission._clients.values())
