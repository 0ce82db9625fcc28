"""The allow-list file, and files that are replaced at once."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from machines.authorisation import allow_list
from machines.authorisation.allow_list import Allowed, AllowList, AllowListError
from machines.vpn import files

A1 = "a1" * 32
LIST = AllowList({"m-1": Allowed("10.77.1.1", frozenset({A1, "b1" * 32})), "m-2": Allowed("10.77.1.2", frozenset())})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    path = tmp_path / "allow-list.json"
    assert allow_list.write(path, LIST)
    assert allow_list.read(path) == LIST
    assert not allow_list.write(path, LIST)  # the same already
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_gateways_are_in_the_file_beside_machines_and_an_older_file_has_none(tmp_path: Path) -> None:
    path = tmp_path / "allow-list.json"
    both = AllowList(LIST.machines, {"g-7f3e5a0c": Allowed("10.77.0.2", frozenset({A1}))})
    allow_list.write(path, both)
    assert allow_list.read(path) == both
    assert both.address_of("g-7f3e5a0c", A1) == "10.77.0.2"
    assert both.address_of("g-7f3e5a0d", A1) is None
    path.write_text('{"version": 1, "machines": {}}')
    assert allow_list.read(path) == AllowList()
    with pytest.raises(ValueError, match="expected g- and an attempt"):
        AllowList({}, {"m-1": Allowed("10.77.0.2", frozenset())})


def test_only_a_fingerprint_under_its_own_name_has_an_address() -> None:
    assert LIST.address_of("m-1", A1) == "10.77.1.1"
    assert LIST.address_of("m-2", A1) is None
    assert LIST.address_of("m-3", A1) is None
    assert LIST.address_of("m-1", "") is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b'{"version": 2, "machines": {}}',
        b'{"version": 1}',
        b'{"version": 1, "machines": {"m-1": {"address": "10.77.1.1\\n", "fingerprints": []}}}',
        b'{"version": 1, "machines": {"m-1": {"address": "10.77.1.1", "fingerprints": ["A1"]}}}',
        b'{"version": 1, "machines": {"../m-1": {"address": "10.77.1.1", "fingerprints": []}}}',
        b'{"version": 1, "machines": {"m-1": []}}',
    ],
)
def test_file_that_is_no_allow_list_admits_nobody(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "allow-list.json"
    path.write_bytes(content)
    with pytest.raises(AllowListError, match=r"allow-list\.json"):
        allow_list.read(path)


def test_missing_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(AllowListError, match="there is no allow list yet"):
        allow_list.read(tmp_path / "allow-list.json")


def test_file_is_replaced_never_written_over(tmp_path: Path) -> None:
    path = tmp_path / "ca.crt"
    files.replace(path, b"old")
    with open(path, "rb") as reader:
        assert files.replace(path, b"new")
        assert reader.read() == b"old"
    assert path.read_bytes() == b"new"
    assert [entry.name for entry in tmp_path.iterdir()] == ["ca.crt"]


def test_wrong_mode_is_put_right(tmp_path: Path) -> None:
    path = tmp_path / "server.key"
    files.replace(path, b"secret")
    path.chmod(0o644)
    assert files.replace(path, b"secret")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_link_is_replaced_not_followed(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.write_bytes(b"secret")
    (tmp_path / "server.key").symlink_to(elsewhere)
    assert files.replace(tmp_path / "server.key", b"secret")
    assert not (tmp_path / "server.key").is_symlink()


def test_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "crl.pem"
    files.replace(path, b"old")

    def fail(*_: object) -> None:
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(OSError):
        files.replace(path, b"new")
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["crl.pem"]


def test_folder_holds_exactly_what_it_should(tmp_path: Path) -> None:
    folder = tmp_path / "ccd"
    assert files.replace_all(folder, {"m-1": b"a", "m-2": b"b"}) == 2
    (folder / ".m-3.123.new").write_bytes(b"half")
    assert files.replace_all(folder, {"m-2": b"c"}) == 3
    assert {entry.name: entry.read_bytes() for entry in folder.iterdir()} == {"m-2": b"c"}
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


@pytest.mark.parametrize("name", ["../m-1", "a/b", "", ".", ".hidden", "a\0b"])
def test_name_that_is_a_path_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="plain file name"):
        files.replace_all(tmp_path / "ccd", {name: b"a"})
    assert list(tmp_path.iterdir()) == []
