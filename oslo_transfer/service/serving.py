# SPDX-License-Identifier: Apache-2.0
"""One export of the cache: its image, its socket, its file."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import logging
import os
import threading
import time
import typing

from oslo_transfer import accounts
from oslo_transfer.cache import hydrate
from oslo_transfer.cache import opts
from oslo_transfer.cache import plainfile
from oslo_transfer.drivers import nbdfuse
from oslo_transfer import exceptions
from oslo_transfer.export import listening
from oslo_transfer.export import nbd
from oslo_transfer import nbd_uri
from oslo_transfer import oserrors
from oslo_transfer.service import cached
from oslo_transfer.service import completing
from oslo_transfer.service import promoting
from oslo_transfer import unixdiag

if typing.TYPE_CHECKING:
    from oslo_transfer.cache import blocks as _blocks
    from oslo_transfer import context as _context
    from oslo_transfer.export import exported
    from oslo_transfer.service import images as _images
    from oslo_transfer.service import outlets as _outlets

LOG = logging.getLogger(__name__)

# Seconds in which a client that has just closed is seen to be gone.
_SETTLE = 1.0
_TICK = 0.02
# Seconds until what did not work is tried again, at first and at last.
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 30.0
# What an image needs besides its bytes: for each block, and at all.
_ENTRY, _SPARE = 8, 1 << 20
_STATES = {
    hydrate.HYDRATING: 'serving',
    hydrate.COMPLETE: 'serving',
    hydrate.VERIFIED: 'complete',
    hydrate.DAMAGED: 'damaged',
}


class Served:
    """One export. All methods but :meth:`describe` need its lock.

    :ivar lock: is taken for what takes time
    :ivar record: what it is
    :ivar shared: its image in the cache; None once it has left the cache
    :ivar problem: what keeps it from going on, or ''
    :ivar gone: it was taken away
    :ivar queued: it is about to be looked after
    :ivar due: when to look after it again, by ``time.monotonic()``
    """

    def __init__(
        self,
        record: cached.Record,
        records: cached.Records,
        images: _images.Images,
        outlets: _outlets.Outlets,
        ctx: _context.Context,
    ) -> None:
        self.lock = threading.Lock()
        self.record = record
        self.shared: _images.Shared | None = None
        self.problem = ''
        self.gone = False
        self.queued = False
        self.due = 0.0
        self.ctx = ctx
        self.images = images
        self._pause = _FIRST_PAUSE
        self._never = ''
        self._records = records
        self._outlets = outlets
        self._server: nbd.NbdServer | None = None
        self._mount: nbdfuse.Mount | None = None
        self._file: plainfile.PlainFile | None = None
        self._way = completing.Way(self)

    def failed(self, problem: str) -> None:
        """Try again later, each time a bit later still."""
        self.problem = problem
        self.due = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LAST_PAUSE)

    def note(self, **changes: typing.Any) -> None:
        """Change the record, durably.

        :raises TransferError: it cannot be written
        """
        self.record = dataclasses.replace(self.record, **changes)
        self._records.save(self.record)

    # Serving

    @property
    def socket(self) -> str:
        """The path of its socket."""
        return os.path.join(self._records.path(self.record.id), cached.SOCKET)

    @property
    def uri(self) -> str:
        """The NBD URI."""
        return nbd_uri.of_socket(self.socket)

    @property
    def file(self) -> str:
        """The path of the file that it is, with the form ``path``."""
        return os.path.join(self._records.path(self.record.id), cached.FILE)

    @property
    def _is_over(self) -> bool:
        """Whether there is nothing to be served any more."""
        # Who had a file open was cut off with the process before.
        on_path = self.record.form == 'path'
        return self.record.released or (on_path and self._way.placed)

    @property
    def serves(self) -> bool:
        """Whether it can be read."""
        return self._server is not None

    def serve(self, source: typing.Any = None) -> None:
        """Begin to serve, or go on with it; blocks until it can be read.

        :param source: what is open of the origin, and is taken over
        :raises TransferError: it cannot be served
        """
        if self._is_over:
            return
        image: exported.Exported
        fd = self._way.open_complete()
        if fd is not None:
            image = self._file = plainfile.PlainFile('the image', fd=fd)
        else:
            self.shared = self.images.acquire(self.record, source)
            image = self.shared.image
        uid, gid, mode = self._access
        address = listening.Address(
            path=self.socket, uid=uid, gid=gid, mode=mode
        )
        server = nbd.NbdServer({'': image}, address)
        server.start()
        self._server = server
        self._outlets.add(self.record.id, image)
        if self.record.form == 'path':
            self._mount_file()
        if self.shared is not None and self.ctx.conf[opts.GROUP].hydrate:
            self._hydrate(self.shared)

    def _hydrate(self, shared: _images.Shared) -> None:
        group = self.ctx.conf[opts.GROUP]
        if 0 < group.max_bytes < _needed(shared.blocks):
            self._never = (
                f'the image has {self.record.size} bytes, and the cache may '
                f'take {group.max_bytes} (max_bytes): it stays in need of its '
                f'origin'
            )
            return
        since = time.time() - self.record.added
        shared.hydrate(
            max(0.0, group.hydrate_delay - since),
            group.hydrate_bytes_per_second or None,
            self.record.expected,
        )

    def _mount_file(self) -> None:
        # What a process that was killed has left.
        nbdfuse.remove(self.file)
        directory = self._records.path(self.record.id)
        pid_file = os.path.join(directory, cached.PID)
        with oserrors.os_errors(f'making {self.file}'):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(pid_file)
            # Nobody is to take it for the image.
            os.close(os.open(self.file, os.O_CREAT | os.O_EXCL, 0o200))
        self._mount = nbdfuse.Mount(
            self.file, pid_file, self.uri, self.ctx, readers=self._readers()
        )

    def _mount_again(self) -> None:
        """See that nbdfuse still runs.

        :raises TransferError: it cannot be started
        """
        mount = self._mount
        if mount is not None and not mount.running:
            LOG.warning('%s: nbdfuse has ended', self.record.where)
            self._mount = None
            mount.close()
        if self.record.form == 'path' and self.serves and not self._mount:
            self._mount_file()

    @property
    def _access(self) -> tuple[int | None, int | None, int]:
        """User, group and mode of the socket, as the options say.

        :raises ConfigurationError: there is no such user or group
        """
        options = self.ctx.conf[opts.GROUP]
        where = f'[{opts.GROUP}]'
        return (
            accounts.uid_of(options.socket_owner, f'{where} socket_owner'),
            accounts.gid_of(options.socket_group, f'{where} socket_group'),
            int(options.socket_mode, 8),
        )

    @property
    def readers(self) -> promoting.Readers:
        """Who may read what it becomes."""
        _uid, gid, mode = self._access
        return promoting.Readers(gid, mode)

    def _readers(self) -> nbdfuse.Readers | None:
        """Who may read the file: those who may connect to the socket."""
        if os.geteuid() != 0:
            return None
        uid, gid, mode = self._access
        return nbdfuse.Readers(uid or 0, gid or 0, mode)

    def unmount(self) -> None:
        """Have no file any more.

        :raises DetachError: somebody has it open
        """
        mount = self._mount
        if mount is not None:
            if mount.running:
                nbdfuse.unmount(self.file)
            self._mount = None
            mount.close()
            nbdfuse.remove(self.file)

    def _connections(self) -> int:
        """How many clients there are."""
        known = self._server.connections if self._server is not None else 0
        # Those, too, who wait to be taken.
        here = max(known, unixdiag.connections(self.socket))
        return here + self._outlets.connections(self.record.id)

    def check_idle(self, patience: float = 0.0) -> None:
        """See that nobody is connected.

        :param patience: seconds to wait for who has just closed
        :raises DetachError: somebody is
        """
        limit = time.monotonic() + patience
        while count := self._connections():
            if time.monotonic() > limit:
                raise exceptions.DetachError(
                    f'{self.record.where} is in use',
                    (f'{count} connections to {self.socket}',),
                )
            time.sleep(_TICK)

    def stop(self) -> None:
        """Serve no more; idempotent, and never raises."""
        mount, self._mount = self._mount, None
        if mount is not None:
            with _logged(self.record.where):
                mount.close()
            with _logged(self.record.where):
                nbdfuse.remove(self.file)
        server, self._server = self._server, None
        if server is not None:
            self._outlets.remove(self.record.id)
            server.stop()
        shared, self.shared = self.shared, None
        if shared is not None:
            self.images.release(shared, self.record)
        file, self._file = self._file, None
        if file is not None:
            file.close()

    # What becomes of it

    def look_after(self) -> None:
        """Go on towards a file of its own, as far as it is possible now.

        Blocks for as long as that takes.

        :raises TransferError: it does not work just now
        """
        if self.gone or self.record.released:
            return
        if not self.serves:
            try:
                self.serve()
            except BaseException:
                self.stop()
                raise
        self._mount_again()
        self.problem = self._way.go_on() or self._trouble()
        self._pause = _FIRST_PAUSE

    def _trouble(self) -> str:
        """Why it does not get on."""
        shared = self.shared
        if shared is None:
            return ''
        error = shared.image.error
        if shared.hydration is not None and shared.hydration.error:
            error = shared.hydration.error
        return str(error or self._never)

    def release(self) -> None:
        """Nobody needs the service for it any more; what was served ends.

        :raises TransferError: that cannot be noted
        """
        self.note(released=True)
        self.stop()

    def remove(self) -> None:
        """Take it away.

        :raises DetachError: somebody reads it, or a file that it is about
            to become is still needed, and cannot be made
        """
        try:
            self.unmount()
            self.check_idle(_SETTLE)
            self._way.end()
        except exceptions.TransferError:
            if not self.record.released:
                self._mount_again()
            raise
        self.stop()
        self._way.tidy()
        self._records.remove(self.record.id)
        self.gone = True

    def describe(self) -> dict[str, typing.Any]:
        """How it is, for those who ask; without a secret."""
        shared, record = self.shared, self.record
        on_path = record.form == 'path'
        found: dict[str, typing.Any] = {
            'id': record.id,
            'source': record.where,
            'form': 'path' if on_path else 'nbd',
            'path': self.file if on_path else self.uri,
            'urls': self._outlets.urls(record.id) if self.serves else [],
            'destination': record.destination,
            'size': record.size,
            'here': record.size,
            'state': self.state,
            'problem': self.problem,
        }
        if shared is not None:
            found['here'] = shared.here
            found['statistics'] = dict(shared.image.statistics())
        return found

    @property
    def state(self) -> str:
        """How far it is, in a word."""
        if self.record.released:
            return 'released'
        if self._way.placed:
            return 'promoted'
        if self._way.begun:
            return 'complete'
        hydration = self.shared.hydration if self.shared else None
        return _STATES[hydration.state] if hydration else 'serving'


def _needed(blocks: _blocks.Blocks) -> int:
    """Bytes of disk that an image without holes needs."""
    return blocks.size + _SPARE + _ENTRY * blocks.count


@contextlib.contextmanager
def _logged(where: str) -> Iterator[None]:
    try:
        yield
    except exceptions.TransferError as exc:
        LOG.warning('%s: %s', where, exc)
