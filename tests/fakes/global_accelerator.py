"""AWS Global Accelerator as far as Portafilter asks it, and as strict: JSON 1.1 over real HTTP, signed for us-west-2.

Requests are held to botocore's own model. A change takes a while to reach the edges: the accelerator is IN_PROGRESS
until a test says `deploy()`. `fault` makes the next calls of a name fail as AWS fails; `lose_answer` carries one out
and then hangs up.
"""

from __future__ import annotations

import contextlib
import json
import secrets
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.fakes.ecs import wire
from tests.fakes.ecs.wire import AwsFault
from tests.waiting import LONG_S

REGION = "us-west-2"
_TARGET = "GlobalAccelerator_V20180706."
_KEY, _SECRET = "AKIAFAKEACCELERATOR0", "fake-secret"
_ACCOUNT = "123456789012"
_MOODS = {
    "throttled": ("ThrottlingException", "Rate exceeded", 400),
    "forbidden": (
        "AccessDeniedException",
        f"User: arn:aws:sts::{_ACCOUNT}:assumed-role/worker is not authorized to perform this",
        400,
    ),
    "expired": ("ExpiredTokenException", "The security token included in the request is expired", 400),
    "failed": ("InternalServiceErrorException", "There was an internal error", 500),
    "in transaction": (
        "TransactionInProgressException",
        "There's already a transaction in progress. Another transaction can't be processed.",
        400,
    ),
}


@dataclass
class _Fault:
    call: str
    mood: str
    left: int


@dataclass
class FakeGlobalAccelerator:
    """What is there. Use `running()`; `calls` has the names of all calls that were taken, `refused` what was wrong."""

    url: str = ""
    accelerators: dict[str, dict[str, Any]] = field(default_factory=dict)
    listeners: dict[str, dict[str, Any]] = field(default_factory=dict)
    groups: dict[str, dict[str, Any]] = field(default_factory=dict)
    calls: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    refused: list[str] = field(default_factory=list)
    faults: list[_Fault] = field(default_factory=list)
    page: int = 100
    lost: set[str] = field(default_factory=set)
    lock: threading.RLock = field(default_factory=threading.RLock)

    @property
    def surroundings(self) -> dict[str, str]:
        """The environment by which boto3 finds it and may call it."""
        return {
            "AWS_ENDPOINT_URL_GLOBAL_ACCELERATOR": self.url,
            "AWS_ACCESS_KEY_ID": _KEY,
            "AWS_SECRET_ACCESS_KEY": _SECRET,
            "AWS_EC2_METADATA_DISABLED": "true",
        }

    def clear(self) -> None:
        """As if nobody had been here."""
        for kept in (self.accelerators, self.listeners, self.groups, self.calls, self.refused, self.faults, self.lost):
            kept.clear()
        self.page = 100

    # --- what a test makes and changes --------------------------------------------------------------------------------

    def accelerator(self, name: str = "portafilter") -> str:
        arn = f"arn:aws:globalaccelerator::{_ACCOUNT}:accelerator/{secrets.token_hex(8)}"
        dns = f"a{secrets.token_hex(8)}.awsglobalaccelerator.com"
        now = datetime.now(UTC)
        self.accelerators[arn] = {
            "AcceleratorArn": arn,
            "Name": name,
            "IpAddressType": "IPV4",
            "Enabled": True,
            "IpSets": [{"IpFamily": "IPv4", "IpAddresses": ["198.51.100.7", "203.0.113.7"], "IpAddressFamily": "IPv4"}],
            "DnsName": dns,
            "Status": "DEPLOYED",
            "CreatedTime": now,
            "LastModifiedTime": now,
        }
        return arn

    def listener(self, accelerator: str, protocol: str, port: int, *, affinity: str = "NONE") -> str:
        taken = [one for one in self.listeners.values() if one["accelerator"] == accelerator]
        for one in taken:
            assert (one["Protocol"], one["PortRanges"][0]["FromPort"]) != (protocol, port), "PortRange conflict"
        arn = f"{accelerator}/listener/{secrets.token_hex(4)}"
        self.listeners[arn] = {
            "accelerator": accelerator,
            "ListenerArn": arn,
            "PortRanges": [{"FromPort": port, "ToPort": port}],
            "Protocol": protocol,
            "ClientAffinity": affinity,
        }
        return arn

    def group(self, listener: str, region: str, *endpoints: str, dial: float = 100.0) -> str:
        """One group a region and listener, as AWS has it (EndpointGroupAlreadyExistsException)."""
        for one in self.groups.values():
            assert (one["listener"], one["EndpointGroupRegion"]) != (listener, region), "group conflict"
        arn = f"{listener}/endpoint-group/{secrets.token_hex(6)}"
        self.groups[arn] = {
            "listener": listener,
            "EndpointGroupArn": arn,
            "EndpointGroupRegion": region,
            "EndpointDescriptions": [
                {"EndpointId": one, "Weight": 128, "HealthState": "HEALTHY", "ClientIPPreservationEnabled": True}
                for one in endpoints
            ],
            "TrafficDialPercentage": dial,
            "HealthCheckPort": 8080,
            "HealthCheckProtocol": "HTTP",
            "HealthCheckPath": "/healthz",
            "HealthCheckIntervalSeconds": 10,
            "ThresholdCount": 3,
            "PortOverrides": [],
        }
        return arn

    def standard(self, name: str = "portafilter") -> tuple[str, str]:
        """What the edge stack makes: UDP 1194 and TCP 443 to one load balancer; the ARNs of both groups."""
        accelerator = self.accelerator(name)
        udp = self.listener(accelerator, "UDP", 1194, affinity="SOURCE_IP")
        tcp = self.listener(accelerator, "TCP", 443)
        return self.group(udp, "eu-west-1", load_balancer()), self.group(tcp, "eu-west-1", load_balancer())

    def endpoint(self, group: str, number: int = 0) -> dict[str, Any]:
        found: dict[str, Any] = self.groups[group]["EndpointDescriptions"][number]
        return found

    def fault(self, call: str, mood: str, times: int = 1) -> None:
        """The next calls of that name fail: throttled, forbidden, expired, failed, in transaction."""
        assert mood in _MOODS, mood
        self.faults.append(_Fault(call, mood, times))

    def lose_answer(self, call: str) -> None:
        """The next call of that name is carried out, and its answer never comes."""
        self.lost.add(call)

    def deploy(self) -> None:
        for one in self.accelerators.values():
            one["Status"] = "DEPLOYED"

    def called(self, name: str) -> list[dict[str, Any]]:
        return [arguments for call, arguments in self.calls if call == name]

    # --- the calls ----------------------------------------------------------------------------------------------------

    def answer(self, name: str, arguments: dict[str, Any]) -> dict[str, Any]:
        with self.lock:
            self.calls.append((name, arguments))
            for fault in self.faults:
                if fault.call == name and fault.left:
                    fault.left -= 1
                    code, message, status = _MOODS[fault.mood]
                    raise AwsFault(code, message, status=status)
            match name:
                case "ListAccelerators":
                    return self._page("Accelerators", list(self.accelerators.values()), arguments)
                case "DescribeAccelerator":
                    return {"Accelerator": self._accelerator(arguments["AcceleratorArn"])}
                case "ListListeners":
                    arn = self._accelerator(arguments["AcceleratorArn"])["AcceleratorArn"]
                    found = [one for one in self.listeners.values() if one["accelerator"] == arn]
                    return self._page("Listeners", found, arguments)
                case "ListEndpointGroups":
                    listener = arguments["ListenerArn"]
                    if listener not in self.listeners:
                        raise AwsFault("ListenerNotFoundException", "Listener not found")
                    found = [one for one in self.groups.values() if one["listener"] == listener]
                    return self._page("EndpointGroups", found, arguments)
                case "DescribeEndpointGroup":
                    return {"EndpointGroup": _public(self._group(arguments["EndpointGroupArn"]))}
                case "UpdateEndpointGroup":
                    return {"EndpointGroup": _public(self._update(arguments))}
        raise AwsFault("UnknownOperationException", f"This fake has no {name}")

    def _update(self, arguments: dict[str, Any]) -> dict[str, Any]:
        group = self._group(arguments["EndpointGroupArn"])
        dial = arguments.get("TrafficDialPercentage")
        if dial is not None and not 0 <= dial <= 100:
            raise AwsFault("InvalidArgumentException", "TrafficDialPercentage must be between 0 and 100")
        configurations = arguments.get("EndpointConfigurations")
        if configurations is not None:
            known = {one["EndpointId"]: one for one in group["EndpointDescriptions"]}
            ids = [one["EndpointId"] for one in configurations]
            if len(set(ids)) != len(ids):
                raise AwsFault("InvalidArgumentException", "Duplicate endpoints")
            # The whole list is replaced: who is not in it is no endpoint any more, and a new one is not healthy yet.
            group["EndpointDescriptions"] = [
                {
                    "HealthState": known.get(one["EndpointId"], {}).get("HealthState", "INITIAL"),
                    "Weight": 128,
                    "ClientIPPreservationEnabled": ":loadbalancer/app/" in one["EndpointId"],
                    **one,
                }
                for one in configurations
            ]
        if dial is not None:
            # AWS keeps a 32-bit float.
            group["TrafficDialPercentage"] = struct.unpack("f", struct.pack("f", dial))[0]
        self.accelerators[self.listeners[group["listener"]]["accelerator"]]["Status"] = "IN_PROGRESS"
        return group

    def _accelerator(self, arn: str) -> dict[str, Any]:
        if arn not in self.accelerators:
            raise AwsFault("AcceleratorNotFoundException", "Accelerator not found")
        return self.accelerators[arn]

    def _group(self, arn: str) -> dict[str, Any]:
        if arn not in self.groups:
            raise AwsFault("EndpointGroupNotFoundException", "Endpoint group not found")
        return self.groups[arn]

    def _page(self, name: str, found: list[dict[str, Any]], arguments: dict[str, Any]) -> dict[str, Any]:
        token = arguments.get("NextToken", "0")
        if not token.isdecimal() or int(token) > len(found):
            raise AwsFault("InvalidNextTokenException", "There isn't another item to return")
        begin, size = int(token), min(self.page, arguments.get("MaxResults", 10))
        answer: dict[str, Any] = {name: [_public(one) for one in found[begin : begin + size]]}
        return answer | ({"NextToken": str(begin + size)} if begin + size < len(found) else {})


def load_balancer(kind: str = "net", name: str = "portafilter-vpn", region: str = "eu-west-1") -> str:
    return f"arn:aws:elasticloadbalancing:{region}:{_ACCOUNT}:loadbalancer/{kind}/{name}/0123456789abcdef"


@contextlib.contextmanager
def running() -> Iterator[FakeGlobalAccelerator]:
    fake = FakeGlobalAccelerator()
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(fake))
    server.daemon_threads = True
    fake.url = f"http://127.0.0.1:{server.server_address[1]}"
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), name="fake Global Accelerator", daemon=True)
    thread.start()
    try:
        yield fake
    finally:
        server.shutdown()
        server.server_close()
        thread.join(LONG_S)


def _public(one: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in one.items() if key[0].isupper()}


def _handler(fake: FakeGlobalAccelerator) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # head and body in one packet: two would wait for each other's acknowledgement

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers.get("content-length", "0")))
            headers = {name.lower(): value for name, value in self.headers.items()}
            name = headers.get("x-amz-target", "").removeprefix(_TARGET)
            try:
                status, answer = 200, self._answer(name, headers, body)
            except AwsFault as fault:
                status, answer = fault.status, json.dumps(fault.body).encode()
            if status == 200 and name in fake.lost:
                fake.lost.discard(name)
                self.close_connection = True
                return
            self.send_response(status)
            self.send_header("Content-Type", "application/x-amz-json-1.1")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def _answer(self, name: str, headers: dict[str, str], body: bytes) -> bytes:
            try:
                region = wire.check_signature(
                    "POST", self.path, headers, body, secrets={_KEY: _SECRET}, of="globalaccelerator"
                )
                if region != REGION:
                    raise AwsFault(
                        "InvalidSignatureException", f"Credential should be scoped to a valid region: '{REGION}'"
                    )
                service = wire.model("globalaccelerator")
                if not headers.get("x-amz-target", "").startswith(_TARGET) or name not in service.operation_names:
                    raise AwsFault("UnknownOperationException", f"Found no operation {name[:80]}")
                operation = service.operation_model(name)
                try:
                    arguments = wire.read(operation, body)
                except AwsFault as fault:
                    raise AwsFault("InvalidArgumentException", str(fault)) from fault
            except AwsFault as fault:
                fake.refused.append(str(fault))
                raise
            return wire.write(operation, fake.answer(name, arguments))

        def log_message(self, *args: object) -> None:
            pass

    return Handler
