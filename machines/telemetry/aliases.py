"""The names of the drivers that there are; nothing else, so that the settings can be read by them."""

from __future__ import annotations

ALIASES = {
    "builtin": "machines.telemetry.builtin.BuiltinTelemetry",
    "http": "machines.telemetry.http.HttpTelemetry",
    "iot_core": "machines.telemetry.iot_core.IotCoreTelemetry",
}
