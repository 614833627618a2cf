# SPDX-License-Identifier: Apache-2.0
"""What the tests of dd and of attachments in user space share."""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import tempfile

import pytest

from oslo_transfer import call as _call
from oslo_transfer import cleanup
from oslo_transfer.drivers import base
from oslo_transfer.testing import filling_suite
from tests import groups


def marks():
    """What marks tests of attachments in user space."""
    programs = ('tgtd', 'qemu-nbd', 'nbdfuse')
    here = all(map(shutil.which, programs)) and os.geteuid() == 0
    return [
        *groups.marks('iscsi', here),
        pytest.mark.usefixtures('nothing_left'),
    ]


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
def state_directory():
    """A state directory of which nothing is left in the end."""
    with short_directory() as directory:
        yield directory
        assert mounts(directory) == []
        assert processes(directory) == {}
        # Records that were being written, as "oslo-transfer cleanup" does.
        if (directory / 'attachments').exists():
            cleanup.clean([str(directory / 'attachments')], older_than=0.0)
        left = [
            path
            for kind in ('qemu-nbd', 'nbdfuse', 'attachments', 'exports')
            for path in (directory / kind).glob('*')
            if path.suffix != '.lock' and path.name != 'lock'
        ]
        assert left == []


def configure(conf, state):
    """Have LUNs attached in user space, with everything in a directory."""
    for name, value, group in (
        ('state_path', str(state), 'oslo_transfer'),
        ('control_socket', f'{state}/sock', 'oslo_transfer_service'),
        ('engine', 'libiscsi', 'oslo_transfer_iscsi'),
    ):
        conf.set_override(name, value, group=group)
    return conf


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
