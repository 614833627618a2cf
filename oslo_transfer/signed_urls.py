# SPDX-License-Identifier: Apache-2.0
"""URLs that are signed: the same thing has another one each time.

Who may read it, and for how long, is in the query; what it is, is not. The
ways to sign are those of S3 (Signature Version 4 and 2), CloudFront, Google
Cloud Storage, Swift's TempURL and Azure's shared access signatures, each as
its own manual has it.
"""

from __future__ import annotations

import dataclasses
import typing

if typing.TYPE_CHECKING:
    from oslo_transfer import endpoint as _endpoint


class _Way(typing.NamedTuple):
    """One way to sign.

    :ivar needed: parameters that all of its URLs have, in lower case
    :ivar further: others that say no more than who may read
    """

    needed: frozenset[str]
    further: frozenset[str] = frozenset()


def _way(needed: str, further: str = '') -> _Way:
    return _Way(frozenset(needed.split()), frozenset(further.split()))


_WAYS = (
    _way(
        'x-amz-algorithm x-amz-credential x-amz-signature',
        'x-amz-date x-amz-expires x-amz-security-token x-amz-signedheaders',
    ),
    _way('awsaccesskeyid expires signature', 'x-amz-security-token'),
    _way('key-pair-id signature', 'expires policy'),
    _way(
        'x-goog-algorithm x-goog-credential x-goog-signature',
        'x-goog-date x-goog-expires x-goog-signedheaders',
    ),
    _way('googleaccessid expires signature'),
    _way('temp_url_expires temp_url_sig', 'temp_url_ip_range temp_url_prefix'),
    _way(
        'sig sv',
        'saoid scid se si sip ske skoid sks skt sktid skv sp spr sr srt ss st '
        'suoid',
    ),
)


def unsigned(endpoint: _endpoint.Endpoint) -> _endpoint.Endpoint:
    """The same without what signs its URL: it cannot be read by that.

    :param endpoint: signed or not
    """
    query = endpoint.query
    if query is None or endpoint.origin[0] not in ('http', 'https'):
        return endpoint
    parts = query.split('&')
    names = [part.partition('=')[0].lower() for part in parts]
    dropped: set[str] = set()
    for way in _WAYS:
        if way.needed.issubset(names):
            dropped |= way.needed | way.further
    if not dropped:
        return endpoint
    left = [
        part
        for part, name in zip(parts, names, strict=True)
        if name not in dropped
    ]
    return dataclasses.replace(endpoint, query='&'.join(left) or None)
