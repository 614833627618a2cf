# SPDX-License-Identifier: Apache-2.0
"""Options of the FTP driver; apart, so that listing them imports less."""

from __future__ import annotations

from oslo_config import cfg

OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        'ca_file',
        help='File with the CA certificates that servers are verified '
        'against. Unset means those of the system.',
    ),
    cfg.StrOpt(
        'cert_file',
        help='File with a client certificate in PEM form, for ftps.',
    ),
    cfg.StrOpt(
        'key_file',
        help="File with the client certificate's key. Unset means that it "
        'is in cert_file.',
    ),
)
