# SPDX-License-Identifier: Apache-2.0
"""What a driver with CLONE or LOCAL_FILL owes."""

from __future__ import annotations

import os
import threading
import typing

from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import harness


class FillConformance(harness.Harness):
    """Filling a file by the driver's own means keeps the contract."""

    #: Whether it has to work for the part files of this test. It may
    #: depend on the file system; then this tells which it is.
    fills: typing.ClassVar[bool] = True

    def part_path(self) -> str:
        """The path of a part file that is to be made.

        Where it is may decide whether there is a way to fill it.
        """
        return self.temporary()

    def part(self, content: bytes = b'') -> str:
        """Make a part file."""
        path = self.part_path()
        with open(path, 'xb') as file:
            file.write(content)
        return path

    def fill(self, url: str, path: str, **changes: typing.Any) -> str:
        """Have the driver fill a part file."""
        return self.driver.fill(
            _endpoint.parse(url), path, self.context(**changes)
        )

    def test_fill(self) -> None:
        """All bytes are there, or none and the reason."""
        for size in harness.SIZES:
            with self.subTest(size=size):
                data = harness.pattern(size)
                url, path = self.put(data), self.part()
                inode = os.stat(path).st_ino
                if self.fills:
                    self.assertRegex(self.fill(url, path), r'^[a-z-]+$')
                    self.assert_same(data, _content(path))
                else:
                    self._check_refusal(url, path)
                # It is the core that has a lock on it, and renames it.
                self.assertEqual(inode, os.stat(path).st_ino)

    def _check_refusal(self, url: str, path: str) -> None:
        before = _content(path)
        self.assert_fails(exceptions.CapabilityMissing, self.fill, url, path)
        self.assert_same(before, _content(path))

    def test_fill_what_is_not_empty(self) -> None:
        """What is there is replaced, or as it was."""
        for size in (0, 1000, 100_000):
            with self.subTest(size=size):
                data = harness.pattern(size)
                url = self.put(data)
                path = self.part(harness.pattern(50_000, 'old'))
                if self.fills:
                    self.fill(url, path)
                    self.assert_same(data, _content(path))
                else:
                    self._check_refusal(url, path)

    def test_fill_at_once(self) -> None:
        """Several files are filled at the same time."""
        if not self.fills:
            url = self.put(harness.pattern(1000))
            self._check_refusal(url, self.part())
            return
        contents = [harness.pattern(harness.MIB, str(i)) for i in range(3)]
        urls = [self.put(data) for data in contents]
        paths = [self.part() for _ in urls]
        self.together(
            *(
                lambda url=url, path=path: self.fill(url, path)
                for url, path in zip(urls, paths)
            )
        )
        for data, path in zip(contents, paths):
            self.assert_same(data, _content(path))

    def test_fill_from_missing(self) -> None:
        """What does not exist is NotFound, and fills nothing."""
        path = self.part()
        self.assert_fails(exceptions.NotFound, self.fill, self.missing(), path)
        self.assertEqual(b'', _content(path))

    def test_cancelled_fill(self) -> None:
        """It is done already, or it was given up."""
        cancel = threading.Event()
        cancel.set()
        data = harness.pattern(harness.MIB)
        url, path = self.put(data), self.part()
        try:
            self.fill(url, path, cancel=cancel)
        except (
            exceptions.TransferCancelled,
            exceptions.CapabilityMissing,
        ) as exc:
            self.assert_presentable(exc)
            return
        self.assert_same(data, _content(path))


def _content(path: str) -> bytes:
    with open(path, 'rb') as file:
        return file.read()
