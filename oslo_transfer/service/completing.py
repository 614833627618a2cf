# SPDX-License-Identifier: Apache-2.0
"""The way of an image that is complete to a file of its own.

1. What file it becomes is noted: its path, and what tells it from others.
2. It leaves the cache: its data file is renamed to a place of its own; where
   others use the image, too, it is copied beside its destination.
3. It gets its name; from another file system it is copied before. With the
   form ``path`` all who read by nbdfuse have closed it then.
4. An overlay is made to lead to it, once no guest has it open.
5. It is released.

A restart finds by the note how far it was.
"""

from __future__ import annotations

import contextlib
import logging
import os
import typing

from oslo_transfer import exceptions
from oslo_transfer import journal
from oslo_transfer.service import promoting

if typing.TYPE_CHECKING:
    from oslo_transfer.service import images as _images
    from oslo_transfer.service import serving

LOG = logging.getLogger(__name__)

_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Way:
    """How far one export is; its methods need the lock of the export.

    :param served: the export
    """

    def __init__(self, served: serving.Served) -> None:
        self._served = served

    # Where it is

    @property
    def _taken(self) -> str:
        served = self._served
        return os.path.join(served.images.taken, served.record.id)

    def _find(self) -> str | None:
        """Where the complete file is; None while it is in the cache."""
        record = self._served.record
        if record.promoted is None:
            return None
        # In the end it is at the first.
        copied = promoting.copy_path(record.promoted)
        for path in (record.promoted, self._taken, copied):
            if self._is_it(path, promoting.look_at(path)):
                return path
        return None

    def _is_it(self, path: str, found: os.stat_result | None) -> bool:
        """Whether a file is the one that was noted."""
        record = self._served.record
        if found is None or found.st_ino != record.inode:
            return False
        if record.boot == journal.boot_id() and path != self._taken:
            return found.st_dev == record.device
        # File systems may be numbered anew.
        return found.st_size == record.size

    @property
    def begun(self) -> bool:
        """Whether it has left the cache."""
        return self._find() is not None

    @property
    def placed(self) -> bool:
        """Whether it has got its name."""
        found = self._find()
        return found is not None and found == self._served.record.promoted

    def open_complete(self) -> int | None:
        """A descriptor of the complete file; None while it has none."""
        found = self._find()
        if found is None:
            return None
        try:
            fd = os.open(found, _FLAGS)
        except OSError:
            return None
        if not self._is_it(found, os.fstat(fd)):
            os.close(fd)
            return None
        return fd

    def _is_needed(self) -> bool:
        """Whether the destination still is what was made of it."""
        record = self._served.record
        assert record.destination is not None
        return promoting.leads_to(
            record.form,
            record.destination,
            self._served.socket,
            self._served.file,
        )

    # How it goes on

    def go_on(self) -> str:
        """Do what is possible now; blocks for as long as that takes.

        :returns: what it waits for, or ''
        :raises DetachError: somebody still reads it
        :raises TransferError: it does not work just now
        """
        served = self._served
        shared = served.shared
        if shared is not None and shared.hydrated:
            shared.image.release_origin()
        if served.record.form == 'nbd':
            return ''
        if not self.begun:
            if shared is None or not shared.hydrated:
                return ''
            if not self._is_needed():
                return self._foreign()
            self._leave_cache(shared)
            if not self.begun:
                return ''
        if not self.placed:
            if not self._is_needed():
                return self._foreign()
            self._place()
        if served.record.form == 'overlay':
            served.check_idle()
            if self._is_needed():
                base = served.record.promoted
                assert base is not None
                promoting.repoint(str(served.record.destination), base)
        served.release()
        return ''

    def _foreign(self) -> str:
        return (
            f'{self._served.record.destination} is not any more what was '
            f'made of it: it is left as it is; detach it if nothing else '
            f'leads here'
        )

    def _leave_cache(self, shared: _images.Shared) -> None:
        """Steps 1 and 2."""
        served = self._served
        record = served.record
        assert record.destination is not None
        path = promoting.target(record.form, record.destination)
        promoting.check(record.form, record.destination)
        if not shared.whole:
            # A block was found to be damaged after all was verified.
            shared.hydrate_again()
            return
        if served.images.is_shared(shared):
            self._copy(shared.blocks.path, path)
            return
        self._note(path, shared.blocks.path)
        if not served.images.take(shared, self._taken):
            self._note(None, None)

    def _note(self, path: str | None, data: str | None) -> None:
        found = promoting.look_at(data) if data is not None else None
        self._served.note(
            promoted=path,
            device=found.st_dev if found is not None else 0,
            inode=found.st_ino if found is not None else 0,
            boot=journal.boot_id(),
        )

    def _copy(self, data: str, path: str) -> str:
        """Copy a file beside its destination, and note that."""
        served = self._served
        copied = promoting.copied(
            data, path, served.ctx.conf, cancel=served.ctx.stop
        )
        try:
            self._note(path, copied)
        except BaseException:
            _unlink(copied)
            raise
        return copied

    def _place(self) -> None:
        """Step 3."""
        served = self._served
        record = served.record
        path, data = record.promoted, self._find()
        assert path is not None
        assert data is not None
        if not promoting.same_file_system(data, path):
            data = self._copy(data, path)
        served.unmount()
        promoting.place(data, path, record.form == 'path', served.readers)
        self.tidy()
        LOG.info('%s is complete: %s', record.where, path)

    def end(self) -> None:
        """Nobody reads it any more, and it is to be taken away.

        :raises DetachError: the destination needs a file that cannot be
            made, or it cannot be looked at
        """
        served = self._served
        record, shared = served.record, served.shared
        here = shared is not None and shared.hydrated
        if record.form == 'nbd' or record.released:
            return
        if not (self.begun or here):
            return
        try:
            if self._is_needed():
                self.go_on()
                if not served.record.released:
                    raise exceptions.Unavailable('it is just being completed')
        except exceptions.DetachError:
            raise
        except exceptions.TransferError as exc:
            raise exceptions.DetachError(
                f'{record.destination} leads to what cannot be made a file '
                f'of its own: {exc}',
                (str(self._find()),),
            ) from exc

    def tidy(self) -> None:
        """Remove what is left on the way; never raises."""
        record = self._served.record
        if record.promoted is None:
            return
        for path in (self._taken, promoting.copy_path(record.promoted)):
            # One that has its name is its owner's.
            if not _is_same(path, record.promoted):
                _unlink(path)


def _is_same(path: str, other: str) -> bool:
    try:
        return os.path.samefile(path, other)
    except OSError:
        return False


def _unlink(path: str) -> None:
    with contextlib.suppress(OSError):
        os.unlink(path)
