# SPDX-License-Identifier: Apache-2.0
"""One export of the cache: its image, its socket, its file."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import os
import threading
import time
import typing

from oslo_transfer.cache import hydrate
from oslo_transfer.cache import opts
from oslo_transfer.cache import plainfile
from oslo_transfer.drivers import nbdfuse
from oslo_transfer import exceptions
from oslo_transfer.export import nbd
from oslo_transfer import nbd_uri
from oslo_transfer import oserrors
from oslo_transfer.service import cached
from oslo_transfer.service import promoting
from oslo_transfer import unixdiag

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.export import exported
    from oslo_transfer.service import images as _images
    from oslo_transfer.service import outlets

LOG = logging.getLogger(__name__)

# Seconds in which a client that has just closed is seen to be gone.
_SETTLE = 1.0
_TICK = 0.02
# Seconds until what did not work is tried again, at first and at last.
_FIRST_PAUSE, _LAST_PAUSE = 1.0, 30.0
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
    :ivar shared: its image in the cache; None once it is promoted
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
        outlet: outlets.Outlets,
        ctx: _context.Context,
    ) -> None:
        self.lock = threading.Lock()
        self.record = record
        self.shared: _images.Shared | None = None
        self.problem = ''
        self.gone = False
        self.queued = False
        self.due = 0.0
        self._pause = _FIRST_PAUSE
        self._never = ''
        self._records = records
        self._images = images
        self._outlets = outlet
        self._ctx = ctx
        self._server: nbd.NbdServer | None = None
        self._mount: nbdfuse.Mount | None = None

    def failed(self, problem: str) -> None:
        """Try again later, each time a bit later still."""
        self.problem = problem
        self.due = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LAST_PAUSE)

    def rest(self) -> None:
        """All went well."""
        self._pause = _FIRST_PAUSE

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
    def promoted(self) -> bool:
        """Whether it has become a file of its own."""
        if self.record.promoted is None:
            return False
        try:
            return os.stat(self.record.promoted).st_ino == self.record.inode
        except OSError:
            return False

    @property
    def serves(self) -> bool:
        """Whether it can be read."""
        return self._server is not None

    def serve(self, shared: _images.Shared | None) -> None:
        """Begin to serve; blocks until it can be read.

        :param shared: its image in the cache, taken over; None for the
            file that it has become
        :raises TransferError: it cannot be served
        """
        self.shared = shared
        image: exported.Exported
        if shared is None:
            assert self.record.promoted is not None
            image = plainfile.PlainFile(self.record.promoted)
        else:
            image = shared.image
        group = self._ctx.conf[opts.GROUP]
        address = nbd.Address(
            path=self.socket,
            owner=group.socket_owner,
            group=group.socket_group,
            mode=int(group.socket_mode, 8),
        )
        self._server = nbd.NbdServer({'': image}, address)
        self._server.start()
        self._outlets.add(self.record.id, image)
        if self.record.form == 'path':
            self._mount_file()
        if shared is not None and group.hydrate:
            self._hydrate(shared)

    def _hydrate(self, shared: _images.Shared) -> None:
        group = self._ctx.conf[opts.GROUP]
        if 0 < group.max_bytes < self.record.size:
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
            os.close(os.open(self.file, os.O_CREAT | os.O_EXCL, 0o600))
        self._mount = nbdfuse.Mount(
            self.file,
            pid_file,
            self.uri,
            self._ctx,
            shared=os.geteuid() == 0,
        )

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
            self._images.release(shared)

    def remove(self) -> None:
        """Take it away.

        :raises DetachError: somebody reads it
        """
        if self._mount is not None and self._mount.running:
            nbdfuse.unmount(self.file)
        self._check_idle(_SETTLE)
        if self.promoted and not self.record.released:
            self.look_after()
        self.stop()
        self.gone = True
        self._records.remove(self.record.id)

    def _check_idle(self, patience: float = 0.0) -> None:
        """See that nobody is connected.

        :param patience: seconds to wait for who has just closed
        :raises DetachError: somebody is
        """
        limit = time.monotonic() + patience
        name = self.record.id
        while count := (
            unixdiag.connections(self.socket) + self._outlets.connections(name)
        ):
            if time.monotonic() > limit:
                raise exceptions.DetachError(
                    f'{self.record.where} is in use',
                    (f'{count} connections to {self.socket}',),
                )
            time.sleep(_TICK)

    # Becoming a file

    def look_after(self) -> None:
        """Go on towards a file of its own, as far as it is possible now.

        Blocks for as long as that takes.

        :raises TransferError: it does not work just now
        """
        if self.record.form == 'nbd' or self.gone:
            return
        if not self.promoted:
            shared = self.shared
            if shared is None or not shared.hydrated:
                self._watch(shared)
                return
            self._promote(shared)
        # Only once nobody reads it here any more.
        if self.record.form == 'overlay':
            self._check_idle()
            self._repoint()
        elif self._mount is not None:
            nbdfuse.unmount(self.file)
        self.release()

    def release(self) -> None:
        """Nobody needs the service for it any more; what was served ends.

        :raises TransferError: that cannot be noted
        """
        self.record = dataclasses.replace(self.record, released=True)
        self._records.save(self.record)
        self.stop()
        self.problem = ''

    def _watch(self, shared: _images.Shared | None) -> None:
        """Say why it does not get on."""
        if shared is None:
            return
        error = shared.image.error
        if shared.hydration is not None and shared.hydration.error:
            error = shared.hydration.error
        self.problem = str(error or self._never)

    def _promote(self, shared: _images.Shared) -> None:
        assert self.record.destination is not None
        path = promoting.target(self.record.form, self.record.destination)
        link = self.file if self.record.form == 'path' else None
        blocks = shared.image.blocks
        # Written before the rename, so that a restart knows the file.
        if self._images.take(shared):
            self._note(path, os.fstat(blocks.fd).st_ino)
            if promoting.move(blocks.path, blocks.fd, path, link):
                LOG.info('%s is complete: %s', self.record.where, path)
                return
        copied = promoting.copied(
            blocks.path, path, self._ctx.conf, cancel=self._ctx.stop
        )
        self._note(path, os.stat(copied).st_ino)
        promoting.show(copied, path, link)
        LOG.info('%s is complete: %s', self.record.where, path)

    def _note(self, path: str, inode: int) -> None:
        self.record = dataclasses.replace(
            self.record, promoted=path, inode=inode
        )
        self._records.save(self.record)

    def _repoint(self) -> None:
        destination, base = self.record.destination, self.record.promoted
        assert destination is not None
        assert base is not None
        promoting.repoint(destination, self.socket, base)

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
        if self.promoted:
            return 'promoted'
        hydration = self.shared.hydration if self.shared else None
        return _STATES[hydration.state] if hydration else 'serving'


@contextlib.contextmanager
def _logged(where: str) -> typing.Iterator[None]:
    try:
        yield
    except exceptions.TransferError as exc:
        LOG.warning('%s: %s', where, exc)
