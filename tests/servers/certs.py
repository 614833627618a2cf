# SPDX-License-Identifier: Apache-2.0
"""A throwaway certificate authority and the leaves that tests need."""

from __future__ import annotations

import datetime
import fcntl
import ipaddress
import os
import pathlib
import ssl

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography import x509
from cryptography.x509 import oid

Key = ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey

DAY = datetime.timedelta(days=1)
GOOD_NAMES = ('localhost', '127.0.0.1', '127.0.0.2', '::1')
#: Leaf certificates: 'good' is right for GOOD_NAMES, all others wrong.
LEAVES = (
    'good',
    'expired',
    'not-yet-valid',
    'wrong-host',
    'self-signed',
    'weak-key',
    'nul-name',
    'client',
)


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _name(common: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(oid.NameOID.COMMON_NAME, common)])


class Certs:
    """Certificates in a directory; made once, then found there."""

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = pathlib.Path(directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        self.ca_file = str(self.directory / 'ca.pem')
        with open(self.directory / 'lock', 'w') as lock:
            # Several xdist workers may share one directory.
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not (self.directory / 'complete').exists():
                self._make_all()
                (self.directory / 'complete').touch()

    def pair(self, name: str = 'good') -> tuple[str, str]:
        """Return the files of a leaf: certificate and key."""
        if name not in LEAVES:
            raise KeyError(name)
        base = self.directory / name
        return f'{base}.pem', f'{base}.key'

    def server_context(
        self, name: str = 'good', *, ask_client: bool = False
    ) -> ssl.SSLContext:
        """Return a server's context; one that wants a client's, if asked."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        if name == 'weak-key':
            context.set_ciphers('DEFAULT:@SECLEVEL=0')
        context.load_cert_chain(*self.pair(name))
        if ask_client:
            context.verify_mode = ssl.CERT_REQUIRED
            context.load_verify_locations(self.ca_file)
        return context

    def client_context(
        self, *, with_certificate: bool = False
    ) -> ssl.SSLContext:
        """Return a strict client's context that trusts this authority."""
        context = ssl.create_default_context(cafile=self.ca_file)
        # Some builds of Python take a cut-off connection for its end.
        context.options &= ~getattr(ssl, 'OP_IGNORE_UNEXPECTED_EOF', 0)
        if with_certificate:
            context.load_cert_chain(*self.pair('client'))
        return context

    def _make_all(self) -> None:
        key = ec.generate_private_key(ec.SECP256R1())
        name = _name('oslo.transfer test CA')
        ca = (
            self._builder(name, name, key, -DAY, 30 * DAY)
            .add_extension(x509.BasicConstraints(True, 0), True)
            .add_extension(
                x509.KeyUsage(
                    digital_signature=True,
                    content_commitment=False,
                    key_encipherment=False,
                    data_encipherment=False,
                    key_agreement=False,
                    key_cert_sign=True,
                    crl_sign=True,
                    encipher_only=False,
                    decipher_only=False,
                ),
                True,
            )
            .sign(key, hashes.SHA256())
        )
        self._write('ca', ca, key)
        for leaf in LEAVES:
            self._make_leaf(leaf, ca, key)

    def _make_leaf(self, leaf: str, ca: x509.Certificate, signer: Key) -> None:
        key: Key = ec.generate_private_key(ec.SECP256R1())
        names: tuple[str, ...] = GOOD_NAMES
        common, issuer = 'localhost', ca.subject
        begin, end = -DAY, 29 * DAY
        if leaf == 'expired':
            begin, end = -20 * DAY, -DAY
        elif leaf == 'not-yet-valid':
            begin, end = 10 * DAY, 20 * DAY
        elif leaf == 'wrong-host':
            common, names = 'other.example', ('other.example',)
        elif leaf == 'self-signed':
            issuer, signer = _name(common), key
        elif leaf == 'weak-key':
            key = rsa.generate_private_key(65537, 1024)
        elif leaf == 'nul-name':
            common = '127.0.0.1\0.other.example'
            names = ('127.0.0.1\0.other.example', 'localhost\0.example')
        elif leaf == 'client':
            common, names = 'client', ('client.example',)
        usage = oid.ExtendedKeyUsageOID
        purpose = usage.CLIENT_AUTH if leaf == 'client' else usage.SERVER_AUTH
        builder = (
            self._builder(_name(common), issuer, key, begin, end)
            .add_extension(x509.BasicConstraints(False, None), True)
            .add_extension(x509.ExtendedKeyUsage([purpose]), False)
            .add_extension(
                x509.SubjectAlternativeName([_alternative(n) for n in names]),
                False,
            )
        )
        if leaf != 'self-signed':
            builder = builder.add_extension(
                x509.AuthorityKeyIdentifier.from_issuer_public_key(
                    signer.public_key()
                ),
                False,
            )
        self._write(leaf, builder.sign(signer, hashes.SHA256()), key)

    @staticmethod
    def _builder(
        subject: x509.Name,
        issuer: x509.Name,
        key: Key,
        begin: datetime.timedelta,
        end: datetime.timedelta,
    ) -> x509.CertificateBuilder:
        now = datetime.datetime.now(datetime.UTC)
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now + begin)
            .not_valid_after(now + end)
            .add_extension(
                x509.SubjectKeyIdentifier.from_public_key(key.public_key()),
                False,
            )
        )

    def _write(self, name: str, cert: x509.Certificate, key: Key) -> None:
        base = self.directory / name
        pem = serialization.Encoding.PEM
        secret = key.private_bytes(
            pem,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        with open(f'{base}.key', 'wb', opener=_private) as file:
            file.write(secret)
        with open(f'{base}.pem', 'wb') as file:
            file.write(cert.public_bytes(pem))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
