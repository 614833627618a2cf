# SPDX-License-Identifier: Apache-2.0
"""What tests of the kernel's initiator have in common."""

from __future__ import annotations

import contextlib
import mmap
import os
import pathlib
import signal
import traceback
import typing

from oslo_config import cfg

import oslo_transfer
from oslo_transfer.drivers import brick
from oslo_transfer.drivers.iscsi import commands
from oslo_transfer.drivers.iscsi import driver
from oslo_transfer.drivers.iscsi import osbrick
from oslo_transfer.drivers.iscsi import sysfs
from oslo_transfer.testing import fixtures
from tests.guest import tools

#: Seconds; the guest's networks are near, and its processors are slow.
OPTIONS = {'engine': 'os_brick', 'attach_timeout': 110, 'path_timeout': 3}

#: A user and a group with no rights.
NOBODY = 65534


def make_conf(state: typing.Any, **options: typing.Any) -> typing.Any:
    """A configuration with this engine.

    :param state: the directory of records
    :param options: of the driver
    """
    conf = fixtures.make_conf(state_path=str(state), connect_timeout=5.0)
    group = 'oslo_transfer_iscsi'
    conf.register_opts(driver.ISCSIDriver.OPTIONS, group=group)
    for name, value in {**OPTIONS, **options}.items():
        conf.set_override(name, value, group=group)
    return conf


def sessions() -> list[sysfs.Session]:
    """All sessions of this host."""
    return sysfs.Sysfs().sessions()


def disks() -> list[str]:
    """All SCSI disks of this host."""
    return sorted(
        name for name in os.listdir('/sys/block') if name.startswith('sd')
    )


def iscsiadm(lun: typing.Any, *words: str, portal: int = 0) -> str:
    """What an operator does with a target."""
    return tools.run(
        *('iscsiadm', '-m', 'node', '-T', lun.iqn),
        *('-p', lun.portals[portal], *words),
    )


@contextlib.contextmanager
def session_of_somebody(lun: typing.Any) -> typing.Iterator[int]:
    """A session that an operator has opened, with a device for each LUN."""
    iscsiadm(lun, '-o', 'new')
    iscsiadm(lun, '--login')
    tools.run('udevadm', 'settle')
    try:
        yield sessions()[0].sid
    finally:
        iscsiadm(lun, '--logout')
        iscsiadm(lun, '-o', 'delete')


@contextlib.contextmanager
def direct(
    path: str, size: int = 1 << 20
) -> typing.Iterator[typing.Callable[[int], memoryview]]:
    """Reads a device past the page cache, some bytes from an offset."""
    buffer = memoryview(mmap.mmap(-1, size))
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    try:
        yield lambda offset: buffer[: os.preadv(fd, [buffer], offset)]
    finally:
        os.close(fd)


def attach_elsewhere(url: str, conf: typing.Any, stage: str = '') -> int:
    """Attach in another process.

    It is killed at a stage: when it has the ``record``, the ``login``, the
    device (``scan``), or all (``attached``). Without one it goes on to its
    end.

    :returns: its number
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if stage == 'record':
            osbrick._connect = _die  # type: ignore[assignment]
        elif stage == 'login':
            commands.Commands._login = _die_after(  # type: ignore
                commands.Commands._login
            )
        elif stage == 'scan':
            osbrick._examine = _die  # type: ignore[assignment]
        oslo_transfer.attach(url, conf=conf)
        if stage == 'attached':
            _die()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def _die(*_args: typing.Any) -> typing.NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError('still here')


def _die_after(function: typing.Any) -> typing.Any:
    def call(*args: typing.Any) -> None:
        function(*args)
        _die()

    return call


def as_nobody(
    function: typing.Callable[[], typing.Any],
    conf: typing.Any,
    directory: pathlib.Path,
) -> int:
    """Call something in a process that is not root's.

    The privileged daemons are forked before it gives up being root, as a
    service may do.

    :param directory: its own, for locks
    :returns: its number
    """
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        contexts = [
            brick.module(f'{name}.privileged', conf).default
            for name in ('os_brick', 'oslo_transfer')
        ]
        method = brick.module('oslo_privsep.priv_context', conf).Method.FORK
        for context in contexts:
            context.set_client_mode(True)
            context.start(method)
        cfg.CONF.set_override('lock_path', str(directory), group='os_brick')
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
        function()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(status)


def ended(pid: int) -> int:
    """Wait for a process: its status, or the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def detach_all(conf: typing.Any) -> None:
    """As an operator who finds leftovers."""
    for each in oslo_transfer.attachments(conf=conf):
        oslo_transfer.detach(each.id, conf=conf)
