# SPDX-License-Identifier: Apache-2.0
"""URLs that are signed: the same thing has another one each time.

Who may read it, and for how long, is in the query; what it is, is not. The
ways to sign are those of S3 (Signature Version 4 and 2), CloudFront, Google
Cloud Storage, Swift's TempURL and Azure's shared access signatures, each as
its own manual has it.
"""

from __future__ import annotations

import dataclasses
import re
import typing

if typing.TYPE_CHECKING:
    from oslo_transfer import endpoint as _endpoint


class _Way(typing.NamedTuple):
    """One way to sign.

    :ivar needed: parameters that all of its URLs have, in lower case
    :ivar further: others that say no more than who may read
    :ivar account: begins with the account that has signed
    """

    needed: frozenset[str]
    further: frozenset[str]
    account: str


def _way(needed: str, further: str = '', account: str = '') -> _Way:
    return _Way(frozenset(needed.split()), frozenset(further.split()), account)


# With it an account is made up for each login, and ends.
_TEMPORARY = 'x-amz-security-token'
# Others than AWS have buckets of the same name in several accounts.
_WAYS = (
    _way(
        'x-amz-algorithm x-amz-credential x-amz-signature',
        f'x-amz-date x-amz-expires x-amz-region-set x-amz-s3session-token '
        f'x-amz-signedheaders {_TEMPORARY}',
        'x-amz-credential',
    ),
    _way('awsaccesskeyid expires signature', _TEMPORARY, 'awsaccesskeyid'),
    _way('key-pair-id signature', 'expires hash-algorithm policy'),
    _way(
        'x-goog-algorithm x-goog-credential x-goog-signature',
        'x-goog-date x-goog-expires x-goog-signedheaders',
    ),
    _way('googleaccessid expires signature'),
    _way('temp_url_expires temp_url_sig', 'temp_url_ip_range temp_url_prefix'),
    *(
        _way(
            f'sig sv {needed}',
            'saoid scid sdd se ses si sip ske skoid sks skt sktid skv sp spr '
            'sr srt ss st suoid',
        )
        for needed in ('se sp', 'si')
    ),
)
_ACCOUNT_END = re.compile('/|%2f', re.IGNORECASE)


def unsigned(endpoint: _endpoint.Endpoint) -> _endpoint.Endpoint:
    """The same without what signs its URL: it cannot be read by that.

    :param endpoint: signed or not
    """
    query = endpoint.query
    if query is None or endpoint.origin[0] not in ('http', 'https'):
        return endpoint
    parts = [part.partition('=') for part in query.split('&')]
    names = {name.lower() for name, _mark, _value in parts}
    dropped: set[str] = set()
    kept: set[str] = set()
    for way in _WAYS:
        if way.needed <= names:
            dropped |= way.needed | way.further
            if _TEMPORARY not in names:
                kept.add(way.account)
    if not dropped:
        return endpoint
    left = []
    for name, mark, value in parts:
        if name.lower() in kept:
            value = _ACCOUNT_END.split(value)[0]
        elif name.lower() in dropped:
            continue
        left.append(f'{name}{mark}{value}')
    return dataclasses.replace(endpoint, query='&'.join(left) or None)
