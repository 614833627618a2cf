# SPDX-License-Identifier: Apache-2.0
"""Reading by RETR, from any byte where the server has REST."""

from __future__ import annotations

import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.ftp import control as _control
from oslo_transfer.drivers.ftp import names
from oslo_transfer.drivers.ftp import reply as _reply
from oslo_transfer.drivers.ftp import stream as _stream
from oslo_transfer.drivers.ftp import transfer as _transfer
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

# Servers limit the logins of one address, often to very few.
_MAX_STREAMS = 4


class FTPSource(base.Source):
    """A file behind an ftp or ftps URL.

    Opening it sends the first RETR: no other command says for sure that
    the file can be read. The first stream uses it if it starts there. Each
    further one has a control connection, one that is free or a new one,
    and asks again for size and time: FTP pins no version.

    The end of a stream proves that nothing is missing (``delimited``), for
    it takes the reply of the server that it has sent it all.
    """

    def __init__(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> None:
        self._path = names.path_of(endpoint)
        self._where = str(endpoint)
        self._login = _control.Login(endpoint, ctx)
        self._lock = threading.Lock()
        self._closed = False
        self._idle: list[_control.Control] = []
        self._modified: str | None = None
        self.capabilities = base.Capability.READ | base.Capability.RANDOM_READ
        self.size = None
        self.geometry = base.Geometry(max_streams=_MAX_STREAMS)
        control = self._login.open()
        try:
            self._first_start = ctx.start
            self._first: _transfer.Transfer | None = self._open_first(control)
        except BaseException:
            control.close()
            raise

    def _open_first(self, control: _control.Control) -> _transfer.Transfer:
        self.size = control.size(self._path)
        self._modified = control.modified(self._path)
        if self.size is None or self._first_start >= self.size:
            self._first_start = 0
        try:
            first = self._retrieve(control, self._first_start)
        except _transfer.RestartRefused:
            self._first_start = 0
            first = self._retrieve(control, 0)
        if self.size is None:
            self.size = _reply.told_size(first.begun)
        if self.size is None:
            # A REST that is ignored could not be told from one that works.
            self.capabilities &= ~base.Capability.RANDOM_READ
        elif self._modified is not None:
            # Two changes within a second look the same.
            self.validator = base.Validator(
                f'{self.size}/{self._modified}', False
            )
        return first

    def _retrieve(
        self, control: _control.Control, offset: int
    ) -> _transfer.Transfer:
        # Whether there is REST shows when it is needed: a list of features
        # (FEAT) is one more question, and not every server has it.
        try:
            return _transfer.Transfer(
                control,
                'RETR',
                self._path,
                offset=offset,
                exists=(self.size, self._modified) != (None, None),
            )
        except _transfer.RestartRefused:
            self.capabilities &= ~base.Capability.RANDOM_READ
            raise

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """The data of the first RETR, or of a new one."""
        with self._lock:
            if self._closed:
                raise exceptions.TransferCancelled(
                    f'{self._where}: the source was closed'
                )
            if self._ends_before(offset, length):
                return base.EmptyStream()
            first, self._first = self._first, None
        if first is not None:
            if offset == self._first_start:
                return self._read(first, offset, length)
            first.close()
        if offset and base.Capability.RANDOM_READ not in self.capabilities:
            raise exceptions.CapabilityMissing(
                f'{self._where}: the server sends the whole file only'
            )
        with self._lock:
            idle = self._idle.pop() if self._idle else None
        if idle is not None:
            try:
                return self._read(self._begin(idle, offset), offset, length)
            except exceptions.Unavailable:
                pass  # It may have been idle for too long.
        return self._read(
            self._begin(self._login.open(), offset), offset, length
        )

    def _ends_before(self, offset: int, length: int | None) -> bool:
        """Whether there is nothing to ask for: FTP has no empty run.

        A file that is said to be empty is asked for: some servers say so
        of any.
        """
        if self.size is None:
            return length == 0
        end = self.size if length is None else offset + length
        if not 0 <= offset <= end <= self.size:
            raise exceptions.SourceChanged(
                f'{self._where} has {self.size} bytes; {offset}..{end} were '
                f'asked for'
            )
        return offset == end and self.size > 0

    def _begin(
        self, control: _control.Control, offset: int
    ) -> _transfer.Transfer:
        try:
            self._check_size(control.size(self._path))
            self._check_modified(control)
            transfer = self._retrieve(control, offset)
            if not offset:
                self._check_size(_reply.told_size(transfer.begun))
            return transfer
        except BaseException:
            control.close()
            raise

    def _read(
        self, transfer: _transfer.Transfer, offset: int, length: int | None
    ) -> _stream.FTPStream:
        return _stream.FTPStream(
            transfer,
            None if self.size is None else self.size - offset,
            length,
            self._check_modified,
            self._give_back,
        )

    def _check_size(self, found: int | None) -> None:
        if found not in (None, self.size):
            raise exceptions.SourceChanged(
                f'{self._where}: it had {self.size} bytes and has {found} now'
            )

    def _check_modified(self, control: _control.Control) -> None:
        if self._modified is not None and self._modified != control.modified(
            self._path
        ):
            raise exceptions.SourceChanged(
                f'{self._where}: it was changed since it was opened'
            )

    def _give_back(self, control: _control.Control) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < _MAX_STREAMS:
                self._idle.append(control)
                return
        control.close()

    def close(self) -> None:
        """Hang up, but for streams that are still read."""
        with self._lock:
            self._closed = True
            first, self._first = self._first, None
            idle, self._idle = self._idle, []
        if first is not None:
            first.close()
        for control in idle:
            control.close()
