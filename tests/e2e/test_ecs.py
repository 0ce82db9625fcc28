"""Rescues through gateways on Amazon ECS, of which nearly everything goes wrong once; the fake really starts guacd.

Two limits are shortened, so that each kind of failure is seen to its end: a task has 10 s to be ready (ECS_READY_S, 50)
and a rescue two attempts (GATEWAY_ATTEMPTS, 3).
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import pytest
from playwright.sync_api import expect

from agent.simulator import SimulatedMachine
from sessions.gateways import processes
from tests.e2e.installation import Installation, wait_until
from tests.e2e.people import Person
from tests.e2e.test_asking import Button, Someone
from tests.e2e.test_faults import is_back, newest_connection
from tests.e2e.test_rescue import FAULT_MARK, GREEN, RED, near, nothing_is_left
from tests.fakes.ecs import FOR_EVER, Answer, FakeEcs, Life

TOLD_WITHIN_S = 60
READY_S = 10
READ_S = 3  # so long it stands there at least
FAILED = "No gateway to the machine could be had or kept. Have help pressed again"
FAILED_AT_MACHINE = "We could not reach this machine's screen. Please press help again."
ANOTHER = "The gateway did not start. Another one is being tried."
STARTS = "A gateway to the machine is starting.|Signing in to the machine."
_READY = "SELECT session_id FROM support_gateway WHERE state = 'ready'"


@pytest.fixture(scope="module")
def ecs() -> Iterator[FakeEcs]:
    with FakeEcs() as ecs:
        yield ecs
        assert (ecs.refused, ecs.faults) == ([], [])


@pytest.fixture(scope="module")
def installation(ecs: FakeEcs, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Installation]:
    """A server with its gateways on ECS, and at first without a keeper: no desktop is wanted."""
    installation = Installation(
        tmp_path_factory.mktemp("ecs"),
        **ecs.surroundings,
        **ecs.settings,
        ECS_CAPACITY_PROVIDER="portafilter-gateways",
        ECS_READY_S=str(READY_S),
        GATEWAY_ATTEMPTS="2",
        GATEWAY_DEADLINE_S="600",  # one rescue waits for its keeper through all of these tests
        INSTALLATION="e2e",
    )
    try:
        installation.prepare()
        installation.start("--no-keeper")
        yield installation
        assert "Traceback" not in installation.log(), f"the server's log is {installation.log_file}"
    finally:
        installation.remove()


@pytest.fixture(scope="module")
def serials(installation: Installation) -> Iterator[str]:
    return iter(reversed(installation.machines))


@pytest.fixture(scope="module")
def _signed_in() -> dict[str, Any]:
    return {}


def law(installation: Installation, ecs: FakeEcs) -> None:
    """What holds after every fault; what is just being stopped has a moment."""
    sessions = {_dashed(row["id"]): row for row in installation.rows("SELECT * FROM support_session")}
    is_open = {name: row["state"] not in ("closing", "closed") for name, row in sessions.items()}
    wait_until(
        lambda: all(is_open[task.shape["startedBy"]] for task in ecs.alive()),
        what="no task runs without a live session",
    )
    for name, row in sessions.items():
        gateways = installation.gateways_of(name)
        assert is_open[name] or installation.credentials_of(name) == 0, "a login outlives its rescue"
        # Neither served nor failed nor expired: nobody would ever come. Between two attempts there is a moment.
        wait_until(partial(is_seen_to, installation, name), what=f"{name} is seen to")
        query = "SELECT kind FROM support_session_event WHERE session_id = ? ORDER BY id"
        kinds = [event["kind"] for event in installation.rows(query, name.replace("-", ""))]
        assert kinds[0] == "requested" and ("attempt_failed" in kinds) >= any(one["failure"] for one in gateways)
        assert row["end_reason"] is None or {"ended", "cancelled", "close_requested"} & set(kinds), kinds
        assert len(ecs.tasks(of=name)) <= len(gateways), "two tasks for one attempt"


def is_seen_to(installation: Installation, session_id: str) -> bool:
    states = {gateway["state"] for gateway in installation.gateways_of(session_id)}
    return bool(states & {"wanted", "starting", "ready"} or installation.session(session_id)["end_reason"])


def _dashed(identity: str) -> str:
    return re.sub(r"(.{8})(.{4})(.{4})(.{4})(.{12})", r"\1-\2-\3-\4-\5", identity)


@dataclass
class Story:
    """What goes wrong for one rescue, and what is read of it: by its operator, and in the first gateway's record."""

    name: str
    reads: str  # by whoever looks at the rescue, sooner or later
    answers: tuple[Answer, float] = (Answer.GOOD, 0)  # of its RunTasks, and of how many
    life: Life = field(default_factory=Life)  # of its first task
    trail: str = ""  # in the event of the first attempt that failed; empty: none does
    record: str = ""
    ends_ready: bool = True
    button: Button = field(init=False)
    told_s: float = 0.0
    failing_s: float = 0.0
    seen: list[str] = field(default_factory=list)

    @property
    def session_id(self) -> str:
        return self.button.session_id

    def begin(self, ecs: FakeEcs, button: Button) -> None:
        self.button = button
        session_id = button.press()
        ecs.will(self.answers[0], "RunTask", times=self.answers[1], of=session_id)
        ecs.lives(self.life, of=session_id)
        if self.reads == ANOTHER:
            ecs.lives(Life(pending_s=READ_S), of=session_id)


def stories() -> list[Story]:
    """The last one is still starting when all others have come to their end."""
    return [
        Story(
            "throttled", FAILED, (Answer.THROTTLED, FOR_EVER), ends_ready=False,
            trail="AWS takes no more orders at the moment.", record="ecs:RunTask.*takes no more",
        ),
        Story(
            "no room", "There is no room for another gateway yet", (Answer.NO_CAPACITY, 1),
            trail="No computer of this cluster has a network address left", record="ecs:RunTask.*RESOURCE:ENI",
        ),
        Story(
            "neither task nor failure", FAILED, (Answer.NOTHING, FOR_EVER), ends_ready=False,
            trail="AWS started no gateway and did not say why.", record="neither a task nor a failure",
        ),
        Story(
            "never ready", ANOTHER, life=Life(pending_s=FOR_EVER),
            trail=f"was not ready within {READY_S} s.", record=f"Not ready within {READY_S} s.*PENDING",
        ),
        Story(
            "no image", ANOTHER, life=Life(failure="CannotPullContainerError: pull image manifest has been retried"),
            trail="AWS could not fetch the gateway's image.", record="TaskFailedToStart.*CannotPull",
        ),
        Story("time-out after success", STARTS, (Answer.LATE, 1)),
        Story("hung up after success", STARTS, (Answer.LOST, 1), life=Life(stops_refused=1)),
        Story("seen late", STARTS, life=Life(lag_s=2, stopping_s=1)),
        Story("another computer", "AWS has no room for another gateway yet", life=Life(provisioning_s=4 + 2 * READ_S)),
    ]  # fmt: skip


def test_whatever_ecs_does_is_told_within_a_minute_and_leaves_nothing(installation: Installation, ecs: FakeEcs) -> None:
    alice = Someone("Alice", installation)
    told = stories()
    with ecs.held():
        for number, story in enumerate(told, 1):
            story.begin(ecs, Button(installation, f"IT-{number:04}"))
        pressed_at = time.monotonic()

    def look() -> bool:
        ready = {_dashed(row["session_id"]) for row in installation.rows(_READY)}
        cards = {card["id"]: card for card in alice.get("/sessions/?state=open")["results"]}
        for story in told:
            now_s = time.monotonic() - pressed_at
            card = cards.get(story.session_id) or alice.get(f"/sessions/{story.session_id}/")
            sentence = card["sentence"]
            story.seen.append(sentence)
            story.told_s = story.told_s or (now_s if re.search(story.reads, sentence) else 0)
            story.failing_s = story.failing_s or (now_s if sentence == ANOTHER else 0)
        return all(story.told_s and (not story.ends_ready or story.session_id in ready) for story in told)

    wait_until(look, what=f"all is told: {told}", within_s=TOLD_WITHIN_S)
    law(installation, ecs)
    for story in told:
        _check(story, installation, ecs, alice)
    # One stays: of what becomes of AWS now it must know nothing.
    for story in told[:-1]:
        if story.ends_ready:
            story.button.cancel()
            story.button.read()
    ended = [story.session_id for story in told[:-1]]
    wait_until(lambda: {installation.session(name)["state"] for name in ended} == {"closed"}, what="all is closed")
    law(installation, ecs)
    assert [task.shape["startedBy"] for task in ecs.alive()] == [told[-1].session_id]
    for name in ended:
        assert all(processes.find(PORTAFILTER_FAKE_TASK=task.arn) == [] for task in ecs.tasks(of=name))


def _check(story: Story, installation: Installation, ecs: FakeEcs, alice: Someone) -> None:
    """What is written down of it, and what the machine hears."""
    gateways = installation.gateways_of(story.session_id)
    failures = [row["failure"] for row in gateways if row["failure"]]
    if story.trail:
        # A minute is what the limit leaves with its usual 50 s.
        assert story.failing_s < READY_S + 10, story
        assert len(gateways) == 2 and re.search(story.record, failures[0]), (story, failures)
        trail = " ".join(event["sentence"] for event in alice.get(f"/sessions/{story.session_id}/events/")["results"])
        assert f"An attempt failed: {story.trail}" in trail or story.trail in trail, (story, trail)
    else:
        assert (len(gateways), len(ecs.tasks(of=story.session_id)), failures) == (1, 1, []), story
    heard = story.button.read()["message"]
    assert heard if story.ends_ready else heard == FAILED_AT_MACHINE, (story, heard)
    assert not any("ecs:" in sentence for sentence in story.seen), "that is for whoever runs Portafilter"


@pytest.mark.parametrize(
    ("answer", "record"),
    [
        (Answer.EXPIRED, "ecs:RunTask: .*have expired"),
        (Answer.DENIED, "ecs:RunTask: .*Allow ecs:RunTask on .*portafilter"),
        (Answer.CLUSTER_GONE, "ecs:RunTask: ECS_CLUSTER.* what is not there in eu-west-1"),
        ("wrong region", r"ecs:RunTask: ECS_CLUSTER.* what is not there in eu-west-1 \(AWS_REGION\)"),
    ],
)
def test_what_only_whoever_runs_portafilter_can_repair_is_named_and_the_queue_keeps_working(
    installation: Installation, ecs: FakeEcs, answer: Answer | str, record: str
) -> None:
    waiting = the_ready_one(installation)
    if isinstance(answer, Answer):
        ecs.will(answer, "*", times=FOR_EVER)
    else:
        ecs.region = "us-east-1"
    alice = Someone("Alice", installation)
    button = Button(installation, "IT-0001")
    rescue = button.press()
    told = f"/sessions/{rescue}/"
    wait_until(lambda: FAILED in alice.get(told)["sentence"], what="it is told", within_s=TOLD_WITHIN_S)
    assert re.search(record, installation.gateways_of(rescue)[0]["failure"]), installation.gateways_of(rescue)
    assert "Queue" in alice.page("/") and button.read()["message"] == FAILED_AT_MACHINE

    # A gateway that is there stays, whatever AWS says; and people can work.
    for action in ("claim", "release"):
        status, card = alice.post(f"/sessions/{waiting}/{action}/", {})
        assert status == 200, card
    assert the_ready_one(installation) == waiting
    ecs.be_good()
    ecs.region = "eu-west-1"
    wait_until(lambda: installation.session(rescue)["state"] == "closed", what="it is closed when AWS is back")
    law(installation, ecs)


def the_ready_one(installation: Installation) -> str:
    (session_id,) = [_dashed(row["session_id"]) for row in installation.rows(_READY)]
    return session_id


def test_rescue_goes_through_a_task_and_a_power_cut_to_a_cured_machine(
    installation: Installation, ecs: FakeEcs, machine: SimulatedMachine, sign_in: Callable[[str], Person]
) -> None:
    """With the queue of events. Two servers are killed: what waits is kept, and so is a desktop that is in use."""
    waiting = the_ready_one(installation)
    installation.kill()
    installation.choose(ECS_EVENTS_QUEUE=ecs.queue_url)
    installation.start()
    assert the_ready_one(installation) == waiting
    alice = sign_in("Alice")
    machine.click_widget("help")
    rescue = alice.claim(machine)
    alice.is_at_desktop()
    alice.until(lambda: near(alice.pixel(machine, *FAULT_MARK[0]), RED))
    (task,) = ecs.alive(of=rescue)
    assert processes.find(PORTAFILTER_FAKE_TASK=task.arn) != []
    lost = newest_connection(installation, rescue)

    installation.kill()
    installation.start()
    is_back(installation, alice, rescue, after=lost)
    alice.click_widget(machine, "reset_grinder")
    machine.wait_for(lambda m: m.screen["grinder"] == "ready")
    alice.click_widget(machine, "clear_fault")
    machine.wait_for(lambda m: m.screen["fault"] is None)
    alice.until(lambda: near(alice.pixel(machine, *FAULT_MARK[0]), GREEN))
    assert ecs.tasks(of=rescue) == [task], "a second task was started"

    rdp_port, sam = machine.rdp_port, machine.config.folder / "run" / "sam"
    alice.close()
    expect(alice.page.locator("[data-summary]")).to_contain_text("Solved and closed. Nothing is left open.")
    nothing_is_left(installation, machine, rescue, rdp_port=rdp_port, sam=sam)
    assert ecs.alive(of=rescue) == [] and processes.find(PORTAFILTER_FAKE_TASK=task.arn) == []
    assert "ReceiveMessage" in ecs.names()
    assert len(ecs.tasks(of=waiting)) == 1
    law(installation, ecs)
