# SPDX-License-Identifier: Apache-2.0
"""A certificate for this host that signs itself."""

from __future__ import annotations

import datetime
import ipaddress
import pathlib

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives import serialization
from cryptography import x509
from cryptography.x509 import oid


def make(directory: pathlib.Path) -> tuple[pathlib.Path, pathlib.Path]:
    """Write files for the server, with the key, and for clients."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name(
        [x509.NameAttribute(oid.NameOID.COMMON_NAME, 'localhost')]
    )
    now = datetime.datetime.now(datetime.UTC)
    hour = datetime.timedelta(hours=1)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - hour)
        .not_valid_after(now + hour)
        .add_extension(
            x509.SubjectAlternativeName(
                [
                    x509.DNSName('localhost'),
                    x509.IPAddress(ipaddress.ip_address('127.0.0.1')),
                ]
            ),
            False,
        )
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
    )
    pem = certificate.public_bytes(serialization.Encoding.PEM)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    for_server = directory / 'server.pem'
    for_clients = directory / 'ca.pem'
    for_server.touch(0o600)
    for_server.write_bytes(private + pem)
    for_clients.write_bytes(pem)
    return for_server, for_clients
