# SPDX-License-Identifier: Apache-2.0
"""Options of the NBD driver; apart, so that listing them imports less."""

from __future__ import annotations

from oslo_config import cfg

GROUP = 'oslo_transfer_nbd'

OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        'ca_file',
        help='File with the CA certificates that servers of nbds URLs are '
        'verified against. Unset means those of the system. The name in a '
        "server's certificate has to be the host of the URL, or localhost "
        'where the URL names a socket.',
    ),
    cfg.StrOpt(
        'cert_file',
        help='File with a client certificate in PEM form, for nbds: the '
        'only way in which NBD tells one client from another.',
    ),
    cfg.StrOpt(
        'key_file',
        help="File with the client certificate's key. Unset means that it "
        'is in cert_file.',
    ),
)
