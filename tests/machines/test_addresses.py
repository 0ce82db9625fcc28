"""A machine's VPN address: from its fleet's network, nobody else's, and never anybody's twice."""

from __future__ import annotations

import ipaddress
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from django.core.exceptions import ValidationError
from django.db import IntegrityError, connection, transaction
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pytest_django.fixtures import Settings

from machines import identities
from machines.errors import NoAddressLeft
from machines.models import Fleet, Machine, VpnAddress
from machines.vpn.networks import check_part, is_machines, machine_numbers
from tests.machines.cast import new_machine
from tests.sessions.rescues import fleet

WHOLE = ipaddress.ip_network("10.77.0.0/20")


def give(name: str, network: str) -> Fleet:
    owner = fleet(name)
    owner.vpn_network = network
    owner.full_clean()
    owner.save()
    return owner


@pytest.mark.django_db
@pytest.mark.usefixtures("vpn")
class TestAllocation:
    def test_first_address_is_behind_those_of_server_and_gateways(self) -> None:
        assert [new_machine(serial).vpn_address for serial in ("A1", "A2")] == ["10.77.1.0", "10.77.1.1"]

    def test_fleet_has_addresses_of_its_network_and_others_have_none_of_it(self) -> None:
        give("North", "10.77.1.0/30")
        assert [new_machine(serial).vpn_address for serial in ("A1", "A2")] == ["10.77.1.1", "10.77.1.2"]
        assert new_machine("C1", of="South").vpn_address == "10.77.1.4"
        with pytest.raises(NoAddressLeft, match=r"North has no address left in 10.77.1.0/30: an address is never"):
            new_machine("A3")

    def test_address_that_a_machine_once_had_is_nobodys_any_more(self) -> None:
        machine = new_machine()
        machine.vpn_address = "10.77.9.9"
        machine.save()
        assert new_machine("A2").vpn_address == "10.77.1.1"
        other = new_machine("A3")
        other.vpn_address = "10.77.1.0"
        with pytest.raises(ValidationError, match=r"10\.77\.1\.0 was another machine's"):
            other.full_clean()
        with pytest.raises(IntegrityError), transaction.atomic():
            other.save()

    def test_address_may_be_taken_back_by_the_machine_that_had_it(self) -> None:
        machine = new_machine()
        for address in ("10.77.9.9", "10.77.1.0"):
            machine.vpn_address = address
            machine.full_clean()
            machine.save()
        assert set(VpnAddress.objects.values_list("address", flat=True)) == {"10.77.1.0", "10.77.9.9"}

    def test_machine_with_an_address_cannot_be_deleted(self) -> None:
        with pytest.raises(IntegrityError):
            new_machine().delete()

    def test_address_that_came_in_past_the_services_is_not_given_again(self) -> None:
        machine = new_machine()
        Machine.objects.filter(pk=machine.pk).update(vpn_address="10.77.1.1")
        assert new_machine("A2").vpn_address == "10.77.1.2"

    @pytest.mark.parametrize(
        ("network", "message"),
        [
            ("10.77.1.0/24\nroute", "expected a network such as"),
            ("{{7*7}}", "expected a network such as"),
            ("x" * 43, "expected a network such as"),
            ("10.77.1.1/24", "expected a network such as"),
            ("10.78.0.0/24", "expected a network within the machines' network 10.77.0.0/20"),
            ("10.77.0.0/16", "expected a network within|not all of it"),
            ("10.77.0.0/20", "not all of it"),
            ("10.77.0.0/24", "no address for a machine: the first 256"),
            ("10.77.4.0/32", "no address for a machine"),
            ("fd00::/64", "expected a network within"),
            ("10.77.3.128/25", "overlaps 10.77.3.0/24 of South; expected a network of its own"),
        ],
    )
    def test_network_that_a_fleet_cannot_have_is_refused_in_words(self, network: str, message: str) -> None:
        give("South", "10.77.3.0/24")
        with pytest.raises(ValidationError, match=message):
            give("North", network)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["new North", "new South", "move", "off"]), max_size=14))
@pytest.mark.django_db
def test_no_address_is_ever_two_machines(vpn: Settings, steps: list[str]) -> None:
    with transaction.atomic():
        give("North", "10.77.1.0/28")
        had: dict[str, int] = {}
        machines: list[Machine] = []
        for number, step in enumerate(steps):
            if step.startswith("new"):
                try:
                    machines.append(new_machine(f"M{number}", of=step.partition(" ")[2]))
                except NoAddressLeft:
                    continue
            elif machines and step == "move":
                machine = machines[number % len(machines)]
                machine.vpn_address = identities.allocate_address(machine.fleet)
                machine.save()
                machines.append(machine)
            elif machines:
                machines[-1].is_active = False
                machines[-1].save()
            for machine in machines:
                assert had.setdefault(machine.vpn_address, machine.pk) == machine.pk
                assert is_machines(int(ipaddress.ip_address(machine.vpn_address)), WHOLE)
        transaction.set_rollback(True)


@pytest.mark.django_db(transaction=True)
@pytest.mark.usefixtures("vpn")
def test_machines_registered_at_once_get_addresses_of_their_own() -> None:
    new_machine("first")
    together = threading.Barrier(4)

    def register(number: int) -> str:
        together.wait(30)
        try:
            return new_machine(f"M{number}").vpn_address
        finally:
            connection.close()

    with ThreadPoolExecutor(4) as pool:
        addresses = list(pool.map(register, range(4)))
    assert sorted(addresses) == ["10.77.1.1", "10.77.1.2", "10.77.1.3", "10.77.1.4"]


@given(
    part=st.integers(21, 30).flatmap(lambda size: st.sampled_from([*WHOLE.subnets(new_prefix=size)][:512])),
    other=st.integers(21, 28).flatmap(lambda size: st.sampled_from([*WHOLE.subnets(new_prefix=size)])),
)
def test_numbers_of_a_network_are_inside_it_and_outside_of_the_others(
    part: ipaddress.IPv4Network, other: ipaddress.IPv4Network
) -> None:
    inside = [*machine_numbers(part, of=WHOLE)]
    hosts = {int(one) for one in part.hosts()}
    assert inside == sorted(number for number in hosts if is_machines(number, WHOLE))
    assert [*machine_numbers(part, of=WHOLE, but=[other])] == [
        number for number in inside if ipaddress.ip_address(number) not in other
    ]
    if inside:
        assert check_part(str(part), of=WHOLE) == part
