"""The settings of the tests: the project's, with secrets made up for the run and a folder that goes away with it.

What the surroundings set for an installation (its database, its secrets, its drivers) never reaches a test. Only
TEST_DATABASE_URL chooses another database than SQLite; `tests/throwaway.py` sets it. A program that a test starts
(the server, the agent) inherits these values, and a test may give it others: they are made once a run, not once a
process.
"""

from __future__ import annotations

import atexit
import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path

from cryptography.fernet import Fernet

_SETTINGS_OF_AN_INSTALLATION = (
    "PORTAFILTER_ENV_FILE",
    "DEBUG",
    "SECRET_KEY_FILE",
    "CREDENTIAL_KEYS_FILE",
    "PUBLIC_ORIGINS",
    "PUBLIC_BIND",
    "TRUSTED_PROXIES",
    "MACHINE_API_BIND",
    "REDIS_URL",
    "REDIS_PASSWORD",
    "REDIS_PASSWORD_FILE",
    "DATABASE_PASSWORD",
    "DATABASE_PASSWORD_FILE",
    "DATABASE_APP_ROLE",
    "DATABASE_APP_PASSWORD",
    "DATABASE_APP_PASSWORD_FILE",
    "GATEWAY",
    "GATEWAY_FIXED_HOSTS",
    "GATEWAY_WARM",
    "GATEWAY_WARM_HOURS",
    "GATEWAY_WARM_MAX",
    "VPN",
    "VPN_NETWORK",
    "VPN_DIR",
    "VPN_REMOTE",
    "VPN_PORT",
    "VPN_PROTOCOL",
    "VPN_DEVICE",
    "VPN_TCP_PORT",
    "VPN_HEALTH_BIND",
    "ACCELERATOR",
    "GATEWAY_UIDS",
    "TELEMETRY",
    "TELEMETRY_TIMEOUT_S",
    "TELEMETRY_KEEP_S",
    "TELEMETRY_URL",
    "TELEMETRY_KEY_ID",
    "TELEMETRY_KEY",
    "TELEMETRY_KEY_FILE",
    "IOT_THING_NAME",
    "IOT_THING_TYPE",
    "VAPID_PRIVATE_KEY",
    "VAPID_PRIVATE_KEY_FILE",
    "VAPID_SUBJECT",
    "PUSH_SERVICES",
    "NOTIFY_EMAIL_URL",
    "NOTIFY_EMAIL_URL_FILE",
    "NOTIFY_EMAIL_FROM",
    "SENDER_AT_ONCE",
    "AWS_REGION",
    "NOTIFY_VIA",
    "NOTIFY_SNS_TOPIC",
    "SNS_GRACE_S",
    "SMS",
    "INSTALLATION",
    "ECS_CLUSTER",
    "ECS_TASK_DEFINITION",
    "ECS_SUBNETS",
    "ECS_SECURITY_GROUPS",
    "ECS_CAPACITY_PROVIDER",
    "ECS_NETWORK",
    "ECS_EVENTS_QUEUE",
    "ECS_READY_S",
)


def _begin_run() -> None:
    """Makes the run's folder and secrets; its processes (xdist's workers, started programs) inherit them."""
    folder = Path(tempfile.gettempdir()) / f"portafilter-tests-{secrets.token_hex(8)}"
    # The type checker loads these settings, too, and leaves without cleaning up: only a run of tests gets the folder.
    if "pytest" in sys.modules:
        folder.mkdir(mode=0o700)
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
    for name in _SETTINGS_OF_AN_INSTALLATION:
        os.environ.pop(name, None)
    os.environ["PORTAFILTER_TEST_RUN"] = str(folder)
    os.environ["STATE_DIR"] = str(folder)
    os.environ["SECRET_KEY"] = secrets.token_urlsafe(50)
    os.environ["CREDENTIAL_KEYS"] = Fernet.generate_key().decode()
    os.environ["DATABASE_URL"] = os.environ.get("TEST_DATABASE_URL") or f"sqlite:///{folder / 'portafilter.sqlite3'}"


if not os.environ.get("PORTAFILTER_TEST_RUN"):
    _begin_run()

from portal.settings import *  # noqa: E402, F403

# Hashing a password slowly on purpose protects people's; the tests' are made up.
PASSWORD_HASHERS = ["django.contrib.auth.hashers.MD5PasswordHasher"]

# Threads of the tests' own servers and keepers come and go: a connection that outlived its work would keep PostgreSQL
# from dropping the test database.
DATABASES["default"]["CONN_MAX_AGE"] = 0  # noqa: F405
