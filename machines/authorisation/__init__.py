"""The authorisation agent: admits machines to OpenVPN, cuts them off, and keeps what is behind the tunnel apart.

Theory of operation: OpenVPN asks on its management socket (`management.py`, bytes to events and back), `admission.py`
decides from an allow list in memory what becomes of each client (`clients.py`) and says so in the words of
`outcomes.py`, and `agent.py` carries questions and answers between them. A thread of its own (`hands.py`) reads wishes
from the database and writes files, firewall rules and rows, so a database that hangs never keeps a machine waiting.
OpenVPN, the agent and the database may each end and come back at any time: the agent asks OpenVPN who is connected, and
sends back through admission whom it cannot place.
"""
