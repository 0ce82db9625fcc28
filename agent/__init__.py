"""What runs on a coffee machine: it asks for help, opens the machine's RDP for just that rescue, and closes it again.

Python standard library only (3.9 or newer), nothing of the server. Theory of operation:

- `rescue.Rescue` is the whole story of one press, `api.Client` speaks to the server over the VPN, and an
  `rdp.RdpHook` lets support in and out of this machine's desktop. `config` reads the one settings file.
- Before RDP is opened, what is about to be done is written to a small state file. Whatever dies half-way, the next
  start finds that file: it shuts RDP first, then asks the server whether the rescue still goes on.
- One press has one Idempotency-Key, kept over retries and restarts: the server sees one request, however bad the line.
- User and password are made for one rescue, live in that state file (readable by its owner only) as long as the rescue
  does, and appear in no log line, no argument list and no error.
"""

__version__ = "1.0.0"
