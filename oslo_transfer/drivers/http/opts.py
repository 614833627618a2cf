# SPDX-License-Identifier: Apache-2.0
"""Options of the HTTP driver; apart, so that listing them imports less."""

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
        help='File with a client certificate in PEM form. It is shown only '
        'to the host that a URL names, not to where it redirects.',
    ),
    cfg.StrOpt(
        'key_file',
        help="File with the client certificate's key. Unset means that it "
        'is in cert_file.',
    ),
    cfg.StrOpt(
        'netrc_file',
        help='File in netrc form with logins by host. Unset means none: '
        'the one in the home directory is never read by itself.',
    ),
    cfg.StrOpt(
        'http_proxy',
        secret=True,
        help='Proxy for http URLs, for example http://proxy.example:3128. '
        'The environment is never looked at.',
    ),
    cfg.StrOpt(
        'https_proxy',
        secret=True,
        help='Proxy for https URLs, by CONNECT.',
    ),
    cfg.ListOpt(
        'no_proxy',
        default=[],
        help='Hosts, domains with a leading dot, or networks (CIDR) that '
        'are reached without a proxy.',
    ),
    cfg.IntOpt(
        'max_redirects',
        default=5,
        min=0,
        max=20,
        help='How many redirects are followed.',
    ),
)
