# SPDX-License-Identifier: Apache-2.0
"""An NBD server: images, read-only, for QEMU and everybody who speaks NBD.

The protocol is doc/proto.md of the NBD project: fixed newstyle negotiation,
simple and structured replies, block status, several connections at once,
TLS. A thread serves a connection, but for those that only read small pieces
of what is there: all of them have one together.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import errno
import logging
import socket
import threading
import time
import typing
import urllib.parse

from oslo_transfer import exceptions
from oslo_transfer.export import exported
from oslo_transfer.export import listening
from oslo_transfer.export import nbd_line
from oslo_transfer.export import nbd_lot
from oslo_transfer.export import nbd_misses
from oslo_transfer.export import nbd_options
from oslo_transfer.export import nbd_outlet
from oslo_transfer.export import nbd_session
from oslo_transfer.export import workers as _workers
from oslo_transfer import tls as _tls

LOG = logging.getLogger(__name__)

# Seconds for answers that are on their way when the server stops, and for
# threads to end then.
_GRACE, _PATIENCE = 0.2, 0.6
# Clients that have their own threads whatever they read.
_FEW = 2
# Seconds for which nobody is taken after that has failed.
_PAUSE = 0.1
# What a system has too little of, and will have again.
_SHORT = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)
# What all connections together hold of what the cache cannot keep.
_MOST_HELD = 64 << 20
_THREAD_NAME = 'oslo-transfer-nbd'


class _Client:
    """A connection, for as long as it is there."""

    def __init__(self, line: nbd_line.Line) -> None:
        self.line = line
        self.name: str | None = None
        self.image: exported.Exported | None = None
        self.session: nbd_session.Session | None = None

    def shutdown(self, how: int) -> None:
        """Have its thread notice that it is over."""
        with contextlib.suppress(OSError):
            # That of SSLSocket would take TLS from under the thread.
            socket.socket.shutdown(self.line.sock, how)


class NbdServer:
    """Serves images to any number of clients. Thread-safe.

    :param exports: images by name, UTF-8 of at most 4096 bytes; the one
        without a name ('') is what clients get who do not say which
    :param address: where
    :param tls: what shows clients who it is (:class:`.tls.ServerContext`);
        nobody gets anything without TLS then
    :param most: connections at once; further ones are closed at once
    :param handshake_seconds: how long a client may take to say what it wants
    :param workers: threads that fetch what is missing, for all clients
    :param find: the image of a name that is not listed; may block. The
        client is told the text of any
        :class:`~oslo_transfer.exceptions.TransferError`
    """

    def __init__(
        self,
        exports: Mapping[str, exported.Exported],
        address: listening.Address,
        *,
        tls: _tls.ServerContext | None = None,
        most: int = 512,
        handshake_seconds: float = 10.0,
        workers: int = 64,
        find: Callable[[str], exported.Exported] | None = None,
    ) -> None:
        self._exports = exported.Exports(exports)
        self._address = address
        self._tls = tls
        self._most = most
        self._handshake_seconds = handshake_seconds
        self._find = find
        self._workers = _workers.Workers(workers)
        self._lot = nbd_lot.Lot()
        self._budget = nbd_misses.Budget(_MOST_HELD)
        self._lock = threading.Condition()
        self._clients: set[_Client] = set()
        self._counts = nbd_session.Counts()
        self._stopping = threading.Event()
        self._listener: listening.Listener | None = None
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Listen, and serve from now on.

        :raises ConfigurationError: the address cannot be
        :raises Unavailable: somebody else has it
        :raises TransferError: the socket cannot be made
        """
        self._listener = listening.Listener(self._address)
        self._thread = threading.Thread(
            target=self._accept,
            args=(self._listener.sock,),
            name=f'{_THREAD_NAME}-accept',
            daemon=True,
        )
        self._thread.start()

    def __enter__(self) -> typing.Self:
        self.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.stop()

    @property
    def uri(self) -> str:
        """The URI of the default export."""
        return self.uri_of('')

    def uri_of(self, name: str) -> str:
        """The URI of an export (doc/uri.md of the NBD project)."""
        scheme = 'nbds' if self._tls else 'nbd'
        quoted = urllib.parse.quote(name, safe='')
        path = self._address.path
        if path is not None:
            socket_path = urllib.parse.quote(path)
            return f'{scheme}+unix:///{quoted}?socket={socket_path}'
        assert self._listener is not None, 'it has to be started first'
        return f'{scheme}://{self._listener.authority}/{quoted}'

    @property
    def connections(self) -> int:
        """How many clients there are."""
        return len(self._clients)

    def connections_of(self, name: str) -> int:
        """How many clients of an export there are."""
        with self._lock:
            return sum(client.name == name for client in self._clients)

    def statistics(self) -> dict[str, int]:
        """What was done since the start."""
        counts = nbd_session.Counts()
        with self._lock:
            vars(counts).update(vars(self._counts))
            for client in self._clients:
                if client.session is not None:
                    client.session.add_to(counts)
            return {'connections': len(self._clients), **vars(counts)}

    def add(self, name: str, image: exported.Exported) -> None:
        """Export one more.

        :raises AlreadyExists: the name is taken
        """
        self._exports.add(name, image)

    def remove(self, name: str) -> None:
        """Export one less; ends its connections, within a second."""
        self._exports.remove(name)
        self._end(lambda client: client.name == name)

    def drop(self, image: exported.Exported) -> None:
        """End all connections that read an image, within a second."""
        self._end(lambda client: client.image is image)

    def stop(self) -> None:
        """End everything, within a second; idempotent.

        What was answered is sent, if the client takes it at once.
        """
        self._stopping.set()
        listener = self._listener
        if listener is not None:
            with contextlib.suppress(OSError):
                # Closing alone would not wake up accept().
                listener.sock.shutdown(socket.SHUT_RDWR)
            listener.sock.close()
            listener.unlink()
        self._end(lambda client: True)
        self._lot.close()
        self._workers.close(_GRACE)
        thread, self._thread = self._thread, None
        if thread is not None:
            thread.join(_PATIENCE)

    def _end(self, which: typing.Callable[[_Client], bool]) -> None:
        """End connections, and wait until they have."""
        for how, seconds in (
            (socket.SHUT_RD, _GRACE),
            (socket.SHUT_RDWR, _PATIENCE),
        ):
            end = time.monotonic() + seconds
            with self._lock:
                for client in filter(which, self._clients):
                    client.shutdown(how)
                while any(map(which, self._clients)):
                    left = end - time.monotonic()
                    if left <= 0:
                        break
                    self._lock.wait(left)

    def _accept(self, listener: socket.socket) -> None:
        told = False
        while not self._stopping.is_set():
            try:
                sock, _address = listener.accept()
            except OSError as exc:
                if exc.errno in _SHORT:
                    if not told:
                        LOG.warning('no client can be taken: %s', exc)
                    told = True
                    self._stopping.wait(_PAUSE)
                    continue
                if exc.errno in (errno.EBADF, errno.EINVAL):
                    return  # It was closed.
                continue  # The client was gone already.
            if len(self._clients) >= self._most:
                if not told:
                    LOG.warning(
                        'clients are turned away: there are %d', self._most
                    )
                told = True
                sock.close()
                continue
            told = False
            self._take(sock)

    def _take(self, sock: socket.socket) -> None:
        client = _Client(
            nbd_line.Line(sock, self._tls, self._handshake_seconds)
        )
        with self._lock:
            if self._stopping.is_set():
                sock.close()
                return
            self._clients.add(client)
            self._lot.crowded = len(self._clients) > _FEW
        try:
            threading.Thread(
                target=self._serve,
                args=(client,),
                name=_THREAD_NAME,
                daemon=True,
            ).start()
        except RuntimeError as exc:
            LOG.warning('a client was turned away: %s', exc)
            self._leave(client)

    def _serve(self, client: _Client) -> None:
        """All of one connection."""
        try:
            self._talk(client)
        except (EOFError, OSError, nbd_options.Refused) as exc:
            LOG.debug('a client of NBD has left: %s', exc)
        except (nbd_session.Garbage, nbd_outlet.Broken) as exc:
            LOG.warning('a client of NBD was thrown out: %s', exc)
        except exceptions.TransferError as exc:
            LOG.warning('an image cannot be served by NBD: %s', exc)
        except Exception:
            LOG.exception('serving a client of NBD')
        finally:
            self._leave(client)

    def _talk(self, client: _Client) -> None:
        line = client.line

        def enter(agreement: nbd_options.Agreement) -> None:
            self._enter(client, agreement)

        if nbd_options.Negotiation(
            line,
            self._exports.images,
            lambda name: self._look_up(client, name),
            self._tls is not None,
            enter,
        ).run():
            assert client.session is not None
            line.begin()
            client.session.run()

    def _look_up(self, client: _Client, name: str) -> exported.Exported:
        """The image of a name; blocks.

        :raises TransferError: this client cannot have it
        """
        image = self._exports.images.get(name)
        if image is None:
            if self._find is None:
                raise exceptions.NotFound('there is no such export')
            with client.line.pause():
                image = self._find(name)
        with self._lock:
            # From now on it can be dropped.
            client.image = image
        return image

    def _enter(
        self, client: _Client, agreement: nbd_options.Agreement
    ) -> None:
        session = nbd_session.Session(
            client.line.sock,
            agreement,
            self._workers,
            self._budget,
            self._lot,
        )
        name, image = agreement.name, agreement.image
        listed = self._exports.images
        with self._lock:
            # It may have been removed meanwhile.
            if self._find is not None or listed.get(name) is image:
                client.name, client.session = name, session
                return
        session.close()
        raise exceptions.NotFound('the export was removed')

    def _leave(self, client: _Client) -> None:
        client.line.sock.close()
        session = client.session
        if session is not None:
            session.close()
        with self._lock:
            self._clients.discard(client)
            self._lot.crowded = len(self._clients) > _FEW
            if session is not None:
                session.add_to(self._counts)
            self._lock.notify_all()
