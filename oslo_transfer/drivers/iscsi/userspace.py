# SPDX-License-Identifier: Apache-2.0
"""Attachments without the initiator of the kernel: NBD by qemu-nbd.

One that ends with the call has a qemu-nbd of this process. One that is to
outlive it is left to the service of this host, for the library leaves no
process behind.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import dataclasses
import os
import signal
import threading
import time
import typing
import uuid

from oslo_transfer.drivers import base
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import qemunbd
from oslo_transfer.drivers.iscsi import source
from oslo_transfer import exceptions
from oslo_transfer import opts
from oslo_transfer import oserrors
from oslo_transfer.service import client
from oslo_transfer.service import holding

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

ENGINE = 'qemu_nbd'

# What details have: who made it, and where.
_SERVICE = 'service'
_DIRECTORY = 'directory'
#: Seconds in which a client that has just closed is seen to be gone.
_SETTLE = 1.0
_TICK = 0.02
# The servers of this process and what they serve, by directory.
_servers: dict[str, tuple[qemunbd.Server, _lun.Lun]] = {}
_lock = threading.Lock()


def attach(
    lun: _lun.Lun,
    ctx: _context.Context,
    record: Callable[[Mapping[str, typing.Any]], None],
) -> base.Attachment:
    """Make an NBD export of a LUN.

    Blocks until the LUN can be read.

    :param record: see :meth:`~oslo_transfer.drivers.base.Driver.attach`
    :raises AccessDenied: the login is refused, or the LUN is read-only
    :raises TransferError: see :class:`~.qemunbd.Server`
    """
    if ctx.writing and lun.read_only:
        raise exceptions.AccessDenied(
            f'{lun.where} is attached read-only (access_mode)'
        )
    check_unit(lun, ctx)
    identifier = uuid.uuid4().hex
    if ctx.lasting:
        details = {_SERVICE: identifier}
        record(details)
        path, size = _ask_service(identifier, lun, ctx)
    else:
        state = ctx.conf.oslo_transfer.state_path or opts.default_state_path()
        directory = os.path.join(state, 'qemu-nbd', identifier[:12])
        details = {_DIRECTORY: directory}
        record(details)
        server = _serve(directory, lun, ctx)
        path, size = server.uri, server.size
    return base.Attachment(
        id='',
        driver='iscsi',
        source=lun.where,
        form='nbd',
        path=path,
        size=size,
        read_only=not ctx.writing,
        details=details,
    )


def check_unit(lun: _lun.Lun, ctx: _context.Context) -> None:
    """See that it is the LUN that is meant, where that can be told.

    qemu-nbd does not show a unit's serial number, so we look ourselves.

    :raises TransferError: it is another, or it cannot be looked at
    """
    if lun.serial is not None or lun.wwn is not None:
        source.ISCSISource(lun, ctx).close()


def pinned(lun: _lun.Lun, ctx: _context.Context) -> _lun.Lun:
    """The LUN that is there now, and that no other can stand for later.

    :raises TransferError: it cannot be looked at
    """
    with source.ISCSISource(lun, ctx) as found:
        return dataclasses.replace(
            lun,
            serial=found.disk.serial or None,
            wwn=lun.wwn or min(found.disk.names, default=None),
            size=found.size,
        )


def join(attachment: base.Attachment, ctx: _context.Context) -> None:
    """See that an attachment of this process still is of the same LUN.

    :raises AttachError: this process has not made it, or it is gone
    :raises IntegrityError: it is another LUN
    :raises TransferError: it cannot be looked at
    """
    with _lock:
        _server, lun = _servers.get(
            str(attachment.details.get(_DIRECTORY)), (None, None)
        )
    if lun is None:
        raise exceptions.AttachError(f'{attachment.source} is not attached')
    check_unit(lun, ctx)


def as_json(lun: _lun.Lun) -> dict[str, typing.Any]:
    """A LUN for the service, without the password."""
    return {
        'where': lun.where,
        'paths': [dataclasses.astuple(path) for path in lun.paths],
        'username': lun.username,
        'serial': lun.serial,
        'wwn': lun.wwn,
        'size': lun.size,
    }


def from_json(fields: typing.Any, password: str | None) -> _lun.Lun:
    """The LUN that :func:`as_json` has described.

    :raises InvalidEndpoint: that does not make sense
    """
    try:
        where, paths, username, serial, wwn, size = (
            fields[name]
            for name in ('where', 'paths', 'username', 'serial', 'wwn', 'size')
        )
        found = tuple(_lun.Path(*path) for path in paths)
        good = found and isinstance(where, str)
        for path in found:
            good = good and isinstance(path.host, str)
            good = good and isinstance(path.iqn, str)
            good = good and isinstance(path.port, int)
            good = good and isinstance(path.lun, int)
        for text in (username, password, serial, wwn):
            good = good and isinstance(text, str | None)
        if not good or not isinstance(size, int | None):
            raise TypeError
    except (KeyError, TypeError, ValueError):
        raise exceptions.InvalidEndpoint('this does not name a LUN') from None
    return _lun.Lun(
        where=where,
        paths=found,
        username=username,
        password=password,
        serial=serial,
        wwn=wwn,
        size=size,
    )


def detach(
    attachment: base.Attachment, ctx: _context.Context, force: bool
) -> None:
    """Take an export away, whoever has made it; idempotent.

    :param force: changes nothing: what is in use stays
    :raises DetachError: it is in use, or it cannot be ended
    """
    identifier = attachment.details.get(_SERVICE)
    if identifier is not None:
        remove = client.Client.remove_attachment
        holding.let_go(str(identifier), ctx, remove)
    directory = attachment.details.get(_DIRECTORY)
    if directory is not None:
        _end(str(directory))


def _serve(
    directory: str, lun: _lun.Lun, ctx: _context.Context
) -> qemunbd.Server:
    with contextlib.ExitStack() as stack:
        with oserrors.os_errors(f'making {directory}'):
            os.makedirs(os.path.dirname(directory), 0o700, exist_ok=True)
            os.mkdir(directory, 0o700)
        stack.callback(qemunbd.remove, directory)
        server = qemunbd.Server(lun, directory, ctx, writing=ctx.writing)
        stack.callback(server.close)
        lun = pinned(lun, ctx)
        with _lock:
            _servers[directory] = server, lun
        stack.pop_all()
    return server


def _end(directory: str) -> None:
    wait_for_idle(directory)
    with _lock:
        server, _served = _servers.pop(directory, (None, None))
    if server is not None:
        server.close()
    else:
        _end_foreign(directory)
    qemunbd.remove(directory)


def wait_for_idle(directory: str) -> None:
    """See that nobody is connected to the socket in a directory.

    Waits a moment for who has just closed.

    :raises DetachError: somebody is
    """
    limit = time.monotonic() + _SETTLE
    while count := qemunbd.clients(directory):
        if time.monotonic() > limit:
            path = os.path.join(directory, qemunbd.SOCKET)
            raise exceptions.DetachError(
                f'{path} is in use', (f'{count} connections to {path}',)
            )
        time.sleep(_TICK)


def _end_foreign(directory: str) -> None:
    """End what another process has started, if it is still there."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        pid = qemunbd.process(directory)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        limit = time.monotonic() + _SETTLE
        while time.monotonic() < limit:
            if qemunbd.process(directory) is None:
                return
            time.sleep(_TICK)
    raise exceptions.DetachError('qemu-nbd does not end', (f'process {pid}',))


def _ask_service(
    identifier: str, lun: _lun.Lun, ctx: _context.Context
) -> tuple[str, int]:
    return holding.hold(
        identifier,
        lun.where,
        ctx,
        lambda service: service.add_attachment(
            identifier, as_json(lun), lun.password, writing=ctx.writing
        ),
        client.Client.remove_attachment,
        'without the initiator of the kernel an attachment that lasts is '
        'held by the service of this host: start "oslo-transfer serve --role '
        'attach", or set [oslo_transfer_iscsi] engine to os_brick',
    )
