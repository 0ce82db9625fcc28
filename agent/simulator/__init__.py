"""Simulated coffee machines for the demo and the tests: real screens, real RDP, the real agent; no coffee.

    config = MachineConfig.write(folder, serial="IT-0042", address="127.64.0.1", api_url=…, token=…, rdp_port=0)
    with SimulatedMachine(config) as machine:
        machine.click_widget("help")

Linux only. `fleet.Fleet` runs all the machines of a folder, `python3 -m agent.simulator` is its face in a terminal.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agent.simulator.config import MachineConfig
    from agent.simulator.fleet import Fleet
    from agent.simulator.machine import SimulatedMachine

__all__ = ["Fleet", "MachineConfig", "SimulatedMachine"]


def __getattr__(name: str) -> object:
    # Lazily: the service screen, a process of this package for each machine, needs none of them.
    if name == "Fleet":
        from agent.simulator.fleet import Fleet

        return Fleet
    if name == "MachineConfig":
        from agent.simulator.config import MachineConfig

        return MachineConfig
    if name == "SimulatedMachine":
        from agent.simulator.machine import SimulatedMachine

        return SimulatedMachine
    raise AttributeError(name)
