"""Enrolment: a code becomes an identity whose key never left the machine; a lost answer costs nothing, a code is not
used twice, and nothing secret is printed."""

from __future__ import annotations

import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import __main__ as commands
from agent import enrol as enrol_module
from agent.config import AgentConfig
from agent.enrol import EnrolError, Enrolment, read_code, read_where
from agent.locks import try_lock
from agent.profile import ProfileError, check, with_key
from agent.settings_file import changed
from machines.vpn import pki
from tests.agent.scripted_portal import CODE, ScriptedPortal

_ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def portal() -> Iterator[ScriptedPortal]:
    with ScriptedPortal() as scripted:
        yield scripted


@pytest.fixture(autouse=True)
def handler_of_sigterm() -> Iterator[None]:
    """The commands take SIGTERM for themselves; these run in the tests' own process."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def settings(tmp_path: Path) -> Path:
    return tmp_path / "etc" / "agent.ini"


def _enrol(portal: ScriptedPortal, settings: Path, *more: str, code: str = CODE) -> int:
    return commands.main(["enrol", portal.url, code, "--config", str(settings), *more])


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_code_becomes_settings_token_and_a_profile_with_the_machines_own_key(
    portal: ScriptedPortal, settings: Path, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert _enrol(portal, settings) == 0
    config = AgentConfig.load(settings)
    assert (config.api_url, config.token) == ("http://10.77.0.1:8001", "abc.t0ken-s3cret")
    assert config.vpn_profile == settings.parent / "profile.ovpn" and config.source_address is None
    assert Path(config.open_command[0]).name == "open-rdp" and os.access(config.open_command[0], os.X_OK)
    profile = config.vpn_profile.read_text()
    assert profile.count("-----BEGIN PRIVATE KEY-----") == 1 and profile.startswith("client\ndev tun\n")
    assert {_mode(path) for path in settings.parent.iterdir()} == {0o600} and _mode(settings.parent) == 0o700
    assert sorted(path.name for path in settings.parent.iterdir()) == ["agent.ini", "profile.ovpn", "token"]
    key = profile.partition("<key>\n")[2].partition("</key>")[0]
    assert key.splitlines()[1] not in portal.calls[0].decode(), "the key stays here"
    said = capsys.readouterr()
    assert "IT-0042, 10.77.1.1 in the VPN" in said.out
    for secret in ("s3cret", key.splitlines()[1], CODE, CODE.replace("-", "")):
        assert secret not in said.out + said.err + caplog.text


def test_firewalls_are_told_who_asks(portal: ScriptedPortal, settings: Path) -> None:
    """Some refuse whoever says nothing, such as AWS' common rules (NoUserAgent_HEADER)."""
    assert _enrol(portal, settings) == 0
    assert portal.names == {"portafilter-agent"}


def test_lost_answers_are_asked_for_again_with_the_same_request(portal: ScriptedPortal, settings: Path) -> None:
    portal.trouble.extend([("drop", None), ("lose", None), ("status", 503), ("say", "<html>Log in to the Wi-Fi")])
    assert _enrol(portal, settings) == 0
    assert len(portal.calls) == 5 and len(set(portal.calls)) == 1 and not portal.is_frozen


def test_run_that_never_got_the_answer_is_taken_up_by_the_next(
    portal: ScriptedPortal,
    settings: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(enrol_module, "GIVE_UP_AFTER_S", 0.0)
    portal.trouble.append(("lose", None))
    assert _enrol(portal, settings) == 1
    assert "same code is safe for 15 minutes" in capsys.readouterr().err
    assert _mode(settings.parent / "enrolling" / "agent.key") == 0o600 and not settings.exists()
    assert _enrol(portal, settings) == 0
    assert portal.calls[0] == portal.calls[1] and not portal.is_frozen
    assert not (settings.parent / "enrolling").exists()


def test_another_code_gets_another_key(portal: ScriptedPortal, settings: Path) -> None:
    assert _enrol(portal, settings, code="0" * 20) == 1
    assert _enrol(portal, settings) == 0
    assert portal.calls[0].partition(b"csr")[2] != portal.calls[1].partition(b"csr")[2]


@pytest.mark.parametrize("status", [400, 403, 404, 409])
def test_refusal_is_not_repeated_and_leaves_the_old_settings(
    portal: ScriptedPortal, settings: Path, capsys: pytest.CaptureFixture[str], status: int
) -> None:
    settings.parent.mkdir()
    settings.write_text("[api]\nurl = http://old\n")
    portal.trouble.append(("status", status))
    assert _enrol(portal, settings) == 1
    assert capsys.readouterr().err.splitlines()[-1] == f"{portal.url} answered {status}: scripted trouble"
    assert len(portal.calls) == 1 and settings.read_text() == "[api]\nurl = http://old\n"


def test_second_enrolment_keeps_what_was_written_by_hand(portal: ScriptedPortal, settings: Path) -> None:
    settings.parent.mkdir()
    settings.write_text(
        "# ours\n[api]\nurl = http://old\ntoken = old.t\nsource_address = 10.0.0.9\n\n[rdp]\nopen_command =\n"
        "    /usr/bin/open\n    it\nclose_command = /usr/bin/shut\n\n[machine]\nheartbeat_s = 7\n"
    )
    assert _enrol(portal, settings) == 0
    config = AgentConfig.load(settings)
    assert (config.open_command, config.heartbeat_s) == (("/usr/bin/open", "it"), 7.0)
    assert config.token == "abc.t0ken-s3cret" and config.source_address is None
    assert settings.read_text().startswith("# ours\n")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"profile": "client\nremote x 1\nup /bin/sh\n"}, ["line 3", "'up'"]),
        ({"profile": "client\nremote x 1\n<ca>\n"}, ["ends within <ca>"]),
        ({"profile": "client\n<ca>\n</ca>\n<cert>\n</cert>\n"}, ["no remote"]),
        ({"api": {"url": "http://10.77.0.1:8001", "token": "no dot"}}, ["api.token", "prefix.secret"]),
        ({"api": {"url": "file:///etc/passwd", "token": "a.b"}}, ["api.url", "http://"]),
        ({"api": None}, ["api.url"]),
        ({"vpn_address": "10.77.1.1\nx"}, ["vpn_address"]),
        ({"vpn_address": "lobby"}, ["vpn_address", "VPN address"]),
        ({"serial": 7}, ["serial"]),
    ],
)
def test_answer_that_cannot_be_meant_is_refused_by_name_and_nothing_is_written(
    portal: ScriptedPortal,
    settings: Path,
    capsys: pytest.CaptureFixture[str],
    changes: dict[str, object],
    words: list[str],
) -> None:
    portal.changes = changes
    assert _enrol(portal, settings) == 1
    error = capsys.readouterr().err.splitlines()[-1]
    for word in words:
        assert word in error
    assert [path.name for path in settings.parent.iterdir()] == ["enrolling"]


def test_certificate_for_another_key_is_refused(
    portal: ScriptedPortal, settings: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    portal.changes = {"profile": portal.profile(pki.new_key().public_key())}
    assert _enrol(portal, settings) == 1
    assert "not for this machine's key" in capsys.readouterr().err and not settings.exists()


def test_missing_openssl_is_named(portal: ScriptedPortal, settings: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert _enrol(portal, settings, "--openssl", "/nowhere/openssl") == 1
    assert "'/nowhere/openssl'" in capsys.readouterr().err and portal.calls == []


def test_code_can_come_by_stdin_or_within_the_address_of_the_picture(portal: ScriptedPortal, settings: Path) -> None:
    asked = subprocess.run(
        [sys.executable, "-m", "agent", "--config", str(settings), "enrol", portal.url],
        cwd=_ROOT, input=CODE.lower() + "\n", capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert asked.returncode == 0, asked.stderr
    whole = f"{portal.url}/enrol/#{CODE}"
    other = settings.with_name("other.ini")
    portal.used_for = ""
    assert commands.main(["--config", str(other), "enrol", whole]) == 0


def test_code_is_read_however_it_was_typed() -> None:
    assert read_code(" 7h2kq 0zx4mppn9v-3ltdw ") == CODE.replace("-", "")
    assert read_code("oooooiiiiilllll00000") == "0" * 5 + "1" * 10 + "0" * 5
    for wrong in ("", "7H2KQ", CODE + "7", CODE.replace("W", "U"), CODE.replace("W", "\n")):
        with pytest.raises(EnrolError) as caught:
            read_code(wrong)
        assert "expected 20" in str(caught.value) and "7H2KQ" not in str(caught.value)


def test_code_does_not_cross_a_line_in_clear() -> None:
    with pytest.raises(EnrolError, match="expected https"):
        read_where("http://portal.example.com")
    assert read_where("http://portal.example.com/", allow_http=True) == ("http://portal.example.com", "")
    assert read_where("https://portal.example.com/enrol/#ABC") == ("https://portal.example.com", "ABC")
    for wrong in ("portal", "ftp://x", "https://a:b@x", ""):
        with pytest.raises(EnrolError, match="address of a portal"):
            read_where(wrong)


def test_machine_is_enrolled_by_one_command_at_a_time(portal: ScriptedPortal, settings: Path) -> None:
    (settings.parent / "enrolling").mkdir(parents=True)
    with open(settings.parent / "enrolling" / "lock", "a+b") as lock:
        assert try_lock(lock)
        with pytest.raises(EnrolError, match="by another command"):
            Enrolment(portal.url, CODE.replace("-", ""), settings).run()


def test_profile_may_not_name_programs_or_files() -> None:
    good = "client\nremote x 1\n<ca>\nx\n</ca>\n<cert>\nx\n</cert>\n"
    assert with_key(good, "K\n") == good + "<key>\nK\n</key>\n"
    for line in (
        "plugin x",
        "script-security 2",
        "log /etc/passwd",
        "ca /etc/x",
        "<key>",
        "<connection>",
        "</ca>",
        "cd /",
    ):
        with pytest.raises(ProfileError, match="line 9"):
            check(good + line + "\n")


@pytest.mark.parametrize(
    "hiding",
    [
        "<ca>\nx\n</ca>x\nup /bin/evil\n</ca>\n",
        "<ca>\n" + 255 * "A" + "</ca>\nup /bin/evil\n</ca>\n",
        "# x\x0b<ca>\nup /bin/evil\n# x\x0b</ca>\n",
        "<ca>\nx\r</ca>\n<cert>\n</ca>\nup /bin/evil\n</cert>\n",
    ],
    ids=["an end with more behind it", "a line that OpenVPN cuts", "a line's end of ours alone", "a block in a block"],
)
def test_profile_cannot_hide_a_line_where_openvpn_reads_one(hiding: str) -> None:
    """OpenVPN 2.6.14 takes `up` in each of these for an option."""
    good = "client\nremote x 1\n<ca>\nx\n</ca>\n<cert>\nx\n</cert>\n"
    with pytest.raises(ProfileError):
        check(hiding + good)
    check(good.replace("\n", "\r\n"))


def test_settings_below_etc_keep_what_changes_elsewhere() -> None:
    assert "\nstate_dir = /var/lib/portafilter-agent\n" in enrol_module._new_settings(Path("/etc/portafilter-agent"))
    assert "\nstate_dir" not in enrol_module._new_settings(Path("/home/alice"))


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd-analyze")
def test_systemd_understands_the_unit_and_finds_it_hardened() -> None:
    unit = str(_ROOT / "agent" / "portafilter-agent.service")
    verified = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (verified.returncode, verified.stderr) == (0, "")
    rated = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=45", "--no-pager", unit],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert rated.returncode == 0, rated.stdout[-200:]


def test_settings_are_changed_key_by_key() -> None:
    text = "[a]\nx = 1\n  more\n# note\n\n[b]\nx: 2\n"
    assert changed(text, {("a", "x"): "9"}) == "[a]\nx = 9\n# note\n\n[b]\nx: 2\n"
    assert changed(text, {("b", "x"): None}) == "[a]\nx = 1\n  more\n# note\n\n[b]\n"
    assert changed(text, {("a", "y"): "8"}) == "[a]\nx = 1\n  more\n# note\ny = 8\n\n[b]\nx: 2\n"
    assert changed("", {("c", "z"): "\n    1\n    2"}) == "[c]\nz =\n    1\n    2\n"
