# SPDX-License-Identifier: Apache-2.0
"""TLS contexts that verify."""

from __future__ import annotations

import ssl

from oslo_transfer import exceptions


def client_context(
    group: str,
    ca_file: str | None,
    cert_file: str | None = None,
    key_file: str | None = None,
) -> ssl.SSLContext:
    """What a client needs to verify a server, and to show who it is.

    :param group: the configuration group of the options, for messages
    :param ca_file: CA certificates; None for those of the system
    :param cert_file: a client certificate, or None
    :param key_file: its key; None if it is in the same file
    :raises ConfigurationError: a file cannot be used
    """
    try:
        context = ssl.create_default_context(cafile=ca_file)
        # Some builds of Python take a cut-off connection for its end.
        context.options &= ~getattr(ssl, 'OP_IGNORE_UNEXPECTED_EOF', 0)
        if cert_file:
            context.load_cert_chain(cert_file, key_file)
    except (OSError, ssl.SSLError) as exc:
        raise exceptions.ConfigurationError(
            f'[{group}] ca_file, cert_file or key_file cannot be used: {exc}'
        ) from exc
    return context


def server_context(
    group: str,
    cert_file: str,
    key_file: str | None = None,
    ca_file: str | None = None,
) -> ssl.SSLContext:
    """What a server needs to show who it is, and to know its clients.

    :param group: the configuration group of the options, for messages
    :param cert_file: its certificate, and those between it and the CA's
    :param key_file: the key; None if it is in the same file
    :param ca_file: CA certificates of clients: without one of theirs
        nobody gets in. None to take everybody
    :raises ConfigurationError: a file cannot be used
    """
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(cert_file, key_file)
        if ca_file:
            context.load_verify_locations(ca_file)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as exc:
        raise exceptions.ConfigurationError(
            f'[{group}] cert_file, key_file or ca_file cannot be used: {exc}'
        ) from exc
    return context
