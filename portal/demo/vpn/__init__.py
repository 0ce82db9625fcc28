"""The demo with a real VPN, for root on Linux: each simulated machine in a network namespace of its own.

`namespaces` makes and removes them, `lines` carries what goes between them and makes it slow, lossy or dead as told,
`services` keeps programs running as systemd would, `bed` puts OpenVPN, the authorisation agent and the server on it,
`street` the machines. The tests of the VPN and the benchmark stand on the same bed.
"""
