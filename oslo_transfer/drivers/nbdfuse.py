# SPDX-License-Identifier: Apache-2.0
"""An NBD export as a file path, by nbdfuse(1) of libnbd."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import dataclasses
import errno
import os
import signal
import time
import typing

from oslo_transfer import children
from oslo_transfer.drivers.nbd import opts
from oslo_transfer import exceptions
from oslo_transfer import oserrors
from oslo_transfer import privatedir

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

#: Where the mount points are, in the state directory.
DIRECTORY = 'nbdfuse'
_FILE = 'export'
_PID_FILE = 'pid'
_PAUSE = 0.01
# Seconds that unmounting may take.
_UNMOUNT = 5.0


@dataclasses.dataclass(frozen=True)
class Readers:
    """Who may read a file that root has mounted, besides root.

    :ivar uid: its user
    :ivar gid: its group
    :ivar mode: who of them
    """

    uid: int
    gid: int
    mode: int

    @property
    def options(self) -> list[str]:
        """What fuse(8) is told: it lets nobody else in by itself."""
        umask = ~self.mode & 0o777
        return [
            word
            for option in (
                'allow_other',
                'default_permissions',
                f'uid={self.uid}',
                f'gid={self.gid}',
                f'umask={umask:o}',
            )
            for word in ('-o', option)
        ]


class Mount:
    """An export that is a file, read-only; see :func:`mounted`.

    If this process is killed, the kernel ends nbdfuse, and that unmounts
    it.

    :ivar path: of the file
    :param path: an empty file
    :param pid_file: nbdfuse writes to it; is not there
    :param uri: of the export; has no secrets, for all users can see it
    :param ctx: bounds the wait by its ``connect_timeout``
    :param readers: who may read it besides this user; only root can say so
    :raises CapabilityMissing: nbdfuse(1) or fusermount3(1) is missing, or
        it is to be read by TLS with certificates of ours
    :raises Unavailable: the export cannot be mounted
    """

    def __init__(
        self,
        path: str,
        pid_file: str,
        uri: str,
        ctx: _context.Context,
        *,
        readers: Readers | None = None,
    ) -> None:
        _check_certificates(uri, ctx)
        nbdfuse = children.find('nbdfuse', 'libnbd-bin')
        children.find('fusermount3', 'fuse3')
        self.path = path
        # fusermount3 unmounts it, should nbdfuse be killed.
        options = ['-o', 'auto_unmount', *(readers.options if readers else [])]
        self._helper = children.Helper(
            [nbdfuse, '-r', *options, '-P', pid_file, path, uri],
            death=signal.SIGTERM,
        )
        try:
            _wait(self._helper, pid_file, uri, ctx)
        except BaseException:
            self.close()
            raise

    @property
    def running(self) -> bool:
        """Whether it can still be read."""
        return self._helper.running

    def kill(self) -> None:
        """Have all reads fail; those that wait in the kernel, too."""
        self._helper.kill()

    def close(self) -> None:
        """Unmount it, whoever reads.

        :raises DetachError: it cannot be unmounted
        """
        if not self._helper.close():
            raise exceptions.DetachError(
                'nbdfuse hangs in the kernel',
                (f'process {self._helper.pid}', f'mount {self.path}'),
            )


@contextlib.contextmanager
def mounted(uri: str, ctx: _context.Context) -> Iterator[Mount]:
    """Have an NBD export be a file while the context is open.

    Blocks until the file can be read.

    :param uri: as for :class:`Mount`, with all that it raises
    :returns: the file, in a directory that only this user and root can look
        into
    :raises DetachError: at the end, if it cannot be unmounted
    """
    with privatedir.made(ctx.conf, DIRECTORY, _unmount) as directory:
        path = os.path.join(directory, _FILE)
        with oserrors.os_errors(f'making {path}'):
            os.close(os.open(path, os.O_CREAT | os.O_EXCL, 0o600))
        mount = Mount(path, os.path.join(directory, _PID_FILE), uri, ctx)
        try:
            yield mount
        finally:
            mount.close()


def _check_certificates(uri: str, ctx: _context.Context) -> None:
    """See that nbdfuse trusts whom we trust: it can be told of none.

    :raises CapabilityMissing: it would trust others
    """
    group = ctx.conf[opts.GROUP]
    if uri.startswith('nbds') and (group.ca_file or group.cert_file):
        raise exceptions.CapabilityMissing(
            f'{uri}: nbdfuse knows neither ca_file nor cert_file of '
            f'[{opts.GROUP}]; the strategy full_copy does'
        )


def _wait(
    helper: children.Helper, pid_file: str, uri: str, ctx: _context.Context
) -> None:
    """Until it serves: then it writes its process id (nbdfuse(1), -P)."""
    limit = time.monotonic() + ctx.connect_timeout
    while not _has_content(pid_file):
        if not helper.running:
            raise exceptions.Unavailable(
                f'nbdfuse cannot mount {uri}: {helper.errors}'
            )
        if time.monotonic() > limit:
            raise exceptions.Unavailable(
                f'nbdfuse has not mounted {uri} in {ctx.connect_timeout:g} '
                f'seconds: {helper.errors}'
            )
        ctx.sleep(_PAUSE)


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


def _unmount(directory: str) -> None:
    """See that nothing is mounted in a directory.

    :raises DetachError: it cannot be unmounted
    """
    remove(os.path.join(directory, _FILE))


def unmount(path: str) -> None:
    """Unmount a file that nobody reads any more; it stays, empty.

    :raises DetachError: somebody has it open
    """
    fusermount = children.find('fusermount3', 'fuse3')
    status, told = children.run([fusermount, '-u', path], _UNMOUNT)
    if status and os.path.ismount(path):
        raise exceptions.DetachError(
            f'{path} is in use: {told.strip()}', (f'mount {path}',)
        )


def remove(path: str) -> None:
    """See that nothing is mounted on a file, and that it is gone.

    Who reads it can go on for as long as it is served. Idempotent.

    :raises DetachError: it cannot be unmounted
    """
    for again in (False, True):
        try:
            os.unlink(path)
        except FileNotFoundError:
            return
        except OSError as exc:
            if exc.errno != errno.EBUSY or again:
                raise exceptions.DetachError(
                    f'{path} is still mounted: {exc.strerror}',
                    (f'mount {path}',),
                ) from exc
        else:
            return
        fusermount = children.find('fusermount3', 'fuse3')
        with contextlib.suppress(exceptions.Unavailable):
            # Lazily: the mount goes when the last who reads closes it.
            children.run([fusermount, '-u', '-z', path], _UNMOUNT)
