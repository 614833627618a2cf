# SPDX-License-Identifier: Apache-2.0
"""dd(1) itself: how it is called, and what it says.

See dd(1) of GNU coreutils. Both ends are open already, so that no name can
lead it to anything else meanwhile. The source is its standard input: opened
for it alone, for it may be nothing that this user can open. The target it
opens again by /proc/self/fd: flags and position are its own then.
"""

from __future__ import annotations

import dataclasses
import errno
import fcntl
import os
import re
import typing

from oslo_transfer import children
from oslo_transfer import exceptions
from oslo_transfer import oserrors

PACKAGE = 'coreutils'
#: What direct input and output is aligned to, in bytes: enough for all
#: disks, and for a page of memory.
ALIGNMENT = 4096

_INPUT = 'iflag=count_bytes,skip_bytes,fullblock'
_OUTPUT = 'oflag=seek_bytes'
_INPUT_NAME = 'standard input'
# No error: it has nothing to copy then.
_BEHIND_THE_END = 'cannot skip to specified offset'
_COPIED = re.compile(r'^(\d+) bytes?\b.* copied', re.MULTILINE)
_ERROR = re.compile(
    r"^\S+: .*?'(standard input|/proc/self/fd/\d+)'.*?: (.+)$", re.MULTILINE
)
_POSITION = re.compile(r'^pos:\s*(\d+)$', re.MULTILINE)
# strerror(3) in the locale C, of what callers can act upon.
_NUMBERS = {
    'Input/output error': errno.EIO,
    'No space left on device': errno.ENOSPC,
    'Disk quota exceeded': errno.EDQUOT,
    'File too large': errno.EFBIG,
    'Permission denied': errno.EACCES,
    'Operation not permitted': errno.EPERM,
    'Read-only file system': errno.EROFS,
    'No such file or directory': errno.ENOENT,
    'Invalid argument': errno.EINVAL,
}


class NotDirect(Exception):  # noqa: N818
    """An end took O_DIRECT when it was opened, and yet cannot do it."""


def find() -> str:
    """The path of a dd that has what is needed.

    Blocks for some milliseconds.

    :raises CapabilityMissing: there is none
    """
    path = children.find('dd', PACKAGE)
    status, told = children.run(
        [
            *(path, 'if=/dev/null', 'of=/dev/null', 'count=0'),
            *(f'{_INPUT},direct', f'{_OUTPUT},direct'),
            'conv=notrunc,sparse,fdatasync',
        ],
        children.PATIENCE,
    )
    # /dev/null can neither be opened for direct access nor be flushed: it
    # comes as far as that only if it knows all the words.
    if status and not re.match(r"\S+: .*'/dev/null'", told):
        raise exceptions.CapabilityMissing(
            f'{path} is not the dd of GNU {PACKAGE}: it does not know '
            f'{_INPUT} {_OUTPUT} conv=sparse,fdatasync'
        )
    return path


@dataclasses.dataclass(frozen=True)
class Ends:
    """Where dd reads and writes.

    :ivar source_name: the redacted name, for messages
    :ivar target: an open descriptor
    :ivar target_name: for messages
    """

    source_name: str
    target: int
    target_name: str


@dataclasses.dataclass(frozen=True)
class Slice:
    """What one dd is to copy.

    :ivar start: the first byte
    :ivar end: the one behind the last
    :ivar direct_input: read with O_DIRECT
    :ivar direct_output: write with O_DIRECT; else it is flushed
    :ivar sparse: leave out blocks of zeros
    """

    start: int
    end: int
    direct_input: bool
    direct_output: bool
    sparse: bool


class Run:
    """One dd at work on one slice; for one thread.

    It ends with that thread at the latest.

    :param path: of dd
    :param ends: what it copies between
    :param source: an open descriptor, which nobody else uses meanwhile
    :param slice_: what it copies
    :param block: bytes that it reads and writes at once
    :raises TransferError: it cannot be started
    """

    def __init__(
        self, path: str, ends: Ends, source: int, slice_: Slice, block: int
    ) -> None:
        self.source = source
        self.slice = slice_
        self._ends = ends
        self._block = block
        self._told = b''
        self._copied = 0
        conv = ['notrunc']
        if slice_.sparse:
            conv.append('sparse')
        if not slice_.direct_output:
            conv.append('fdatasync')
        # As if it had just been opened, for dd goes on from there.
        os.lseek(source, 0, os.SEEK_SET)
        fcntl.fcntl(source, fcntl.F_SETFL, 0)
        self._process = children.start(
            [
                path,
                f'of=/proc/self/fd/{ends.target}',
                f'bs={block}',
                f'skip={slice_.start}',
                f'seek={slice_.start}',
                f'count={slice_.end - slice_.start}',
                _INPUT + (',direct' if slice_.direct_input else ''),
                _OUTPUT + (',direct' if slice_.direct_output else ''),
                f'conv={",".join(conv)}',
            ],
            stdin=source,
            fds=(ends.target,),
        )

    @property
    def stderr(self) -> typing.IO[bytes]:
        """Becomes readable, and is at its end, when dd ends."""
        assert self._process.stderr is not None
        return self._process.stderr

    @property
    def told(self) -> str:
        """The end of what it said."""
        return self._told.decode('utf-8', 'replace')

    def position(self) -> int:
        """The end of what is in place so far, in bytes.

        It is where the output's own position is (proc(5), fdinfo).
        """
        try:
            with open(f'/proc/{self._process.pid}/fdinfo/1') as file:
                match = _POSITION.search(file.read())
        except OSError:
            match = None
        found = int(match[1]) if match else 0
        # Before dd has opened its output there is another one.
        if not self.slice.start <= found <= self.slice.end:
            return self.slice.start
        return found

    def collect(self) -> bool:
        """Take what it says, once its ``stderr`` is readable.

        :returns: whether it says no more: it has ended
        """
        data = os.read(self.stderr.fileno(), children.MOST_OUTPUT)
        # What matters comes last.
        self._told = (self._told + data)[-children.MOST_OUTPUT :]
        return not data

    def finish(self) -> int:
        """See how it ended, once it says no more.

        :returns: the end of what is in place, whether or not all is
        """
        if not children.reap(self._process, children.PATIENCE):
            self.kill()
            self.reap(children.DYING)
        copied = _COPIED.search(self.told)
        self._copied = int(copied[1]) if copied else 0
        if self._copied > self.slice.end - self.slice.start:
            return self.slice.start  # Nothing that it says can be believed.
        return self.slice.start + self._copied

    def check(self, end: int) -> None:
        """Raise what kept it from copying all.

        :param end: what :meth:`finish` has returned
        :raises NotDirect: it may work without O_DIRECT
        :raises TransferError: see :meth:`~.dd.DdSource.fill`
        """
        code = self._process.returncode
        error = _ERROR.search(self.told)
        if error is not None and error[2] != _BEHIND_THE_END:
            raise self._translate(error[1], error[2], end)
        if code < 0:
            raise exceptions.Unavailable(
                f'dd was killed by signal {-code} at byte {end}'
            )
        if code or self.slice.start + self._copied > self.slice.end:
            lines = self.told.strip().splitlines() or ['no reason given']
            raise exceptions.StorageError(
                f'{self._ends.target_name}: dd failed with status {code} at '
                f'byte {end}: {lines[0]}'
            )
        if end != self.slice.end:
            raise exceptions.SourceChanged(
                f'{self._ends.source_name} ends at byte {end}, '
                f'{self.slice.end} were there when it was opened'
            )

    def _translate(
        self, name: str, why: str, end: int
    ) -> exceptions.TransferError | NotDirect:
        number = _NUMBERS.get(why, 0)
        direct = self.slice.direct_input or self.slice.direct_output
        if number == errno.EINVAL and direct:
            return NotDirect()
        cause = OSError(number, why)
        reach = min(self._block, self.slice.end - end)
        place = f'in the {reach} bytes from byte {end} on'
        if name != _INPUT_NAME:
            return oserrors.translate(
                cause, f'writing {self._ends.target_name} {place}'
            )
        found = oserrors.translate(
            cause, f'reading {self._ends.source_name} {place}'
        )
        if isinstance(found, exceptions.StorageError):
            # It is not our storage: what was copied of it is good.
            return exceptions.Unavailable(str(found))
        return found

    def kill(self) -> None:
        """End it; does not wait."""
        children.kill(self._process)

    def reap(self, seconds: float) -> bool:
        """Wait for its end.

        :returns: whether it has ended; if not, it waits in the kernel
        """
        return children.reap(self._process, seconds)
