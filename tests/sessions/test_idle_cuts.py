"""Lines with nothing to say live on where what is idle is cut (F13): AWS Global Accelerator, load balancers, routers.

The cut is at 14 s here, at 340 s there: what counts is that our pings, 10 s apart, come before it. An hour of the same
with AWS' own times, a real desktop and real OpenVPN tunnels is `python -m bench idle`.
"""

from __future__ import annotations

import time

import pytest

from sessions import attachments, services
from sessions.states import State
from tests.fakes.cutting_proxy import CuttingProxy, echo, is_reset, silent_connection
from tests.fakes.guacd import FakeGuacd
from tests.sessions.keeping import again, keeping, rescue, until_state
from tests.sessions.portal_server import Browser, serving, signed_in, tunnel_path
from tests.sessions.rescues import person
from tests.waiting import until

pytestmark = pytest.mark.django_db(transaction=True)

CUT_S = 14.0


def test_quiet_live_line_and_desktop_outlive_what_has_no_pings() -> None:
    alice = person("Alice")
    # A desktop on which nothing moves: guacd says no more than that it is there.
    with (
        FakeGuacd(frame_interval_s=1) as guacd,
        echo() as (stream, _),
        CuttingProxy(tcp_idle_s=CUT_S) as proxy,
        serving() as port,
        keeping(),
    ):
        session = rescue(guacd.port)
        services.claim(session, user=alice)
        session = until_state(session, State.READY)
        through = proxy.tcp(("127.0.0.1", port))[1]
        login = signed_in(alice)
        began = time.monotonic()
        ticket = attachments.issue_ticket(again(session), user=alice, role="controller")
        with (
            Browser(through, "/ws/live/", login=login) as live,
            Browser(through, tunnel_path(session.pk), login=login, subprotocol="guacamole") as desktop,
            silent_connection(proxy.tcp(stream)) as control,
        ):
            live.until_message(lambda message: message["type"] == "snapshot", "the snapshot")
            desktop.tell("", "ticket", ticket)
            desktop.until_opcode("sync")
            until_state(session, State.ACTIVE)
            control.recv(16)
            while not is_reset(control):
                assert time.monotonic() - began < 4 * CUT_S, "the proxy does not cut what is idle"
                time.sleep(0.2)
            assert time.monotonic() - began >= CUT_S
            # The others have been there for longer, and said as little.
            assert (live.closing[0], desktop.closing[0]) == (None, None)
            of_live, of_desktop, of_control = proxy.flows
            # Its next ping is the later, the longer the way to the desktop took, which it told of.
            until(lambda: of_live.longest_silence_s > 9, "a whole silence between two pings")
            assert [flow.was_cut for flow in proxy.flows] == [False, False, True]
            # Pings of the WebSocket alone: the line's own come every 20 s, which would be too late here.
            assert of_live.longest_silence_s < CUT_S
            assert of_desktop.longest_silence_s < CUT_S / 2 and of_control.longest_silence_s < 9
            desktop.tell("", "ping", 1700000000000)
            desktop.until(lambda: ["", "ping", "1700000000000"] in desktop.instructions, "it answers at once")
