"""The VPN's certificates, revocations and tls-crypt-v2 keys; `cryptography` alone, no files, no rows.

Keys are on P-256 throughout. Formats are PEM texts, ready for an OpenVPN configuration. The tls-crypt-v2 format is
from OpenVPN's doc/tls-crypt-v2.txt.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import os
import re
import struct
import textwrap
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

# The common name in every machine's certificate: the key of its row, nothing that anybody typed.
MACHINE_NAME = re.compile(r"\Am-[0-9]{1,18}\Z")
# In every gateway's: the attempt at it, which the driver knows it by. X.509 has 64 characters for a name.
GATEWAY_NAME = re.compile(r"\Ag-[A-Za-z0-9][A-Za-z0-9-]{0,61}\Z")
# The server's name is fixed, so that it may move to another host name without a new certificate.
SERVER_NAME = "portafilter-vpn"
AUTHORITY_NAME = "Portafilter VPN"

CSR_LIMIT = 10_000
# The server's clock and the machine's differ by this much at most.
_CLOCK_SLACK = timedelta(minutes=5)
_METADATA_LIMIT = 733  # doc/tls-crypt-v2.txt: the wrapped key must fit the first packet


class PkiError(ValueError):
    """What was given is not what it should be; the text names what was found and what was expected, never a key."""


PublicKey = ec.EllipticCurvePublicKey


@dataclass(frozen=True, slots=True)
class Authority:
    """The one that signs."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey = field(repr=False)


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


def key_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """The private key, unencrypted: for an encrypted column or a file of its owner's alone."""
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem.decode("ascii")


def certificate_pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode("ascii")


def load_authority(certificate: str, key: str) -> Authority:
    """The authority of two PEM texts; raises PkiError when they do not belong together."""
    loaded = serialization.load_pem_private_key(key.encode("ascii"), None)
    found = x509.load_pem_x509_certificate(certificate.encode("ascii"))
    if not isinstance(loaded, ec.EllipticCurvePrivateKey) or loaded.public_key() != found.public_key():
        raise PkiError("The authority's key and certificate do not belong together.")
    return Authority(found, loaded)


def make_authority(*, now: datetime, life: timedelta) -> Authority:
    """A new authority that signs certificates and revocations, and no other authority."""
    key, name = new_key(), _name(AUTHORITY_NAME)
    certificate = (
        _builder(key.public_key(), subject=name, issuer=name, now=now, until=now + life)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .add_extension(_key_usage("key_cert_sign", "crl_sign"), critical=True)
        .sign(key, hashes.SHA256())
    )
    return Authority(certificate, key)


def issue(
    authority: Authority, public_key: ec.EllipticCurvePublicKey, *, name: str, now: datetime, life: timedelta
) -> x509.Certificate:
    """A certificate for this key: a server's for SERVER_NAME, a client's for the name of a machine or a gateway.

    It never outlives the authority. Raises PkiError for any other name.
    """
    if name == SERVER_NAME:
        usage = ExtendedKeyUsageOID.SERVER_AUTH
    elif is_client(name):
        usage = ExtendedKeyUsageOID.CLIENT_AUTH
    else:
        raise PkiError(f"Found the name {name[:60]!r}, expected {SERVER_NAME} or a machine's or gateway's, as in m-17.")
    until = min(now + life, authority.certificate.not_valid_after_utc)
    if until <= now:
        raise PkiError(f"The VPN's authority ended on {until:%Y-%m-%d}: it signs nothing more.")
    issuer = authority.certificate
    return (
        _builder(public_key, subject=_name(name), issuer=issuer.subject, now=now, until=until)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_key_usage("digital_signature"), critical=True)
        .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        .add_extension(_authority_identifier(issuer), critical=False)
        .sign(authority.key, hashes.SHA256())
    )


def is_gateway(name: str) -> bool:
    """Whether a certificate with this name is a gateway's."""
    return bool(GATEWAY_NAME.match(name))


def is_client(name: str) -> bool:
    """Whether a certificate with this name is a machine's or a gateway's."""
    return bool(MACHINE_NAME.match(name)) or is_gateway(name)


def serial_of(certificate: x509.Certificate) -> str:
    return f"{certificate.serial_number:x}"


def sha256_of(certificate: x509.Certificate) -> str:
    return certificate.fingerprint(hashes.SHA256()).hex()


def key_of_request(pem: str) -> ec.EllipticCurvePublicKey:
    """The public key of a certificate request: on P-256, and its holder has signed with it.

    All else that the request says (names, extensions) is ignored. Raises PkiError.
    """
    if len(pem) > CSR_LIMIT:
        raise PkiError(f"Found a certificate request of {len(pem)} characters, expected {CSR_LIMIT} at most.")
    try:
        request = x509.load_pem_x509_csr(pem.encode("ascii"))
        key = request.public_key()
    except (ValueError, UnsupportedAlgorithm) as error:
        raise PkiError("Found no certificate request that can be read, expected one in PEM (PKCS #10).") from error
    if not isinstance(key, ec.EllipticCurvePublicKey):
        kind = type(key).__name__.removesuffix("PublicKey").strip("_")
        raise PkiError(f"Found a key of kind {kind}, expected one on the curve P-256 (prime256v1).")
    if not isinstance(key.curve, ec.SECP256R1):
        raise PkiError(f"Found a key on the curve {key.curve.name}, expected P-256 (prime256v1).")
    try:
        is_signed = request.is_signature_valid
    except (ValueError, UnsupportedAlgorithm, InvalidSignature):
        is_signed = False
    if not is_signed:
        raise PkiError("The signature of the certificate request is not valid: it is not from the holder of its key.")
    return key


def sha256_of_key(key: ec.EllipticCurvePublicKey) -> str:
    """The digest by which a public key is known again."""
    encoded = key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(encoded).hexdigest()


def make_crl(
    authority: Authority, revoked: Iterable[tuple[str, datetime]], *, number: int, now: datetime, life: timedelta
) -> str:
    """The list of revoked serials (hexadecimal) and since when; OpenVPN refuses everybody once `life` is over."""
    builder = (
        x509.CertificateRevocationListBuilder()
        .issuer_name(authority.certificate.subject)
        .last_update(now - _CLOCK_SLACK)
        .next_update(now + life)
        .add_extension(x509.CRLNumber(number), critical=False)
        .add_extension(_authority_identifier(authority.certificate), critical=False)
    )
    for serial, since in revoked:
        row = x509.RevokedCertificateBuilder().serial_number(int(serial, 16)).revocation_date(since).build()
        builder = builder.add_revoked_certificate(row)
    return builder.sign(authority.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode("ascii")


def new_tls_crypt_server_key() -> str:
    """The key that wraps and unwraps every client's tls-crypt-v2 key."""
    return _armoured("server", os.urandom(128))


def new_tls_crypt_client_key(server_key: str, metadata: bytes) -> str:
    """A client's own tls-crypt-v2 key, with `metadata` wrapped in; raises PkiError for another server key."""
    if len(metadata) > _METADATA_LIMIT:
        raise PkiError(f"Found metadata of {len(metadata)} bytes, expected {_METADATA_LIMIT} at most.")
    encryption_key, authentication_key = _server_keys(server_key)
    client_key = os.urandom(256)
    plain = client_key + b"\x00" + metadata  # type 0: the user's own metadata
    length = struct.pack("!H", 32 + len(plain) + 2)
    tag = hmac.new(authentication_key, length + plain, hashlib.sha256).digest()
    encryptor = Cipher(algorithms.AES(encryption_key), modes.CTR(tag[:16])).encryptor()
    return _armoured("client", client_key + tag + encryptor.update(plain) + encryptor.finalize() + length)


def tls_crypt_metadata(server_key: str, client_key: str) -> bytes:
    """The metadata of a client's key; raises PkiError when this server key has not wrapped it."""
    encryption_key, authentication_key = _server_keys(server_key)
    raw = _unarmoured("client", client_key)
    if len(raw) < 256 + 32 + 257 + 2:
        raise PkiError(f"Found a tls-crypt-v2 client key of {len(raw)} bytes, expected 547 or more.")
    own, tag, sealed, length = raw[:256], raw[256:288], raw[288:-2], raw[-2:]
    decryptor = Cipher(algorithms.AES(encryption_key), modes.CTR(tag[:16])).decryptor()
    plain = decryptor.update(sealed) + decryptor.finalize()
    expected = hmac.new(authentication_key, length + plain, hashlib.sha256).digest()
    if not hmac.compare_digest(tag, expected) or not hmac.compare_digest(plain[:256], own):
        raise PkiError("The tls-crypt-v2 client key was not wrapped by this server's key.")
    return plain[257:]


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _builder(
    key: ec.EllipticCurvePublicKey, *, subject: x509.Name, issuer: x509.Name, now: datetime, until: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - _CLOCK_SLACK)
        .not_valid_after(until)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)
    )


def _key_usage(*usages: str) -> x509.KeyUsage:
    names = (
        *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement"),
        *("key_cert_sign", "crl_sign", "encipher_only", "decipher_only"),
    )
    return x509.KeyUsage(**{name: name in usages for name in names})


def _authority_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    subject = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(subject)


def _server_keys(armoured: str) -> tuple[bytes, bytes]:
    raw = _unarmoured("server", armoured)
    if len(raw) != 128:
        raise PkiError(f"Found a tls-crypt-v2 server key of {len(raw)} bytes, expected 128.")
    return raw[:32], raw[64:96]


def _armoured(kind: str, raw: bytes) -> str:
    body = "\n".join(textwrap.wrap(base64.b64encode(raw).decode("ascii"), 64))
    label = f"OpenVPN tls-crypt-v2 {kind} key"
    return f"-----BEGIN {label}-----\n{body}\n-----END {label}-----\n"


def _unarmoured(kind: str, text: str) -> bytes:
    label = f"OpenVPN tls-crypt-v2 {kind} key"
    found = re.fullmatch(rf"-----BEGIN {label}-----\n([A-Za-z0-9+/=\n]+)\n-----END {label}-----\n", text)
    try:
        return base64.b64decode(found[1].replace("\n", ""), validate=True) if found else b""
    except binascii.Error:
        return b""
