# SPDX-License-Identifier: Apache-2.0
"""Sources end when they are told to, and say why they fail."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import harness

# How long a peer must be silent before it is believed to be.
_SILENCE = 0.2


class WaitingConformance(harness.Harness):
    """Closing, limits, and what a peer can do wrong.

    The hooks that return None here stand for what cannot happen with a
    driver. One that connects to a peer (POLICED) has to have them all.
    """

    #: Seconds that opening a source takes at most.
    open_seconds: float = _SILENCE

    def stalled(self) -> str | None:
        """An object that gives a few bytes and then no more."""
        return None

    def silent(self) -> str | None:
        """An object whose peer takes the connection and never answers."""
        return None

    def unreachable(self) -> str | None:
        """An object whose peer is not there."""
        return None

    def denied(self) -> str | None:
        """An object that these credentials may not read."""
        return None

    def broken(self, data: bytes, at: int) -> str | None:
        """An object whose peer vanishes after so many bytes of it."""
        return None

    def nonsense(self) -> str | None:
        """An object whose peer breaks the protocol after a few bytes."""
        return None

    def vanish(self) -> bool:
        """Take away the peers of all objects.

        :returns: False if there is no peer that could go
        """
        return False

    # Closing

    def test_close_is_idempotent(self) -> None:
        """Closing twice, or what was never used, does nothing."""
        url = self.put(harness.pattern(1000))
        source = self.open(url)
        stream = source.stream(0, None)
        unused = source.stream(0, None)
        self.drain(stream)
        for _ in range(3):
            stream.close()
            unused.close()
        for _ in range(3):
            source.close()
        with self.open(url) as source:
            pass
        source.close()

    def test_close_in_any_order(self) -> None:
        """A stream can be closed after its source."""
        source = self.open(self.put(harness.pattern(harness.MIB)))
        stream = source.stream(0, None)
        stream.readinto(bytearray(10))
        source.close()
        stream.close()

    def test_read_after_close(self) -> None:
        """A closed stream gives an error, neither bytes nor the end."""
        source = self.open(self.put(harness.pattern(harness.MIB)))
        for count in (0, 10, harness.MIB):
            with self.subTest(read=count):
                stream = source.stream(0, None)
                self.take(stream, count)
                stream.close()
                self.assert_fails(
                    exceptions.TransferError, stream.readinto, bytearray(9)
                )
                with open(self.temporary(), 'wb') as file:
                    self._check_no_splice(stream, file.fileno())

    def _check_no_splice(self, stream: base.Stream, fd: int) -> None:
        try:
            self.assertIsNone(stream.splice(fd, 0, 100))
        except exceptions.TransferError as exc:
            self.assert_presentable(exc)

    def test_stream_after_close(self) -> None:
        """A closed source gives no streams that can be read."""
        source = self.open(self.put(harness.pattern(1000)))
        source.close()
        self.assert_fails(exceptions.TransferError, self.read, source)
        source = self.open(self.put(harness.pattern(1000)))
        self.read(source)
        source.close()
        self.assert_fails(exceptions.TransferError, self.read, source)

    # Waits

    def reading(
        self, url: str, **changes: typing.Any
    ) -> tuple[base.Stream, Callable[[], BaseException | None]]:
        """Read what a stalled peer gives, in a thread of its own.

        :returns: the stream, and what ends the thread: it returns the
            error that the read ended with, within :data:`harness.PROMPT`
        """
        stream = self.open(url, **changes).stream(0, None)
        self.addCleanup(stream.close)
        outcome: list[BaseException | None] = []
        begun = threading.Event()

        def read() -> None:
            # A read returns as soon as one byte is there: it must not
            # wait for as many as the buffer can hold.
            buffer = bytearray(harness.MIB)
            try:
                while stream.readinto(buffer):
                    begun.set()
                outcome.append(None)
            except BaseException as exc:
                outcome.append(exc)

        thread = threading.Thread(target=read, daemon=True)
        thread.start()
        self.assertTrue(begun.wait(harness.PATIENCE), 'no bytes came')
        thread.join(_SILENCE)
        if not changes.keys() & {'deadline', 'stall'}:
            self.assertTrue(thread.is_alive(), 'it does not stall')

        def finish() -> BaseException | None:
            thread.join(harness.PROMPT)
            self.assertFalse(thread.is_alive(), 'the read goes on')
            return outcome[0]

        return stream, finish

    def ends_with(
        self,
        kind: type[BaseException],
        finish: Callable[[], BaseException | None],
    ) -> None:
        """See what a read ended with."""
        error = finish()
        self.assertIsInstance(error, kind)
        assert error is not None
        self.assert_presentable(error)

    def test_close_ends_a_read(self) -> None:
        """Any thread can close a stream that another one waits on."""
        url = self.stalled()
        if url is None:
            return
        stream, finish = self.reading(url)
        stream.close()
        self.ends_with(exceptions.TransferError, finish)

    def test_cancel_ends_a_read(self) -> None:
        """Cancel works whatever the peer does."""
        for name in ('cancel', 'stop'):
            with self.subTest(by=name):
                url = self.stalled()
                event = threading.Event()
                if url is not None:
                    _stream, finish = self.reading(url, **{name: event})
                    event.set()
                    self.ends_with(exceptions.TransferCancelled, finish)

    def test_deadline_ends_a_read(self) -> None:
        """The deadline holds whatever the peer does."""
        url = self.stalled()
        if url is None:
            return
        end = time.monotonic() + max(2 * _SILENCE, self.open_seconds)
        _stream, finish = self.reading(url, deadline=end)
        self.ends_with(exceptions.DeadlineExceeded, finish)
        self.assertGreaterEqual(time.monotonic(), end)

    def test_stall_rule_ends_a_read(self) -> None:
        """A peer that is too slow is given up."""
        url = self.stalled()
        if url is None:
            return
        rule = _context.StallRule(2 * _SILENCE, 1 << 20)
        _stream, finish = self.reading(url, stall=rule)
        self.ends_with(exceptions.Stalled, finish)

    def test_limits_hold_without_a_stall(self) -> None:
        """A read that never waits notices a cancel and a deadline, too."""
        data = harness.pattern(4 * harness.MIB)
        url = self.put(data)
        buffer = bytearray(64 * harness.KIB)
        for name, kind in (
            ('cancel', exceptions.TransferCancelled),
            ('stop', exceptions.TransferCancelled),
            ('deadline', exceptions.DeadlineExceeded),
        ):
            with self.subTest(limit=name):
                event = threading.Event()
                limit: typing.Any = event
                if name == 'deadline':
                    limit = time.monotonic() + self.open_seconds
                source = self.open(url, **{name: limit})
                with source.stream(0, None) as stream:
                    stream.readinto(buffer)
                    event.set()
                    if name == 'deadline':
                        harness.wait_for(
                            lambda: time.monotonic() > limit,
                            self.open_seconds + harness.PROMPT,
                        )
                    self.assert_fails(kind, self.drain, stream)
                source.close()

    def test_limits_hold_while_opening(self) -> None:
        """A peer that never answers can be left."""
        url = self.silent()
        if url is None:
            return
        endpoint = _endpoint.parse(url)
        started = time.monotonic()
        self.assert_fails(
            exceptions.DeadlineExceeded,
            self.driver.open_source,
            endpoint,
            self.context(deadline=started + _SILENCE),
        )
        self.assertLess(time.monotonic(), started + _SILENCE + harness.PROMPT)
        cancel = threading.Event()
        timer = threading.Timer(_SILENCE, cancel.set)
        timer.start()
        started = time.monotonic()
        self.assert_fails(
            exceptions.TransferCancelled,
            self.driver.open_source,
            endpoint,
            self.context(cancel=cancel),
        )
        timer.join()
        self.assertLess(time.monotonic(), started + _SILENCE + harness.PROMPT)

    # Errors

    def test_missing(self) -> None:
        """What does not exist is NotFound."""
        self.assert_fails(
            exceptions.NotFound,
            self.driver.open_source,
            _endpoint.parse(self.missing()),
            self.context(),
        )

    def test_denied(self) -> None:
        """What may not be read is AccessDenied."""
        url = self.denied()
        if url is None:
            return
        self.assert_fails(
            exceptions.AccessDenied,
            self.driver.open_source,
            _endpoint.parse(url),
            self.context(),
        )

    def test_unreachable(self) -> None:
        """A peer that is not there is Unavailable, and worth a retry."""
        url = self.unreachable()
        if url is None:
            return
        error = self.assert_fails(
            exceptions.Unavailable,
            self.driver.open_source,
            _endpoint.parse(url),
            self.context(),
        )
        assert isinstance(error, exceptions.TransferError)
        self.assertTrue(error.retryable)

    def test_broken(self) -> None:
        """A peer that vanishes is Unavailable, and never the end."""
        data = harness.pattern(harness.MIB)
        for at in (1, 65536, len(data) - 1):
            url = self.broken(data, at)
            if url is None:
                continue
            with self.subTest(at=at):
                source = self.open(url)
                found = bytearray()
                buffer = memoryview(bytearray(64 * harness.KIB))
                with source.stream(0, None) as stream:
                    try:
                        while count := stream.readinto(buffer):
                            found += buffer[:count]
                        self.assertFalse(source.delimited)
                    except exceptions.Unavailable as exc:
                        self.assert_presentable(exc)
                self.assertEqual(data[: len(found)], bytes(found))
                source.close()

    def test_nonsense(self) -> None:
        """A peer that breaks the protocol is a ProtocolError."""
        url = self.nonsense()
        if url is None:
            return
        source = self.open(url)
        error = self.assert_fails(exceptions.ProtocolError, self.read, source)
        assert isinstance(error, exceptions.TransferError)
        self.assertFalse(error.retryable)

    def test_vanished(self) -> None:
        """A peer that is gone by the next stream is Unavailable."""
        data = harness.pattern(1000)
        source = self.open(self.put(data))
        self.assert_same(data, self.read(source))
        if not self.vanish():
            self.assert_same(data, self.read(source))
            return
        self.assert_fails(exceptions.Unavailable, source.stream, 0, None)
