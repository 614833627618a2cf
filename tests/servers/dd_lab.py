# SPDX-License-Identifier: Apache-2.0
"""What the tests of dd and of attachments in user space share."""

from __future__ import annotations

import contextlib
import itertools
import os
import pathlib
import shutil
import socket
import subprocess
import tempfile

from oslo_transfer import call as _call
from oslo_transfer.drivers import base
from oslo_transfer.testing import filling_suite
from oslo_transfer.testing import harness
from tests.servers import child


def attachment(path, *, form='path', source='', size=None, details=None):
    """One that nobody has to take away."""
    return base.Attachment(
        id='',
        driver='file',
        source=source or str(path),
        form=form,
        path=str(path),
        size=size,
        details=details or {},
    )


def context(conf, **changes):
    """The limits of a call."""
    return _call.Call(conf, None, None, None).ctx.replace(**changes)


class Target(filling_suite.RecordingTarget):
    """A part file, or a device."""

    def __init__(self, path, size, held=None, device=False, start=0):
        if device:
            self._open_device(path, size)
        else:
            super().__init__(str(path), size, held or {})
        self.device = device
        self.start = start

    def close(self):
        """Close the file; it may be done again."""
        if self.fd >= 0:
            super().close()
            self.fd = -1

    def _open_device(self, path, size):
        empty = pathlib.Path(tempfile.mkdtemp())
        super().__init__(str(empty / 'x'), 0, {})
        self.close()
        shutil.rmtree(empty)
        self.path, self.size = str(path), size
        self.fd = os.open(path, os.O_RDWR)


@contextlib.contextmanager
def short_directory():
    """A directory whose name leaves room for those of sockets."""
    path = tempfile.mkdtemp(prefix='ot-', dir='/tmp')
    try:
        yield pathlib.Path(path)
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def nbdkit(path, *arguments, filters=()):
    """A file on an NBD server on a unix socket; gives the URI."""
    with short_directory() as directory:
        address, ready = directory / 's', directory / 'pid'
        process = subprocess.Popen(
            [
                *('setpriv', '--pdeathsig', 'KILL', 'nbdkit'),
                *('-f', '-U', address, '--pidfile', ready),
                *(*(f'--filter={each}' for each in filters), 'file'),
                *(path, *arguments),
            ],
            stdin=subprocess.DEVNULL,
        )
        try:
            # It writes its number when it serves.
            assert harness.wait_for(
                lambda: ready.exists() or process.poll() is not None, 10
            )
            assert process.poll() is None, arguments
            yield f'nbd+unix:///?socket={address}'
        finally:
            process.kill()
            process.wait()


class Tgt:
    """tgt's iSCSI target on loopback; a context manager."""

    def __enter__(self):
        self.port = child.free_port()
        # Numbers its control socket; a short integer.
        self.control = str(self.port & 0x7FFF)
        self.portal = f'127.0.0.1:{self.port}'
        self.names = itertools.count(1)
        pathlib.Path('/var/run/tgtd').mkdir(exist_ok=True)
        self.start()
        return self

    def start(self):
        self.process = subprocess.Popen(
            [
                *('setpriv', '--pdeathsig', 'KILL', 'tgtd', '-f'),
                *('-C', self.control, '--iscsi', f'portal={self.portal}'),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        assert harness.wait_for(self.answers, 10)

    def answers(self):
        try:
            socket.create_connection(('127.0.0.1', self.port), 1).close()
        except OSError:
            return False
        return not self.run('show', 'system', check=False).returncode

    def run(self, operation, mode, *arguments, check=True):
        return subprocess.run(
            [
                *('tgtadm', '-C', self.control, '--lld', 'iscsi'),
                *('--op', operation, '--mode', mode, *map(str, arguments)),
            ],
            check=check,
            capture_output=True,
        )

    def export(self, path, *, chap=None):
        """Serve a file as LUN 1 of a target; gives the target's name."""
        number = next(self.names)
        name = f'iqn.2026-01.org.example:{number}'
        self.run('new', 'target', '--tid', number, '-T', name)
        self.run(
            *('new', 'logicalunit', '--tid', number, '--lun', 1, '-b', path)
        )
        if chap:
            user, password = chap
            # There may be one of an earlier target.
            self.run(
                *('new', 'account', '--user', user, '--password', password),
                check=False,
            )
            self.run('bind', 'account', '--tid', number, '--user', user)
        self.run('bind', 'target', '--tid', number, '-I', 'ALL')
        return name

    def kill(self):
        """It goes at once, and its connections with it."""
        self.process.kill()
        self.process.wait()

    def __exit__(self, *_exc):
        # It ignores a polite end while it has targets.
        self.kill()
        for path in pathlib.Path('/var/run/tgtd').glob(
            f'socket.{self.control}*'
        ):
            path.unlink()


def processes(*words):
    """Processes that have a word in their command, by number."""
    found = {}
    for each in pathlib.Path('/proc').iterdir():
        if not each.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            command = (each / 'cmdline').read_bytes().decode(errors='replace')
            if command and any(str(word) in command for word in words):
                found[int(each.name)] = command.replace('\0', ' ')
    found.pop(os.getpid(), None)
    return found


def mounts(directory):
    """What is mounted below a directory."""
    lines = pathlib.Path('/proc/self/mounts').read_text().splitlines()
    return [line for line in lines if str(directory) in line]


def openers(directory):
    """Processes that have something below a directory open."""
    found = set()
    for each in pathlib.Path('/proc').glob('[0-9]*/fd/*'):
        with contextlib.suppress(OSError):
            if os.readlink(each).startswith(f'{directory}/'):
                found.add(int(each.parts[2]))
    return found - {os.getpid()}
