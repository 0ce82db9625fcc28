"""The images' Containerfiles: no container engine runs here, so they are read, linted, and what runs inside is run."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from cryptography.fernet import Fernet

from tests.backbone.containerfiles import FOLDER, IMAGES, Context, Stage, read
from tests.backbone.templates import containers

NAMES = ["gateway", "portal", "vpn"]
# Why these are root; the rest of the page is in backbone/images/README.md.
ROOT = {"gateway": "tun device", "vpn": "nftables"}
_PINNED = re.compile(
    r"docker\.io/library/[a-z]+:\d+\.\d+(\.\d+)?-(slim|bookworm-slim|slim-bookworm)(@sha256:[0-9a-f]{64})?"
)


def _last(image: str) -> Stage:
    return read(image)[-1]


def _tracked() -> set[str]:
    done = subprocess.run(["git", "ls-files"], cwd=FOLDER, capture_output=True, text=True, check=True)
    return {*done.stdout.splitlines()}


def test_every_image_is_looked_at() -> None:
    assert sorted(path.parent.name for path in IMAGES.glob("*/Containerfile")) == NAMES


def test_hadolint_finds_nothing() -> None:
    beside_python = str(Path(sys.executable).parent)
    program = shutil.which("hadolint", path=beside_python) or shutil.which("hadolint")
    assert program is not None, "./setup test installs hadolint"
    files = [str(path) for path in sorted(IMAGES.glob("*/Containerfile"))]
    done = subprocess.run([program, "--no-color", *files], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("image", NAMES)
def test_what_an_image_stands_on_is_pinned(image: str) -> None:
    stages = read(image)
    for number, stage in enumerate(stages):
        if stage.base in {one.name for one in stages[:number]}:
            continue
        # The VPN's image stands on the portal's, of which whoever builds it gives the digest.
        assert _PINNED.fullmatch(stage.base) or (image, stage.base) == ("vpn", "${PORTAL_IMAGE}"), stage.base


@pytest.mark.parametrize("image", NAMES)
def test_nobody_is_root_without_a_reason(image: str) -> None:
    user = _last(image).last("USER")
    if image in ROOT:
        assert user.text == "0:0" and ROOT[image] in " ".join(user.comments)
    else:
        uid, gid = user.text.split(":")
        assert int(uid) >= 10_000 and int(gid) >= 10_000
        # What is copied stays root's, so that what runs cannot change itself.
        assert not [one for stage in read(image) for one in stage.all("COPY") if "chown" in one.options]


@pytest.mark.parametrize("image", NAMES)
def test_image_says_how_it_is(image: str) -> None:
    check = _last(image).last("HEALTHCHECK")
    assert {"interval", "timeout", "start-period", "retries"} <= check.options.keys()
    command = check.text.removeprefix("CMD ")
    script = next(word for word in re.findall(r'"([^"]+)"', command) if word.endswith(".py"))
    copied = [one.words for stage in read(image) for one in stage.all("COPY")]
    is_copied = any(target.rstrip("/") in {script, "backbone"} for *_, target in copied)
    assert is_copied or image == "vpn", script


@pytest.mark.parametrize("image", NAMES)
def test_only_files_of_the_project_are_copied(image: str) -> None:
    tracked, context = _tracked(), Context()
    for stage in read(image):
        assert not stage.all("ADD"), "ADD fetches and unpacks; COPY does neither"
        for copy in stage.all("COPY"):
            if "from" in copy.options:
                assert copy.options["from"] in {one.name for one in read(image)}
                continue
            for source in copy.words[:-1]:
                files = [name for name in tracked if name == source or name.startswith(f"{source}/")]
                assert files, f"{source} is not in the project, or git ignores it"
                assert any(context.has(name) for name in files), f".containerignore keeps {source} away"


@pytest.mark.parametrize("image", NAMES)
def test_nothing_is_left_of_an_installation_of_packages(image: str) -> None:
    for stage in read(image):
        for run in stage.all("RUN"):
            assert not re.search(r"\b(curl|wget|sudo)\b|\|\s*(ba)?sh\b", run.text)
            if "apt-get install" in run.text:
                assert "apt-get update" in run.text and "--no-install-recommends" in run.text
                assert "rm -rf /var/lib/apt/lists/*" in run.text
            if "pip install" in run.text:
                assert "--no-cache-dir" in run.text


@pytest.mark.parametrize("image", NAMES)
def test_no_secret_is_in_an_image(image: str) -> None:
    settings = (FOLDER / "docs" / "settings.md").read_text()
    secrets = re.findall(r"^\| `([A-Z_]+)` \| [^|]*\*secret\*", settings, re.MULTILINE)
    assert "SECRET_KEY" in secrets
    text = (IMAGES / image / "Containerfile").read_text()
    assert not [name for name in [*secrets, "AWS_SECRET_ACCESS_KEY", "AWS_ACCESS_KEY_ID"] if name in text]
    assert "-----BEGIN" not in text


def test_python_packages_are_installed_as_setup_does() -> None:
    (line,) = re.findall(r"-m pip install (.*?--require-hashes)", (FOLDER / "setup").read_text().replace("\\\n", ""))
    (run,) = [one.text for stage in read("portal") for one in stage.all("RUN") if "pip install" in one.text]
    assert f"-m pip install {' '.join(line.split())} -r requirements.txt" in run
    assert "--hash=sha256:" in (FOLDER / "requirements.txt").read_text()


def test_javascript_packages_are_installed_as_setup_does() -> None:
    setup = (FOLDER / "setup").read_text()
    (front,) = [stage for stage in read("portal") if stage.name == "front"]
    runs = [one.text for one in front.all("RUN")]
    assert "npm ci --ignore-scripts --no-audit --no-fund" in setup and "node static/build.mjs" in setup
    assert runs == ["npm ci --ignore-scripts --no-audit --no-fund", "node static/build.mjs"]


def test_portal_has_every_app_and_nothing_of_development() -> None:
    context = Context()
    copied = {word for stage in read("portal") for one in stage.all("COPY") for word in one.words[:-1]}
    assert {"manage.py", "machines", "notifications", "sessions", "backbone", "portal"} <= copied
    for path in ("manage.py", "portal/settings.py", "static/js/sw.js", "backbone/images/portal/healthy.py"):
        assert context.has(path), path
    for path in (
        "var/portafilter.env", ".git/config", ".venv/bin/python", "tests/settings.py", "agent/__main__.py", ".env",
        "node_modules/x/package.json", "static/dist/queue.js", "portal/demo/plan.py", "machines/__pycache__/a.pyc",
        "backbone/cloudformation/vpn.yaml", "var", "portafilter.sqlite3",
    ):  # fmt: skip
        assert not context.has(path), path
    # Docker reads this name, podman and buildah the other.
    assert (FOLDER / ".dockerignore").resolve() == FOLDER / ".containerignore"


def test_portal_starts_a_command_that_there_is() -> None:
    from portal.management.commands.serve import Command

    stage = _last("portal")
    assert stage.last("ENTRYPOINT").words == ["python", "manage.py"]
    name, *options = stage.last("CMD").words
    assert name == "serve"
    Command().create_parser("manage.py", name).parse_args(options)


def test_what_is_written_to_is_a_volume() -> None:
    assert _last("portal").last("VOLUME").words == ["/var/lib/portafilter", "/tmp"]
    of_portal, of_vpn = (dict(word.split("=", 1) for word in _last(one).last("ENV").words) for one in ("portal", "vpn"))
    assert of_portal["STATE_DIR"] == "/var/lib/portafilter"
    assert _last("vpn").last("VOLUME").words == [of_vpn["VPN_DIR"]]
    # The state is the portal's user's alone, and root without its capabilities is nobody there.
    assert not Path(of_vpn["VPN_DIR"]).is_relative_to(of_portal["STATE_DIR"])
    for _, task, container in containers("vpn"):
        assert container["MountPoints"] == [
            {"SourceVolume": "vpn", "ContainerPath": of_vpn["VPN_DIR"], "ReadOnly": False},
        ], task["Family"]


def test_portal_starts_from_what_the_image_has_and_nothing_else(tmp_path: Path) -> None:
    """The image's COPY lines are followed; `check` then imports what every command and both faces need."""
    context = Context()
    for name in sorted(_tracked()):
        for copy in _last("portal").all("COPY"):
            *sources, target = copy.words
            is_meant = any(name == source or name.startswith(f"{source}/") for source in sources)
            if "from" not in copy.options and is_meant and context.has(name):
                to = tmp_path / (name if target != "./" else Path(name).name)
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(FOLDER / name, to)
    (tmp_path / "static" / "dist").mkdir(parents=True)
    faces = "import portal.asgi, portal.machine_asgi, sessions.keepers, machines.management.commands.authorise"
    check = "sys.argv = ['manage.py', 'check']; runpy.run_path('manage.py', run_name='__main__')"
    script = f"import runpy, sys; {faces}; {check}"
    done = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False,
        env={
            "PATH": "/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE": "1", "DJANGO_SETTINGS_MODULE": "portal.settings",
            "SECRET_KEY": "x" * 50, "CREDENTIAL_KEYS": Fernet.generate_key().decode(),
            "STATE_DIR": str(tmp_path / "state"),
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr


def test_readme_pins_what_the_images_stand_on(tmp_path: Path) -> None:
    readme = (IMAGES / "README.md").read_text()
    (script,) = re.findall(r"```sh\n(sed -n .*?^done)\n```", readme, re.MULTILINE | re.DOTALL)
    shutil.copytree(IMAGES, tmp_path / "backbone" / "images")
    (tmp_path / "docker").write_text(f"#!/bin/sh\necho sha256:{'7' * 64}\n")
    (tmp_path / "docker").chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin"}
    for _ in range(2):  # a second time changes nothing
        subprocess.run(["sh", "-ec", script], cwd=tmp_path, env=environment, check=True, timeout=60)
    found = [line for path in tmp_path.rglob("Containerfile") for line in path.read_text().splitlines()]
    bases = [line.split()[1] for line in found if line.startswith("FROM docker.io/")]
    assert len(bases) == 4 and all(re.fullmatch(r"[^@]+@sha256:7{64}", one) and _PINNED.fullmatch(one) for one in bases)


# A registry whose tags are IMMUTABLE, as in the stack data, and an engine that keeps layers unless it is told not to.
_DOCKER = """#!/bin/sh
case "$1" in
build)
    case "$*" in *--pull*--no-cache*) ;; *) echo "an old layer is used: $*" >&2; exit 1 ;; esac
    ;;
push)
    if grep -qxF "$2" "$0.pushed"; then echo "tag $2 already exists and cannot be changed" >&2; exit 1; fi
    echo "$2" >> "$0.pushed"
    ;;
inspect)
    eval "image=\\${$#}"
    grep -qxF "$image" "$0.pushed" && echo "${image%:*}@sha256:1"
    ;;
esac
"""


def test_readme_builds_the_same_commit_anew_and_pushes_it(tmp_path: Path) -> None:
    readme = (IMAGES / "README.md").read_text()
    scripts = re.findall(r"```sh\n(REGISTRY=.*?|for image in .*?)\n```", readme, re.DOTALL)
    # Two builds are never within a second, but here they are.
    clock = '#!/bin/sh\necho x >> "$0.ticks"\nwc -l < "$0.ticks"\n'
    for name, script in {"docker": _DOCKER, "date": clock, "aws": "#!/bin/sh\n"}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)
    (tmp_path / "docker.pushed").touch()
    shown = []
    for _ in range(2):
        done = subprocess.run(
            ["sh", "-ec", "\n".join(scripts)],
            cwd=FOLDER, env={"PATH": f"{tmp_path}:/usr/bin:/bin"}, capture_output=True, text=True, timeout=60,
            check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        shown.append([re.search(r"/portafilter/(\w+)@sha256", line)[1] for line in done.stdout.splitlines()])  # type: ignore[index]
    assert shown == [["portal", "vpn", "gateway", "guacd"]] * 2
