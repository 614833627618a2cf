# SPDX-License-Identifier: Apache-2.0
"""Writing by STOR to a temporary name, which RNTO then makes the real one."""

from __future__ import annotations

import logging
import threading
import time
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.ftp import control as _control
from oslo_transfer.drivers.ftp import names
from oslo_transfer.drivers.ftp import transfer as _transfer
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

LOG = logging.getLogger(__name__)

_DONE = (226, 250)
_NOTHING_LISTED = (450, 550)
# Seconds for taking a temporary file away: of a server that answers, and
# where somebody waits for a cancel or for a server that does not.
_TIDY_SECONDS = 5.0
_TIDY_AT_ONCE_SECONDS = 0.6


class FTPSink(base.Sink):
    """Streams one STOR.

    Without ``overwrite`` the name is looked for before the upload and right
    before the rename. FTP has no rename that fails where the name is
    taken: what appears between the two is replaced.
    """

    capabilities = base.Capability.WRITE | base.Capability.ATOMIC

    def __init__(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        overwrite: bool,
    ) -> None:
        self._path = names.path_of(endpoint)
        self._temporary = names.temporary_name(self._path)
        self._where = str(endpoint)
        self._ctx = ctx
        self._overwrite = overwrite
        self._position = 0
        self._lock = threading.Lock()
        self._ended = False
        self._stored = False
        self._stalled = False
        self._login = _control.Login(endpoint, ctx)
        self._control = self._login.open()
        try:
            self._check_free()
            self._transfer = self._store()
        except BaseException:
            self._control.close()
            raise

    # The beginning

    def _check_free(self) -> None:
        if not self._overwrite and self._exists():
            raise exceptions.AlreadyExists(f'{self._where} exists')

    def _exists(self) -> bool:
        for verb in ('SIZE', 'MDTM'):
            reply = self._control.command(verb, self._path)
            if reply.kind == 2:
                return True
            if reply.code == 550 and not reply.forbids:
                return False
            if reply.kind == 4:
                raise self._control.error(reply, verb)
        return self._is_listed()

    def _is_listed(self) -> bool:
        """Whether a server that has no better command lists the name."""
        path = self._path
        if path.startswith('-'):
            path = f'./{path}'  # Or it would be an option.
        try:
            listing = _transfer.Transfer(self._control, 'NLST', path)
        except exceptions.TransferError:
            if self._control.latest in _NOTHING_LISTED:
                return False
            raise
        try:
            # The name itself is of no interest.
            found = listing.data.recv_into(memoryview(bytearray(1)))
        finally:
            listing.data.close()
        reply = self._control.reply()
        if found or reply.code in (*_DONE, *_NOTHING_LISTED):
            return bool(found)
        raise self._control.error(reply, 'NLST')

    def _store(self) -> _transfer.Transfer:
        try:
            return _transfer.Transfer(self._control, 'STOR', self._temporary)
        except (exceptions.NotFound, exceptions.AccessDenied) as exc:
            directory = names.directory_of(self._path)
            if directory is not None:
                # The codes are the same for a directory that is missing
                # and for one that may not be written.
                reply = self._control.command('CWD', directory)
                if reply.kind != 2:
                    raise self._control.error(reply, 'CWD') from None
            raise exceptions.AccessDenied(str(exc)) from None

    # Data

    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Send what comes next."""
        if not buffer:
            return
        with self._lock:
            self._check_open()
            if offset != self._position:
                raise exceptions.CapabilityMissing(
                    f'byte {offset} after byte {self._position}: an upload '
                    f'is written in order'
                )
            self._check_early_reply(0.0)
            try:
                self._transfer.data.sendall(buffer)
            except exceptions.Unavailable:
                # The server may say why it takes no more.
                self._check_early_reply(1.0)
                raise
            except exceptions.Stalled:
                self._stalled = True
                raise
            self._position += len(buffer)

    def _check_open(self) -> None:
        if self._ended:
            raise exceptions.TransferCancelled(
                f'{self._where}: the upload has ended'
            )

    def _check_early_reply(self, seconds: float) -> None:
        reply = self._control.early_reply(seconds)
        if reply is None:
            return
        self._stored = True
        if reply.kind in (4, 5):
            raise self._control.error(reply, 'STOR')
        raise exceptions.ProtocolError(
            f'{self._where}: the server answers {reply.code} after '
            f'{self._position} bytes'
        )

    def sync(self) -> None:
        """Nothing: FTP has no word for it."""

    def commit(self, size: int) -> None:
        """End the upload, see that all of it arrived, and rename it."""
        with self._lock:
            self._check_open()
            if size != self._position:
                raise exceptions.SizeMismatch(
                    size, self._position, self._where
                )
            try:
                self._commit(size)
            except exceptions.Stalled:
                self._stalled = True
                raise
            self._ended = True
            self._transfer.close()

    def _commit(self, size: int) -> None:
        control = self._control
        if not self._stored:
            # Closed only after the reply: closing with something unread
            # would tear down what is still on its way.
            self._transfer.data.end()
            reply = control.reply()
            self._stored = True
            self._transfer.data.close()
            if reply.code not in _DONE:
                raise control.error(reply, 'STOR')
        found = control.size(self._temporary)
        if found not in (None, size):
            raise exceptions.SizeMismatch(size, found, self._where)
        self._check_free()
        for verb, path, due in (
            ('RNFR', self._temporary, 3),
            ('RNTO', self._path, 2),
        ):
            reply = control.command(verb, path)
            if reply.kind == due:
                continue
            if reply.code in (550, 553):
                raise exceptions.AccessDenied(
                    f'{self._where}: the server does not rename the '
                    f'complete upload ({reply.code} to {verb}); some never '
                    f'replace a file, and it has to be removed first'
                )
            raise control.error(reply, verb)

    # Giving up

    def abort(self, keep: bool) -> None:
        """Drop the upload, and take away what has arrived of it."""
        # Wakes up whoever is writing.
        self._transfer.data.shutdown()
        with self._lock:
            if self._ended:
                return
            self._ended = True
            try:
                self._tidy()
            except exceptions.TransferError as exc:
                LOG.warning(
                    '%s: the incomplete upload %r could not be deleted: %s',
                    self._where,
                    self._temporary,
                    exc,
                )
            finally:
                self._transfer.close()

    def _tidy(self) -> None:
        ctx = self._tidy_context()
        self._transfer.data.close()
        control = self._control
        try:
            control.renew(ctx)
            if not self._stored:
                control.reply()
            self._delete(control)
        except (exceptions.Unavailable, exceptions.ProtocolError):
            # Another connection may work.
            control = self._login.open(ctx)
            try:
                self._delete(control)
            finally:
                control.close()

    def _tidy_context(self) -> _context.Context:
        """Limits of their own: after a cancel the others allow nothing."""
        seconds = _TIDY_SECONDS
        try:
            self._ctx.check()
        except exceptions.TransferError:
            seconds = _TIDY_AT_ONCE_SECONDS
        if self._stalled:
            seconds = _TIDY_AT_ONCE_SECONDS
        return self._ctx.replace(
            cancel=None,
            stop=threading.Event(),
            deadline=time.monotonic() + seconds,
        )

    def _delete(self, control: _control.Control) -> None:
        reply = control.command('DELE', self._temporary)
        if reply.kind != 2:
            raise control.error(reply, 'DELE')
