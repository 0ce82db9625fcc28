"""Fills an empty installation for the end-to-end tests; run with the server's environment, tokens on stdout (JSON).

Alice and Bob operate the North fleet's machines, Dora is their supervisor; Charlie operates another fleet. At all hours
Alice is asked first, and Bob next.
"""

from __future__ import annotations

import json
import sys
from datetime import time

import django


def main(password: str, serials_and_addresses: list[list[str]]) -> dict[str, str]:
    """Makes the people and the machines; returns each machine's token by its serial."""
    from django.contrib.auth.hashers import make_password

    from machines.models import Fleet, Machine, MachineModel, Operator, Shift, Site, User
    from machines.services import issue_token

    north = Fleet.objects.create(name="North", slug="north")
    south = Fleet.objects.create(name="South", slug="south")
    hashed = make_password(password)  # slow on purpose: once is enough
    for first_name, fleet, role in (
        ("Alice", north, "operator"),
        ("Bob", north, "operator"),
        ("Dora", north, "supervisor"),
        ("Charlie", south, "operator"),
    ):
        user = User.objects.create(
            username=first_name.lower(), password=hashed, first_name=first_name, last_name="Test"
        )
        Operator.objects.create(user=user, role=role).fleets.add(fleet)
    site = Site.objects.create(
        fleet=north, name="Stazione Centrale", city="Milano", country="IT", time_zone="Europe/Rome"
    )
    day = {"fleet": north, "site": site, "weekdays": "0123456", "starts": time(0), "ends": time(0)}
    for rank, username in enumerate(("alice", "bob"), start=1):
        Shift.objects.create(operator=Operator.objects.get(user__username=username), rank=rank, **day)
    model = MachineModel.objects.create(name="Aurora 9")
    tokens = {}
    for serial, address in serials_and_addresses:
        machine = Machine.objects.create(
            fleet=north, site=site, model=model, serial=serial, name=f"Lobby {serial}", vpn_address=address
        )
        tokens[serial] = issue_token(machine)
    return tokens


if __name__ == "__main__":
    django.setup()
    print(json.dumps(main(**json.load(sys.stdin))))
