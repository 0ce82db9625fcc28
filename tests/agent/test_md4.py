"""MD4 against the test suite of RFC 1320, appendix A.5, and the NT hash against published ones."""

from __future__ import annotations

import pytest

from agent.simulator.md4 import md4, nt_hash


@pytest.mark.parametrize(
    ("text", "digest"),
    [
        ("", "31d6cfe0d16ae931b73c59d7e0c089c0"),
        ("a", "bde52cb31de33e46245e05fbdbd6fb24"),
        ("abc", "a448017aaf21d8525fc10ae87aa6729d"),
        ("message digest", "d9130a8164549fe818874806e1c7014b"),
        ("abcdefghijklmnopqrstuvwxyz", "d79e1c308aa5bbcdeea8ed63df412da9"),
        ("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789", "043f8582f241db351ce627e153e7f0e4"),
        ("1234567890" * 8, "e33b4ddc9c38f2199c3e7b164fcc0536"),
    ],
)
def test_md4_matches_the_rfc(text: str, digest: str) -> None:
    assert md4(text.encode()).hex() == digest


def test_every_length_around_a_block_is_padded_right() -> None:
    assert len({md4(b"x" * length) for length in range(130)}) == 130


def test_nt_hash_matches_published_ones() -> None:
    assert nt_hash("password") == "8846f7eaee8fb117ad06bdd830b7586c"
    assert nt_hash("") == "31d6cfe0d16ae931b73c59d7e0c089c0"
