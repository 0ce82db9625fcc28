"""The settings file: what is wrong in it is named, found and expected, and no secret is quoted."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from agent import config as config_module
from agent.config import AgentConfig, ConfigError

_GOOD = """
[api]
url = https://support.vpn.example:8443/
token = abc.s3cret
source_address = 10.77.1.1
[rdp]
port = 3390
open_command =
    /usr/local/bin/open rdp
    --for
    support's user
close_command = /usr/local/bin/close-rdp
[vpn]
profile = m-1.ovpn
when = always
[machine]
heartbeat_s = 60
"""


def _load(tmp_path: Path, text: str) -> AgentConfig:
    path = tmp_path / "agent.ini"
    path.write_text(text, encoding="utf-8")
    return AgentConfig.load(path)


def test_good_settings_are_read(tmp_path: Path) -> None:
    config = _load(tmp_path, _GOOD)
    assert config.api_url == "https://support.vpn.example:8443"
    assert config.token == "abc.s3cret"
    assert config.open_command == ("/usr/local/bin/open rdp", "--for", "support's user")
    assert (config.rdp_port, config.heartbeat_s, config.poll_wait_s) == (3390, 60.0, 25)
    assert config.state_dir == tmp_path / "state"
    assert (config.vpn_profile, config.vpn_program) == (tmp_path / "m-1.ovpn", "openvpn")
    assert config.vpn_when == "always"
    assert "s3cret" not in repr(config)


def test_token_is_read_from_a_file_beside_the_settings(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("abc.from-file\n", encoding="utf-8")
    assert _load(tmp_path, _GOOD.replace("token = abc.s3cret", "token_file = token")).token == "abc.from-file"


@pytest.mark.parametrize(
    ("find", "put", "words"),
    [
        ("url = https://support.vpn.example:8443/", "", ["[api] url", "missing"]),
        ("https://support.vpn.example:8443/", "ftp://x", ["[api] url", "'ftp://x'", "http://"]),
        ("https://support.vpn.example:8443/", "http://h:99999", ["[api] url", "port is 1 to 65535"]),
        ("10.77.1.1", "lobby", ["[api] source_address", "'lobby'", "own VPN address"]),
        ("port = 3390", "port = 70000", ["[rdp] port", "'70000'", "1 to 65535"]),
        ("port = 3390", "security = ssl", ["[rdp] security", "'ssl'", "any, nla, tls, rdp"]),
        ("port = 3390", "prot = 1", ["'prot'", "[rdp]", "port"]),
        ("[machine]", "[machines]", ["[machines]", "[machine]"]),
        ("heartbeat_s = 60", "heartbeat_s = often", ["heartbeat_s", "'often'", "seconds from 1 to 3600"]),
        ("when = always", "when = sometimes", ["[vpn] when", "'sometimes'", "press, always"]),
        ("close_command = /usr/local/bin/close-rdp", "", ["open_command", "close_command", "closed"]),
        ("token = abc.s3cret", "token_file = nowhere", ["[api] token_file", "'nowhere'", "readable file"]),
        ("token = abc.s3cret", "token = a.b\ntoken_file = t", ["token", "token_file", "one of them"]),
    ],
)
def test_error_names_key_found_and_expected(tmp_path: Path, find: str, put: str, words: list[str]) -> None:
    assert find in _GOOD
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, _GOOD.replace(find, put))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    "text", ["[api]\ntoken-without-equals s3cret\n", "token = x.s3cret\n", "[api]\ntoken = s3cret\n"]
)
def test_error_never_quotes_a_token(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError) as caught:
        _load(tmp_path, text if "url" in text else text + "url = http://x\n")
    assert "s3cret" not in str(caught.value)


def test_example_is_good_with_every_key_in_it(tmp_path: Path) -> None:
    example = (Path(__file__).resolve().parents[2] / "agent" / "agent.ini.example").read_text(encoding="utf-8")
    (tmp_path / "token").write_text("abc.s3cret\n", encoding="utf-8")
    shown = _load(tmp_path, example)
    assert shown.open_command == ("/opt/portafilter/agent/hooks/linux/open-rdp",)
    whole = re.sub(r"(?m)^#(?=\w+ =)", "", example)
    assert _load(tmp_path, whole).rdp_security == "nla"
    for section, keys in config_module._KNOWN.items():
        for key in keys - {"token"}:
            assert re.search(rf"(?m)^{key} =", whole), f"[{section}] {key} is not in the example"


def test_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nothing\.ini.*No such file"):
        AgentConfig.load(tmp_path / "nothing.ini")
