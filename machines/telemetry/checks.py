"""The system check of the setting TELEMETRY: a driver that is not there stops the start, in words.

Without it each press would be answered by what stands in, for ever, and only the rescues' records would say so.
"""

from __future__ import annotations

from typing import Any

from django.conf import settings
from django.core.checks import CheckMessage, Error
from django.utils.module_loading import import_string

from machines.telemetry.aliases import ALIASES
from machines.telemetry.base import TelemetryDriver

TAG = "telemetry"
_EXPECTED = f"expected {', '.join(ALIASES)}, or the dotted path of a driver class"


def check_driver(**options: Any) -> list[CheckMessage]:
    """That TELEMETRY names a driver which can be imported and has a driver's methods; it is not made for that."""
    name = settings.TELEMETRY
    if name in ALIASES or name in ALIASES.values():
        return []  # its library may take long to load, and its own settings were looked at when they were read
    try:
        driver = import_string(name)
    except ImportError as error:
        return [_error(f"which cannot be imported ({error})")]
    except Exception as error:
        return [_error(f"which breaks as it is imported ({type(error).__name__}: {error})")]
    if not callable(driver):
        return [_error("which is no class")]
    methods = [method for method in vars(TelemetryDriver) if not method.startswith("_")]
    missing = [method for method in methods if isinstance(driver, type) and not hasattr(driver, method)]
    return [_error(f"which has no {' and no '.join(missing)}")] if missing else []


def _error(what: str) -> Error:
    return Error(f"TELEMETRY: found {settings.TELEMETRY!r}, {what}; {_EXPECTED}.", id="machines.E001")
