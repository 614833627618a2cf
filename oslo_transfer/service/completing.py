# SPDX-License-Identifier: Apache-2.0
"""The way of an image that is complete to a file of its own.

1. What file it becomes is noted: its path, and what tells it from others.
2. It leaves the cache: its data file is renamed to a place of its own; where
   others use the image, too, it is copied beside its destination.
3. It gets its name. For the form ``path`` the link at the destination leads
   to the complete file before, and all who read by nbdfuse have closed it.
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
    def _noted(self) -> tuple[int, int] | None:
        record = self._served.record
        if record.promoted is None:
            return None
        return record.device, record.inode

    @property
    def _places(self) -> tuple[str, ...]:
        """Where the complete file can be; in the end it is at the first."""
        record = self._served.record
        assert record.promoted is not None
        copied = promoting.copy_path(record.promoted)
        return record.promoted, self._taken, copied

    @property
    def _taken(self) -> str:
        served = self._served
        return os.path.join(served.images.taken, served.record.id)

    def _find(self) -> str | None:
        """Where the complete file is; None while it is in the cache."""
        noted = self._noted
        if noted is None:
            return None
        for path in self._places:
            if promoting.identity(path) == noted:
                return path
        return None

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
        status = os.fstat(fd)
        if (status.st_dev, status.st_ino) != self._noted:
            os.close(fd)
            return None
        return fd

    def _is_needed(self) -> bool:
        """Whether the destination still is what was made of it."""
        record = self._served.record
        assert record.destination is not None
        links = {self._served.file}
        if record.promoted is not None:
            links.add(self._taken)
        return promoting.leads_to(
            record.form, record.destination, self._served.socket, links
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
            copied = promoting.copied(
                shared.image.blocks.path,
                path,
                served.ctx.conf,
                cancel=served.ctx.stop,
            )
            self._note(path, promoting.identity(copied))
            return
        self._note(path, promoting.identity(shared.image.blocks.path))
        if not served.images.take(shared, self._taken):
            self._note(None, None)
            return
        if not shared.whole:
            os.unlink(self._taken)
            self._note(None, None)
            # It is read from the origin anew.
            served.stop()

    def _note(self, path: str | None, found: tuple[int, int] | None) -> None:
        device, inode = found or (0, 0)
        self._served.note(promoted=path, device=device, inode=inode)

    def _place(self) -> None:
        """Step 3."""
        served = self._served
        record = served.record
        path, data = record.promoted, self._find()
        assert path is not None
        assert data is not None
        on_path = record.form == 'path'
        if on_path and data == self._taken:
            promoting.divert(path, data)
        served.unmount()
        if not promoting.place(data, path, replace=on_path):
            copied = promoting.copied(
                data, path, served.ctx.conf, cancel=served.ctx.stop
            )
            self._note(path, promoting.identity(copied))
            promoting.place(copied, path, replace=on_path)
            os.unlink(data)
        LOG.info('%s is complete: %s', record.where, path)

    def end(self) -> None:
        """Nobody reads it any more, and it is to be taken away.

        :raises DetachError: the destination needs a file that cannot be
            made
        """
        if self._served.record.released or not self.begun:
            return
        if not self._is_needed():
            found = self._find()
            # One that has its name is its owner's.
            if found is not None and found != self._served.record.promoted:
                with contextlib.suppress(OSError):
                    os.unlink(found)
            return
        try:
            self.go_on()
        except exceptions.DetachError:
            raise
        except exceptions.TransferError as exc:
            raise exceptions.DetachError(
                f'{self._served.record.destination} leads to what cannot be '
                f'made a file of its own: {exc}',
                (str(self._find()),),
            ) from exc
