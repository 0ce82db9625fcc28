"""Certificates, revocations and tls-crypt-v2 keys, read back by other programs than the one that made them."""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import NameOID

from machines.vpn import pki
from tests.machines.requests import badly_signed, request

NOW = datetime(2026, 11, 23, 12, tzinfo=UTC)
YEAR = timedelta(days=365)


@pytest.fixture(scope="module")
def authority() -> pki.Authority:
    return pki.make_authority(now=NOW, life=10 * YEAR)


def certificate(authority: pki.Authority, name: str = "m-17", **changes: timedelta) -> x509.Certificate:
    return pki.issue(authority, pki.new_key().public_key(), name=name, now=NOW, life=changes.get("life", YEAR))


def openssl(*arguments: str) -> str:
    result = subprocess.run(["openssl", *arguments], capture_output=True, text=True, timeout=30)
    return result.stdout + result.stderr


@pytest.mark.parametrize(("name", "purpose"), [("m-17", "sslclient"), (pki.SERVER_NAME, "sslserver")])
def test_openssl_takes_a_certificate_for_its_own_purpose_only(
    tmp_path: Path, authority: pki.Authority, name: str, purpose: str
) -> None:
    (tmp_path / "ca").write_text(pki.certificate_pem(authority.certificate))
    (tmp_path / "leaf").write_text(pki.certificate_pem(certificate(authority, name)))
    (tmp_path / "crl").write_text(pki.make_crl(authority, [], number=1, now=NOW, life=timedelta(days=30)))
    ask = ["verify", "-x509_strict", "-crl_check", "-attime", str(int(NOW.timestamp())), "-CAfile", "ca", "-CRLfile"]
    ask = [str(tmp_path / word) if word == "ca" else word for word in ask] + [str(tmp_path / "crl")]
    other = {"sslclient": "sslserver", "sslserver": "sslclient"}[purpose]

    assert f"{tmp_path / 'leaf'}: OK" in openssl(*ask, "-purpose", purpose, str(tmp_path / "leaf"))
    assert "unsuitable certificate purpose" in openssl(*ask, "-purpose", other, str(tmp_path / "leaf"))


def test_openssl_refuses_a_revoked_certificate(tmp_path: Path, authority: pki.Authority) -> None:
    leaf = certificate(authority)
    crl = pki.make_crl(authority, [(pki.serial_of(leaf), NOW)], number=2, now=NOW, life=timedelta(days=30))
    for name, text in (
        ("ca", pki.certificate_pem(authority.certificate)),
        ("leaf", pki.certificate_pem(leaf)),
        ("crl", crl),
    ):
        (tmp_path / name).write_text(text)

    said = openssl(
        *("verify", "-crl_check", "-attime", str(int(NOW.timestamp())), "-CAfile", str(tmp_path / "ca")),
        *("-CRLfile", str(tmp_path / "crl"), str(tmp_path / "leaf")),
    )
    assert "certificate revoked" in said
    number = x509.load_pem_x509_crl(crl.encode()).extensions.get_extension_for_class(x509.CRLNumber).value.crl_number
    assert number == 2


def test_no_certificate_outlives_the_authority(authority: pki.Authority) -> None:
    assert certificate(authority, life=20 * YEAR).not_valid_after_utc == authority.certificate.not_valid_after_utc
    with pytest.raises(pki.PkiError, match="ended on 2036"):
        pki.issue(authority, pki.new_key().public_key(), name="m-1", now=NOW + 11 * YEAR, life=YEAR)


@pytest.mark.parametrize(
    "name", ["m-", "m-1\n", "m-1 ", "M-1", "m-١", "../m-1", "m-1/x", "server", "", "m-" + "1" * 19]
)
def test_certificate_has_no_name_but_a_machines_or_the_servers(authority: pki.Authority, name: str) -> None:
    with pytest.raises(pki.PkiError, match="expected portafilter-vpn or a machine's"):
        certificate(authority, name)


@pytest.mark.parametrize("name", ["m-2", "root", "x\nscript-security 2", "{{7*7}}", "a" * 64])
def test_nothing_of_a_requests_own_names_gets_into_the_certificate(authority: pki.Authority, name: str) -> None:
    key = pki.new_key()
    signed = pki.issue(authority, pki.key_of_request(request(key, name=name)), name="m-17", now=NOW, life=YEAR)

    assert signed.public_key() == key.public_key()
    assert [one.value for one in signed.subject.get_attributes_for_oid(NameOID.COMMON_NAME)] == ["m-17"]
    assert len(list(signed.subject)) == 1
    with pytest.raises(x509.ExtensionNotFound):
        signed.extensions.get_extension_for_class(x509.SubjectAlternativeName)


@pytest.mark.parametrize(
    ("pem", "message"),
    [
        (lambda: request(ec.generate_private_key(ec.SECP384R1())), "on the curve secp384r1, expected P-256"),
        (lambda: request(ec.generate_private_key(ec.SECP256K1())), "on the curve secp256k1, expected P-256"),
        (lambda: request(rsa.generate_private_key(65537, 2048)), "kind RSA, expected one on the curve P-256"),
        (lambda: badly_signed(), "signature of the certificate request is not valid"),
        (lambda: request(padding=9000), "characters, expected 10000 at most"),
        (lambda: "x" * 10_001, "10001 characters, expected 10000 at most"),
        (lambda: "", "no certificate request that can be read"),
        (lambda: "-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "can be read"),
        (lambda: request()[:200], "no certificate request that can be read"),
        (lambda: "Kaffee für alle", "no certificate request that can be read"),
        (lambda: "\udcff", "no certificate request that can be read"),
    ],
)
def test_request_that_cannot_be_signed_is_refused_in_words(pem: object, message: str) -> None:
    assert callable(pem)
    with pytest.raises(pki.PkiError, match=message):
        pki.key_of_request(pem())


def test_key_of_another_kind_is_named() -> None:
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    signed = builder.sign(ed25519.Ed25519PrivateKey.generate(), None)
    from cryptography.hazmat.primitives import serialization

    with pytest.raises(pki.PkiError, match="kind Ed25519, expected one on the curve P-256"):
        pki.key_of_request(signed.public_bytes(serialization.Encoding.PEM).decode())


def test_authoritys_key_of_another_is_noticed(authority: pki.Authority) -> None:
    other = pki.make_authority(now=NOW, life=YEAR)
    with pytest.raises(pki.PkiError, match="do not belong together") as caught:
        pki.load_authority(pki.certificate_pem(authority.certificate), pki.key_pem(other.key))
    assert "PRIVATE" not in str(caught.value) and "PRIVATE" not in repr(authority)


def test_wrapped_key_opens_with_its_servers_key_only() -> None:
    server, client = pki.new_tls_crypt_server_key(), ""
    client = pki.new_tls_crypt_client_key(server, b"m-17")

    assert pki.tls_crypt_metadata(server, client) == b"m-17"
    with pytest.raises(pki.PkiError, match="not wrapped by this server's key"):
        pki.tls_crypt_metadata(pki.new_tls_crypt_server_key(), client)
    with pytest.raises(pki.PkiError, match="of 0 bytes"):
        pki.tls_crypt_metadata(server, server)
    with pytest.raises(pki.PkiError, match="734 bytes, expected 733 at most"):
        pki.new_tls_crypt_client_key(server, b"x" * 734)


def test_openvpns_own_wrapped_key_opens(tmp_path: Path) -> None:
    server, client = tmp_path / "server", tmp_path / "client"
    metadata = "bS0xNw=="
    for arguments in (
        ["--genkey", "tls-crypt-v2-server", str(server)],
        ["--tls-crypt-v2", str(server), "--genkey", "tls-crypt-v2-client", str(client), metadata],
    ):
        try:
            subprocess.run(["openvpn", *arguments], check=True, capture_output=True, timeout=30)
        except FileNotFoundError:
            pytest.skip("openvpn is not installed")
    assert pki.tls_crypt_metadata(server.read_text(), client.read_text()) == b"m-17"
