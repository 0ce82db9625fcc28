"""What a start loads, and what it does not."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
APPS = ("portal", "sessions", "notifications", "machines", "backbone")
# Everything there is, not only what a start needs: whoever is imported must not import AWS' library himself.
_PROGRAM = """
import sys, pkgutil, importlib, django
django.setup()
for app in {apps!r}:
    for found in pkgutil.walk_packages(importlib.import_module(app).__path__, app + "."):
        if ".migrations" not in found.name and "__main__" not in found.name:
            importlib.import_module(found.name)
from django.conf import settings
from machines.telemetry.base import get_driver as telemetry
from sessions.gateways.base import get_driver
get_driver(settings.GATEWAY), telemetry()
assert {{"machines.aws", "sessions.gateways.ecs", "machines.telemetry.iot_core"}} <= set(sys.modules)
print(sorted(name for name in sys.modules if name.partition(".")[0] in {{"boto3", "botocore", "s3transfer"}}))
"""
_AWS = {
    **{"GATEWAY": "ecs", "INSTALLATION": "tests", "AWS_REGION": "eu-west-1", "ECS_CLUSTER": "portafilter"},
    **{"ECS_TASK_DEFINITION": "gateway", "ECS_SUBNETS": "subnet-0a1b2c3d", "ECS_SECURITY_GROUPS": "sg-0a1b2c3d"},
    **{"TELEMETRY": "iot_core", "SMS": "sns"},
}


@pytest.mark.parametrize("chosen", [{}, _AWS], ids=["nothing of AWS is chosen", "AWS is chosen and not called yet"])
def test_start_does_not_load_the_library_of_aws(chosen: dict[str, str], tmp_path: Path) -> None:
    secrets = {"SECRET_KEY": "x" * 50, "CREDENTIAL_KEYS": "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIzNDU2Nzg5MDE="}
    names = {"DJANGO_SETTINGS_MODULE": "portal.settings", "STATE_DIR": str(tmp_path), "PATH": os.environ["PATH"]}
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(apps=APPS)],
        cwd=ROOT,
        env={**names, **secrets, **chosen},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "[]"


def test_one_module_calls_aws_for_all_and_imports_its_library_only_then() -> None:
    importing: dict[str, list[bool]] = {}
    for app in APPS:
        for path in (ROOT / app).rglob("*.py"):
            tree = ast.parse(path.read_text())
            inner = {
                one
                for function in ast.walk(tree)
                if isinstance(function, ast.FunctionDef)
                for one in ast.walk(function)
            }
            for node in ast.walk(tree):
                names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
                names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                if any(name.partition(".")[0] in {"boto3", "botocore"} for name in names):
                    importing.setdefault(str(path.relative_to(ROOT)), []).append(node in inner)
    importing.pop("backbone/deploy.py", None)  # a tool of its own, which makes what the rest lives in
    assert list(importing) == ["machines/aws.py"]
    assert all(importing["machines/aws.py"])
