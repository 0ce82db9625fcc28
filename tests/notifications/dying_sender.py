"""A sender in a process of its own: `python -m tests.notifications.dying_sender WHERE NAME` dies where it is told.

WHERE is `leased` (after the lease is committed, before anything is sent) or `never` (whoever started it kills it).
"""

from __future__ import annotations

import os
import sys
import threading

import django


def main() -> None:
    where, name = sys.argv[1:]
    django.setup()
    from notifications import outbox
    from notifications.channels import web_push
    from notifications.sender import Sender

    web_push.TIMEOUT_S = 600.0  # whoever kills it may take a while
    outbox.register_judge(None)  # the rescues' judge wants nothing that is about no rescue
    if where == "leased":
        Sender._start = lambda self, delivery: os._exit(137)  # type: ignore[method-assign]
    Sender(name).run_for_ever(threading.Event())


if __name__ == "__main__":
    main()
