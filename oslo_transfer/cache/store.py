# SPDX-License-Identifier: Apache-2.0
"""A directory with the blocks of many objects; one process has it.

It holds a file ``lock``, and for each object a directory of its key's name
with the files ``data`` and ``map``. Those that are of no use, such as ones
of another version of this library, are removed. Whatever else is there is
left alone; and a directory that has other things but no ``lock`` is refused.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import os
import threading
import time

from oslo_transfer.cache import blockmap
from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import flusher
from oslo_transfer.cache import owner as _owner
from oslo_transfer.cache import places
from oslo_transfer.cache import room as _room
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors

# A disk that cannot be written must not keep anybody from reading.
_UNWRITABLE = (
    exceptions.AccessDenied,
    exceptions.NoSpace,
    exceptions.StorageError,
)
# Seconds for which a client that was cut off may still read what its socket
# has: pages of a data file, where they were sent as they are. A hole would
# make zeros of them; a file that is removed leaves them as they are.
_SENT = 60.0


class _Held:
    """An object that is open, and how many use it."""

    image: _blocks.Blocks

    def __init__(self, store: Store, key: str, fixed_until: float) -> None:
        self._store = store
        self._key = key
        self.now = store.now
        self.fixed_until = fixed_until
        self.users = 0

    def room(
        self, image: _blocks.Blocks, length: int
    ) -> contextlib.AbstractContextManager[None]:
        return self._store.room(image, length)

    def release(self) -> None:
        self._store.release(self._key)


class Store:
    """Keeps blocks of objects in a directory. Thread-safe.

    Where the directory cannot be written nothing is kept, and everything
    else goes on; :meth:`statistics` says so.

    :param directory: made if it is not there
    :param quota_bytes: the most bytes of disk to take; 0 for no limit
    :param block_bytes: size of the blocks of objects that are new
    :param owner: where this process can be talked to, for those who find
        the directory in use
    :raises Unavailable: another process has it
    :raises ConfigurationError: it is used for something else
    :raises TransferError: it cannot be read
    """

    def __init__(
        self,
        directory: str,
        *,
        quota_bytes: int,
        block_bytes: int = 64 * 1024,
        owner: str = '',
    ) -> None:
        self._directory = os.path.abspath(directory)
        self._block_bytes = block_bytes
        self._quota = quota_bytes
        # Who is open, and who is not used: those last used last. What is
        # only scrubbed is both. RLock: what nobody has open is let go of
        # while it is held.
        self._lock = threading.RLock()
        self._held: dict[str, _Held] = {}
        self._idle: dict[str, blockmap.Header] = {}
        # When to make holes again in what was sent, by this process, and
        # maybe by the one before.
        self._sent: dict[str, float] = {}
        self._sent_before: dict[str, float] = {}
        self._room = _room.Room(quota_bytes or None, self._lock, self._spare)
        #: See :class:`oslo_transfer.cache.clock.Clock`.
        self.now = self._room.now
        self._damaged = 0
        self._flusher = flusher.Flusher(self._open_images, self._room.failed)
        self._owned: _owner.Lock | None = None
        try:
            self._owned = _owner.Lock(self._directory, owner)
        except _UNWRITABLE as exc:
            self._room.failed(exc)
        try:
            if self._owned is not None:
                self._look()
            self._flusher.start()
        except BaseException:
            if self._owned is not None:
                self._owned.close()
            raise

    def _look(self) -> None:
        self._idle = places.find(self._directory)
        until = time.monotonic() + _SENT
        self._sent_before = dict.fromkeys(self._idle, until)
        for key in self._idle:
            self._measure(key)
        # One that died may have left more than is allowed.
        self._room.shrink()

    def _path(self, key: str) -> str:
        return os.path.join(self._directory, key)

    def _measure(self, key: str) -> None:
        path = self._path(key)
        self._room.measure(
            os.path.join(path, places.DATA), places.disk_bytes(path)
        )

    def _remove(self, key: str) -> None:
        self._idle.pop(key, None)
        self._sent.pop(key, None)
        self._sent_before.pop(key, None)
        places.remove(self._path(key))
        self._measure(key)

    # Objects

    def open(self, key: str, size: int, identity: bytes) -> _blocks.Blocks:
        """Have the blocks of an object; to be given back by its ``close()``.

        Blocks of another version are removed. Where nothing can be written
        there are none, and none can be put.

        :param key: names the object: letters, digits, and ``._-``
        :param size: in bytes
        :param identity: 32 bytes that tell its versions apart
        :raises Unavailable: another version is in use
        """
        if not places.is_key(key):
            raise ValueError(f'{key!r} is no key of an object')
        return self._open(
            key, blockmap.Header(self._block_bytes, size, identity)
        )

    def _open(self, key: str, header: blockmap.Header) -> _blocks.Blocks:
        with self._lock:
            held = self._join(key, header)
            image = held.image
            if (image.size, image.identity) != header[1:]:
                raise exceptions.Unavailable(
                    f'another version of {key} is in use'
                )
            self._idle.pop(key, None)
            held.users += 1
            return image

    def _join(self, key: str, header: blockmap.Header) -> _Held:
        held = self._held.get(key)
        if held is None:
            held = self._held[key] = self._make(key, header)
        return held

    def _make(self, key: str, header: blockmap.Header) -> _Held:
        size, identity = header.size, header.identity
        held = _Held(self, key, self._sent.get(key, 0.0))
        if self._owned is not None:
            try:
                held.image = _blocks.Blocks(
                    self._path(key), size, header.block_bytes, identity, held
                )
                self._room.join(held.image)
                return held
            except _UNWRITABLE as exc:
                self._room.failed(exc)
        held.image = _blocks.Blocks(
            None, size, header.block_bytes, identity, held
        )
        return held

    def identity_of(self, key: str) -> bytes | None:
        """Which version of an object there is; None if there is none."""
        with self._lock:
            held = self._held.get(key)
            if held is not None:
                return held.image.identity
            header = self._idle.get(key)
            return header.identity if header is not None else None

    def take(self, key: str, path: str) -> None:
        """Give the data file of an open object away, under another name.

        It counts no more; whoever has it open reads on, and closes it. The
        next one who opens the object begins with nothing.

        :param path: on the file system of the store; what is there is
            replaced
        :raises TransferError: it is not durable, or cannot be renamed
        """
        with self._lock:
            image = self._held[key].image
            before = image.path
            with oserrors.os_errors(f'making {os.path.dirname(path)}'):
                os.makedirs(os.path.dirname(path), 0o700, exist_ok=True)
                # With its name, too, should it be new.
                localfs.sync_directory(os.path.dirname(os.path.dirname(path)))
            image.give_away(path)
            self._room.leave(image)
            self._room.measure(before, 0)
            del self._held[key]
            self._remove(key)

    @property
    def taken(self) -> str:
        """A directory that objects may be taken to: what is there stays."""
        return os.path.join(self._directory, places.TAKEN)

    def discard(self, key: str) -> None:
        """Remove an object that nobody has open; idempotent."""
        with self._lock:
            if key not in self._held:
                self._remove(key)

    def evict(self, key: str) -> None:
        """Let go of all blocks of an object that nobody just uses.

        :raises TransferError: the disk does not work
        """
        with self._lock:
            held = self._held.get(key)
            if held is None:
                self._remove(key)
                return
            image = held.image
            self._room.evicted += image.evict(range(image.count))
            self._room.measure(image.path, image.disk_bytes)

    @contextlib.contextmanager
    def looked_at(self, key: str) -> Iterator[_blocks.Blocks | None]:
        """Have an object open, if there is one; that is no use of it.

        :raises TransferError: it cannot be opened
        """
        held = self._look_at(key)
        if held is None:
            yield None
            return
        try:
            yield held.image
        finally:
            self.release(key)

    def _look_at(self, key: str) -> _Held | None:
        with self._lock:
            held, header = self._held.get(key), self._idle.get(key)
            if held is None:
                if header is None:
                    return None
                held = self._join(key, header)
            held.users += 1
            return held

    def release(self, key: str) -> None:
        """One who has opened an object does not need it any more.

        The last one makes it durable, and closes it.
        """
        with self._lock:
            held = self._held.get(key)
            if held is None:
                return  # The store was closed.
            held.users -= 1
            if not held.users:
                self._shut(key)

    def _shut(self, key: str) -> None:
        image = self._held.pop(key).image
        used = time.time()
        if key in self._idle:
            used = places.used(self._path(key))  # It was only scrubbed.
        elif image.stays:
            self._sent[key] = time.monotonic() + _SENT
        try:
            image.flush()
        except exceptions.TransferError as exc:
            self._room.failed(exc)
        self._room.leave(image)
        image.shut()
        self._damaged += image.damaged
        header = places.header_of(self._path(key))
        if header is None:
            self._remove(key)  # It was given away.
        else:
            self._idle[key] = header
            places.touch(self._path(key), used)
            self._measure(key)

    def _open_images(self) -> list[_blocks.Blocks]:
        with self._lock:
            return [held.image for held in self._held.values()]

    # What an object asks for

    @contextlib.contextmanager
    def room(self, image: _blocks.Blocks, length: int) -> Iterator[None]:
        """As an :class:`~oslo_transfer.cache.blocks.Owner` has it."""
        with self._room.taken(image, length):
            yield
        self._flusher.put()

    def _spare(self, excess: int, whole: bool) -> None:
        """Let go of blocks that nobody has open, the oldest objects first.

        :param whole: take an object where only a part should go, and cannot
        """
        for key, header in [*self._idle.items()]:
            if excess <= 0:
                break
            if key in self._held:
                continue
            size = places.disk_bytes(self._path(key))
            if size <= excess or whole:
                self._remove(key)
                self._room.evicted += size // header.block_bytes
                excess -= size
            elif time.monotonic() >= max(
                self._sent.get(key, 0.0), self._sent_before.get(key, 0.0)
            ):
                excess -= self._spare_from(key, header, excess)

    def _spare_from(
        self, key: str, header: blockmap.Header, excess: int
    ) -> int:
        freed = 0
        try:
            image = _blocks.Blocks(
                self._path(key),
                header.size,
                header.block_bytes,
                header.identity,
            )
            with contextlib.closing(image):
                freed = self._room.evict_from(image, excess)
                empty = not image.present
        except exceptions.TransferError as exc:
            self._room.failed(exc)
            empty = False
        if empty:
            self._remove(key)
        return freed

    # Looking after it

    def scrub(self, stop: threading.Event, rate: int | None = None) -> int:
        """Compare all blocks with their checksums, as they are on the disk.

        Those that are damaged are gone, and are fetched again when they are
        needed. Blocks until it is done, or told to stop.

        :param rate: bytes per second to read, at most
        :returns: how many were damaged
        """
        with self._lock:
            keys = {*self._idle, *self._held}
        return sum(self._scrub(key, stop, rate) for key in keys)

    def _scrub(self, key: str, stop: threading.Event, rate: int | None) -> int:
        with self.looked_at(key) as image:
            if image is None:
                return 0
            before = image.damaged
            for index in range(image.count):
                if stop.is_set():
                    break
                if image.scrub(index) and rate:
                    stop.wait(image.block_bytes / rate)
            return image.damaged - before

    @property
    def problem(self) -> str:
        """Why nothing is kept at present, or ''."""
        return self._room.problem

    def statistics(self) -> Mapping[str, int]:
        """What there is, and what happened since it was opened."""
        with self._lock:
            images = self._open_images()
            return {
                'keeps': int(not self._room.problem),
                'objects': len({*self._held, *self._idle}),
                'objects_open': len(images),
                'bytes_limit': self._quota,
                'bytes_used': self._room.used,
                'bytes_refused': self._room.refused,
                'bytes_unflushed': sum(each.unflushed for each in images),
                'blocks_evicted': self._room.evicted,
                'blocks_flushed': self._flusher.flushed,
                'blocks_damaged': self._damaged
                + sum(each.damaged for each in images),
            }

    def close(self) -> None:
        """Make everything durable, and let go of the directory; idempotent.

        Blocks for as long as the disk takes.
        """
        self._flusher.close()
        with self._lock:
            for key in [*self._held]:
                self._shut(key)
        if self._owned is not None:
            self._owned.close()
