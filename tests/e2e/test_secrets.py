"""The one-off password of a rescue is seen by nobody: not in a log, not in the database's bytes, not in a browser."""

from __future__ import annotations

import base64
import contextlib
import json
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from agent.simulator import SimulatedMachine
from tests.e2e.installation import Installation
from tests.e2e.people import Person
from tests.e2e.test_rescue import nothing_is_left


def spellings(secret: str) -> list[bytes]:
    raw = secret.encode()
    return [raw, secret.encode("utf-16-le"), base64.b64encode(raw).rstrip(b"="), raw.hex().encode()]


def written_by(installation: Installation) -> Iterator[tuple[Path, bytes]]:
    yield from installation.files()
    for attempt in installation.guacd_attempts():
        for path in Path(tempfile.gettempdir()).glob(f"portafilter-*/{attempt}/**/*"):
            with contextlib.suppress(FileNotFoundError, IsADirectoryError):
                yield path, path.read_bytes()


def test_one_off_password_is_in_no_log_no_file_and_no_frame(
    installation: Installation, machine: SimulatedMachine, sign_in: Callable[..., Person], tmp_path: Path
) -> None:
    traffic = tmp_path / "traffic.har"  # every request and response, with bodies
    # A recording does not end while a service worker has fetched something; it caches nothing but the offline page.
    alice = sign_in("Alice", record_har_path=traffic, record_har_content="embed", service_workers="block")
    machine.press()
    rescue = alice.claim(machine)
    alice.is_at_desktop()
    record = json.loads((machine.config.folder / "agent" / "rescue.json").read_text("utf-8"))
    alice.page.reload()
    alice.is_at_desktop()
    password, username = record["password"], record["username"]
    assert len(password) > 20
    rdp_port, sam = machine.rdp_port, machine.config.folder / "run" / "sam"

    def found(needles: list[bytes]) -> list[str]:
        return [str(path) for path, data in written_by(installation) if any(needle in data for needle in needles)]

    assert found([rescue.replace("-", "").encode(), rescue.encode()]) != [], "the search itself finds nothing"
    assert found(spellings(password)) == []
    alice.close(outcome="Not resolved")
    nothing_is_left(installation, machine, rescue, rdp_port=rdp_port, sam=sam)
    assert found(spellings(password)) == []

    alice.context.close()
    seen = [frame.encode() for frame in (*alice.sent, *alice.received)]
    for entry in json.loads(traffic.read_text("utf-8"))["log"]["entries"]:
        seen.append(json.dumps(entry, ensure_ascii=False).encode())
        content = entry["response"]["content"]
        if content.get("encoding") == "base64":
            seen.append(base64.b64decode(content["text"]))
    assert any(b"6.ticket" in text for text in seen) and any(b'"state_label"' in text for text in seen)
    for needle in (*spellings(password), username.encode()):
        assert not any(needle in text for text in seen)
