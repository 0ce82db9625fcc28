"""The ladder by itself: whom each step asks, and that nobody is asked twice or left out, whoever can be reached."""

from __future__ import annotations

from datetime import timedelta

from hypothesis import given, settings
from hypothesis import strategies as st

from sessions.ladder import Person, Step, Waits, climb
from sessions.models import Rung

WAITS = Waits(timedelta(seconds=45), timedelta(seconds=60), timedelta(seconds=120))


def someone(number: int, is_reachable: bool = True) -> Person:
    return Person(number, f"user-{number}", f"Person {number}", "on the rota here", is_reachable)


LONG = timedelta(hours=1)


def step(
    rung: Rung,
    operators: list[Person],
    supervisors: list[Person],
    *,
    has_last_resort: bool = False,
    left: timedelta = LONG,
) -> Step:
    return climb(
        rung, operators=operators, supervisors=supervisors, has_last_resort=has_last_resort, waits=WAITS,
        operators_left=left,
    )  # fmt: skip


def test_responsible_one_is_asked_first_and_the_next_one_after_its_time() -> None:
    first = step(Rung.OPERATORS, [someone(1), someone(2)], [someone(3)])
    assert first == Step(((someone(1), Rung.OPERATORS),), False, Rung.OPERATORS, WAITS.next)
    second = step(Rung.OPERATORS, [someone(2)], [someone(3)])
    assert second == Step(((someone(2), Rung.OPERATORS),), False, Rung.SUPERVISORS, WAITS.supervisors)


def test_supervisors_are_asked_all_at_once_then_the_last_resort_then_nobody() -> None:
    third = step(Rung.SUPERVISORS, [], [someone(3), someone(4)], has_last_resort=True)
    assert [person.user_id for person, _ in third.asked] == [3, 4]
    assert (third.rung, third.wait, third.asks_last_resort) == (Rung.LAST_RESORT, WAITS.last_resort, False)
    assert step(Rung.LAST_RESORT, [], [], has_last_resort=True) == Step((), True, Rung.DONE, None)
    assert step(Rung.DONE, [someone(1)], [someone(3)], has_last_resort=True) == Step((), False, Rung.DONE, None)


def test_who_cannot_be_reached_costs_no_time() -> None:
    found = step(Rung.OPERATORS, [someone(1, False), someone(2)], [])
    assert [person.user_id for person, _ in found.asked] == [1, 2]
    found = step(Rung.OPERATORS, [someone(1, False)], [someone(3, False)], has_last_resort=True)
    assert found == Step(
        ((someone(1, False), Rung.OPERATORS), (someone(3, False), Rung.SUPERVISORS)), True, Rung.DONE, None
    )


def test_wait_is_the_supervisors_when_nobody_else_on_duty_can_be_reached() -> None:
    assert step(Rung.OPERATORS, [someone(1), someone(2, False)], []).wait == WAITS.supervisors


def test_no_wait_among_operators_goes_past_the_end_of_their_rung() -> None:
    soon = timedelta(seconds=10)
    assert step(Rung.OPERATORS, [someone(1), someone(2)], [], left=soon).wait == soon
    assert step(Rung.OPERATORS, [someone(1)], [someone(3)], left=soon).wait == soon


def test_at_its_end_operators_who_are_left_and_supervisors_are_asked_at_once() -> None:
    operators, supervisors = [someone(1), someone(2, False), someone(3)], [someone(3), someone(4)]
    found = step(Rung.OPERATORS, operators, supervisors, has_last_resort=True, left=timedelta(0))
    assert [(person.user_id, rung) for person, rung in found.asked] == [
        *((number, Rung.OPERATORS) for number in (1, 2, 3)),
        (4, Rung.SUPERVISORS),
    ]
    assert (found.rung, found.wait, found.asks_last_resort) == (Rung.LAST_RESORT, WAITS.last_resort, False)
    found = step(Rung.OPERATORS, [someone(1)], [], left=timedelta(0))
    assert (found.rung, found.wait) == (Rung.LAST_RESORT, WAITS.last_resort), "they have their time, too"


people = st.lists(st.booleans(), max_size=5)


@settings(max_examples=150, deadline=None)
@given(operators=people, supervisors=people, both=st.booleans(), has_last_resort=st.booleans(), is_over=st.booleans())
def test_climbing_to_the_end_asks_everybody_once(
    operators: list[bool], supervisors: list[bool], both: bool, has_last_resort: bool, is_over: bool
) -> None:
    on_duty = [someone(number, is_reachable) for number, is_reachable in enumerate(operators)]
    above = [someone(100 + number, is_reachable) for number, is_reachable in enumerate(supervisors)]
    if both and on_duty:
        above.append(on_duty[0])
    everybody = {person.user_id for person in [*on_duty, *above]}
    order: list[int] = []
    rung, told = Rung.OPERATORS, 0
    for _ in range(len(everybody) + 4):
        found = step(
            rung,
            [one for one in on_duty if one.user_id not in order],
            [one for one in above if one.user_id not in order],
            has_last_resort=has_last_resort,
            left=timedelta(0) if is_over else LONG,
        )
        reached = [person for person, _ in found.asked if person.is_reachable]
        # A step asks somebody who can be reached, the last resort, or is the end: none waits for nothing.
        assert reached or found.asks_last_resort or found.rung == Rung.DONE
        assert (found.wait is None) == (found.rung == Rung.DONE)
        order += [person.user_id for person, _ in found.asked]
        told += found.asks_last_resort
        rung = found.rung
        if rung == Rung.DONE:
            break
    assert rung == Rung.DONE
    assert sorted(order) == sorted(everybody)
    assert order[: len(on_duty)] == [person.user_id for person in on_duty]
    assert told == has_last_resort
