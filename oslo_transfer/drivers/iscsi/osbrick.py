# SPDX-License-Identifier: Apache-2.0
"""The engine of the kernel's initiator: os-brick makes LUNs block devices.

What was there before - sessions, records of nodes, devices that Nova, Cinder
or an operator has made - is noted before anything is done, and stays. A LUN
that is a device already is used as it is, and nothing of it is taken away.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import functools
import logging
import os
import shutil
import threading
import typing

from oslo_transfer import attachment_records
from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer.drivers import blockdev
from oslo_transfer.drivers import brick
from oslo_transfer.drivers.iscsi import attached
from oslo_transfer.drivers.iscsi import commands as _commands
from oslo_transfer.drivers.iscsi import detaching
from oslo_transfer.drivers.iscsi import identity
from oslo_transfer.drivers.iscsi import initiator
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import note as _note
from oslo_transfer.drivers.iscsi import portals
from oslo_transfer.drivers.iscsi import sysfs as _sysfs
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import lockfile

if typing.TYPE_CHECKING:
    from oslo_config import cfg

LOG = logging.getLogger(__name__)

#: Stands in the details of what this engine has attached.
ENGINE = 'os_brick'

_INITIATOR_NAME = '/etc/iscsi/initiatorname.iscsi'
# Where iscsid listens (usr/iscsid.h of open-iscsi).
_ISCSID = '@ISCSIADM_ABSTRACT_NAMESPACE'


def usable(conf: cfg.ConfigOpts) -> str | None:
    """Why this engine cannot run on this host, or None; quick."""
    reason = brick.missing()
    if reason is not None:
        return reason
    path = os.pathsep.join((os.environ.get('PATH', ''), '/usr/sbin', '/sbin'))
    if shutil.which('iscsiadm', path=path) is None:
        return 'there is no iscsiadm (package open-iscsi)'
    if not os.path.exists(_INITIATOR_NAME):
        return f'there is no {_INITIATOR_NAME}'
    if not _iscsid_listens():
        return 'iscsid does not run'
    if conf.oslo_transfer_iscsi.mutual_chap_username is not None:
        return (
            'mutual_chap_username is for the engine libiscsi (iscsid.conf '
            'has node.session.auth.username_in for the kernel)'
        )
    if os.geteuid() != 0 and not brick.can_become_root():
        return (
            'this process is not root, and neither sudo nor '
            '[privsep_osbrick]helper_command is there'
        )
    return None


def _iscsid_listens() -> bool:
    with contextlib.suppress(OSError), open('/proc/net/unix') as file:
        return any(_ISCSID in line for line in file)
    return False


def attach(
    lun: _lun.Lun,
    ctx: _context.Context,
    record: Callable[[Mapping[str, typing.Any]], None],
) -> base.Attachment:
    """Log in, and have the kernel make a block device of a LUN.

    Blocks until the device is there and proved to be the right one, for
    ``[oslo_transfer_iscsi]attach_timeout`` seconds at most.

    :raises AccessDenied: the target refuses user name or password
    :raises AttachError: it did not work; what is left is named
    :raises IntegrityError: another LUN is there than was asked for
    :raises NotFound: there is no such target or LUN
    :raises Unavailable: no portal answers, or not in time
    """
    targets = portals.reach(lun, ctx)
    with _turn(ctx):
        run = initiator.commands(ctx)
        targets = _as_addressed(targets, lun, ctx)
        if lun.discover and ctx.conf.oslo_transfer_iscsi.multipath:
            targets = portals.more(targets, run)
        note = _look(targets, lun, run, ctx)
        record(note.as_details())
        try:
            if not note.adopted:
                _connect(lun, note, ctx)
            note = _examine(lun, note, ctx)
            assert note.device is not None
            if not note.adopted:
                _set_read_only(note, not ctx.writing, ctx)
            elif ctx.writing and _sysfs.Sysfs().read_only(note.device):
                raise exceptions.AttachError(
                    f'{lun.where}: /dev/{note.device} was there before, and '
                    f'is read-only'
                )
            record(note.as_details())
        except BaseException as exc:
            _undo(note, lun.where, ctx, exc)
            raise
    return base.Attachment(
        id='',
        driver='iscsi',
        source=lun.where,
        form='device',
        path=f'/dev/{note.device}',
        size=_sysfs.Sysfs().size(note.device),
        read_only=not ctx.writing,
        details=note.as_details(),
    )


def join(attachment: base.Attachment, ctx: _context.Context) -> None:
    """See that the device of an attachment is there, and what it was.

    Blocks as the disk does, see :func:`identity.read`.

    :raises AttachError: it is gone, or is another LUN, or was resized
    """
    note = _note.from_details(attachment.details)
    sysfs = _sysfs.Sysfs()
    names = initiator.devices(note, sysfs)
    device = os.path.basename(attachment.path)
    if not names or sysfs.number(device) is None:
        raise exceptions.AttachError(
            f'{attachment.source}: the device of the attachment '
            f'{attachment.id} is gone; detach that'
        )
    for disk in _read(names, attachment.source, ctx):
        if disk != note.disk:
            raise exceptions.AttachError(
                f'{attachment.source}: another LUN, or another size of it, '
                f'is behind {attachment.path} than was attached as '
                f'{attachment.id}; detach that'
            )


def detach(
    attachment: base.Attachment, ctx: _context.Context, force: bool
) -> None:
    """Flush the device, take it away, and log out where nothing else is.

    Idempotent, and works from any process, also on what a crash has left.
    Blocks for ``[oslo_transfer_iscsi]attach_timeout`` seconds at most, or
    until the kernel gives up a path that is dead.

    :param force: go on where a step fails, and tell at the end
    :raises DetachError: it is in use, or something is left; without
        leftovers: it is gone, but what was written last may be lost
    """
    if 'targets' not in attachment.details:
        return
    try:
        note = _note.from_details(attachment.details)
    except ValueError as exc:
        raise exceptions.DetachError(
            f'the record of {attachment.source} cannot be used: {exc}',
            (attachment.path or 'what it is about',),
        ) from exc
    if not note.adopted:
        with _turn(ctx):
            detaching.take_away(
                note, attachment.source, ctx, force, attachment.read_only
            )


def open_source(
    driver: base.Driver, endpoint: _endpoint.Endpoint, ctx: _context.Context
) -> base.Source:
    """Attach a LUN for as long as it is read.

    :raises TransferError: as :func:`attach`
    """
    return attached.AttachedSource(ctx.attach(driver, endpoint), ctx, join)


def open_sink(
    driver: base.Driver,
    endpoint: _endpoint.Endpoint,
    ctx: _context.Context,
    size: int | None,
) -> base.Sink:
    """Attach a LUN for as long as it is written.

    :raises NoSpace: it is too small
    :raises TransferError: as :func:`attach`
    """
    writing = ctx.replace(writing=True)
    return attached.AttachedSink(
        writing.attach(driver, endpoint), size, writing, join
    )


@contextlib.contextmanager
def _turn(ctx: _context.Context) -> Iterator[None]:
    """One process of ours at a time: looking and doing go together."""
    directory = brick.lock_path(ctx.conf)
    with lockfile.held(os.path.join(directory, 'oslo-transfer-iscsi'), ctx):
        yield


def _as_addressed(
    targets: tuple[portals.Target, ...],
    lun: _lun.Lun,
    ctx: _context.Context,
) -> tuple[portals.Target, ...]:
    """With the numbers that the kernel gives the LUNs."""
    mode = lun.data.get('addressing_mode')
    if mode is None:
        return targets
    scsi = brick.module('os_brick.initiator.linuxscsi', ctx.conf).LinuxSCSI
    return tuple(
        each._replace(lun=scsi.lun_for_addressing(each.lun, mode))
        for each in targets
    )


def _look(
    targets: tuple[portals.Target, ...],
    lun: _lun.Lun,
    run: _commands.Commands,
    ctx: _context.Context,
) -> _note.Note:
    """What is there, and whose it is."""
    sysfs = _sysfs.Sysfs()
    note = _note.Note(boot=_sysfs.boot(), targets=targets)
    if initiator.devices(note, sysfs):
        return dataclasses.replace(note, adopted=True)
    nodes = {each.node for each in targets}
    ours = _ours(ctx, note.boot)
    kept = {
        node
        for node in nodes - ours
        if any(each.leads_to(*node) for each in sysfs.sessions())
    }
    settings = {
        node: {} if node in kept else _settings(node, lun, run)
        for node in run.records() & nodes - ours
    }
    return dataclasses.replace(note, kept=frozenset(kept), nodes=settings)


def _ours(ctx: _context.Context, boot: str) -> set[_note.Node]:
    """The nodes that other attachments of ours have logged in to."""
    found: set[_note.Node] = set()
    for each in attachment_records.Records(ctx).all():
        details = each.attachment.details
        if details.get('engine') == ENGINE and details.get('boot') == boot:
            with contextlib.suppress(ValueError):
                found |= _note.from_details(details).made
    return found


def _settings(
    node: _note.Node, lun: _lun.Lun, run: _commands.Commands
) -> dict[str, str]:
    """What has to be set back in a record that others have made.

    :raises AttachError: it is for another user, and cannot be set back
    """
    found = run.settings_of(node)
    username = found.get('node.session.auth.username')
    if found.get('node.session.auth.authmethod') == 'CHAP' and (
        username != lun.username
    ):
        raise exceptions.AttachError(
            f'{lun.where}: iscsiadm has a record of {node[1]} at {node[0]} '
            f'with another user name for CHAP; it is not touched'
        )
    return {
        name: found[name]
        for name in ('node.session.scan', 'node.session.auth.authmethod')
        if name in found
    }


def _connect(lun: _lun.Lun, note: _note.Note, ctx: _context.Context) -> None:
    run = initiator.commands(ctx, note)
    connector = initiator.connector(run, ctx)
    connector.use_multipath = (
        len(note.targets) > 1
        and ctx.conf.oslo_transfer_iscsi.multipath
        and connector.supports_multipath()
    )
    properties = initiator.properties(note)
    if lun.username is not None:
        properties.update(
            auth_method='CHAP',
            auth_username=lun.username,
            auth_password=lun.password,
        )
    try:
        connector.connect_volume(properties)
    except exceptions.TransferError:
        raise
    except Exception as exc:
        ctx.check()
        raise _reason(lun, note, run, ctx, exc) from exc
    ctx.check()


def _is_unknown(note: _note.Note, ctx: _context.Context) -> bool:
    """Whether the portal says that it has other targets.

    LIO ends a login to what it does not have without a word.
    """
    portal, iqn, _lun_number = note.targets[0]
    try:
        found = initiator.commands(ctx).discover(portal)
    except exceptions.TransferError:
        raise
    except Exception:
        LOG.debug('asking %s for its targets failed', portal, exc_info=True)
        return False
    return iqn not in {each for _portal, each in found}


def _reason(
    lun: _lun.Lun,
    note: _note.Note,
    run: _commands.Commands,
    ctx: _context.Context,
    exc: Exception,
) -> exceptions.TransferError:
    """Why there is no device."""
    failed = [run.failed.get(each.node) for each in note.targets]
    reasons = [each for each in failed if each is not None]
    if reasons and len(reasons) == len(failed):
        if reasons[0].retryable and _is_unknown(note, ctx):
            return exceptions.NotFound(
                f'{lun.where}: {note.targets[0].portal} has no such target, '
                f'or does not let this host in'
            )
        text = '; '.join(dict.fromkeys(map(str, reasons)))
        return type(reasons[0])(f'{lun.where}: {text}')
    if run.expired:
        return exceptions.Unavailable(
            f'{lun.where}: there is no device after '
            f'[oslo_transfer_iscsi]attach_timeout seconds'
        )
    if type(exc).__name__ == 'VolumeDeviceNotFound':
        return exceptions.NotFound(
            f'{lun.where}: the target has no LUN {note.targets[0].lun} for '
            f'this host'
        )
    return exceptions.AttachError(f'{lun.where}: os-brick failed: {exc}')


def _examine(
    lun: _lun.Lun, note: _note.Note, ctx: _context.Context
) -> _note.Note:
    """See that the right LUN has become a device, and which.

    :raises AttachError: the kernel has another size of it
    :raises IntegrityError: it is another LUN
    :raises Unavailable: none of its paths answers
    """
    sysfs = _sysfs.Sysfs()
    names = initiator.devices(note, sysfs)
    disks = _read(names, lun.where, ctx)
    identity.check(lun, disks)
    top = sysfs.multipath(names)
    device = top or names[0]
    if disks[0].size not in (None, sysfs.size(device)):
        raise exceptions.AttachError(
            f'{lun.where}: the LUN was resized while it was attached: '
            f'/dev/{device} has {sysfs.size(device)} bytes, the target says '
            f'{disks[0].size}; detach it everywhere on this host'
        )
    if top is not None and not note.adopted:
        initiator.commands(ctx).stop_queueing(sysfs.map_name(top))
    return dataclasses.replace(
        note,
        device=device,
        map=sysfs.map_uuid(top) if top else '',
        disk=disks[0],
    )


def _read(
    names: list[str], where: str, ctx: _context.Context
) -> list[identity.Disk]:
    """What the paths that answer say."""
    found = []
    reasons = []
    for name in names:
        try:
            found.append(
                ctx.call(
                    functools.partial(identity.read, name, ctx.conf),
                    f'asking /dev/{name} who it is',
                    ctx.conf.oslo_transfer_iscsi.attach_timeout,
                )
            )
        except OSError as exc:
            reasons.append(f'/dev/{name}: {exc.strerror or exc}')
        except exceptions.Unavailable as exc:
            reasons.append(str(exc))
    if not found:
        raise exceptions.Unavailable(
            f'{where}: {"; ".join(reasons) or "it has no device"}'
        )
    return found


def _set_read_only(
    note: _note.Note, read_only: bool, ctx: _context.Context
) -> None:
    path = f'/dev/{note.device}'
    try:
        blockdev.set_read_only(path, read_only, ctx.conf)
    except OSError as exc:
        raise exceptions.AttachError(
            f'{path} cannot be made read-only: {exc.strerror or exc}'
        ) from exc


def _undo(
    note: _note.Note, where: str, ctx: _context.Context, exc: BaseException
) -> None:
    """Leave nothing of an attempt that failed.

    :raises AttachError: something is left all the same
    """
    if note.adopted:
        return
    later = ctx.replace(deadline=None, cancel=None, stop=threading.Event())
    try:
        # Nobody has written to it so far.
        detaching.take_away(note, where, later, force=True, read_only=True)
    except exceptions.TransferError as error:
        left = getattr(error, 'leftovers', ()) or ('what it has made',)
        raise exceptions.AttachError(
            f'{exc}; then {error.args[0]}', left
        ) from exc
