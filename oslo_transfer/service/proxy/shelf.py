# SPDX-License-Identifier: Apache-2.0
"""The images that a proxy has blocks of: open while somebody reads them."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import logging
import threading
import time
import typing

from oslo_transfer import exceptions
from oslo_transfer.service.proxy import opened as _opened
from oslo_transfer.service.proxy import records as _records

if typing.TYPE_CHECKING:
    from oslo_transfer.cache import store as _store
    from oslo_transfer.drivers import base
    from oslo_transfer.service import images as _images

LOG = logging.getLogger(__name__)

Opened = _opened.Opened

# Seconds after which one that nobody reads needs no connection, and the most
# images that are open without being read.
_REST, _MOST_OPEN = 10.0, 256
# And that are known: one who makes up URLs could have more than there is
# memory for.
_MOST_KNOWN = 10000


class Shelf:
    """Knows them, and closes those that nobody reads. Thread-safe.

    :param records: of what there is; not owned
    :param store: where their blocks are; not owned
    :param images: opens them
    :param block_bytes: size of blocks
    :param on_forgotten: told of each that is known no more; its record goes
        when that returns
    """

    def __init__(
        self,
        records: _records.Records,
        store: _store.Store,
        images: _images.Images,
        block_bytes: int,
        on_forgotten: Callable[[Opened], None],
    ) -> None:
        self._records = records
        self._store = store
        self._opens = images
        self._block_bytes = block_bytes
        self._on_forgotten = on_forgotten
        self._lock = threading.Lock()
        self._images: dict[str, Opened] = {}
        self._evicted = 0

    def load(self) -> None:
        """Know what the process before has kept.

        :raises TransferError: the records cannot be read
        """
        for kept in self._records.load():
            if not kept.pinned and self._store.identity_of(kept.id) is None:
                self._records.remove(kept.id)
                continue
            made = self._make(kept)
            self._images[kept.id] = made
            try:
                if kept.pinned:
                    made.pin(True)
            except exceptions.TransferError as exc:
                LOG.warning('%s: %s', kept.where, exc)

    def _make(self, kept: _records.Kept) -> Opened:
        return Opened(kept, self._opens, self._store, self._block_bytes)

    def know(self, identifier: str, url: str, source: base.Source) -> Opened:
        """The image that was found at an origin.

        :param source: open, and of the version that it is about
        """
        assert source.size is not None and source.validator is not None
        with self._lock:
            found = self._images.get(identifier)
        if found is not None:
            found.rename(url)
            return found
        kept = _records.Kept(
            identifier,
            url,
            source.size,
            source.validator.value,
            used=time.time(),
        )
        with self._lock:
            if identifier not in self._images:
                try:
                    self._records.add(kept)
                except exceptions.TransferError as exc:
                    # It is forgotten with the process then.
                    LOG.warning('%s: %s', kept.where, exc)
                self._images[identifier] = self._make(kept)
            return self._images[identifier]

    def all(self) -> list[Opened]:
        """Those of which there are blocks, those used last first."""
        with self._lock:
            found = list(self._images.values())
        return sorted(found, key=lambda each: each.used, reverse=True)

    def get(self, identifier: str) -> Opened:
        """One of them.

        :raises NotFound: there is none
        """
        with self._lock:
            found = self._images.get(identifier)
        if found is None:
            raise exceptions.NotFound(f'there is no image {identifier}')
        return found

    def evict(self, opened: Opened) -> None:
        """Let go of all blocks of one that nobody is just being sent.

        :raises DetachError: it is pinned
        :raises TransferError: the disk does not work
        """
        opened.evict()
        self._forget_empty(opened)

    def pin(self, opened: Opened, pinned: bool) -> None:
        """Say whether the blocks of one stay, also over a restart.

        :raises TransferError: that cannot be noted
        """
        opened.pin(pinned)
        self._records.save(opened.kept)

    # Life

    def count(self, stop: threading.Event) -> None:
        """See what the process before has left; it may be much."""
        for each in self.all():
            if stop.is_set():
                return
            try:
                each.count()
            except exceptions.TransferError as exc:
                LOG.warning('%s: %s', each.where, exc)

    def close_idle(self, seconds: float) -> None:
        """Close those that nobody has read for so long.

        And if there are many, others that nobody reads: those that were not
        used for the longest time. Where far too many are known, nothing is
        kept of these. Blocks for the disk.
        """
        opened = [each for each in self.all() if each.shared is not None]
        for number, each in enumerate(opened):
            many = number >= _MOST_OPEN
            if each.close_if_idle(0.0 if many else seconds):
                self._save(each)
                self._forget_empty(each)
            else:
                each.rest(_REST)
        for each in self.all()[_MOST_KNOWN:]:
            if each.shared is None and not each.pinned:
                self.evict(each)

    def sweep(self) -> None:
        """Keep traces, and see what was evicted of those that are closed."""
        evicted = self._store.statistics()['blocks_evicted']
        for each in self.all():
            shared = each.shared
            if shared is not None:
                shared.save_trace()
            elif evicted != self._evicted:
                each.count()
                self._forget_empty(each)
        self._evicted = evicted

    def _save(self, opened: Opened) -> None:
        kept = dataclasses.replace(opened.kept, used=opened.used)
        try:
            self._records.save(kept)
        except exceptions.TransferError as exc:
            LOG.warning('%s: %s', opened.where, exc)

    def _forget_empty(self, opened: Opened) -> None:
        """Know nothing of what nobody reads, and nothing is here of."""
        if opened.here or opened.pinned or not opened.retire():
            return
        self._on_forgotten(opened)
        with self._lock:
            if self._images.get(opened.id) is opened:
                del self._images[opened.id]
                self._records.remove(opened.id)

    def close(self) -> None:
        """Close all, whoever reads; blocks for the disk."""
        for each in self.all():
            try:
                each.close()
                self._save(each)
            except exceptions.TransferError as exc:
                LOG.warning('%s: %s', each.where, exc)
