# SPDX-License-Identifier: Apache-2.0
"""What a driver with WRITE owes."""

from __future__ import annotations

import threading
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import harness
from oslo_transfer.testing import writing_suite

Capability = base.Capability

# How long a peer takes nothing before it is left.
_PAUSE = 0.3
_OLD = harness.pattern(5000, 'old')


class SinkConformance(writing_suite.WritingConformance):
    """Sinks keep the contract.

    The hooks that return None here stand for what cannot happen with a
    driver. One that connects to a peer (POLICED) has to have them all but
    ``small_sink``.
    """

    def sink_nowhere(self) -> str | None:
        """A URL in a directory or container that does not exist."""
        return None

    def denied_sink(self) -> str | None:
        """A URL that these credentials may not write."""
        return None

    def small_sink(self, capacity: int) -> str | None:
        """A URL where no more than so many bytes fit."""
        return None

    def stalled_sink(self) -> str | None:
        """A URL whose peer takes no more than a few bytes of the body."""
        return None

    def broken_sink(self) -> str | None:
        """A URL whose peer vanishes after some bytes of the body."""
        return None

    def assert_hidden(self, url: str, data: bytes) -> None:
        """Nothing shows, or at least nothing that looks complete."""
        found = self.read_sink(url)
        if self.sink_has(Capability.ATOMIC):
            self.assertIsNone(found)
        if found is not None and self.sink_size is not None:
            found = found[: len(data)]
        self.assertNotEqual(data, found)

    # Showing and hiding

    def test_hidden_before_commit(self) -> None:
        """ATOMIC: nothing is visible before the commit."""
        data = harness.pattern(harness.MIB)
        url = self.sink_url()
        sink = self.open_to_write(url, len(data))
        self.assert_hidden(url, data)
        half = len(data) // 2
        self.write_all(sink, data[:half])
        sink.sync()
        self.assert_hidden(url, data)
        self.write_all(sink, data, half)
        if self.sink_has(Capability.ATOMIC):
            sink.sync()
            self.assert_hidden(url, data)
        sink.commit(len(data))
        self.assert_shows(data, url)

    def test_old_until_commit(self) -> None:
        """ATOMIC: what is replaced is there until the commit."""
        data = harness.pattern(harness.MIB)
        url = self.sink_url()
        self.write_sink(url, _OLD)
        sink = self.open_to_write(url, len(data), overwrite=True)
        self.write_all(sink, data)
        if self.sink_has(Capability.ATOMIC):
            sink.sync()
            self.assert_shows(_OLD, url)
        sink.commit(len(data))
        self.assert_shows(data, url)

    def test_abort(self) -> None:
        """Nothing shows of what was given up, however far it was."""
        data = harness.pattern(harness.MIB)
        for count in (0, 1, len(data) // 2, len(data)):
            for keep in (False, True):
                if count == len(data) and not self.sink_has(Capability.ATOMIC):
                    continue  # All of it is there: nobody can take it back.
                with self.subTest(written=count, keep=keep):
                    url = self.sink_url()
                    sink = self.open_to_write(url, len(data))
                    self.write_all(sink, data[:count])
                    sink.abort(keep)
                    self.assert_hidden(url, data)

    def test_abort_keeps_the_old(self) -> None:
        """ATOMIC: what was to be replaced is still there."""
        url = self.sink_url()
        self.write_sink(url, _OLD)
        sink = self.open_to_write(url, 1000, overwrite=True)
        self.write_all(sink, harness.pattern(500))
        sink.abort(False)
        if self.sink_has(Capability.ATOMIC):
            self.assert_shows(_OLD, url)

    def test_abort_again(self) -> None:
        """Giving up twice, or what was committed, does nothing."""
        data = harness.pattern(100_000)
        url = self.sink_url()
        sink = self.open_to_write(url, len(data))
        for keep in (False, True, False):
            sink.abort(keep)
        sink = self.open_to_write(url, len(data))
        self.write_all(sink, data)
        sink.commit(len(data))
        for keep in (False, True, False):
            sink.abort(keep)
        self.assert_shows(data, url)

    def test_abort_of_one_of_two(self) -> None:
        """One sink is given up, the other one lives."""
        data = harness.pattern(100_000)
        url = self.sink_url()
        sink = self.open_to_write(url, len(data))
        other = self.open_to_write(self.sink_url(), len(data))
        self.write_all(other, data[:1000])
        self.write_all(sink, data[:1000])
        other.abort(False)
        self.write_all(sink, data, 1000)
        sink.commit(len(data))
        self.assert_shows(data, url)

    def test_write_after_the_end(self) -> None:
        """A sink that was committed or given up takes nothing more."""
        data = harness.pattern(1000)
        for commit in (True, False):
            url = self.sink_url()
            sink = self.open_to_write(url, len(data))
            self.write_all(sink, data if commit else data[:500])
            if commit:
                sink.commit(len(data))
            else:
                sink.abort(False)
            with self.subTest(committed=commit):
                self.assert_fails(
                    exceptions.TransferError,
                    sink.pwrite,
                    memoryview(b'late'),
                    500,
                )
                if self.sink_has(Capability.READBACK):
                    self.assert_fails(
                        exceptions.TransferError,
                        sink.pread,
                        memoryview(bytearray(5)),
                        0,
                    )
            if commit:
                self.assert_shows(data, url)

    # Names that are taken

    def test_existing(self) -> None:
        """AlreadyExists, at the commit at last, and nothing is lost.

        What is like a device exists always, and is written.
        """
        data = harness.pattern(1000)
        url = self.sink_url()
        self.write_sink(url, _OLD)
        if self.sink_size is not None:
            self._write(url, data)
            self.assert_shows(data, url)
            return
        self.assert_fails(exceptions.AlreadyExists, self._write, url, data)
        self.assert_shows(_OLD, url)

    def _write(self, url: str, data: bytes, **options: typing.Any) -> None:
        sink = self.open_to_write(url, len(data), **options)
        self.write_all(sink, data)
        sink.commit(len(data))

    def test_overwrite(self) -> None:
        """The old goes completely, also if it was longer."""
        for size in (0, 1000, len(_OLD), 10000):
            with self.subTest(size=size):
                url = self.sink_url()
                self.write_sink(url, _OLD)
                data = harness.pattern(size)
                self._write(url, data, overwrite=True)
                self.assert_shows(data, url)

    def test_taken_meanwhile(self) -> None:
        """ATOMIC: whoever came first keeps the name."""
        data = harness.pattern(1000)
        url = self.sink_url()
        sink = self.open_to_write(url, len(data))
        self.write_all(sink, data)
        if not self.sink_has(Capability.ATOMIC):
            return  # Whether it is noticed is up to the peer.
        self.write_sink(url, _OLD)
        self.assert_fails(exceptions.AlreadyExists, sink.commit, len(data))
        sink.abort(False)
        self.assert_shows(_OLD, url)

    # Going on

    def test_resume(self) -> None:
        """RESUME: what was kept is there, hidden, for the next sink."""
        data = harness.pattern(harness.MIB)
        half = len(data) // 2
        url = self.sink_url()
        sink = self.open_to_write(url, len(data))
        self.write_all(sink, data[:half])
        sink.sync()
        sink.abort(True)
        self.assert_hidden(url, data)
        if not self.sink_has(Capability.RESUME):
            self.assertNotIn(Capability.RESUME, sink.capabilities)
            # Then nothing was kept that would be in the way.
            self._write(url, data)
            self.assert_shows(data, url)
            return
        sink = self.open_to_write(url, len(data), resume=True)
        self.assertFalse(sink.zeroed, 'what is there may be anything')
        self.assert_same(data[:half], self.back(sink, 0, half))
        self.write_all(sink, data, half)
        sink.commit(len(data))
        self.assert_shows(data, url)

    def test_start_over(self) -> None:
        """What was kept is gone for a sink that does not resume."""
        url = self.sink_url()
        sink = self.open_to_write(url, 10000)
        self.write_all(sink, harness.pattern(5000))
        sink.abort(True)
        data = harness.pattern(100, 'new')
        self._write(url, data)
        self.assert_shows(data, url)

    def test_nothing_to_resume(self) -> None:
        """RESUME: that is no error, there just is nothing."""
        if not self.sink_has(Capability.RESUME):
            return  # It is only asked of drivers that have it.
        data = harness.pattern(1000)
        for kept in (None, False):
            url = self.sink_url()
            if kept is not None:
                sink = self.open_to_write(url, len(data))
                self.write_all(sink, data)
                sink.abort(kept)
            sink = self.open_to_write(url, len(data), resume=True)
            self.assertFalse(any(self.back(sink, 0, len(data))))
            self.write_all(sink, data)
            sink.commit(len(data))
            self.assert_shows(data, url)

    # Errors

    def test_nowhere(self) -> None:
        """A directory that is missing is NotFound, and not made."""
        url = self.sink_nowhere()
        if url is None:
            return
        self.assert_fails(
            exceptions.NotFound, self._write, url, harness.pattern(10)
        )
        self.assertIsNone(self.read_sink(url))

    def test_sink_denied(self) -> None:
        """What may not be written is AccessDenied."""
        url = self.denied_sink()
        if url is None:
            return
        self.assert_fails(
            exceptions.AccessDenied, self._write, url, harness.pattern(10)
        )

    def test_no_space(self) -> None:
        """What does not fit is NoSpace, at the latest when it is full."""
        data = harness.pattern(harness.MIB)
        for told in (len(data), None):
            url = self.small_sink(len(data) // 2)
            if url is None:
                return
            with self.subTest(told=told):
                self.assert_fails(
                    exceptions.NoSpace, self._fill_up, url, data, told
                )
                self.assert_hidden(url, data)

    def _fill_up(self, url: str, data: bytes, told: int | None) -> None:
        sink = self.open_to_write(url, told)
        try:
            self.write_all(sink, data)
            sink.sync()
            sink.commit(len(data))
        finally:
            sink.abort(False)

    def _flood(self, url: str, **changes: typing.Any) -> None:
        """Write more than any buffer between here and a peer can hold."""
        data = harness.pattern(harness.MIB)
        sink = self.open_to_write(url, 64 * len(data), **changes)
        try:
            for index in range(64):
                sink.pwrite(memoryview(data), index * len(data))
            sink.commit(64 * len(data))
        finally:
            sink.abort(False)

    def test_limits_hold_while_writing(self) -> None:
        """A peer that takes nothing can be left, and is given up."""
        url = self.stalled_sink()
        if url is None:
            return
        cancel = threading.Event()
        timer = threading.Timer(_PAUSE, cancel.set)
        timer.start()
        started = time.monotonic()
        self.assert_fails(
            exceptions.TransferCancelled, self._flood, url, cancel=cancel
        )
        timer.join()
        self.assertLess(time.monotonic(), started + _PAUSE + harness.PROMPT)
        started = time.monotonic()
        self.assert_fails(
            exceptions.DeadlineExceeded,
            self._flood,
            url,
            deadline=started + _PAUSE,
        )
        self.assertLess(time.monotonic(), started + _PAUSE + harness.PROMPT)
        self.assert_fails(
            exceptions.Stalled,
            self._flood,
            url,
            stall=_context.StallRule(_PAUSE, 1 << 20),
        )

    def test_broken_while_writing(self) -> None:
        """A peer that vanishes is Unavailable."""
        url = self.broken_sink()
        if url is None:
            return
        self.assert_fails(exceptions.Unavailable, self._flood, url)

    def test_sink_secrets(self) -> None:
        """A login and a query show in no error, repr or log line."""
        url = self.with_secrets(self.sink_url())
        try:
            endpoint = _endpoint.parse(url)
            sink = self.driver.open_sink(endpoint, self.context(), size=1000)
        except exceptions.TransferError as exc:
            self.assert_presentable(exc)
            return
        self.addCleanup(sink.abort, False)
        for secret in harness.SECRETS:
            self.assertNotIn(secret, repr(sink))
        sink.abort(False)
        self.assert_fails(
            exceptions.TransferError, sink.pwrite, memoryview(b'x'), 0
        )
