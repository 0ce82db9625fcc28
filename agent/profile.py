"""The OpenVPN profile that support sends: checked line by line before OpenVPN, which runs as root, may read it."""

from __future__ import annotations

import re

# What a client's profile may say. Whatever runs a program, names a file or moves the log is not among it.
_NAMES = (
    "client dev dev-type proto remote nobind float resolv-retry remote-random connect-retry connect-retry-max "
    "connect-timeout server-poll-timeout remote-cert-tls verify-x509-name tls-version-min tls-version-max tls-groups "
    "tls-cipher tls-ciphersuites tls-client pull data-ciphers data-ciphers-fallback cipher auth auth-nocache tun-mtu "
    "mssfix fragment persist-key persist-tun pull-filter explicit-exit-notify keepalive ping ping-restart hand-window "
    "reneg-sec tran-window rcvbuf sndbuf mute-replay-warnings replay-window verb mute topology block-ipv6 "
    "allow-compression windows-driver disable-dco route-nopull"
)
_DIRECTIVES = frozenset(_NAMES.split())
_BLOCKS = frozenset({"ca", "cert", "tls-crypt", "tls-crypt-v2", "peer-fingerprint"})
_NEEDED = ("remote", "<ca>", "<cert>")
_BLOCK = re.compile(r"<([a-z0-9-]{1,30})>")
_LIMIT = 64 * 1024
# OpenVPN reads 255 bytes at a time, takes the rest of a longer line for another one, and ends a block at whatever
# begins with its end (2.6.14): neither may be in a block, nor any mark that only one of us takes for a line's end.
_PLAIN = re.compile(r"[\n\t\x20-\x7e]*")
_LONGEST_LINE = 200


class ProfileError(Exception):
    """The profile cannot be used; the text names the line, what was found and what was expected, and never a key."""


def with_key(profile: str, key: str) -> str:
    """The profile with this machine's key in it. Raises ProfileError."""
    check(profile)
    return f"{profile.rstrip()}\n<key>\n{key.strip()}\n</key>\n"


def check(profile: str) -> None:
    """Raises ProfileError unless every line is one that a machine's profile may have, and none that it needs lacks."""
    if len(profile) > _LIMIT:
        raise ProfileError(f"found a profile of {len(profile)} characters, expected at most {_LIMIT}")
    plain = profile.replace("\r\n", "\n")
    if not _PLAIN.fullmatch(plain):
        raise ProfileError("found other characters in the profile than plain text (ASCII), expected none")
    seen = set()
    block = ""
    for number, line in enumerate(plain.split("\n"), start=1):
        text = line.strip()
        if len(line) > _LONGEST_LINE:
            raise ProfileError(
                f"line {number} of the profile: found {len(line)} characters, expected at most {_LONGEST_LINE}"
            )
        if block:
            if text == f"</{block}>":
                block = ""
            elif "<" in text:
                raise ProfileError(f"line {number} of the profile: found '<' within <{block}>, expected its end")
            continue
        if not text or text[0] in "#;":
            continue
        opening = _BLOCK.fullmatch(text)
        name = opening[1] if opening else text.split()[0]
        if name not in (_BLOCKS if opening else _DIRECTIVES):
            shown = "".join(character for character in name if character.isprintable())[:40]
            raise ProfileError(
                f"line {number} of the profile: found {shown!r}, expected what a machine's profile may say"
            )
        if opening:
            block = name
        seen.add(f"<{name}>" if opening else name)
    if block:
        raise ProfileError(f"the profile ends within <{block}>")
    for name in _NEEDED:
        if name not in seen:
            raise ProfileError(f"the profile has no {name}, expected one")


def certificate_of(profile: str) -> str:
    """The machine's certificate in a profile that was checked, as PEM."""
    return profile.partition("<cert>")[2].partition("</cert>")[0].strip() + "\n"
