# SPDX-License-Identifier: Apache-2.0
"""qemu-nbd(8) as an initiator in user space: a LUN as an NBD export.

One process for each LUN, on a unix socket. It logs in by libiscsi, once,
and again when the connection is lost.
"""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import time
import typing

from oslo_transfer import children
from oslo_transfer.drivers.iscsi import login
from oslo_transfer.drivers.iscsi import opts
from oslo_transfer.drivers.nbd import handshake
from oslo_transfer import exceptions
from oslo_transfer import nbd_uri
from oslo_transfer import oserrors
from oslo_transfer import unixdiag

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers.iscsi import lun as _lun

SOCKET = 'nbd.sock'
_PID_FILE = 'pid'
#: What a server leaves in its directory.
FILES = (SOCKET, _PID_FILE)
_PAUSE = 0.01
# Bytes of a socket's name with the zero at its end; unix(7).
_MAX_NAME = 108
# The part of a message behind the image options, which have a user name.
_REASON = re.compile(
    r'(?:iSCSI: (?:Failed to connect to LUN : )?|(?=Unknown driver))(.*)',
    re.DOTALL,
)


class Server:
    """A qemu-nbd that has logged in and serves.

    It ends with this process at the latest.

    :param lun: what it serves; its portals are tried in order
    :param directory: for its socket; nobody else has files there
    :param ctx: bounds the wait by its ``connect_timeout``, for each portal
    :param writing: whether it takes writes
    :raises NotFound: there is no such target or LUN
    :raises AccessDenied: the login is refused
    :raises SizeMismatch: the LUN has another size than asked
    :raises Unavailable: no portal can be reached
    :raises CapabilityMissing: qemu-nbd is missing, or cannot do it
    :raises AttachError: it does not work
    """

    def __init__(
        self,
        lun: _lun.Lun,
        directory: str,
        ctx: _context.Context,
        *,
        writing: bool,
    ) -> None:
        self.path = os.path.join(directory, SOCKET)
        if len(os.fsencode(self.path)) >= _MAX_NAME:
            raise exceptions.AttachError(
                f'{self.path} is too long for a socket (unix(7)); set '
                f'[oslo_transfer] state_path to a shorter one'
            )
        who = login.identity(lun, ctx)
        if who.mutual is not None:
            raise exceptions.CapabilityMissing(
                'qemu-nbd cannot ask a target to prove its identity '
                '(mutual CHAP)'
            )
        self._lun = lun
        self._initiator = who.initiator
        self._directory = directory
        self._ctx = ctx
        self._writing = writing
        self._program = children.find('qemu-nbd', 'qemu-utils')
        errors: list[exceptions.TransferError] = []
        for path in lun.paths:
            try:
                self._helper = self._start(path)
            except exceptions.Unavailable as exc:
                errors.append(exc)
            else:
                break
        else:
            raise (
                errors[0]
                if len(errors) == 1
                else exceptions.Unavailable(
                    '; '.join(str(each) for each in errors)
                )
            )
        try:
            self.size = self._look()
        except BaseException:
            self.close()
            raise

    @property
    def uri(self) -> str:
        """The export."""
        return uri(self._directory)

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._helper.running

    @property
    def errors(self) -> str:
        """What it said last, without the options it was started with."""
        return _reason(self._helper.errors)

    def _start(self, path: _lun.Path) -> children.Helper:
        pid_file = os.path.join(self._directory, _PID_FILE)
        for name in (pid_file, self.path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name)
        with contextlib.ExitStack() as stack:
            objects: list[str] = []
            fds: list[int] = []
            if self._lun.password is not None:
                fd = os.memfd_create('chap')
                stack.callback(oserrors.close, fd)
                os.write(fd, self._lun.password.encode())
                objects = [
                    '--object',
                    f'secret,id=chap,file=/proc/self/fd/{fd}',
                ]
                fds = [fd]
            helper = children.Helper(
                [
                    *(self._program, *objects, '--persistent', '--shared=0'),
                    *('--socket', self.path, '--pid-file', pid_file),
                    *(() if self._writing else ('--read-only',)),
                    *('--image-opts', self._image(path)),
                ],
                fds=fds,
                # It has nothing that it would lose.
                death=signal.SIGKILL,
            )
            try:
                self._wait(helper, pid_file, path)
            except BaseException:
                # While it logs in it does not hear anything else.
                helper.kill()
                helper.close()
                raise
        return helper

    def _image(self, path: _lun.Path) -> str:
        group = self._ctx.conf[opts.GROUP]
        fields = {
            'driver': 'iscsi',
            'transport': 'tcp',
            'portal': path.portal,
            'target': path.iqn,
            'lun': str(path.lun),
            'initiator-name': self._initiator,
            'timeout': str(group.command_timeout),
        }
        if self._lun.username is not None:
            fields['user'] = self._lun.username
            fields['password-secret'] = 'chap'  # noqa: S105 (its name)
        # Raw: what a guest has written decides nothing.
        return 'driver=raw,' + ','.join(
            f'file.{name}={value.replace(",", ",,")}'
            for name, value in fields.items()
        )

    def _wait(
        self, helper: children.Helper, pid_file: str, path: _lun.Path
    ) -> None:
        """Until it serves: then it writes its process id."""
        limit = time.monotonic() + self._ctx.connect_timeout
        while not _has_content(pid_file):
            if not helper.running:
                raise _translate(helper.errors, f'{self._lun.where} ({path})')
            if time.monotonic() > limit:
                raise exceptions.Unavailable(
                    f'{self._lun.where}: no login at {path.portal} in '
                    f'{self._ctx.connect_timeout:g} seconds'
                )
            self._ctx.sleep(_PAUSE)

    def _look(self) -> int:
        """Ask for the size, and compare it with what is known."""
        with _Carrier(self.path, self._ctx.connect_timeout) as carrier:
            export = handshake.negotiate(carrier, b'', False, self._lun.where)
        if not export.size:
            raise exceptions.AttachError(
                f'{self._lun.where} is no disk: it has no bytes'
            )
        if self._lun.size not in (None, export.size):
            raise exceptions.SizeMismatch(
                self._lun.size, export.size, self._lun.where
            )
        return export.size

    def close(self) -> None:
        """End it; idempotent.

        :raises DetachError: it hangs in the kernel
        """
        if not self._helper.close():
            raise exceptions.DetachError(
                'qemu-nbd hangs in the kernel',
                (f'process {self._helper.pid}',),
            )


def uri(directory: str) -> str:
    """The NBD URI of what is served in a directory."""
    return nbd_uri.of_socket(os.path.join(directory, SOCKET))


def clients(directory: str) -> int:
    """How many connections there are to the socket in a directory."""
    return unixdiag.connections(os.path.join(directory, SOCKET))


def process(directory: str) -> int | None:
    """The process that serves in a directory, whoever has started it."""
    try:
        with open(os.path.join(directory, _PID_FILE)) as file:
            pid = int(file.read())
        with open(f'/proc/{pid}/cmdline', 'rb') as file:
            words = file.read().split(b'\0')
    except (OSError, ValueError):
        return None
    # The number may be somebody else's by now.
    mine = os.fsencode(os.path.join(directory, SOCKET))
    return pid if mine in words else None


def remove(directory: str) -> None:
    """Remove a directory with what a server has left in it; idempotent.

    :raises StorageError: it cannot be removed
    """
    # Nothing else, for a damaged record may name anything.
    with oserrors.os_errors(f'removing {directory}'):
        for name in FILES:
            with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                os.unlink(os.path.join(directory, name))
        with contextlib.suppress(FileNotFoundError):
            os.rmdir(directory)


def _translate(told: str, where: str) -> exceptions.TransferError:
    reason = _reason(told)
    text = f'{where}: {reason}'
    if "Unknown driver 'iscsi'" in told:
        return exceptions.CapabilityMissing(
            'qemu-nbd has no iSCSI; it is in the package qemu-block-extra'
        )
    if re.search('Authentication failure|Authorization failure', told):
        return exceptions.AccessDenied(
            f'{where}: the target does not let us in (CHAP user name or '
            f'secret, or the name of the initiator): {reason}'
        )
    if re.search('Target not found|LOGICAL_UNIT_NOT_SUPPORTED', told):
        return exceptions.NotFound(text)
    if 'iscsi_service failed' in told:
        return exceptions.Unavailable(text)
    return exceptions.AttachError(text)


def _reason(told: str) -> str:
    found = _REASON.search(told)
    text = ' '.join(found[1].split()) if found else ''
    if 'iscsi_service_reconnect' in text:
        return 'no connection'
    return text or 'qemu-nbd gives no reason'


def _has_content(path: str) -> bool:
    try:
        return os.stat(path).st_size > 0
    except FileNotFoundError:
        return False


class _Carrier:
    """A connection for the negotiation alone; a context manager."""

    def __init__(self, path: str, timeout: float) -> None:
        self._sock = socket.socket(socket.AF_UNIX)
        self._sock.settimeout(timeout)
        self._path = path

    def __enter__(self) -> _Carrier:
        with oserrors.os_errors(f'connecting to {self._path}'):
            self._sock.connect(self._path)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._sock.close()

    def take(self, count: int) -> bytes:
        """Read so many bytes."""
        data = b''
        with oserrors.os_errors(f'reading from {self._path}'):
            while len(data) < count:
                part = self._sock.recv(count - len(data))
                if not part:
                    raise exceptions.Unavailable('qemu-nbd has ended')
                data += part
        return data

    def sendall(self, data: typing.Any) -> None:
        """Send all bytes."""
        with oserrors.os_errors(f'writing to {self._path}'):
            self._sock.sendall(data)

    def secure(self) -> None:
        """Not over a unix socket."""
        raise exceptions.CapabilityMissing('no TLS here')
