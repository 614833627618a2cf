# SPDX-License-Identifier: Apache-2.0
"""File systems and block devices for one test."""

from __future__ import annotations

import contextlib
import os
import pathlib
import subprocess

MIB = 1 << 20


def run(*command):
    """Run a command; its output is in the error if it fails."""
    done = subprocess.run(
        [str(each) for each in command],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(f'{command}: {done.stdout}{done.stderr}')
    return done.stdout.strip()


class Disks:
    """Makes them, and takes them away in reverse order.

    :param directory: for images and mount points
    :param need: leaves the test out where a command is missing
    """

    def __init__(self, directory, need):
        self._directory = directory
        self._need = need
        self._stack = contextlib.ExitStack()
        self._made = 0

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        return self._stack.__exit__(*exc)

    def _path(self, suffix):
        self._made += 1
        return self._directory / f'{self._made}{suffix}'

    def image(self, size, fill=None):
        """A file to be a disk; ``fill`` is what its old bytes are."""
        path = self._path('.img')
        with open(path, 'wb') as file:
            if fill is not None:
                for _ in range(0, size, MIB):
                    file.write(fill * (MIB // len(fill)))
            file.truncate(size)
        self._stack.callback(os.unlink, path)
        return path

    def loop(self, size, fill=None, read_only=False):
        """A block device."""
        command = ['losetup', '--find', '--show']
        if read_only:
            command.append('--read-only')
        device = run(*command, self.image(size, fill))
        self._stack.callback(run, 'losetup', '--detach', device)
        return pathlib.Path(device)

    def tmpfs(self, size, inodes=0):
        """A file system in memory; 0 means no limit of inodes."""
        options = f'size={size},nr_inodes={inodes}'
        return self._mount('-t', 'tmpfs', '-o', options, 'tmpfs')

    def ext4(self, size):
        """A small ext4, without anything reserved for root."""
        self._need('mkfs.ext4')
        device = self.loop(size)
        run('mkfs.ext4', '-q', '-m', '0', device)
        return self._mount(device)

    def xfs(self):
        """XFS with reflinks; it has a least size."""
        self._need('mkfs.xfs')
        device = self.loop(320 * MIB)
        run('mkfs.xfs', '-q', '-m', 'reflink=1', device)
        return self._mount(device)

    def btrfs(self):
        """btrfs; it has a least size."""
        self._need('mkfs.btrfs')
        device = self.loop(128 * MIB)
        run('mkfs.btrfs', '-q', device)
        return self._mount(device)

    def mount(self, device):
        """Mount a device that has a file system."""
        return self._mount(device)

    def read_only(self, directory):
        """The same directory, where nothing can be written."""
        path = self._mount('--bind', directory)
        run('mount', '-o', 'remount,ro,bind', path)
        return path

    def _mount(self, *what):
        path = self._path('')
        path.mkdir()
        self._stack.callback(path.rmdir)
        run('mount', *what, path)
        self._stack.callback(run, 'umount', path)
        return path
