# SPDX-License-Identifier: Apache-2.0
"""What the suites of the conformance tests share.

A suite is a mix-in of test methods that knows neither a driver nor a test
runner. A test class binds it: it names the driver, fills in the hooks and
derives from ``unittest.TestCase`` at last.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import functools
import hashlib
import logging
import os
import pickle
import tempfile
import threading
import time
import traceback
import typing

from oslo_transfer import call as _call
from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures

# A suite is no TestCase, or a runner would take it for a test. A type
# checker is told otherwise, to find the methods of one.
if typing.TYPE_CHECKING:
    import unittest

    class TestBase(unittest.TestCase):
        """What a bound suite is in the end."""

else:
    TestBase = object

KIB = 1 << 10
MIB = 1 << 20

#: Sizes around the blocks that buffers, pipes and file systems have.
SIZES = sorted(
    {0, 1}.union(
        *(
            {block - 1, block, block + 1, 5 * block // 2}
            for block in (64 * KIB, MIB)
        )
    )
)

#: What must not show anywhere. Each is harmless in a URL.
SECRETS = ('conf0rm-user', 'conf0rm-pass', 'conf0rm-token')

#: Seconds in which a cancel or a close must have worked, and for a test
#: that hangs.
PROMPT = 1.0
PATIENCE = 10.0

T = typing.TypeVar('T')


@functools.lru_cache(maxsize=64)
def pattern(size: int, seed: str = '') -> bytes:
    """Bytes that look random and are the same each time."""
    return hashlib.shake_128(f'{seed}/{size}'.encode()).digest(size)


def spread(size: int, runs: Mapping[int, bytes]) -> bytes:
    """Zeros with runs of data at some offsets."""
    data = bytearray(size)
    for offset, run in runs.items():
        data[offset : offset + len(run)] = run
    return bytes(data)


def wait_for(condition: Callable[[], bool], seconds: float) -> bool:
    """Wait until something holds; tell whether it does."""
    end = time.monotonic() + seconds
    never = threading.Event()
    while not condition():
        if time.monotonic() > end:
            return False
        never.wait(0.005)
    return True


def _descriptors() -> set[tuple[str, str]]:
    found = set()
    for name in os.listdir('/proc/self/fd'):
        with contextlib.suppress(FileNotFoundError):
            found.add((name, os.readlink(f'/proc/self/fd/{name}')))
    return found


class _Records(logging.Handler):
    """Keeps all that is logged."""

    def __init__(self) -> None:
        super().__init__(logging.DEBUG)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage())


class Harness(TestBase):
    """The hooks and tools that every suite has.

    A class that binds suites fills in what has no default: it either
    raises NotImplementedError here, or is a declaration without a value.
    Its ``setUp`` calls the one here first.
    """

    #: The driver to test.
    driver_class: type[base.Driver]

    #: The size of the smallest object that the protocol can have.
    smallest: typing.ClassVar[int] = 0

    @property
    def sizes(self) -> list[int]:
        """Sizes to try."""
        return [size for size in SIZES if size >= self.smallest]

    def setUp(self) -> None:
        """Make a configuration and a driver of its own for the test.

        At the end of each test no thread and no descriptor may be left,
        and nothing secret may have been logged.
        """
        super().setUp()
        threads, descriptors = set(threading.enumerate()), _descriptors()
        self.addCleanup(self._check_nothing_left, threads, descriptors)
        records = _Records()
        root = logging.getLogger()
        level = root.level
        root.addHandler(records)
        root.setLevel(logging.DEBUG)
        self.addCleanup(self._check_nothing_told, records)
        self.addCleanup(root.setLevel, level)
        self.addCleanup(root.removeHandler, records)
        state = self.enterContext(tempfile.TemporaryDirectory())
        self.conf = fixtures.make_conf(state_path=state)
        self.driver = self.make_driver()

    # Hooks

    def make_driver(self) -> base.Driver:
        """A driver that works with ``self.conf``."""
        cls = self.driver_class
        if cls.OPTIONS:
            group = f'oslo_transfer_{cls.name}'
            self.conf.register_opts(cls.OPTIONS, group=group)
        return cls(self.conf)

    def put(self, data: bytes) -> str:
        """Make a new object with this content; return its URL."""
        raise NotImplementedError

    def missing(self) -> str:
        """The URL of an object that does not exist, next to some that do."""
        raise NotImplementedError

    # Tools

    def context(self, **changes: typing.Any) -> _context.Context:
        """The limits and means that a driver is called with."""
        ctx = _call.Call(self.conf, None, None, None).ctx
        return ctx.replace(**changes)

    def open(self, url: str, **changes: typing.Any) -> base.Source:
        """Open a source that is closed when the test ends.

        :param changes: to the context
        """
        source = self.driver.open_source(
            _endpoint.parse(url), self.context(**changes)
        )
        self.addCleanup(source.close)
        self.assertIn(base.Capability.READ, source.capabilities)
        self.assertIn(source.capabilities, self.driver.capabilities)
        return source

    def drain(self, stream: base.Stream, most: int | None = None) -> bytes:
        """Read a stream to its end, and see that it stays there.

        :param most: more bytes than that are an error
        """
        found = bytearray()
        buffer = memoryview(bytearray(256 * KIB))
        while count := stream.readinto(buffer):
            self.assertIn(count, range(1, len(buffer) + 1))
            found += buffer[:count]
            if most is not None:
                self.assertLessEqual(len(found), most, 'too many bytes')
        self.assertEqual(0, stream.readinto(buffer), 'more behind the end')
        return bytes(found)

    def take(self, stream: base.Stream, count: int) -> bytes:
        """Read so many bytes of a stream, which has to have them."""
        found = bytearray(count)
        rest = memoryview(found)
        while rest:
            step = stream.readinto(rest)
            self.assertIn(step, range(1, len(rest) + 1), 'an early end')
            rest = rest[step:]
        return bytes(found)

    def read(
        self, source: base.Source, offset: int = 0, length: int | None = None
    ) -> bytes:
        """Read a run of a source."""
        with source.stream(offset, length) as stream:
            return self.drain(stream, length)

    def assert_same(self, expected: bytes, found: bytes | None) -> None:
        """Compare without printing megabytes."""
        if found is None or expected == found:
            self.assertIsNotNone(found)
            return
        self.assertEqual(len(expected), len(found), 'another size')
        at = next(i for i, (a, b) in enumerate(zip(expected, found)) if a != b)
        self.fail(f'other bytes from {at} on, of {len(expected)}')

    def assert_fails(
        self,
        kinds: type[BaseException] | tuple[type[BaseException], ...],
        function: Callable[..., object],
        *args: typing.Any,
        **kwargs: typing.Any,
    ) -> BaseException:
        """See that a call raises, and that its error is fit to be shown.

        :param kinds: the classes that it may raise
        """
        with self.assertRaises(kinds) as caught:
            function(*args, **kwargs)
        self.assert_presentable(caught.exception)
        return caught.exception

    def assert_presentable(self, error: BaseException) -> None:
        """An error can be pickled, says something, and tells no secret."""
        told = repr(error) + ''.join(traceback.format_exception(error))
        for secret in SECRETS:
            self.assertNotIn(secret, told)
        if isinstance(error, exceptions.TransferError):
            self.assertTrue(str(error), 'an error without a message')
            again = pickle.loads(pickle.dumps(error))  # noqa: S301
            self.assertIs(type(error), type(again))
            self.assertEqual(str(error), str(again))
            self.assertEqual(error.retryable, again.retryable)

    def with_secrets(self, url: str) -> str:
        """The URL with a login and a query, all of them secrets.

        A path has no place for them, and stays as it is.
        """
        user, password, token = SECRETS
        scheme, separator, rest = url.partition('://')
        if not separator:
            return url
        return f'{scheme}://{user}:{password}@{rest}?key={token}'

    def together(self, *functions: Callable[[], T]) -> list[T]:
        """Run functions in threads at once; return what they return."""
        found: dict[int, T] = {}
        errors: list[BaseException] = []
        start = threading.Barrier(len(functions))

        def run(index: int, function: Callable[[], T]) -> None:
            try:
                start.wait(PATIENCE)
                found[index] = function()
            except BaseException as exc:
                errors.append(exc)

        threads = [
            threading.Thread(target=run, args=each, daemon=True)
            for each in enumerate(functions)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(PATIENCE)
            self.assertFalse(thread.is_alive(), 'a call hangs')
        if errors:
            raise errors[0]
        return [found[index] for index in range(len(functions))]

    def temporary(self) -> str:
        """A path in a directory that is gone after the test."""
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        return os.path.join(directory.name, 'file')

    def _check_nothing_left(
        self,
        threads: set[threading.Thread],
        descriptors: set[tuple[str, str]],
    ) -> None:
        # What a server in this process has takes a moment to go.
        wait_for(
            lambda: (
                set(threading.enumerate()) <= threads
                and _descriptors() <= descriptors
            ),
            PATIENCE / 2,
        )
        left = [t.name for t in set(threading.enumerate()) - threads]
        self.assertEqual([], left, 'threads are left')
        self.assertEqual(
            set(), _descriptors() - descriptors, 'descriptors are left'
        )

    def _check_nothing_told(self, records: _Records) -> None:
        for line in records.lines:
            for secret in SECRETS:
                self.assertNotIn(secret, line)
