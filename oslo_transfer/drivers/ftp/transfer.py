# SPDX-License-Identifier: Apache-2.0
"""One transfer: a command that has a data connection."""

from __future__ import annotations

import typing

from oslo_transfer.drivers.ftp import control as _control
from oslo_transfer.drivers.ftp import reply as _reply
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import sockets

# How long a server may take to say why it drops a data connection.
_REASON_SECONDS = 1.0


class RestartRefused(exceptions.CapabilityMissing):
    """The server does not start anywhere but at the first byte."""


class Transfer:
    """Begins when it is made.

    :param control: free; has this transfer until it is over
    :param verb: RETR, STOR or NLST
    :param path: its argument
    :param offset: where to start, in bytes
    :param exists: the file was there a moment ago
    :raises RestartRefused: the server has no REST; the control connection
        is still free
    :raises NotFound: and all that a server can answer
    """

    def __init__(
        self,
        control: _control.Control,
        verb: str,
        path: str,
        *,
        offset: int = 0,
        exists: bool = False,
    ) -> None:
        self.control = control
        self.verb = verb
        self.where = control.where
        self.data: sockets.WatchedSocket = control.connect_data()
        try:
            if offset:
                self._restart_at(offset)
            self.begun = control.command(verb, path)
            if self.begun.kind != 1:
                raise self._refusal(offset, exists)
            self._secure()
        except BaseException:
            self.data.close()
            raise

    def _restart_at(self, offset: int) -> None:
        reply = self.control.command('REST', str(offset))
        if reply.code == 421:
            raise self.control.error(reply, 'REST')
        if reply.kind != 3:
            raise self._no_restart(reply)

    def _no_restart(self, reply: _reply.Reply) -> RestartRefused:
        return RestartRefused(
            f'{self.where}: the server cannot start in the middle of a file '
            f'(it answers {reply.code})'
        )

    def _refusal(self, offset: int, exists: bool) -> exceptions.TransferError:
        reply = self.begun
        if offset and reply.code in (501, 504, 551, 554):
            return self._no_restart(reply)
        if reply.kind in (4, 5):
            return _reply.error_for(reply, self.verb, self.where, exists)
        return exceptions.ProtocolError(
            f'{self.where}: the server answers {self.begun.code} to '
            f'{self.verb} before it was done'
        )

    def _secure(self) -> None:
        try:
            self.control.secure_data(self.data)
        except exceptions.Unavailable:
            reply = self.reason()
            if reply is not None and reply.kind in (4, 5):
                raise self.control.error(reply, self.verb) from None
            raise

    def reason(self) -> _reply.Reply | None:
        """What the server says about data that it dropped, if anything."""
        try:
            return self.control.early_reply(_REASON_SECONDS)
        except (
            exceptions.Unavailable,
            exceptions.Stalled,
            exceptions.ProtocolError,
        ):
            return None

    def shutdown(self) -> None:
        """Wake up a thread that waits; safe from any thread."""
        self.data.shutdown()
        self.control.shutdown()

    def close(self) -> None:
        """Drop both connections: the server has to notice by itself."""
        self.data.close()
        self.control.close()
