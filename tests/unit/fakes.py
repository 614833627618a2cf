# SPDX-License-Identifier: Apache-2.0
"""Sources and sinks in memory that do what a test tells them to."""

from __future__ import annotations

import threading

from oslo_transfer.cache import demand
from oslo_transfer import context
from oslo_transfer.drivers import base
from oslo_transfer import exceptions

Capability = base.Capability


def make_ctx(conf=None, **changes):
    """A context without limits and without a network."""
    return context.Context(
        conf=conf,
        connector=None,
        stall=context.StallRule(5.0, 1),
        connect_timeout=1.0,
        **changes,
    )


class MemorySink(base.Sink):
    """Keeps what is written, and notes the calls."""

    capabilities = (
        Capability.WRITE | Capability.RANDOM_WRITE | Capability.READBACK
    )

    def __init__(self, content=b'', capacity=None, zeroed=False):
        self.content = bytearray(content)
        self.capacity = capacity
        self.zeroed = zeroed
        #: What was called, in order: (name, offset, length).
        self.calls = []
        #: Called before each call with its name; may raise.
        self.before = lambda name: None
        self._lock = threading.Lock()

    def _call(self, name, offset=0, length=0):
        self.before(name)
        with self._lock:
            self.calls.append((name, offset, length))

    def _room(self, end):
        if len(self.content) < end:
            self.content.extend(bytes(end - len(self.content)))

    def pwrite(self, buffer, offset):
        self._call('pwrite', offset, len(buffer))
        with self._lock:
            self._room(offset + len(buffer))
            self.content[offset : offset + len(buffer)] = buffer

    def zero(self, offset, length):
        self._call('zero', offset, length)
        with self._lock:
            self._room(offset + length)
            self.content[offset : offset + length] = bytes(length)
        return True

    def pread(self, buffer, offset):
        self._call('pread', offset, len(buffer))
        with self._lock:
            found = self.content[offset : offset + len(buffer)]
        buffer[: len(found)] = found
        return len(found)

    def sync(self):
        self._call('sync')

    def commit(self, size):
        self._call('commit', 0, size)

    def abort(self, keep):
        self._call('abort')

    def names(self):
        return [name for name, _offset, _length in self.calls]


class MemoryStream(base.Stream):
    def __init__(self, source, position, end):
        super().__init__()
        self._source = source
        self._position = position
        self._end = end

    def readinto(self, buffer):
        view = memoryview(buffer)
        count = min(len(view), self._source.step, self._end - self._position)
        self._source.before_read(self, self._position, count)
        view[:count] = self._source.data[
            self._position : self._position + count
        ]
        self._position += count
        return count


class MemorySource(base.Source):
    """Reads bytes.

    :param step: the most bytes of one read
    """

    capabilities = Capability.READ | Capability.RANDOM_READ

    def __init__(self, data, step=1 << 20, max_streams=4):
        self.data = data
        self.size = len(data)
        self.step = step
        self.geometry = base.Geometry(max_streams=max_streams)
        #: Called with (stream, position, count) before each read.
        self.before_read = lambda stream, position, count: None
        #: (offset, length) of each stream.
        self.streams = []

    def stream(self, offset, length):
        self.streams.append((offset, length))
        end = self.size if length is None else offset + length
        return MemoryStream(self, offset, end)

    def close(self):
        pass


def who_waits(monkeypatch):
    """An event: somebody waits for a block of a cache from then on."""
    waits = threading.Event()
    wait = demand.Demand.wait

    def tell(self, flight, ctx):
        waits.set()
        wait(self, flight, ctx)

    monkeypatch.setattr(demand.Demand, 'wait', tell)
    return waits


def unavailable(*_args):
    raise exceptions.Unavailable('gone')
