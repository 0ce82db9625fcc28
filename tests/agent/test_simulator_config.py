"""The settings of simulated machines: what is wrong is named, found and expected."""

from __future__ import annotations

import json
import stat
import zlib
from pathlib import Path
from typing import Any

import pytest

from agent.config import ConfigError
from agent.simulator.config import MachineConfig, machine_folders
from agent.simulator.drawing import mix, rounded
from agent.simulator.fleet import Fleet
from agent.simulator.png import encode_rgb

_GOOD: dict[str, Any] = {"serial": "IT-0042", "address": "127.64.0.1", "api_url": "http://127.0.0.1:8001"}


def test_written_settings_are_read_back_and_the_token_is_its_owners(tmp_path: Path) -> None:
    config = MachineConfig.write(tmp_path / "m", token="abc.s3cret", **_GOOD, rdp_port=0, fault="E17")
    assert config == MachineConfig.from_folder(tmp_path / "m")
    assert stat.S_IMODE((tmp_path / "m" / "token").stat().st_mode) == 0o600
    assert "s3cret" not in (tmp_path / "m" / "machine.json").read_text() and "s3cret" not in repr(config)
    agent = config.for_agent()
    assert (agent.token, agent.source_address, agent.heartbeat_s) == ("abc.s3cret", "127.64.0.1", 30.0)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("serial", "", ["serial", "missing"]),
        ("address", "lobby", ["address", "'lobby'", "VPN address"]),
        ("address", "", ["address", "''", "VPN address"]),
        ("vpn_when", "sometimes", ["vpn_when", "'sometimes'", "press or always"]),
        ("api_url", "8001", ["api_url", "'8001'", "http://"]),
        ("rdp_port", "3389", ["rdp_port", "'3389'", "0 to 65535"]),
        ("rdp_port", True, ["rdp_port", "True", "0 to 65535"]),
        ("fault", "E99", ["fault", "'E99'", "E17"]),
        ("width", 10, ["width", "10", "640"]),
        ("colour", "red", ["'colour'", "serial"]),
        ("token_file", "nowhere", ["token_file", "'nowhere'", "readable file"]),
    ],
)
def test_error_names_key_found_and_expected(tmp_path: Path, name: str, value: object, words: list[str]) -> None:
    MachineConfig.write(tmp_path, token="abc.s3cret", **_GOOD)
    document = {**_GOOD, "token_file": "token", name: value}
    (tmp_path / "machine.json").write_text(json.dumps(document))
    with pytest.raises(ConfigError) as caught:
        MachineConfig.from_folder(tmp_path)
    for word in words:
        assert word in str(caught.value)


def test_machine_without_address_needs_a_tunnel_that_brings_one(tmp_path: Path) -> None:
    values = {name: value for name, value in _GOOD.items() if name != "address"}
    with pytest.raises(ConfigError, match="address is missing, expected it or a vpn_profile"):
        MachineConfig.write(tmp_path, token="abc.s3cret", **values)
    agent = MachineConfig.write(tmp_path, token="abc.s3cret", vpn_profile="m.ovpn", **values).for_agent()
    assert (agent.source_address, agent.vpn_profile, agent.vpn_when) == (None, tmp_path / "m.ovpn", "press")


@pytest.mark.parametrize("text", ["", "[]", "{", "null"])
def test_what_is_no_object_is_said(tmp_path: Path, text: str) -> None:
    (tmp_path / "machine.json").write_text(text)
    with pytest.raises(ConfigError, match=r"machine\.json: found .* expected an object"):
        MachineConfig.from_folder(tmp_path)


def test_folder_without_machines_and_doubled_serials_are_said(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"found no machine\.json"):
        machine_folders(tmp_path)
    for name in ("a", "b"):
        MachineConfig.write(tmp_path / name, token="abc.s3cret", **_GOOD)
    with pytest.raises(ConfigError, match="found serial IT-0042 a second time"):
        Fleet(tmp_path)


def test_picture_holds_the_pixels_row_by_row() -> None:
    picture = encode_rgb(2, 2, bytes(range(12)))
    length = int.from_bytes(picture[33:37], "big")
    assert zlib.decompress(picture[41 : 41 + length]) == b"\0" + bytes(range(6)) + b"\0" + bytes(range(6, 12))
    with pytest.raises(ValueError, match="found 11 bytes of pixels, expected 12"):
        encode_rgb(2, 2, bytes(11))


def test_round_corners_are_clear_outside_and_solid_inside() -> None:
    picture = rounded(20, 10, 4, "#ff0000", "#00ff00")
    length = int.from_bytes(picture[33:37], "big")
    rows = zlib.decompress(picture[41 : 41 + length])
    pixels = [[rows[y * 81 + 1 + x * 4 :][:4] for x in range(20)] for y in range(10)]
    assert pixels[0][0][3] == pixels[9][19][3] == 0
    assert pixels[5][10] == b"\xff\0\0\xff" and pixels[0][10] == pixels[5][0] == b"\0\xff\0\xff"
    assert mix("#000000", "#ffffff", 0.5) == "#808080"
