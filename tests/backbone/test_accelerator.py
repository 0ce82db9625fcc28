"""The worker's hands at Global Accelerator: what is read, what is turned, what becomes of a wish when AWS is away."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from django.db import IntegrityError, transaction

from backbone import words
from backbone.accelerator import Accelerator, Endpoint, EndpointGroup, GlobalAccelerator, Listener
from backbone.models import AcceleratorReading, DialWish
from backbone.passes import AcceleratorPasses
from machines.aws import Aws
from machines.models import SecurityEvent, User
from sessions import bell, worker
from tests.app_role import as_owner
from tests.fakes.global_accelerator import FakeGlobalAccelerator, load_balancer
from tests.sessions.rescues import Clock

pytestmark = pytest.mark.django_db


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def passes(aws: FakeGlobalAccelerator, aws_calls: Aws, clock: Clock) -> AcceleratorPasses:
    return AcceleratorPasses(now=clock, driver=GlobalAccelerator(aws_calls))


@pytest.fixture
def wish(clock: Clock) -> Callable[..., DialWish]:
    root = User.objects.create_superuser("root")

    def make(group: str, *, endpoint: str = "", was: float = 100, to: float = 50) -> DialWish:
        return DialWish.objects.create(
            accelerator="portafilter", group_arn=group, region="eu-west-1", listener="UDP 1194", endpoint_id=endpoint,
            from_value=was, to_value=to, reason="upgrade", user=root, requested_at=clock.at, next_try_at=clock.at,
        )  # fmt: skip

    return make


def reading() -> AcceleratorReading:
    return AcceleratorReading.objects.get(name="portafilter")


def found() -> Accelerator:
    return Accelerator.from_json(reading().found)


# --- reading ----------------------------------------------------------------------------------------------------------


def test_accelerator_is_found_by_its_name_among_others(aws: FakeGlobalAccelerator, passes: AcceleratorPasses) -> None:
    aws.page = 1
    aws.accelerator("somebody-elses")
    aws.standard()
    passes.run()
    seen = found()
    assert (seen.name, seen.is_enabled, seen.is_deployed) == ("portafilter", True, True)
    assert seen.addresses == ("198.51.100.7", "203.0.113.7")
    assert [listener.title for listener in seen.listeners] == ["UDP 1194", "TCP 443"]
    assert [group.endpoints[0].id for _, group in seen.groups()] == [load_balancer()] * 2
    assert words.troubles(seen) == []


def test_it_is_read_every_half_minute_by_one_of_all_workers(
    aws: FakeGlobalAccelerator, aws_calls: Aws, passes: AcceleratorPasses, clock: Clock
) -> None:
    aws.standard()
    other = AcceleratorPasses(now=clock, driver=GlobalAccelerator(aws_calls))
    for _ in range(60):
        passes.run()
        other.run()
        clock.tick(1)
    assert len(aws.called("ListListeners")) == 2


def test_while_a_change_is_on_its_way_it_is_read_sooner(
    aws: FakeGlobalAccelerator, aws_calls: Aws, passes: AcceleratorPasses, clock: Clock
) -> None:
    group, _ = aws.standard()
    GlobalAccelerator(aws_calls).turn_dial(group, expected=100, to=20)
    passes.run()
    assert not found().is_deployed
    aws.deploy()
    clock.tick(5)
    passes.run()
    assert found().is_deployed


def test_name_that_aws_does_not_have_is_told_with_the_setting(passes: AcceleratorPasses) -> None:
    passes.run()
    assert reading().found is None
    assert "no accelerator named portafilter" in reading().trouble and "ACCELERATOR" in reading().trouble


def test_what_was_read_stays_while_aws_is_away(
    aws: FakeGlobalAccelerator, passes: AcceleratorPasses, clock: Clock
) -> None:
    aws.standard()
    passes.run()
    read_at = reading().read_at
    aws.fault("DescribeAccelerator", "forbidden")
    clock.tick(30)
    passes.run()
    assert found().is_enabled and reading().read_at == read_at
    assert "globalaccelerator:DescribeAccelerator" in reading().trouble
    clock.tick(30)
    passes.run()
    assert reading().trouble == "" and reading().read_at == clock.at


def test_accelerator_made_anew_is_found_again(
    aws: FakeGlobalAccelerator, passes: AcceleratorPasses, clock: Clock
) -> None:
    aws.standard()
    passes.run()
    before = found().arn
    for kept in (aws.accelerators, aws.listeners, aws.groups):
        kept.clear()
    aws.standard()
    clock.tick(30)
    passes.run()
    assert found().arn != before


# --- turning ----------------------------------------------------------------------------------------------------------


def test_dial_is_turned_and_the_record_says_who_and_why(
    aws: FakeGlobalAccelerator, passes: AcceleratorPasses, wish: Callable[..., DialWish]
) -> None:
    group, other = aws.standard()
    one = wish(group, to=25)
    passes.run()
    one.refresh_from_db()
    assert one.done_at and "AWS has taken it" in one.outcome
    assert aws.groups[group]["TrafficDialPercentage"] == 25
    assert aws.groups[other]["TrafficDialPercentage"] == 100
    assert [group.dial for _, group in found().groups()] == [25, 100]  # looked at once
    event = SecurityEvent.objects.get(kind="dial_turned")
    assert event.user == one.user
    assert {key: event.detail[key] for key in ("from", "to", "reason")} == {"from": 100, "to": 25, "reason": "upgrade"}
    with as_owner(), pytest.raises(IntegrityError, match="append-only"), transaction.atomic():
        SecurityEvent.objects.filter(pk=event.pk).update(kind="nothing")


def test_weight_is_set_and_the_other_endpoints_stay_as_they_are(
    aws: FakeGlobalAccelerator, passes: AcceleratorPasses, wish: Callable[..., DialWish]
) -> None:
    group, _ = aws.standard()
    listener = aws.groups[group]["listener"]
    us = aws.group(listener, "us-east-1", load_balancer(name="a"), load_balancer(name="b"))
    aws.endpoint(us, 1).update(Weight=7, ClientIPPreservationEnabled=False)
    one = wish(us, endpoint=load_balancer(name="a"), was=128, to=0)
    passes.run()
    one.refresh_from_db()
    assert one.done_at and str(one).startswith("Weight of network load balancer a")
    assert [(e["Weight"], e["ClientIPPreservationEnabled"]) for e in aws.groups[us]["EndpointDescriptions"]] == [
        (0, True),
        (7, False),
    ]


def test_what_was_turned_elsewhere_meanwhile_is_not_run_over(
    aws: FakeGlobalAccelerator, passes: AcceleratorPasses, wish: Callable[..., DialWish]
) -> None:
    group, _ = aws.standard()
    aws.groups[group]["TrafficDialPercentage"] = 80.0
    one = wish(group, to=0)
    passes.run()
    one.refresh_from_db()
    assert one.failed_at and "found 80" in one.outcome and "expected 100" in one.outcome
    assert aws.groups[group]["TrafficDialPercentage"] == 80
    assert SecurityEvent.objects.get().kind == "dial_not_turned"


@pytest.mark.parametrize("gone", ["group", "endpoint"])
def test_what_is_gone_meanwhile_is_told(
    aws: FakeGlobalAccelerator, passes: AcceleratorPasses, wish: Callable[..., DialWish], gone: str
) -> None:
    group, _ = aws.standard()
    one = wish(group, endpoint=load_balancer() if gone == "endpoint" else "", was=128)
    aws.groups.pop(group) if gone == "group" else aws.groups[group]["EndpointDescriptions"].clear()
    passes.run()
    one.refresh_from_db()
    assert one.failed_at and "not" in one.outcome and "Nothing was changed" in one.outcome


@pytest.mark.parametrize("mood", ["throttled", "failed", "expired"])
def test_what_passes_is_tried_again(
    aws: FakeGlobalAccelerator, passes: AcceleratorPasses, wish: Callable[..., DialWish], clock: Clock, mood: str
) -> None:
    group, _ = aws.standard()
    one = wish(group)
    aws.fault("UpdateEndpointGroup", mood)
    passes.run()
    one.refresh_from_db()
    assert one.is_open and "globalaccelerator:UpdateEndpointGroup" in one.outcome
    clock.tick(1)
    passes.run()
    assert len(aws.called("UpdateEndpointGroup")) == 1  # not at once
    clock.tick(2)
    passes.run()
    one.refresh_from_db()
    assert one.done_at and aws.groups[group]["TrafficDialPercentage"] == 50


def test_missing_permission_ends_the_wish_in_words(
    aws: FakeGlobalAccelerator, passes: AcceleratorPasses, wish: Callable[..., DialWish]
) -> None:
    group, _ = aws.standard()
    aws.fault("UpdateEndpointGroup", "forbidden")
    one = wish(group)
    passes.run()
    one.refresh_from_db()
    assert one.failed_at and "Allow globalaccelerator:UpdateEndpointGroup" in one.outcome


def test_answer_that_is_lost_is_found_out_about(
    aws: FakeGlobalAccelerator, passes: AcceleratorPasses, wish: Callable[..., DialWish], clock: Clock
) -> None:
    group, _ = aws.standard()
    one = wish(group)
    aws.lose_answer("UpdateEndpointGroup")
    passes.run()
    clock.tick(5)
    passes.run()
    one.refresh_from_db()
    assert one.done_at and "It stands at 50" in one.outcome
    assert len(aws.called("UpdateEndpointGroup")) == 1


class _Dies(GlobalAccelerator):
    """The process ends as it has turned something."""

    def turn_dial(self, group_arn: str, *, expected: float, to: float) -> bool:
        super().turn_dial(group_arn, expected=expected, to=to)
        raise SystemExit


def test_worker_that_dies_in_the_middle_leaves_it_to_the_next(
    aws: FakeGlobalAccelerator, aws_calls: Aws, passes: AcceleratorPasses, wish: Callable[..., DialWish], clock: Clock
) -> None:
    group, _ = aws.standard()
    one = wish(group)
    with pytest.raises(SystemExit):
        AcceleratorPasses(now=clock, driver=_Dies(aws_calls)).run()
    clock.tick(29)
    passes.run()
    one.refresh_from_db()
    assert one.is_open  # the dead one's lease
    clock.tick(1)
    passes.run()
    one.refresh_from_db()
    assert one.done_at
    assert len(aws.called("UpdateEndpointGroup")) == 1
    assert SecurityEvent.objects.filter(kind="dial_turned").count() == 1


def test_wish_that_nobody_carried_out_does_not_come_true_later(
    aws: FakeGlobalAccelerator, passes: AcceleratorPasses, wish: Callable[..., DialWish], clock: Clock
) -> None:
    group, _ = aws.standard()
    one = wish(group)
    clock.tick(timedelta(minutes=10).total_seconds())
    passes.run()
    one.refresh_from_db()
    assert one.failed_at and "within 10 minutes" in one.outcome
    assert aws.called("UpdateEndpointGroup") == []


def test_one_group_has_one_open_wish(aws: FakeGlobalAccelerator, wish: Callable[..., DialWish]) -> None:
    group, other = aws.standard()
    wish(group)
    wish(other)
    with pytest.raises(IntegrityError), transaction.atomic():
        wish(group, endpoint=load_balancer())


# --- words ------------------------------------------------------------------------------------------------------------


def test_troubles_say_what_is_wrong_and_where_to_look(aws: FakeGlobalAccelerator, passes: AcceleratorPasses) -> None:
    group, _ = aws.standard()
    accelerator = next(iter(aws.accelerators.values()))
    accelerator["Enabled"] = False
    aws.endpoint(group).update(HealthState="UNHEALTHY", ClientIPPreservationEnabled=False)
    aws.groups[group]["EndpointDescriptions"].append(
        {"EndpointId": "i-0abc", "Weight": 128, "HealthState": "UNHEALTHY", "HealthReason": "Timeout",
         "ClientIPPreservationEnabled": True}
    )  # fmt: skip
    aws.groups[group]["TrafficDialPercentage"] = 0.0
    passes.run()
    said = "\n".join(trouble.words for trouble in words.troubles(found()))
    for part in (
        "disabled",
        "UDP 1194 in eu-west-1: network load balancer portafilter-vpn is unhealthy. Its load balancer's own checks",
        "instance i-0abc is unhealthy. AWS says: Timeout. It is asked by HTTP /healthz at port 8080, every 10 s, 3 in",
        "client IP preservation is off",
        "the dial is at 0\N{NO-BREAK SPACE}%. New connections have no other region to go to",
    ):
        assert part in said, part


_GROUP = EndpointGroup("g", "eu-west-1", 100.0, "HTTP", 8080, "/healthz", 10, 3, (), ())
_DRAINED = (Endpoint("i-1", 0, "HEALTHY", "", True),)
_SICK = (Endpoint("i-2", 128, "UNHEALTHY", "", True),)
_WELL = (Endpoint("i-3", 128, "HEALTHY", "", True),)
_NEW = (Endpoint("i-4", 128, "INITIAL", "", True),)
_ELSEWHERE = replace(_GROUP, arn="h", region="us-east-1", endpoints=_WELL)


@pytest.mark.parametrize(
    ("groups", "outages"),
    [
        ([replace(_GROUP, endpoints=_WELL)], []),
        ([replace(_GROUP, endpoints=_WELL, dial=0.0)], [True]),
        ([replace(_GROUP, endpoints=_WELL, dial=0.0), _ELSEWHERE], [False]),
        ([replace(_GROUP, endpoints=_WELL, dial=0.0), replace(_ELSEWHERE, endpoints=_SICK)], [True, True]),
        ([replace(_GROUP, endpoints=_WELL, dial=50.0)], [False]),
        ([replace(_GROUP, endpoints=_SICK, dial=50.0)], [True, False]),
        ([replace(_GROUP, endpoints=_SICK + _DRAINED)], [True]),
        ([replace(_GROUP, endpoints=_SICK + _WELL)], [False]),
        ([replace(_GROUP, endpoints=_DRAINED)], [True]),
        ([replace(_GROUP, endpoints=_DRAINED), _ELSEWHERE], [False]),
        ([_GROUP], [True]),
        ([_GROUP, _ELSEWHERE], [False]),
        ([replace(_GROUP, endpoints=_NEW)], [False]),
    ],
)
def test_outage_is_where_no_group_of_a_listener_takes_anything(
    groups: list[EndpointGroup], outages: list[bool]
) -> None:
    listener = Listener("l", "UDP", ((1194, 1194),), "NONE", tuple(groups))
    found = words.troubles(Accelerator("a", "portafilter", True, True, "", "", (), (listener,)))
    assert [trouble.is_outage for trouble in found] == outages, found
    assert not any("go to us-east-1" in trouble.words for trouble in found if trouble.is_outage), found


# --- in the worker ----------------------------------------------------------------------------------------------------


@pytest.mark.django_db(transaction=True)
def test_hands_that_are_registered_run_in_the_workers_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, "_registered", {})
    ran, stop = threading.Event(), threading.Event()
    made: list[str] = []

    def make(name: str) -> Callable[[], None]:
        made.append(name)
        return ran.set

    worker.register_hands("watering", make)
    threads = worker.start_threads(1, process="p1", stop=stop)
    try:
        assert ran.wait(30)
        assert made == ["p1:watering"]
    finally:
        stop.set()
        bell.ring()
        for thread in threads:
            thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
