"""The whole desktop path with real programs: a simulated machine, FreeRDP, guacd, worker, keeper, and a browser."""

from __future__ import annotations

import os
import signal
import time
from contextlib import suppress

import pytest
from django.db import connections

from sessions import attachments, services
from sessions.models import Attachment, SupportSession
from sessions.states import EndReason, State
from tests.sessions.keeping import again, until_state
from tests.sessions.portal_server import Browser, serving, signed_in, tunnel_path
from tests.sessions.rescues import person
from tests.sessions.test_keeper_real import Place, installation, limits, place
from tests.waiting import until

__all__ = ["installation", "limits", "place"]

pytestmark = [pytest.mark.real, pytest.mark.django_db(transaction=True), pytest.mark.timeout(180)]


class Screen(Browser):
    """A browser that answers every frame, as Apache's client does; guacd slows down for one that does not."""

    def __init__(self, port: int, session: SupportSession, name: str, role: str) -> None:
        user = person(name)
        ticket = attachments.issue_ticket(again(session), user=user, role=role)
        super().__init__(port, tunnel_path(session.pk), login=signed_in(user), subprotocol="guacamole")
        self.tell("", "ticket", ticket)

    def __enter__(self) -> Screen:
        return self

    def answer(self) -> int:
        """Echoes the newest sync; gives how many frames have come."""
        syncs = [one for one in self.instructions if one[0] == "sync"]
        if syncs:
            self.tell("sync", syncs[-1][1])
        return len(syncs)


def test_operator_repairs_a_real_machine_while_a_colleague_watches(installation: str, place: Place) -> None:
    session = place.press()
    session = until_state(session, State.READY, timeout_s=60)
    services.claim(session, user=person("Alice"))
    person("Bob")
    with serving() as port, Screen(port, session, "Alice", "controller") as alice:
        alice.until_opcode("sync")
        alice.until_opcode("img")
        until_state(session, State.ACTIVE)
        assert ["size", "0"] in [one[:2] for one in alice.instructions]
        with Screen(port, session, "Bob", "watcher") as bob:
            bob.until_opcode("sync")
            bob.answer()
            frames = len(alice.frames)
            for step in range(40):
                alice.tell("mouse", 100 + step * 10, 300, 0)
                alice.answer()
                time.sleep(0.01)
            alice.until(lambda: len(alice.frames) > frames, "the screen goes on")
        alice.leave()
        until_state(session, State.READY)
        with Screen(port, session, "Alice", "controller") as again_alice:
            again_alice.until_opcode("sync")
            services.close(again(session), user=person("Alice"), outcome=EndReason.RESOLVED)
            status, sentence = again_alice.until_ended()
            assert status == 523, sentence
    assert not Attachment.objects.filter(detached_at=None, attached_at__isnull=False).exists()
    connections.close_all()


def test_killed_guacd_is_said_and_the_next_join_has_the_screen_again(installation: str, place: Place) -> None:
    session = until_state(place.press(), State.READY, timeout_s=60)
    services.claim(session, user=person("Alice"))
    with serving() as port:
        with Screen(port, session, "Alice", "controller") as alice:
            alice.until_opcode("sync")
            gateway = again(session).gateways.get(state="ready")
            for pid in [gateway.handle["pid"], *_family(gateway.handle["pid"])]:
                with suppress(ProcessLookupError):  # a child may go as soon as its parent has
                    os.kill(pid, signal.SIGKILL)
            status, _ = alice.until_ended()
            assert status == 519
        until(lambda: again(session).gateways.filter(state="ready").exclude(pk=gateway.pk).exists(), "a new gateway",
              timeout_s=60)  # fmt: skip
        until_state(session, State.READY, timeout_s=60)
        with Screen(port, session, "Alice", "controller") as alice:
            alice.until_opcode("sync")


def _family(pid: int) -> list[int]:
    """The guacd processes of desktops: each has a group of its own, and outlives the parent by seconds (F4)."""
    found = []
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            try:
                with open(f"/proc/{entry}/stat") as stat:
                    if int(stat.read().rpartition(")")[2].split()[1]) == pid:
                        found.append(int(entry))
            except (OSError, ValueError):
                continue
    return found
