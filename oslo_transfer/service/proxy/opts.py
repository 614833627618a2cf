# SPDX-License-Identifier: Apache-2.0
"""Options of the role ``proxy``; listing them imports nothing else."""

from __future__ import annotations

from oslo_config import cfg
from oslo_config import types

GROUP = 'oslo_transfer_proxy'

_MOST = 1 << 60
_WEEK = 7 * 24 * 3600.0

OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.HostAddressOpt(
        'listen_address',
        default='127.0.0.1',
        help='Address at which the proxy is asked; :: for all addresses of '
        'the host.',
    ),
    cfg.PortOpt(
        'http_port',
        default=0,
        sample_default=8480,
        help='TCP port of the proxy for HTTP: images as '
        '/SCHEME/HOST:PORT/PATH of their origin or as /images/NAME, the '
        'control API, /metrics, and the status page. 0 means that it has '
        'none.',
    ),
    cfg.PortOpt(
        'nbd_port',
        default=0,
        sample_default=10809,
        help='TCP port of the proxy for NBD; the name of an export is the '
        'URL of the origin, or one of names. 0 means that it has none. '
        'With tokens_file it needs ca_file: NBD has no tokens.',
    ),
    cfg.StrOpt(
        'cert_file',
        help='PEM file with the certificate of these two ports, and those '
        'between it and the CA: they have TLS then, and nothing else. This '
        'file, key_file and ca_file are read again when they change, with '
        'the next connection.',
    ),
    cfg.StrOpt(
        'key_file',
        help='PEM file with the key. Unset means that it is in cert_file.',
    ),
    cfg.StrOpt(
        'ca_file',
        help='PEM file with CA certificates: only clients with a certificate '
        'of one of them get in. Needs cert_file.',
    ),
    cfg.StrOpt(
        'directory',
        sample_default='/var/lib/oslo-transfer/proxy',
        help='Where blocks of images are kept. Unset means "proxy" in the '
        'state_path of [oslo_transfer]. One process has it at a time.',
    ),
    cfg.IntOpt(
        'max_bytes',
        default=0,
        min=0,
        max=_MOST,
        help='The most bytes of disk that these blocks take. Those that were '
        'not read for the longest time go first; those being read, and those '
        'of pinned images, never. Where nothing can go, images are served on '
        'without keeping more. 0 means as much as the file system has.',
    ),
    cfg.ListOpt(
        'origins',
        default=[],
        mutable=True,
        help='What may be asked for: URLs, each with all below it '
        '(http://images.example/public/). Everything else is refused, so '
        'that nobody reaches through the proxy what he could not reach '
        'himself. What is listed is trusted: it may be on any network. Empty '
        'means that everything is refused but the names.',
    ),
    cfg.Opt(
        'names',
        type=types.Dict(),
        default={},
        mutable=True,
        help='Names by which images can be asked for, with their URLs: '
        'NAME:URL. They need not be in origins.',
    ),
    cfg.StrOpt(
        'origin_identity',
        default='caller',
        choices=[
            (
                'caller',
                'the Authorization and X-Auth-Token of the one who asks are '
                'passed on; each gets only what the origin gives to him, '
                'also of what is here already',
            ),
            (
                'own',
                'the headers of origin_headers_file are sent; who may ask '
                'the proxy may read all that it may',
            ),
            ('none', 'nothing is sent: for origins that anybody may read'),
        ],
        help='As whom the origin is asked.',
    ),
    cfg.StrOpt(
        'origin_headers_file',
        help='File with the headers that are sent to origins where '
        'origin_identity is own: lines of "Name: value". It is read again '
        'when it changes. It is sent to every one of origins and names, '
        'never to others that they redirect to.',
    ),
    cfg.FloatOpt(
        'grant_seconds',
        default=60.0,
        min=0.0,
        max=_WEEK,
        mutable=True,
        help='Seconds for which the answer of the origin holds: that '
        'this one may read the image, and which version it has. Then the '
        'origin is asked again, with the next request. 0 means that it is '
        'asked with each.',
    ),
    cfg.FloatOpt(
        'stale_seconds',
        default=3600.0,
        min=0.0,
        max=_WEEK,
        mutable=True,
        help='Seconds for which it holds longer while the origin cannot be '
        'reached: what is here is served on to those who had it. 0 '
        'means not at all.',
    ),
    cfg.FloatOpt(
        'idle_seconds',
        default=600.0,
        min=1.0,
        max=_WEEK,
        mutable=True,
        help='Seconds after which an image that nobody reads is closed: it '
        'takes no memory and no connection then. Its blocks stay.',
    ),
    cfg.ListOpt(
        'upstreams',
        default=[],
        help='Other proxies to be asked before the origin, in this order, by '
        'their base URLs (http://proxy.example:8480). One that does not '
        'answer is passed over for a while. They must not ask each other in '
        'a circle.',
    ),
    cfg.StrOpt(
        'upstream_token_file',
        help='File with the token to show to upstreams. It is read again '
        'when it changes.',
    ),
    cfg.StrOpt(
        'tokens_file',
        help='File with the tokens of those who may read images, one on a '
        'line; empty lines and those with # are passed over. It is read '
        'again when it changes. Clients send "Proxy-Authorization: Bearer '
        'TOKEN". Unset means that whoever can connect may.',
    ),
    cfg.StrOpt(
        'admin_tokens_file',
        help='As tokens_file, for those who may use the control API over TCP '
        '("Authorization: Bearer TOKEN"); they may read images, too. Unset '
        'means that the control API changes nothing over TCP, and shows '
        'what there is to those who may read images.',
    ),
    cfg.IntOpt(
        'max_connections',
        default=1000,
        min=1,
        max=100000,
        help='The most connections of clients at once, of HTTP and of NBD '
        'each. A further one of HTTP takes the place of one that is idle; if '
        'there is none it is closed. So is a further one of NBD: behind one '
        'that is quiet there may be a guest.',
    ),
    cfg.IntOpt(
        'fetch_bytes_per_second',
        default=0,
        min=0,
        max=_MOST,
        mutable=True,
        help='The most bytes per second that are fetched, from all origins '
        'together. 0 means no limit.',
    ),
    cfg.IntOpt(
        'origin_bytes_per_second',
        default=0,
        min=0,
        max=_MOST,
        mutable=True,
        help='The most bytes per second that are fetched from one origin. 0 '
        'means no limit.',
    ),
)
