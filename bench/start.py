"""How long a start takes and how much memory it has, without AWS, with it chosen, and with it called."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.figures import Row

ROOT = Path(__file__).resolve().parent.parent
ROUNDS = 7
# All that `manage.py serve` imports and makes before it listens, and what of AWS it has then.
_PROBE = """
import json, os, resource, sys
import django
django.setup()
from django.conf import settings
import portal.asgi, portal.machine_asgi, portal.management.commands.serve, portal.urls, portal.machine_urls
import sessions.worker, notifications.sender
from machines.telemetry.base import get_driver as telemetry
from sessions.gateways.base import get_driver
get_driver(settings.GATEWAY), telemetry()
if os.environ.get("PROBE_CALLS"):
    from machines.aws import Aws, AwsError
    try:
        Aws("eu-west-1").call("ecs", "ListClusters", about="clusters", setting="AWS_REGION")
    except AwsError:
        pass
used = resource.getrusage(resource.RUSAGE_SELF)
pages = int(open("/proc/self/statm").read().split()[1])
print(json.dumps({
    "cpu_s": used.ru_utime + used.ru_stime,
    "mib": pages * resource.getpagesize() / 2**20,
    "modules": len(sys.modules),
    "boto": any(name.partition(".")[0] in {"boto3", "botocore"} for name in sys.modules),
}))
"""
_BASE = {
    "SECRET_KEY": "only-for-figures-" * 4,
    "CREDENTIAL_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE=",
    "DJANGO_SETTINGS_MODULE": "portal.settings",
    "LOG_LEVEL": "ERROR",
}
_AWS = {
    "GATEWAY": "ecs",
    "INSTALLATION": "figures",
    "AWS_REGION": "eu-west-1",
    "ECS_CLUSTER": "figures",
    "ECS_TASK_DEFINITION": "figures",
    "ECS_SUBNETS": "subnet-0a1b2c3d",
    "ECS_SECURITY_GROUPS": "sg-0a1b2c3d",
    "TELEMETRY": "iot_core",
}
# A call that gets nowhere, at once: it is boto3 that is measured.
_CALLED = {
    "PROBE_CALLS": "1",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
    "AWS_ACCESS_KEY_ID": "figures",
    "AWS_SECRET_ACCESS_KEY": "figures",
}


def measure() -> list[Row]:
    """With the variable BENCH_BEFORE, an older checkout is started in turns with this one."""
    before = os.environ.get("BENCH_BEFORE", "")
    kinds: dict[str, tuple[Path, dict[str, str]]] = {
        "default": (ROOT, {}),
        "chosen": (ROOT, _AWS),
        "called": (ROOT, {**_AWS, **_CALLED}),
    }
    if before:
        kinds["before"] = (Path(before), {})
    found: dict[str, list[dict[str, float]]] = {kind: [] for kind in kinds}
    for _ in range(ROUNDS):
        for kind, (root, settings) in kinds.items():
            found[kind].append(_start(root, settings))
    if any(run["boto"] for run in found["default"]):
        raise SystemExit("boto3 was loaded by a start that has not chosen AWS")
    cpu = {kind: statistics.median(run["cpu_s"] for run in runs) for kind, runs in found.items()}
    mib = {kind: statistics.median(run["mib"] for run in runs) for kind, runs in found.items()}
    detail = {
        **{f"{kind}: CPU s": round(value, 3) for kind, value in cpu.items()},
        **{f"{kind}: MiB": round(value, 1) for kind, value in mib.items()},
        "rounds": float(ROUNDS),
    }
    rows = [
        Row(
            "start with AWS chosen and not called yet: CPU",
            cpu["chosen"] / cpu["default"],
            1.1,
            "x",
            f"without AWS: {cpu['default']:.2f} s",
            detail=detail,
        ),
        Row("the same: memory", mib["chosen"] / mib["default"], 1.05, "x", f"without AWS: {mib['default']:.0f} MiB"),
        Row(
            "memory of the first call to AWS, which a start without AWS does not have",
            mib["called"] - mib["default"],
            80,
            "MiB",
            f"CPU: {cpu['called'] - cpu['default']:.2f} s",
        ),
    ]
    if before:
        rows += [
            Row("start without AWS, beside the older checkout: CPU", cpu["default"] / cpu["before"], 1.1, "x"),
            Row("the same: memory", mib["default"] / mib["before"], 1.05, "x", f"then: {mib['before']:.0f} MiB"),
        ]
    return rows


def _start(root: Path, settings: dict[str, str]) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG") if name in os.environ}
        done = subprocess.run(
            [sys.executable, "-c", _PROBE],
            cwd=root,
            env={**kept, **_BASE, "STATE_DIR": folder, "AWS_EC2_METADATA_DISABLED": "true", **settings},
            capture_output=True,
            text=True,
            timeout=120,
        )
    if done.returncode:
        raise SystemExit(f"The start failed:\n{done.stderr}")
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found
