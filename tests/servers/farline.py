# SPDX-License-Identifier: Apache-2.0
"""A long line to a server on this host: it has a rate and a round trip.

It is there for hosts whose kernel has no netem. All connections share the
line, each way, and what waits to be sent is bounded, as in a router. Run as a
program it prints its port, for each line of its input what it has sent, and
serves until its input ends.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
import time
import typing

# Seconds of the line's rate that wait to be sent, and that are sent at once.
_QUEUE_SECONDS = 0.02
_STEP_SECONDS = 0.002
_MIN_STEP, _MAX_STEP = 4096, 256 * 1024
_HELD = 4 << 20


class _Link:
    """The line in one direction.

    :param rate: bytes per second, or None
    :param delay: seconds
    """

    def __init__(self, rate: float | None, delay: float) -> None:
        self._rate = rate
        self.delay = delay
        self.step = _MAX_STEP
        if rate is not None:
            self.step = int(rate * _STEP_SECONDS)
            self.step = max(_MIN_STEP, min(_MAX_STEP, self.step))
        #: How many of its steps are under way at most.
        self.steps = _HELD // self.step
        if rate is not None:
            self.steps = 2 + int(rate * (delay + _QUEUE_SECONDS) / self.step)
        self._turn = asyncio.Lock()
        self._free = 0.0
        #: Bytes so far.
        self.sent = 0

    async def send(self, count: int) -> float:
        """Wait for room; returns when they arrive at the other end."""
        # One after the other, in the order in which they came.
        async with self._turn:
            now = time.monotonic()
            if (wait := self._free - _QUEUE_SECONDS - now) > 0:
                await asyncio.sleep(wait)
                now = time.monotonic()
            self._free = max(now, self._free)
            if self._rate is not None:
                self._free += count / self._rate
            self.sent += count
            return self._free + self.delay


class FarLine:
    """Passes on what comes, later; while it is entered.

    :param port: of the server, on loopback
    :param rate: bits per second each way, or None
    :param round_trip: seconds
    """

    host = '127.0.0.1'

    def __init__(
        self, port: int, *, rate: int | None = None, round_trip: float = 0.0
    ) -> None:
        self._server_port = port
        self._delay = round_trip / 2
        self._rate = rate
        #: Connections so far.
        self.accepted = 0
        self.port = 0
        self._tasks: set[asyncio.Task[None]] = set()
        ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: asyncio.run(self._run(ready)),
            name='far-line',
            daemon=True,
        )
        self._thread.start()
        ready.wait()

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def sent(self) -> int:
        """Bytes to clients so far."""
        return self._down.sent

    def url(self, path: str) -> str:
        """The URL of a path, where the server is a web server."""
        return f'http://{self.host}:{self.port}{path}'

    def cut(self) -> None:
        """End all connections, and refuse new ones."""
        if self._thread.is_alive():
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join()

    def close(self) -> None:
        """End it; idempotent."""
        self.cut()

    async def _run(self, ready: threading.Event) -> None:
        self._loop = asyncio.get_running_loop()
        self._end = asyncio.Event()
        rate = None if self._rate is None else self._rate / 8
        self._down, self._up = (_Link(rate, self._delay) for _way in range(2))
        # A server of asyncio would leave one that is just coming open.
        with socket.create_server((self.host, 0)) as listener:
            listener.setblocking(False)
            self.port = listener.getsockname()[1]
            self._loop.add_reader(listener, self._accept, listener)
            ready.set()
            await self._end.wait()
            self._loop.remove_reader(listener)
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    def _accept(self, listener: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            sock, _address = listener.accept()
            # As asyncio does for sockets that it makes itself.
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.accepted += 1
            task = self._loop.create_task(self._serve(sock))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
            # It may be over before it begins.
            task.add_done_callback(lambda _task: sock.close())

    async def _serve(self, sock: socket.socket) -> None:
        # Not to be cancelled: nobody would close what it has made.
        streams = self._loop.create_task(asyncio.open_connection(sock=sock))
        writers = []
        try:
            await asyncio.shield(streams)
            reader, writer = streams.result()
            there, further = await asyncio.open_connection(
                self.host, self._server_port
            )
            writers.append(further)
            # The handshake.
            await asyncio.sleep(2 * self._delay)
            await asyncio.gather(
                _pass_on(reader, further, self._up),
                _pass_on(there, writer, self._down),
            )
        except (OSError, asyncio.CancelledError):
            pass  # Whoever is left sees that it is closed.
        finally:
            for each in (*writers, (await streams)[1]):
                each.transport.abort()


async def _pass_on(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter, link: _Link
) -> None:
    """Pass on one direction, to its end."""
    queue: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(link.steps)

    async def take() -> None:
        data = b'-'
        while data:
            data = await reader.read(link.step)
            await queue.put((await link.send(len(data)), data))

    async def give() -> None:
        while True:
            due, data = await queue.get()
            if (wait := due - time.monotonic()) > 0:
                await asyncio.sleep(wait)
            if not data:
                writer.write_eof()
                return
            writer.write(data)
            await writer.drain()

    await asyncio.gather(take(), give())


class Program:
    """The same in a process of its own; a context manager.

    The parameters are those of :class:`FarLine`.
    """

    def __init__(
        self, port: int, *, rate: int | None = None, round_trip: float = 0.0
    ) -> None:
        self._process = subprocess.Popen(
            [
                *(sys.executable, '-m', 'tests.servers.farline'),
                *(str(port), str(rate or 0), str(round_trip)),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout
        self.port = int(self._process.stdout.readline())

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def url(self, path: str) -> str:
        """The URL of a path, where the server is a web server."""
        return f'http://127.0.0.1:{self.port}{path}'

    @property
    def sent(self) -> int:
        """Bytes to clients so far."""
        assert self._process.stdin
        assert self._process.stdout
        self._process.stdin.write('sent\n')
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def close(self) -> None:
        """End it; idempotent."""
        self._process.communicate()


def main() -> None:
    """Serve until the input ends."""
    port, rate, round_trip = sys.argv[1:]
    with FarLine(
        int(port), rate=int(rate) or None, round_trip=float(round_trip)
    ) as line:
        print(line.port, flush=True)
        for _question in sys.stdin:
            print(line.sent, flush=True)


if __name__ == '__main__':
    main()
