# SPDX-License-Identifier: Apache-2.0
"""Takes away what killed copies have left behind.

A copy that is interrupted leaves a part file and its journal on purpose,
for the next one to go on with. Where no next one comes they stay. Nothing
here touches a leftover that is young, or that a live process has locked.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import dataclasses
import errno
import fcntl
import os
import re
import stat
import time

from oslo_transfer import flight
from oslo_transfer import oserrors

REMOVED = 'removed'
WOULD_REMOVE = 'would be removed'
IN_USE = 'in use'
FAILED = 'failed'

_JOURNAL = flight.SUFFIX + flight.JOURNAL_SUFFIX
# What the write of an attachment's record leaves if it is cut short.
_RECORD = re.compile(r'[0-9a-f]{32}\.json\.new')
# Not ours, whatever its name: a symbolic link, a directory, a device.
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO)


@dataclasses.dataclass(frozen=True)
class Leftover:
    """A stale file, and what became of it.

    :ivar path: the file
    :ivar kind: ``part``, ``journal``, ``record``, or ``directory`` for a
        directory that could not be read
    :ivar size: bytes that it takes on the disk
    :ivar age: seconds since it was last written to
    :ivar outcome: :data:`REMOVED`, :data:`WOULD_REMOVE`, :data:`IN_USE` or
        :data:`FAILED`
    :ivar reason: why it failed, else ''
    """

    path: str
    kind: str
    size: int
    age: float
    outcome: str
    reason: str = ''


def clean(
    directories: Sequence[str],
    *,
    older_than: float,
    recursive: bool = False,
    dry_run: bool = False,
) -> list[Leftover]:
    """Remove stale leftovers from directories.

    A part file and its journal are one: the younger of the two counts.

    :param directories: where to look
    :param older_than: seconds since the last modification
    :param recursive: look into subdirectories too; links are not followed
    :param dry_run: only tell what would be removed
    :returns: what was found and is old enough
    :raises TransferError: one of the directories cannot be read; nothing
        was removed then
    """
    for directory in directories:
        with oserrors.os_errors(f'reading {directory}'):
            os.scandir(directory).close()
    found: list[Leftover] = []

    def unreadable(error: OSError) -> None:
        found.append(
            Leftover(
                path=str(error.filename),
                kind='directory',
                size=0,
                age=0.0,
                outcome=FAILED,
                reason=error.strerror or str(error),
            )
        )

    for directory in directories:
        # fwalk() does not even enter a link that is named by the caller.
        top = os.path.realpath(directory)
        for path, below, names, fd in os.fwalk(top, onerror=unreadable):
            if not recursive:
                below.clear()
            cleaner = _Cleaner(path, fd, older_than, dry_run)
            found.extend(cleaner.clean(names))
    return found


class _Busy(Exception):
    """A live process works on it."""


class _Gone(Exception):
    """It is no longer there, or it is none of ours."""


class _Unsure(Exception):
    """Whether a live process works on it cannot be found out."""


class _Cleaner:
    """Cleans one directory, by its descriptor.

    Whoever can write to the directory could otherwise exchange a part of
    its path for a link while we look.
    """

    def __init__(
        self, path: str, fd: int, older_than: float, dry_run: bool
    ) -> None:
        self._path = path
        self._fd = fd
        self._older_than = older_than
        self._dry_run = dry_run

    def clean(self, names: Sequence[str]) -> Iterator[Leftover]:
        present = set(names)
        for name in sorted(names):
            if not name.startswith('.'):
                if _RECORD.fullmatch(name):
                    yield from self._unit([(name, 'record')])
            elif name.endswith(flight.SUFFIX):
                journal = name + flight.JOURNAL_SUFFIX
                unit = [(journal, 'journal')] if journal in present else []
                yield from self._unit([*unit, (name, 'part')], name)
            elif name.endswith(_JOURNAL):
                part = name.removesuffix(flight.JOURNAL_SUFFIX)
                if part not in present:
                    yield from self._unit([(name, 'journal')], part)

    def _unit(
        self, files: list[tuple[str, str]], part: str | None = None
    ) -> list[Leftover]:
        """Remove files that belong together, under the part file's lock."""
        try:
            found = self._describe(files)
            if not found:
                return []
            with contextlib.ExitStack() as stack:
                if part is not None and not (
                    self._dry_run and len(files) == 1
                ):
                    stack.enter_context(self._lock(part, files))
                    # Its last holder may have written to it just now.
                    found = self._describe(files)
                return [self._remove(each) for each in found]
        except _Gone:
            return []
        except _Busy:
            return [
                dataclasses.replace(each, outcome=IN_USE) for each in found
            ]
        except _Unsure as exc:
            return [
                dataclasses.replace(each, outcome=FAILED, reason=str(exc))
                for each in found
            ]

    def _describe(self, files: list[tuple[str, str]]) -> list[Leftover]:
        """What is there, if all of it is stale.

        :raises _Gone: it is not, or no longer
        """
        found = []
        now = time.time()
        for name, kind in files:
            try:
                info = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
            except FileNotFoundError:
                continue
            age = now - info.st_mtime
            if not stat.S_ISREG(info.st_mode) or age < self._older_than:
                raise _Gone
            found.append(
                Leftover(
                    path=os.path.join(self._path, name),
                    kind=kind,
                    # A file that has another name too frees nothing.
                    size=info.st_blocks * 512 if info.st_nlink == 1 else 0,
                    age=age,
                    outcome=WOULD_REMOVE,
                )
            )
        return found

    @contextlib.contextmanager
    def _lock(self, part: str, files: list[tuple[str, str]]) -> Iterator[None]:
        """Hold the flight of a part file, as a copy does.

        A journal whose part file is missing needs it as well: else a copy
        could begin to use the journal while it is removed.

        :raises _Busy: a live process has it
        :raises _Unsure: it cannot be locked
        """
        flags = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
        create = all(name != part for name, _kind in files)
        if create:
            flags |= os.O_CREAT | os.O_EXCL
        try:
            fd = os.open(part, flags, 0o600, dir_fd=self._fd)
        except FileExistsError:
            raise _Busy from None
        except FileNotFoundError:
            raise _Gone from None
        except OSError as exc:
            if exc.errno in _NO_FILE:
                raise _Gone from None
            raise _Unsure(exc.strerror) from None
        try:
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise _Busy from None
            except OSError as exc:
                raise _Unsure(exc.strerror) from None
            if not self._leads_to(part, fd):
                raise _Gone
            try:
                yield
            finally:
                if create:
                    os.unlink(part, dir_fd=self._fd)
        finally:
            os.close(fd)

    def _leads_to(self, name: str, fd: int) -> bool:
        try:
            found = os.stat(name, dir_fd=self._fd, follow_symlinks=False)
        except FileNotFoundError:
            return False
        return os.path.samestat(found, os.fstat(fd))

    def _remove(self, leftover: Leftover) -> Leftover:
        if self._dry_run:
            return leftover
        try:
            os.unlink(os.path.basename(leftover.path), dir_fd=self._fd)
        except OSError as exc:
            return dataclasses.replace(
                leftover, outcome=FAILED, reason=exc.strerror or str(exc)
            )
        return dataclasses.replace(leftover, outcome=REMOVED)
