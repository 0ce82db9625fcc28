"""The demo runs, with guacd as a program or in a container, and nothing of it is left at its end."""

from __future__ import annotations

import os
import signal
import subprocess
import urllib.request
from pathlib import Path

import pytest
from django.conf import settings

from tests.portal.demo_process import LOGINS, MILANO, ROOT, Demo, logins_in

_ENGINE = """#!/bin/sh
# A container engine that knows just what the demo and ./setup should ask of it; its one container is a real guacd.
image=docker.io/guacamole/guacd:1.6.0
echo "$*" >>"{calls}"
case "$1 $2 $3" in
    "info  ") exit 0 ;;
    "image inspect $image") [ -e "{calls}.pulled" ]; exit ;;
    "pull $image ") touch "{calls}.pulled"; exit 0 ;;
    "rm --force portafilter-guacd-"*) echo "Error: No such container: $3" >&2; exit 1 ;;
    "run --rm --name")
        if [ "$5 $6 $7 $8 $9" = "--network host --entrypoint /opt/guacamole/sbin/guacd $image" ]; then
            shift 9
            if [ "$1 $2 $3 $4 $6 $7 $#" = "-f -b 127.0.0.1 -l -L info 7" ]; then exec "{guacd}" "$@"; fi
        fi
        ;;
esac
echo "refused: $*" >>"{calls}"
exit 125
"""


def fake_engine(folder: Path, *, guacd: str = "false") -> Path:
    """Makes a `docker` in the folder; answers with the file in which its calls are."""
    folder.mkdir()
    calls = folder / "calls"
    program = folder / "docker"
    program.write_text(_ENGINE.format(calls=calls, guacd=guacd))
    program.chmod(0o755)
    return calls


_SETUP_WITHOUT_GUACD = """
set -eu
. ./functions
program() {{ case $1 in guacd) return 1 ;; podman) return 1 ;; docker) command -v docker >/dev/null ;; esac; }}
any_file() {{ true; }}
is_debian_12() {{ false; }}
purpose={purpose}
packages
take_turn
guacd_in_a_container
"""


def setup_without_guacd(folder: Path, purpose: str) -> subprocess.CompletedProcess[str]:
    """What ./setup says about guacd in a folder of its own, on a system that is no Debian and has all but guacd."""
    lines = (ROOT / "setup").read_text().splitlines()
    assert lines[-1] == 'main "$@"'
    (folder / "functions").write_text("\n".join(lines[:-1]).replace('cd "$(dirname "$0")"', ":"))
    return subprocess.run(
        ["sh", "-c", _SETUP_WITHOUT_GUACD.format(purpose=purpose)],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=False,
    )


class TestSetup:
    def test_image_is_fetched_once_where_guacd_cannot_be_installed(self, tmp_path: Path) -> None:
        calls = fake_engine(tmp_path / "bin")
        for _ in range(2):
            done = setup_without_guacd(tmp_path, "run")
            assert done.returncode == 0, done.stdout + done.stderr
        image = "docker.io/guacamole/guacd:1.6.0"
        look = ["info", f"image inspect {image}"]
        assert calls.read_text().splitlines() == [*look, f"pull {image}", *look]

    def test_guacd_is_named_as_missing_where_no_engine_answers(self, tmp_path: Path) -> None:
        (tmp_path / "bin").mkdir()
        (tmp_path / "bin" / "docker").write_text("#!/bin/sh\nexit 1\n")
        (tmp_path / "bin" / "docker").chmod(0o755)
        done = setup_without_guacd(tmp_path, "run")
        assert done.returncode == 1
        assert "missing, by the names of Debian 12's packages: guacd" in done.stderr

    def test_tests_want_the_program_itself(self, tmp_path: Path) -> None:
        calls = fake_engine(tmp_path / "bin")
        assert "packages: guacd" in setup_without_guacd(tmp_path, "test").stderr
        assert not calls.exists()


def status_of(url: str) -> int:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return int(answer.status)


@pytest.mark.real
@pytest.mark.timeout(300)
class TestRunning:
    def test_help_pressed_in_a_terminal_has_its_desktop_held_and_the_end_leaves_nothing(self, tmp_path: Path) -> None:
        demo = Demo(tmp_path)
        with demo.running() as process:
            assert status_of(f"http://127.0.0.1:{demo.public}/accounts/login/") == 200
            assert status_of(f"http://localhost:{demo.public}/accounts/login/") == 200
            assert status_of(f"http://127.0.0.1:{demo.street}/") == 200
            assert any("Xvfb" in command for command in demo.processes())
            assert "runs already, as process" in demo.manage("demo").stderr
            assert set(demo.logins()) == set(LOGINS)

            demo.press(MILANO.serial)
            assert any("guacd" in command for command in demo.processes())

            process.send_signal(signal.SIGTERM)
            assert process.wait(100) == 0, demo.said()
        assert demo.processes() == []
        assert "Killed" not in demo.said()

    def test_guacd_runs_in_a_container_where_there_is_no_program_but_an_engine(self, tmp_path: Path) -> None:
        calls = fake_engine(tmp_path / "bin", guacd=settings.GUACD_PATH)
        path = f"{tmp_path / 'bin'}:{os.environ['PATH']}"
        demo = Demo(tmp_path, GUACD_PATH=str(tmp_path / "no-guacd"), PATH=path)
        with demo.running() as process:
            assert "guacd in a container of docker" in demo.said()
            demo.press(MILANO.serial)
            process.send_signal(signal.SIGTERM)
            assert process.wait(100) == 0, demo.all_said()
        demo.until_it_has_ended()
        said = calls.read_text().splitlines()
        assert [line.split()[0] for line in said] == ["info", "rm", "run", "rm"], said
        assert "refused" not in calls.read_text()

    def test_next_start_says_the_same_logins_and_killed_it_takes_its_programs_with_it(self, tmp_path: Path) -> None:
        demo = Demo(tmp_path)
        first = logins_in(demo.manage("demo", "--seed-only").stdout)
        with demo.running() as process:
            assert demo.logins() == first
            process.kill()
            process.wait()
            demo.until_it_has_ended()

    def test_server_that_dies_ends_the_demo_with_its_last_words(self, tmp_path: Path) -> None:
        demo = Demo(tmp_path)
        with demo.running() as process:
            demo.press(MILANO.serial)
            server = demo.process_with("demo/server.ready")
            os.kill(server, signal.SIGKILL)
            assert process.wait(100) == 1
        assert "The server ended by itself" in demo.said()
        assert "server.log" in demo.said()
        assert demo.processes() == []
