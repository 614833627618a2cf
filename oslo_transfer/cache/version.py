# SPDX-License-Identifier: Apache-2.0
"""Which version of an image blocks belong to, and their place in a store."""

from __future__ import annotations

import hashlib
import json
import re

from oslo_transfer.drivers import base
from oslo_transfer import exceptions

_KEY = 32
# An ETag that any header can have.
_TAG = re.compile(r'"[\x21\x23-\x7e]*"')


def size_of(
    source: base.Source,
    where: str,
    digest: str | None,
    *,
    empty: bool = False,
) -> int:
    """The size of what can be read in blocks.

    :param where: names it in errors
    :param digest: that it is known to have, or None
    :param empty: it may be, too
    :raises CapabilityMissing: it cannot be
    """
    if source.size == 0 and not empty:
        raise exceptions.CapabilityMissing(
            f'{where} is empty: there is nothing to be cached'
        )
    if source.size is None or (
        source.size and base.Capability.RANDOM_READ not in source.capabilities
    ):
        raise exceptions.CapabilityMissing(
            f'{where} cannot be read at any place, or does not tell its size'
        )
    if source.validator is None and not (digest or source.in_place):
        raise exceptions.CapabilityMissing(
            f'{where} has nothing to tell one version from another by: what '
            f'is read now and later need not belong together, and no digest '
            f'is given'
        )
    return source.size


def identity(
    size: int,
    validator: base.Validator | None,
    digest: str | None,
    salt: str,
) -> bytes:
    """Tells one version of an image from all others; 32 bytes.

    :param salt: stands for a use of it. Without a validator or digest blocks
        of two uses need not fit together.
    """
    version = validator.value if validator is not None else digest or salt
    strong = validator is not None and validator.strong
    told = json.dumps([size, version, strong, digest])
    return hashlib.sha256(told.encode()).digest()


def key(location: str, version: bytes) -> str:
    """The name of a version of an image in a store.

    :param location: tells its location from others
    :param version: its :func:`identity`
    """
    told = hashlib.sha256(location.encode() + b'\0' + version)
    return told.hexdigest()[:_KEY]


def as_etag(source: base.Source, where: str) -> base.Validator:
    """What tells versions of an origin apart, as an ETag.

    A proxy tells its clients this, and everybody who reads the origin by a
    proxy or without has to name a version alike.

    :param where: names it in errors
    :raises CapabilityMissing: it has nothing
    """
    found = source.validator
    if found is None or source.size is None:
        raise exceptions.CapabilityMissing(
            f'{where} does not tell its size, or has nothing to tell one '
            f'version from another by'
        )
    if found.strong and _TAG.fullmatch(found.value):
        return found
    version = identity(source.size, found, None, '')
    return base.Validator(f'"{version.hex()}"', strong=True)
