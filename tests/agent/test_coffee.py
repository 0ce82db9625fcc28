"""The coffee machine: each fault is cured by its own steps in their order, and by nothing else."""

from __future__ import annotations

import itertools

import pytest

from agent.simulator.coffee import ACTIONS, FAULTS, CoffeeMachine

_AT = "14:03:27"
_NAMES = [name for name, _, _ in ACTIONS]
_CURES: dict[str, list[str]] = {
    "E17": ["reset_grinder", "clear_fault"],
    "E12": ["rinse", "rinse", "clear_fault"],
    "E05": ["restart_boiler", "wait", "clear_fault"],
    "E22": ["change_milk", "prime_milk", "clear_fault"],
    "E31": ["restart_terminal", "wait", "clear_fault"],
}


def _broken(code: str) -> CoffeeMachine:
    machine = CoffeeMachine()
    machine.break_down(code, at=_AT)
    return machine


def _do_all(machine: CoffeeMachine, steps: list[str]) -> str:
    outcome = ""
    for step in steps:
        if step == "wait":
            machine.tick(30)
        else:
            outcome = machine.do(step, at=_AT)
    return outcome


def test_every_fault_has_a_cure() -> None:
    assert _CURES.keys() == FAULTS.keys()


@pytest.mark.parametrize("code", FAULTS)
def test_right_steps_cure(code: str) -> None:
    machine = _broken(code)
    assert not machine.serves and machine.fault is FAULTS[code]
    assert _do_all(machine, _CURES[code]) == f"{code} cleared. The machine serves again."
    assert machine.fault is None and machine.serves


@pytest.mark.parametrize("code", FAULTS)
def test_leaving_out_any_step_does_not_cure(code: str) -> None:
    for left_out in range(len(_CURES[code])):
        machine = _broken(code)
        _do_all(machine, [step for number, step in enumerate(_CURES[code]) if number != left_out])
        assert machine.fault_code == code and not machine.serves


@pytest.mark.parametrize("code", FAULTS)
def test_every_other_order_of_two_different_buttons_does_not_cure(code: str) -> None:
    for pair in itertools.product(_NAMES, repeat=2):
        if list(pair) != _CURES[code]:
            machine = _broken(code)
            _do_all(machine, list(pair))
            assert machine.fault_code == code, pair


def test_clearing_says_what_is_still_wrong() -> None:
    assert _broken("E17").do("clear_fault", at=_AT) == "E17 stays: The grinder is still jammed."
    assert "71 °C, expected 88 °C" in _broken("E05").do("clear_fault", at=_AT)
    assert _broken("E22").do("prime_milk", at=_AT) == "Priming drew only air: the milk carton is empty."


def test_boiler_heats_with_time_and_only_when_its_controller_runs() -> None:
    machine = _broken("E05")
    machine.tick(60)
    assert machine.boiler_c == 71.0
    machine.do("restart_boiler", at=_AT)
    machine.tick(2)
    assert machine.boiler_c == 78.0
    machine.tick(60)
    assert machine.boiler_c == 93.0


def test_restarting_a_healthy_boiler_costs_service_for_a_moment() -> None:
    machine = CoffeeMachine()
    machine.do("restart_boiler", at=_AT)
    assert not machine.serves
    machine.tick(10)
    assert machine.serves


def test_second_fault_hides_the_first_but_does_not_cure_it() -> None:
    machine = _broken("E17")
    machine.break_down("E31", at=_AT)
    assert _do_all(machine, _CURES["E31"]) == "E31 cleared. E17 is still there: grinder jammed."
    assert machine.fault is FAULTS["E17"]
    _do_all(machine, _CURES["E17"])
    assert machine.serves


def test_unknown_names_are_refused_with_what_was_expected() -> None:
    with pytest.raises(ValueError, match="found action 'explode', expected one of rinse, reset_grinder"):
        CoffeeMachine().do("explode", at=_AT)
    with pytest.raises(ValueError, match="found fault 'E99', expected one of E17"):
        CoffeeMachine().break_down("E99", at=_AT)


def test_log_keeps_the_last_lines_only() -> None:
    machine = CoffeeMachine()
    for _ in range(100):
        machine.do("test_drink", at=_AT)
    assert len(machine.log) == 40 and machine.cups_today == 228
