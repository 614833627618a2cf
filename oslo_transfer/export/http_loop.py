# SPDX-License-Identifier: Apache-2.0
"""One thread that serves all connections, and never waits for one.

What is there goes out by sendfile(2); what has to be fetched first is left
to other threads meanwhile. A client that does not read costs a descriptor.
"""

from __future__ import annotations

import collections
from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterator
import errno
import itertools
import logging
import os
import secrets
import select
import socket
import threading
import time
import typing

from oslo_transfer.export import exported
from oslo_transfer.export import gate as _gate
from oslo_transfer.export import http_channel
from oslo_transfer.export import http_connection
from oslo_transfer.export import http_host
from oslo_transfer.export import listening
from oslo_transfer.export import workers as _workers
from oslo_transfer import tls as _tls

LOG = logging.getLogger(__name__)

_IN, _OUT = select.EPOLLIN, select.EPOLLOUT
# Each change is told once: no call is needed to wait for another one.
_ALL = _IN | _OUT | select.EPOLLRDHUP | select.EPOLLET
# Seconds between two looks at what has taken too long.
_TICK = 0.5
_EVENTS = 256
# Of what is copied at once. Measured: more is no faster.
_ROOM = 192 * 1024
# Connections that are taken in one turn.
_ACCEPTS = 32
# Seconds for which nobody is taken after that has failed.
_PAUSE = 0.2
# Bytes of bodies and pages at once. Short ones are never too many.
_MOST_HELD = 32 << 20
_SHORT = 64 * 1024
# Threads that wait for pages.
_PAGES = 8
# What a system has too little of, and will have again.
_LACKS = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM)


class Loop:
    """Serves connections until it is stopped.

    :param listener: a socket that listens; owned
    :param tls: a server's context, or None
    :param gate: who decides what is served
    :param limits: seconds
    :param most: connections at once; a further one takes the place of the
        one that was idle for the longest time
    :param workers: threads that fetch, at most; half as many ask the gate
    """

    def __init__(
        self,
        listener: socket.socket,
        tls: _tls.ServerContext | None,
        gate: _gate.Gate,
        limits: http_host.Limits,
        most: int,
        workers: int,
    ) -> None:
        self._tls = tls
        self.gate = gate
        self._limits = limits
        self._most = most
        self.fetchers = _workers.Workers(workers)
        self.clerks = _workers.Workers(max(1, workers // 2))
        self.pages = _workers.Workers(_PAGES)
        run = secrets.token_hex(8)
        self.names: Iterator[str] = (
            f'req-{run}-{number}' for number in itertools.count(1)
        )
        self._held = 0
        self.now = time.monotonic()
        self.counts = http_host.Counts()
        self.room = memoryview(bytearray(_ROOM))
        self._listener = listener
        listener.setblocking(False)
        self._door = listener.fileno()
        self._connections: dict[int, http_connection.Connection] = {}
        # Closed, while another thread still has the reader.
        self._leaving: set[http_connection.Connection] = set()
        self._turns: collections.deque[http_connection.Connection] = (
            collections.deque()
        )
        self._lock = threading.Lock()
        # From other threads.
        self._calls: collections.deque[Callable[[], None]] = (
            collections.deque()
        )
        self._ended = False
        # Nobody is taken before that.
        self._paused = 0.0
        self._epoll = select.epoll()
        self._bell = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        for fd in (self._bell, self._door):
            self._epoll.register(fd, _IN)
        self._thread = threading.Thread(
            target=self._run, name='oslo-transfer-http', daemon=True
        )

    # For other threads

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self, seconds: float) -> None:
        """End all; what is being sent ends early.

        Waits for other threads, but not for longer.
        """
        end = time.monotonic() + seconds
        self._ended = True
        self.call(lambda: None)
        self._thread.join()
        for workers in (self.fetchers, self.clerks, self.pages):
            workers.close(max(0.0, end - time.monotonic()))

    def call(self, function: Callable[[], None]) -> None:
        """Have something done in the loop's thread; from any thread.

        Where that has ended it is done here.
        """
        with self._lock:
            if self._bell >= 0:
                self._calls.append(function)
                os.eventfd_write(self._bell, 1)
                return
        function()

    def drop(self, image: exported.Exported, seconds: float) -> bool:
        """End all connections that read an image.

        :param seconds: for a thread that fetches to be done
        :returns: whether nobody reads it any more
        """
        end = time.monotonic() + seconds
        while self._thread.is_alive():
            closed = threading.Event()
            self.call(lambda: self._close_all(image, closed))
            closed.wait(_TICK)
            if closed.is_set() and not any(
                connection.image is image for connection in set(self._leaving)
            ):
                break
            if time.monotonic() >= end:
                return False
            time.sleep(_PAUSE / 10)
        return True

    def __len__(self) -> int:
        """How many connections there are."""
        return len(self._connections)

    # For connections

    def again(self, connection: http_connection.Connection) -> None:
        """Give it another turn when others had theirs."""
        if not connection.queued:
            connection.queued = True
            self._turns.append(connection)

    def hold(self, count: int) -> bool:
        """Have memory for so many bytes, or give it back."""
        if count > _SHORT and count > _MOST_HELD - self._held:
            return False
        self._held += count
        return True

    def work(
        self,
        workers: _workers.Workers,
        job: Callable[[], typing.Any],
        then: Callable[[typing.Any], None],
        whose: Hashable = None,
    ) -> None:
        """Run a job in another thread, then something in this one."""

        def run() -> None:
            try:
                found = job()
            except Exception as exc:
                found = exc
            self.call(lambda: then(found))

        workers.do(run, whose)

    def gone(self, connection: http_connection.Connection) -> None:
        """It is closed, which also took it from epoll."""
        fd = connection.channel.fd
        if self._connections.get(fd) is connection:
            del self._connections[fd]
        if connection.image is None:
            self._leaving.discard(connection)
        else:
            self._leaving.add(connection)

    # The thread

    def _run(self) -> None:
        due = 0.0
        while not self._ended:
            # Whoever has more to send takes turns with what happens.
            events = self._epoll.poll(0 if self._turns else _TICK, _EVENTS)
            self.now = time.monotonic()
            for fd, mask in events:
                connection = self._connections.get(fd)
                if connection is not None:
                    connection.on_event(mask)
                elif fd == self._door:
                    self._accept()
                elif fd == self._bell:
                    self._answer_bell()
            for _ in range(len(self._turns)):
                connection = self._turns.popleft()
                connection.queued = False
                connection.go()
            if self.now >= due:
                due = self.now + _TICK
                self._look_around()
        self._close()

    def _answer_bell(self) -> None:
        os.eventfd_read(self._bell)
        self._run_calls()

    def _run_calls(self) -> None:
        while self._calls:
            try:
                self._calls.popleft()()
            except Exception:
                LOG.exception('in the thread of the HTTP export')

    def _close_all(
        self, image: exported.Exported, closed: threading.Event
    ) -> None:
        for connection in list(self._connections.values()):
            if connection.image is image:
                connection.close()
        closed.set()

    def _look_around(self) -> None:
        for connection in list(self._connections.values()):
            connection.expire(self._limits)
        if self._paused and self.now >= self._paused:
            self._paused = 0.0
            self._epoll.modify(self._door, _IN)

    # Who comes and goes

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, address = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as exc:
                if exc.errno in _LACKS:
                    self._make_room(exc)
                    return
                # Whoever it was has gone already: accept(2).
                continue
            try:
                self._take(sock, _peer(address))
            except OSError as exc:
                LOG.debug('a client has gone: %s', exc)
                sock.close()

    def _take(self, sock: socket.socket, peer: str) -> None:
        if sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        crowded = listening.is_one_too_many(sock)
        if crowded or len(self._connections) >= self._most:
            if not self._end_idle():
                sock.close()
                LOG.warning('%d clients at once are too many', len(self) + 1)
                return
            if crowded:
                # Have the one that has become free, and leave this one.
                with sock:
                    sock = sock.dup()
        channel = (
            http_channel.Channel(sock)
            if self._tls is None
            else http_channel.SecureChannel(sock, self._tls)
        )
        connection = http_connection.Connection(channel, self, peer)
        self._connections[channel.fd] = connection
        self.counts.accepted += 1
        try:
            self._epoll.register(channel.fd, _ALL)
        except OSError:
            connection.close()
            raise

    def _make_room(self, exc: OSError) -> None:
        """Descriptors or memory are used up; some will come back."""
        LOG.warning('taking a client: %s', exc)
        if not self._end_idle():
            self._paused = self.now + _PAUSE
            self._epoll.modify(self._door, 0)

    def _end_idle(self) -> bool:
        """End the connection that was idle for the longest time."""
        idle = [each for each in self._connections.values() if each.is_idle]
        if not idle:
            return False
        min(idle, key=lambda connection: connection.since).close()
        return True

    def _close(self) -> None:
        self._listener.close()
        for connection in list(self._connections.values()):
            connection.close()
        with self._lock:
            bell, self._bell = self._bell, -1
        os.close(bell)
        self._epoll.close()
        self._run_calls()


def _peer(address: typing.Any) -> str:
    """Who it is, for the log."""
    if not isinstance(address, tuple):
        return 'local'
    host, port = address[:2]
    return f'[{host}]:{port}' if ':' in host else f'{host}:{port}'
