# SPDX-License-Identifier: Apache-2.0
"""One version of an image, open while somebody reads it."""

from __future__ import annotations

import collections
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import logging
import threading
import time
import typing

from oslo_transfer.cache import blocks as _blocks
from oslo_transfer import exceptions
from oslo_transfer.service import images as _images
from oslo_transfer.service.proxy import export as _export
from oslo_transfer.service.proxy import records as _records

if typing.TYPE_CHECKING:
    from oslo_transfer.cache import store as _store
    from oslo_transfer.cache import trace as _trace
    from oslo_transfer.drivers import base
    from oslo_transfer.service import cached

LOG = logging.getLogger(__name__)

# Seconds without somebody who wants it anew, until that counts once more.
_TRUSTED = 300.0
# As how many the origin can be opened: any of them will do.
_MOST_USERS = 16


class Opened:
    """One version of an image that the proxy has blocks of. Thread-safe.

    :param kept: its record
    :param images: opens it
    :param store: where its blocks are
    :param block_bytes: size of these
    :ivar shared: its blocks, trace and origin; None while nobody reads it:
        see :meth:`.catalog.Catalog.using`
    :ivar image: what is served; None while nobody reads it
    :ivar used: when somebody last asked for it, by the Unix clock
    """

    def __init__(
        self,
        kept: _records.Kept,
        images: _images.Images,
        store: _store.Store,
        block_bytes: int,
    ) -> None:
        self.kept = kept
        self.shared: _images.Shared | None = None
        self.image: _export.Export | None = None
        self.used = kept.used
        #: Size of a block; the last one may be shorter.
        self.block_bytes = block_bytes
        self._images = images
        self._store = store
        # RLock: what is opened for a moment may be closed by its end.
        self._lock = threading.RLock()
        self._users: dict[str, cached.Record] = {}
        self._holds = 0
        self._gone = False
        self._touched = time.monotonic()
        self._pin: _blocks.Blocks | None = None
        self._here = 0
        self._trusted_until = 0.0
        # What is open, and the counts of what was open before.
        self._counted: tuple[
            _images.Shared | None, collections.Counter[str]
        ] = (None, collections.Counter())

    @property
    def id(self) -> str:
        """Hexadecimal; the same for the same version of the same origin."""
        return self.kept.id

    @property
    def url(self) -> str:
        """Of the origin; never to be shown, for it may be signed."""
        return self.kept.url

    @property
    def where(self) -> str:
        """The same without its secrets."""
        return self.kept.where

    @property
    def size(self) -> int:
        """In bytes."""
        return self.kept.size

    @property
    def pinned(self) -> bool:
        """Whether its blocks are not let go of."""
        return self.kept.pinned

    @property
    def blocks(self) -> int:
        """How many blocks it has."""
        return -(-self.size // self.block_bytes)

    @property
    def here(self) -> int:
        """Bytes of it that are on this host."""
        shared = self.shared
        return self._here if shared is None else shared.here

    @property
    def problem(self) -> str:
        """Why it cannot be fetched or kept just now, or ''."""
        shared = self.shared
        return str((shared is not None and shared.image.error) or '')

    def statistics(self) -> Mapping[str, int]:
        """Counts since the proxy has started.

        They are ``readers`` (of now), ``hits``, ``misses``,
        ``bytes_served`` and ``bytes_fetched``.
        """
        # Both at once: what is being closed is not to be counted twice.
        shared, before = self._counted
        found = collections.Counter(before)
        readers = 0
        if shared is not None:
            now = _counts(shared)
            found.update(now)
            readers = shared.image.statistics()['readers']
        return {
            'readers': readers,
            **{name: found[name] for name in _COUNTS},
        }

    def rename(self, url: str) -> None:
        """It was had by this URL: if that is signed, it holds for longer."""
        with self._lock:
            self.kept = dataclasses.replace(self.kept, url=url)

    def touch(self) -> None:
        """Somebody asks for it."""
        self.used = time.time()
        self._touched = time.monotonic()

    # Open and closed

    def enter(
        self, record: cached.Record, source: base.Source | None = None
    ) -> _export.Export:
        """Have it open, also as this one; blocks for the disk.

        :param source: an open one of this version, which is taken over
        :raises TransferError: it cannot be opened
        """
        with self._lock:
            self.touch()
            known = self.image is not None and record.id in self._users
            if source is not None or not known:
                self._enter(record, source)
            assert self.image is not None
            return self.image

    def _enter(
        self, record: cached.Record, source: base.Source | None
    ) -> None:
        try:
            if self._gone:
                raise exceptions.Unavailable(
                    f'{self.where} is just being forgotten; try again'
                )
            shared = self._images.acquire(record, source)
        except BaseException:
            if source is not None:
                source.close()
            raise
        # Those who came last are at the end.
        self._users.pop(record.id, None)
        self._users[record.id] = record
        if self.shared is None:
            self.shared = shared
            self._counted = shared, self._counted[1]
            self.image = _export.Export(shared.image, self.etag)
        if len(self._users) > _MOST_USERS:
            self.leave(next(iter(self._users)))

    @property
    def etag(self) -> str:
        """Of its version, without quotes."""
        return self.kept.validator[1:-1]

    def leave(self, user: str) -> None:
        """The origin is not to be opened as this one any more.

        The last one stays for those who are reading.
        """
        with self._lock:
            if len(self._users) > 1 and user in self._users:
                assert self.shared is not None
                self._images.release(self.shared, self._users.pop(user))

    @contextlib.contextmanager
    def using(self, record: cached.Record) -> Iterator[_images.Shared]:
        """Have it open while a context lasts.

        :param record: as whom, if it has to be opened
        :raises TransferError: it cannot be opened
        """
        with self._lock:
            if self.shared is None:
                self.enter(record)
            assert self.shared is not None
            shared = self.shared
            self._holds += 1
        try:
            yield shared
        finally:
            with self._lock:
                self._holds -= 1
                self._touched = time.monotonic()

    def close_if_idle(self, seconds: float) -> bool:
        """Close it if nobody has read it for so long; blocks for the disk.

        :returns: whether it was closed just now
        """
        shared = self.shared
        if shared is None or self._is_busy(shared, seconds):
            return False
        with self._lock:
            if self.shared is None or self._is_busy(shared, seconds):
                return False
            self._close()
            return True

    def rest(self, seconds: float) -> None:
        """Have no connection to the origin if nobody has read for so long."""
        shared = self.shared
        if shared is not None and not self._is_busy(shared, seconds):
            shared.image.release_origin()

    def _is_busy(self, shared: _images.Shared, seconds: float) -> bool:
        if self._holds or time.monotonic() < self._touched + seconds:
            return True
        return shared.image.statistics()['readers'] > 0

    def _close(self) -> None:
        shared = self.shared
        if shared is None:
            return
        self._here = shared.here
        users, self._users = self._users, {}
        self.image = None
        for record in users.values():
            self._images.release(shared, record)
        counted = collections.Counter(self._counted[1])
        counted.update(_counts(shared))
        self._counted = None, counted
        self.shared = None

    def retire(self) -> bool:
        """Have nobody open it any more, if nobody has it open now."""
        with self._lock:
            self._gone = self._gone or self.shared is None
            return self._gone

    def close(self) -> None:
        """Close it, whoever reads; blocks for the disk."""
        with self._lock:
            self._close()
            pin, self._pin = self._pin, None
            if pin is not None:
                pin.close()

    # Its blocks

    def pin(self, pinned: bool) -> None:
        """Have its blocks stay, or not; those who know it keep a record.

        What has stayed stays until it is closed for the next time: sockets
        may have pages of it.

        :raises NotFound: it was just forgotten
        :raises TransferError: its blocks cannot be opened
        """
        with self._lock:
            if self._gone:
                raise exceptions.NotFound(f'there is no image {self.id}')
            if pinned and self._pin is None:
                kept = self.kept
                record = kept.asked(kept.id, {})
                blocks = self._store.open(kept.id, kept.size, record.identity)
                blocks.stays = True
                self._pin = blocks
            elif not pinned and self._pin is not None:
                self._pin.close()
                self._pin = None
            self.kept = dataclasses.replace(self.kept, pinned=pinned)

    def evict(self) -> None:
        """Let go of all blocks that nobody is just being sent.

        :raises DetachError: they have to stay
        :raises TransferError: the disk does not work
        """
        with self._lock:
            if self.pinned:
                raise exceptions.DetachError(
                    f'{self.where} is pinned; unpin it first'
                )
            shared = self.shared
            if shared is not None and shared.blocks.stays:
                if self._is_busy(shared, 0.0):
                    raise exceptions.DetachError(
                        f'{self.where} was pinned, and is being read; its '
                        f'blocks can go when nobody reads it'
                    )
                self._close()
            self._store.evict(self.id)
            self._here = 0

    def count(self) -> None:
        """See how much is here of what is closed; blocks for the disk."""
        with self._lock:
            if self.shared is None:
                with self._store.looked_at(self.id) as blocks:
                    self._here = (
                        0
                        if blocks is None
                        else min(
                            blocks.present * blocks.block_bytes, self.size
                        )
                    )

    # Looked at without being used: nothing is opened for it

    def presence(self) -> bytearray:
        """A byte for each block: 1 where it is here; blocks for the disk.

        :raises TransferError: the disk does not work
        """
        shared = self.shared
        if shared is not None:
            return shared.blocks.presence()
        with self._store.looked_at(self.id) as blocks:
            if blocks is None:
                return bytearray(self.blocks)
            return blocks.presence()

    def under_way(self) -> list[int]:
        """The numbers of the blocks that are coming."""
        shared = self.shared
        return [] if shared is None else shared.image.under_way()

    def trace(self) -> _trace.Trace:
        """What is read of it first; blocks for the disk.

        :raises NotFound: nobody has noted that yet
        :raises TransferError: it cannot be read
        """
        return self._images.trace(self.kept.asked(self.id, {}))

    def hot(self) -> bytearray:
        """A byte for each block: 1 where it is of the trace."""
        shared = self.shared
        if shared is not None:
            return shared.hot()
        try:
            return self.trace().blocks(self.size, self.block_bytes)
        except exceptions.TransferError:
            return bytearray(self.blocks)

    def doubt(self) -> None:
        """Have all of it compared with its checksums when it is read next."""
        shared = self.shared
        if shared is not None:
            shared.blocks.doubt(0, self.size)

    def mistrust(self) -> bool:
        """Somebody has found that it is wrong: have it fetched again.

        Those who find that, too, and read on meanwhile, get what comes then.
        Blocks for the disk.

        :returns: whether it is to be fetched again because of this one
        :raises TransferError: the disk does not work
        """
        with self._lock:
            now = time.monotonic()
            trusted, self._trusted_until = (
                now < self._trusted_until,
                now + _TRUSTED,
            )
            shared = self.shared
            if trusted or shared is None:
                return False
            LOG.warning('%s: a reader wants it fetched anew', self.where)
            shared.image.release_origin()
            # What cannot go is compared with its checksum again.
            shared.blocks.doubt(0, self.size)
            if shared.blocks.stays:
                shared.blocks.forget(range(shared.blocks.count))
            else:
                self._store.evict(self.id)
            return True


_COUNTS = ('hits', 'misses', 'bytes_served', 'bytes_fetched')


def _counts(shared: _images.Shared) -> dict[str, int]:
    found = shared.image.statistics()
    return {
        # What was missed is claimed again when it has come.
        'hits': max(0, found['hits'] - found['misses']),
        'misses': found['misses'],
        'bytes_served': found['bytes_claimed'],
        'bytes_fetched': found['bytes_fetched'],
    }
