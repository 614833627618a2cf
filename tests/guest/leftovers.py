# SPDX-License-Identifier: Apache-2.0
"""What attachments, and tests, could leave on this host."""

from __future__ import annotations

import os
import pathlib
import signal
import time

from tests.guest import tools

_SECONDS = 15.0
_BLOCK = pathlib.Path('/sys/block')
_NODES = pathlib.Path('/etc/iscsi/nodes')
_TARGETS = pathlib.Path('/sys/kernel/config/target')
# They come and go with events.
_PASSING = ('systemd-udevd', '(udev-worker)', '(spawn)')


def seen() -> set[str]:
    """All that is here now, a line for each thing."""
    return {
        *_sessions(),
        *_records(),
        *_devices(),
        *_mounts(),
        *_processes(),
        *_targets(),
    }


def settle(before: set[str]) -> list[str]:
    """What is here and was not before, when some seconds do not help."""
    end = time.monotonic() + _SECONDS
    while left := sorted(seen() - before):
        if time.monotonic() > end:
            break
        time.sleep(0.1)
    return left


def scrub(before: set[str]) -> None:
    """Take it away, so that the next test does not fail of it, too."""
    for line in seen() - before:
        kind, _, name = line.partition(' ')
        if kind == 'process':
            os.kill(int(name.split()[0]), signal.SIGKILL)
        elif kind == 'mount':
            tools.run('umount', '-c', '-l', '-f', name.split()[0], check=False)
    tools.run('dmsetup', 'remove_all', '--force', check=False)
    for number in _names('/sys/class/iscsi_session'):
        sid = number.removeprefix('session')
        tools.run('iscsiadm', '-m', 'session', '-r', sid, '-u', check=False)
    tools.run('iscsiadm', '-m', 'node', '-o', 'delete', check=False)


def _names(directory: str | os.PathLike[str]) -> list[str]:
    try:
        return os.listdir(directory)
    except FileNotFoundError:
        return []


def _sessions() -> set[str]:
    return {f'session {name}' for name in _names('/sys/class/iscsi_session')}


def _records() -> set[str]:
    return {
        f'record {iqn} {portal}'
        for iqn in _names(_NODES)
        for portal in _names(_NODES / iqn) or ['none']
    }


def _devices() -> set[str]:
    found = set()
    for name in _names(_BLOCK):
        if name.startswith(('sd', 'dm-')):
            found.add(f'device {name}')
        elif (_BLOCK / name / 'loop').exists():
            found.add(f'loop {name}')
        elif (_BLOCK / name / 'pid').exists():
            found.add(f'nbd {name}')
    return found


def _mounts() -> set[str]:
    lines = pathlib.Path('/proc/self/mountinfo').read_text().splitlines()
    found = set()
    for line in lines:
        words = line.split()
        kind = words[words.index('-') + 1]
        found.add(f'mount {words[4]} {kind}')
    return found


def _processes() -> set[str]:
    found = set()
    for name in _names('/proc'):
        if not name.isdigit():
            continue
        there = pathlib.Path('/proc', name)
        try:
            os.readlink(there / 'exe')  # A thread of the kernel has none.
            words = (there / 'cmdline').read_bytes().split(b'\0')
            command = b' '.join(words).decode(errors='replace').strip()
            comm = (there / 'comm').read_text().strip()
        except OSError:
            continue
        if comm not in _PASSING and not command.startswith(_PASSING):
            found.add(f'process {name} {command[:200]}')
    return found


def _targets() -> set[str]:
    return {
        f'target {path.relative_to(_TARGETS)}'
        for pattern in ('iscsi/iqn.*', 'core/*/*')
        for path in _TARGETS.glob(pattern)
        if path.is_dir() and path.name not in ('alua', 'statistics')
    }
