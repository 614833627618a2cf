# SPDX-License-Identifier: Apache-2.0
"""The data of a RETR as a stream."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.ftp import control as _control
from oslo_transfer.drivers.ftp import transfer as _transfer
from oslo_transfer import exceptions

_DONE = (226, 250)
# The server closes a control connection that was silent for too long,
# although data went all the while.
_IDLE = 421


class FTPStream(base.Stream):
    """Reads a transfer and counts it.

    The end is what two connections agree on. With a size, all its bytes
    have to be there, and then the data connection has to end; the reply
    may be lost with a control connection that was idle for too long.
    Without a size it takes both an orderly end of the data - of TLS, too -
    and the reply that the server has sent it all.

    :param transfer: a RETR; owned from now on
    :param rest: bytes that it will bring; None if that is not known
    :param length: bytes to read of it; None for all
    :param check: asked after the last byte whether it was one version
    :param give_back: takes a control connection that can be used again
    """

    def __init__(
        self,
        transfer: _transfer.Transfer,
        rest: int | None,
        length: int | None,
        check: Callable[[_control.Control], None],
        give_back: Callable[[_control.Control], None],
    ) -> None:
        super().__init__()
        self._transfer = transfer
        self._where = transfer.where
        self._rest = rest
        self._left = rest if length is None else length
        self._whole = length is None or length == rest
        self._check = check
        self._give_back = give_back
        self._ended = False
        # Ours until it is handed back.
        self._control: _control.Control | None = transfer.control
        self._handing = threading.Lock()
        self._stopped = False
        # Closing waits for a read that close() itself has woken up.
        self._reading = threading.Lock()

    @property
    def waited(self) -> float:  # type: ignore[override]
        """Seconds spent waiting for data."""
        return self._transfer.data.waited

    def readinto(self, buffer: typing.Any) -> int:
        """Read at least one byte of the data."""
        view = memoryview(buffer).cast('B')
        with self._reading:
            self._check_open()
            if self._left is not None:
                view = view[: self._left]
            count = 0
            if view and not self._ended:
                count = self._patiently(self._transfer.data.recv_into, view)
            return self._count(count, bool(view))

    def splice(self, fd: int, offset: int, count: int) -> int | None:
        """Have the kernel move the data, where it is plain bytes."""
        if not self._transfer.data.can_splice:
            return None
        with self._reading:
            self._check_open()
            if self._left is not None:
                count = min(count, self._left)
            moved = 0
            if count and not self._ended:
                moved = self._patiently(
                    self._transfer.data.splice, fd, offset, count
                )
            return self._count(moved, bool(count))

    def _patiently(self, read: Callable[..., int], *args: typing.Any) -> int:
        """Read; the server may have said why nothing comes."""
        try:
            return read(*args)
        except exceptions.Stalled:
            reply = self._transfer.control.early_reply()
            if reply is None:
                raise
            raise self._failure(reply.code) from None

    def _count(self, count: int, wanted: bool) -> int:
        if self._left is not None:
            self._left -= count
        counted = self._left == 0 and self._whole
        if not count and not self._ended and (wanted or counted):
            try:
                if counted:
                    self._finish_counted()
                else:
                    self._finish()
            except BaseException:
                # Who asks again must not find the end.
                self._transfer.shutdown()
                raise
            self._ended = True
        return count

    def _check_open(self) -> None:
        if self.closed:
            raise exceptions.TransferCancelled(
                f'{self._where}: closed by another thread'
            )

    # The end

    def _check_no_more(self) -> None:
        """All is there; see that the data connection ends, too."""
        try:
            more = self._transfer.data.recv_into(memoryview(bytearray(1)))
        except exceptions.Unavailable:
            return  # No end to be proud of, but the bytes are counted.
        if more:
            raise exceptions.SourceChanged(
                f'{self._where}: the server sends more than the size that '
                f'it gave; the file grows, or REST is ignored'
            )

    def _finish_counted(self) -> None:
        """Read the reply to a transfer of which all bytes are there."""
        self._check_no_more()
        self._end_data()
        try:
            code = self._transfer.control.reply().code
        except (exceptions.Unavailable, exceptions.Stalled):
            code = _IDLE
        if code not in (*_DONE, _IDLE):
            raise self._failure(code)
        self._release(reusable=code != _IDLE)

    def _finish(self) -> None:
        """The data has ended: only the reply tells whether it may."""
        if self._left:
            self._fail_early_end()
        self._end_data()
        code = self._transfer.control.reply().code
        if code not in _DONE:
            raise self._failure(code)
        self._release(reusable=True)

    def _end_data(self) -> None:
        """Answer the end of TLS: vsftpd does not reply before that."""
        with contextlib.suppress(exceptions.Unavailable):
            self._transfer.data.end()

    def _fail_early_end(self) -> typing.NoReturn:
        """The data has ended, and this is too early."""
        reply = self._transfer.reason()
        text = f'{self._where}: the data ended {self._left} bytes too early'
        if reply is None:
            raise exceptions.Unavailable(text)
        if reply.code not in _DONE:
            raise self._failure(reply.code)
        if self._rest is None:
            raise exceptions.SourceChanged(
                f'{text}; the file has no such bytes'
            )
        raise exceptions.Unavailable(
            f'{text}, and the server takes it for complete ({reply.code})'
        )

    def _failure(self, code: int) -> exceptions.TransferError:
        text = f'{self._where}: the server answers {code} to the transfer'
        if code // 100 == 4:
            return exceptions.Unavailable(text)
        return exceptions.ProtocolError(text)

    def _release(self, reusable: bool) -> None:
        """Hand the control connection back, unless it is to be closed."""
        if not reusable:
            return
        try:
            self._check(self._transfer.control)
        except (exceptions.Unavailable, exceptions.Stalled):
            return  # It hangs up after each transfer.
        with self._handing:
            if not self._stopped:
                control, self._control = self._control, None
                assert control is not None
                self._give_back(control)

    def close(self) -> None:
        """End the transfer; ends a read in another thread.

        Where it was not read to its end the control connection is dropped
        with it: that is the one way to end a transfer that all servers
        understand, and it waits for nothing (ABOR does).
        """
        if self.closed:
            return
        with self._handing:
            self._stopped = True
            if self._control is not None:
                self._control.shutdown()
        self._transfer.data.shutdown()
        with self._reading:
            super().close()
            self._transfer.data.close()
            if self._control is not None:
                self._control.close()
