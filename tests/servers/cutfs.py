# SPDX-License-Identifier: Apache-2.0
"""A file system in memory that writes down each operation.

What a disk may hold when the power is cut is computed from that, see
:mod:`tests.servers.powercut`. Run as a program it mounts itself, by FUSE::

    python -m tests.servers.cutfs MOUNTPOINT LOG
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import pathlib
import pickle
import stat
import subprocess
import sys
from tests import waiting

_ROOT = pathlib.Path(__file__).parents[2]
_READY_SECONDS = 20.0
_PIECE = 4096
_PUNCH_HOLE = 2  # linux/falloc.h
#: A file that is not there: what is written to it is a mark in the log.
MARK = '.mark'


@contextlib.contextmanager
def mounted(directory):
    """Mount one for the time of a context.

    :param directory: an empty one; the log stays in it
    :returns: the mount point, and a function that returns the log
    """
    mountpoint, log = directory / 'mount', directory / 'log'
    mountpoint.mkdir()
    log.touch()
    command = ['setpriv', '--pdeathsig', 'KILL', sys.executable, '-m']
    command += [__name__, str(mountpoint), str(log)]
    with open(directory / 'output', 'w+') as output:
        process = subprocess.Popen(
            command,
            cwd=_ROOT,
            env={**os.environ, 'FUSE_LIBRARY_NAME': 'fuse3'},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
        try:
            waiting.until(
                lambda: os.path.ismount(mountpoint) or process.poll(),
                _READY_SECONDS,
            )
            if process.poll() is not None:
                output.seek(0)
                raise RuntimeError(f'not mounted: {output.read()}')
            yield mountpoint, lambda: read_log(log)
        finally:
            command = ['fusermount3', '-u', '-z', str(mountpoint)]
            subprocess.run(command, check=False)
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def read_log(path):
    """The operations so far, in order: tuples that begin with a name."""
    found = []
    with open(path, 'rb') as file, contextlib.suppress(EOFError):
        while True:
            found.append(pickle.load(file))
    return found


class Node:
    """A file or a directory.

    :ivar number: of its own
    :ivar data: of a file; None of a directory
    :ivar pieces: those that take space, by number
    """

    def __init__(self, number, data=None):
        self.number = number
        self.data = data
        self.pieces = set()

    def resize(self, size):
        del self.data[size:]
        self.data.extend(bytes(size - len(self.data)))
        self.pieces = {each for each in self.pieces if each * _PIECE < size}

    def attributes(self):
        kind = stat.S_IFDIR if self.data is None else stat.S_IFREG
        return {
            'st_mode': kind | 0o700,
            'st_ino': self.number,
            'st_nlink': 1,
            'st_uid': os.getuid(),
            'st_gid': os.getgid(),
            'st_size': len(self.data or b''),
            'st_blocks': len(self.pieces) * _PIECE // 512,
        }


def _error(number):
    return OSError(number, os.strerror(number))


class CutFS:
    """The operations, as mfusepy wants them.

    :param log: a file for what is done
    """

    def __init__(self, log):
        self._log = log
        self._numbers = itertools.count(2)
        self._nodes = {'/': Node(1)}
        self._open = {}

    def _note(self, *operation):
        pickle.dump(operation, self._log)
        self._log.flush()

    def _node(self, path, fh=None):
        node = self._open.get(fh) or self._nodes.get(path)
        if node is None:
            raise _error(errno.ENOENT)
        return node

    def getattr(self, path, fh=None):
        return self._node(path, fh).attributes()

    def readdir(self, path, _fh):
        names = [os.path.split(each) for each in self._nodes if each != '/']
        return ['.', '..', *(name for parent, name in names if parent == path)]

    def mkdir(self, path, _mode):
        self._nodes[path] = Node(next(self._numbers))
        self._note('mkdir', path)

    def create(self, path, _mode, _info=None):
        node = self._nodes[path] = Node(next(self._numbers), bytearray())
        if os.path.basename(path) != MARK:
            self._note('create', path, node.number)
        return self.open(path, 0)

    def open(self, path, _flags):
        node = self._node(path)
        fh = next(self._numbers)
        self._open[fh] = node
        return fh

    def release(self, _path, fh):
        self._open.pop(fh, None)

    def unlink(self, path):
        del self._nodes[path]
        self._note('unlink', path)

    def rmdir(self, path):
        if len(self.readdir(path, None)) > 2:
            raise _error(errno.ENOTEMPTY)
        del self._nodes[path]
        self._note('rmdir', path)

    def rename(self, old, new):
        self._nodes[new] = self._nodes.pop(old)
        self._note('rename', old, new)

    def read(self, path, size, offset, fh):
        return bytes(self._node(path, fh).data[offset : offset + size])

    def write(self, path, data, offset, fh):
        if path and os.path.basename(path) == MARK:
            self._note('mark', data)
            return len(data)
        node = self._node(path, fh)
        end = offset + len(data)
        if end > len(node.data):
            node.resize(end)
        node.data[offset:end] = data
        node.pieces.update(range(offset // _PIECE, -(-end // _PIECE)))
        self._note('write', node.number, offset, data)
        return len(data)

    def truncate(self, path, length, fh=None):
        if os.path.basename(path) == MARK:
            return
        node = self._node(path, fh)
        node.resize(length)
        self._note('size', node.number, length)

    def fallocate(self, path, mode, offset, length, fh):
        node = self._node(path, fh)
        end = offset + length
        pieces = range(-(-offset // _PIECE), end // _PIECE)
        if mode & _PUNCH_HOLE:
            end = min(end, len(node.data))
            node.data[offset:end] = bytes(max(0, end - offset))
            node.pieces.difference_update(pieces)
            self._note('zero', node.number, offset, length)
        else:
            node.resize(max(len(node.data), end))
            node.pieces.update(pieces)
            self._note('size', node.number, len(node.data))
        return 0

    def fsync(self, path, _datasync, fh):
        self._note('sync', self._node(path, fh).number)

    def fsyncdir(self, path, _datasync, _fh):
        self._note('syncdir', path)

    def utimens(self, _path, _times=None):
        return 0

    def chmod(self, _path, _mode):
        return 0


def main():
    """Mount it, until somebody unmounts it."""
    import mfusepy

    class Operations(CutFS, mfusepy.Operations):
        pass

    with open(sys.argv[2], 'ab') as log:
        mfusepy.FUSE(
            Operations(log),
            sys.argv[1],
            foreground=True,
            nothreads=True,
            auto_unmount=True,
            # Files that are removed while they are open get no other name.
            hard_remove=True,
            attr_timeout=0,
            entry_timeout=0,
        )


if __name__ == '__main__':
    main()
