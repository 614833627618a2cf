# SPDX-License-Identifier: Apache-2.0
"""What Nova, Cinder and Glance hand to a transfer, and expect of it."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
import time

from cryptography import exceptions as crypto

from oslo_transfer import exceptions
from tests.servers import resource

#: Large enough for several buffers, and for several streams.
IMAGE = resource.pattern(6 << 20, seed=1)
#: As long, and other bytes.
CORRUPT = bytes(1 << 20) + IMAGE[1 << 20 :]


class ImageNotFound(Exception):
    """As in nova.exception and cinder.exception."""


class Verifier:
    """What cursive gives: fed in order, it judges the whole at the end."""

    def __init__(self, signed):
        self._signed = hashlib.sha256(signed).digest()
        self._hash = hashlib.sha256()
        self.seen = 0
        self.verified = False

    def update(self, data):
        """The next bytes."""
        self._hash.update(data)
        self.seen += len(data)

    def verify(self):
        """Raise unless the bytes are the signed ones."""
        if self._hash.digest() != self._signed:
            raise crypto.InvalidSignature('Signature verification failed')
        self.verified = True


class Judge:
    """Lets a verifier judge at the last byte, while it can still stop it."""

    def __init__(self, verifier, size):
        self._verifier = verifier
        self._left = size

    def update(self, data):
        """Pass the bytes on."""
        self._verifier.update(data)
        self._left -= len(data)
        if not self._left:
            self._verifier.verify()


def image(*urls, data=IMAGE, **fields):
    """The dictionary of an image, as Nova's and Cinder's show() gives it."""
    return {
        'size': len(data),
        'disk_format': 'raw',
        'checksum': hashlib.md5(data, usedforsecurity=False).hexdigest(),
        'os_hash_algo': 'sha512',
        'os_hash_value': hashlib.sha512(data).hexdigest(),
        'locations': [{'url': url, 'metadata': {}} for url in urls],
        **fields,
    }


def facts(meta):
    """What copy() is told of an image."""
    return {
        'expected_size': meta['size'],
        'hash_algo': meta['os_hash_algo'],
        'hash_value': meta['os_hash_value'],
    }


@contextlib.contextmanager
def remove_path_on_error(path):
    """That of oslo_utils.fileutils."""
    try:
        yield
    except Exception:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
        raise


def uploads(server):
    """What a server has taken completely, once nobody sends any more."""
    end = time.monotonic() + 5
    while server.connections.open and time.monotonic() < end:
        threading.Event().wait(0.005)
    assert not server.connections.open
    return server.uploads


def attempts(error):
    """The locations that were given up, with the class of the error."""
    assert isinstance(error, exceptions.TransferError)
    return [
        (each.location, each.error) for each in error.attempts if each.location
    ]
