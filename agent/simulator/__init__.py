"""Simulated coffee machines for the demo and the tests: real screens, real RDP, the real agent; only the coffee is not."""
