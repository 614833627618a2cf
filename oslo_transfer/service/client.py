# SPDX-License-Identifier: Apache-2.0
"""Asks the service of this host; imports nothing that serves."""

from __future__ import annotations

import base64
from collections.abc import Callable
import contextlib
import functools
import http.client
import io
import json
import socket
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer import exceptions
from oslo_transfer import oserrors
from oslo_transfer.service import errors

if typing.TYPE_CHECKING:
    from oslo_config import cfg

#: The longest that an answer is waited for, in seconds.
TIMEOUT = 30.0
_MAX_ANSWER = 64 << 20
_CHUNK = 64 * 1024
_PAUSE = 0.05

_T = typing.TypeVar('_T')


class Client:
    """Each method asks once, and keeps the limits of the call.

    Without a service they raise ServiceNotRunning at once. What the service
    itself met is raised as the library's own error.

    :param conf: says where the service is
    :param ctx: whose deadline and cancel are kept; None for a command
    """

    def __init__(
        self, conf: cfg.ConfigOpts, ctx: _context.Context | None = None
    ) -> None:
        self._path: str = conf.oslo_transfer_service.control_socket
        self._check = ctx.check if ctx is not None else lambda: None

    def status(self) -> dict[str, typing.Any]:
        """How the service and its roles are."""
        return self.ask('GET', '/v1/status')

    def seeds(self) -> list[dict[str, typing.Any]]:
        """What is seeded."""
        found = self.ask('GET', '/v1/seeds').get('seeds')
        if not isinstance(found, list):
            raise _nonsense()
        return found

    def add_seed(self, torrent: bytes, path: str) -> dict[str, typing.Any]:
        """Have a finished file seeded from where it is.

        It may be done again: then the time that it is seeded for starts
        anew.

        :param torrent: the content of the torrent file
        :param path: the file, as an absolute path
        :returns: the seed, as :meth:`seeds` has it
        :raises ServiceNotRunning: there is no service
        :raises AccessDenied: we may not ask it, or it may not read the file
        :raises CapabilityMissing: it does not seed, or not such a torrent
        :raises PolicyRefused: the file is in none of the seed_paths
        :raises IntegrityError: the file has another size than the torrent
        :raises TransferError: it does not work
        """
        return self.ask(
            'POST',
            '/v1/seeds',
            {
                'torrent': base64.b64encode(torrent).decode('ascii'),
                'path': path,
            },
        )

    def remove_seed(self, info_hash: str) -> dict[str, typing.Any]:
        """End the seeding of a file; the file stays.

        :param info_hash: of either version, in hex
        :returns: the seed as it was
        :raises NotFound: there is none of that info-hash
        """
        if not (info_hash.isascii() and info_hash.isalnum()):
            raise exceptions.InvalidEndpoint('this is no info-hash')
        return self.ask('DELETE', f'/v1/seeds/{info_hash.lower()}')

    def attachments(self) -> list[dict[str, typing.Any]]:
        """What the service holds attached."""
        found = self.ask('GET', '/v1/attachments').get('attachments')
        if not isinstance(found, list):
            raise _nonsense()
        return found

    def add_attachment(
        self,
        identifier: str,
        lun: typing.Mapping[str, typing.Any],
        password: str | None,
        *,
        writing: bool,
    ) -> tuple[str, int]:
        """Have a LUN attached in user space for as long as it is wanted.

        :param identifier: names it from now on: 32 hexadecimal digits
        :param lun: see :mod:`~oslo_transfer.drivers.iscsi.userspace`
        :param password: for CHAP, or None
        :param writing: whether it takes writes
        :returns: the NBD URI, and the size in bytes
        :raises ServiceNotRunning: there is no service
        :raises CapabilityMissing: it does not have the role
        :raises TransferError: it does not work
        """
        found = self.ask(
            'POST',
            '/v1/attachments',
            {
                'id': identifier,
                'lun': lun,
                'password': password,
                'writing': writing,
            },
        )
        path, size = found.get('path'), found.get('size')
        if not (isinstance(path, str) and isinstance(size, int)):
            raise _nonsense()
        return path, size

    def remove_attachment(self, identifier: str) -> None:
        """Have an attachment taken away.

        :raises NotFound: there is none of that name
        :raises DetachError: it is in use
        :raises TransferError: it does not work
        """
        self.ask('DELETE', f'/v1/attachments/{_checked(identifier)}')

    def cached(self) -> list[dict[str, typing.Any]]:
        """What the service exports from its cache."""
        found = self.ask('GET', '/v1/cached').get('cached')
        if not isinstance(found, list):
            raise _nonsense()
        return found

    def add_cached(
        self, fields: typing.Mapping[str, typing.Any]
    ) -> tuple[str, str, int]:
        """Have an image served from the cache for as long as it is wanted.

        :param fields: see :class:`~oslo_transfer.service.cached.Record`
        :returns: the form of attachment, its path, and the size in bytes
        :raises ServiceNotRunning: there is no service
        :raises CapabilityMissing: it does not have the role
        :raises TransferError: it does not work
        """
        found = self.ask('POST', '/v1/cached', fields)
        form, path, size = (
            found.get(name) for name in ('form', 'path', 'size')
        )
        if not (
            isinstance(form, str)
            and isinstance(path, str)
            and isinstance(size, int)
        ):
            raise _nonsense()
        return form, path, size

    def remove_cached(self, identifier: str) -> None:
        """Have an image served no more; what is kept of it stays a while.

        :raises NotFound: there is none of that name
        :raises DetachError: somebody reads it
        :raises TransferError: it does not work
        """
        self.ask('DELETE', f'/v1/cached/{_checked(identifier)}')

    def scrub(self) -> None:
        """Have all blocks that are kept compared with their checksums.

        Does not wait for the end.

        :raises CapabilityMissing: the service has no role that keeps any
        """
        missing = 0
        for name in ('cache', 'proxy'):
            try:
                self.ask('POST', f'/v1/{name}/scrub', {})
            except exceptions.CapabilityMissing:
                missing += 1
                if missing == 2:
                    raise

    def trace(self, identifier: str) -> bytes:
        """What was read of an image first, as an iolog of fio(1).

        :param identifier: of the attachment, or of the export
        :raises NotFound: there is none of that name
        """
        found = self.ask('GET', f'/v1/traces/{_checked(identifier)}')
        text = found.get('iolog')
        if not isinstance(text, str):
            raise _nonsense()
        return text.encode()

    def ask(
        self,
        method: str,
        path: str,
        body: typing.Mapping[str, typing.Any] | None = None,
    ) -> dict[str, typing.Any]:
        """Ask anything of the control API.

        :raises ServiceNotRunning: there is no service
        :raises Stalled: no answer in time
        :raises ProtocolError: the answer makes no sense
        :raises TransferError: what the service says
        """
        return self.exchange(method, path, body)[1]

    def exchange(
        self,
        method: str,
        path: str,
        body: typing.Mapping[str, typing.Any] | None = None,
    ) -> tuple[int, dict[str, typing.Any]]:
        """As :meth:`ask`, with the HTTP status in front.

        :raises TransferError: as there
        """
        data = b'' if body is None else json.dumps(body).encode()
        head = (
            f'{method} {path} HTTP/1.1\r\nHost: localhost\r\n'
            f'Content-Length: {len(data)}\r\n\r\n'
        )
        status, fields = _parse(self._exchange(head.encode('ascii') + data))
        if status >= http.HTTPStatus.BAD_REQUEST:
            raise errors.restore(fields.get('error'), fields.get('message'))
        return status, fields

    def _exchange(self, request: bytes) -> bytes:
        end = time.monotonic() + TIMEOUT
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(_context.TICK)
            try:
                self._wait(end, functools.partial(sock.connect, self._path))
            except (FileNotFoundError, ConnectionRefusedError) as exc:
                raise exceptions.ServiceNotRunning(
                    f'no service at {self._path}; start "oslo-transfer '
                    f'serve", or set [oslo_transfer_service] control_socket'
                ) from exc
            except OSError as exc:
                raise oserrors.translate(exc, f'asking {self._path}') from exc
            rest = memoryview(request)
            # One that refuses may say so before it has read all.
            with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                while rest:
                    send = functools.partial(sock.send, rest[:_CHUNK])
                    rest = rest[self._wait(end, send) :]
            answer = bytearray()
            receive = functools.partial(sock.recv, _CHUNK)
            with contextlib.suppress(ConnectionResetError):
                while data := self._wait(end, receive):
                    answer += data
                    if len(answer) > _MAX_ANSWER:
                        raise _nonsense()
        if not answer:
            raise exceptions.Unavailable('the service ended meanwhile')
        return bytes(answer)

    def _wait(self, end: float, call: Callable[[], _T]) -> _T:
        """Call until it neither times out nor would block."""
        while time.monotonic() < end:
            self._check()
            try:
                return call()
            except TimeoutError:
                continue
            except BlockingIOError:  # Too many wait to connect.
                time.sleep(_PAUSE)
        raise exceptions.Stalled(
            f'the service at {self._path} does not answer'
        )


class _Answer(typing.NamedTuple):
    """Looks to http.client like a socket from which all was read."""

    data: bytes

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self.data)


def _parse(answer: bytes) -> tuple[int, dict[str, typing.Any]]:
    response = http.client.HTTPResponse(
        typing.cast(typing.Any, _Answer(answer))
    )
    try:
        response.begin()
        fields = json.loads(response.read())
    except (http.client.HTTPException, ValueError, RecursionError) as exc:
        raise _nonsense() from exc
    if not isinstance(fields, dict):
        raise _nonsense()
    return response.status, fields


def _checked(identifier: str) -> str:
    if not (identifier.isascii() and identifier.isalnum()):
        raise exceptions.InvalidEndpoint('this is no attachment')
    return identifier


def _nonsense() -> exceptions.ProtocolError:
    return exceptions.ProtocolError(
        'the answer of the service makes no sense; does something else '
        'listen on its socket?'
    )
