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
import math
import os
import shutil
import threading
import time
import typing

from oslo_transfer import attachment_records
from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer.drivers import blockdev
from oslo_transfer.drivers import brick
from oslo_transfer.drivers import inuse
from oslo_transfer.drivers.iscsi import attached
from oslo_transfer.drivers.iscsi import commands as _commands
from oslo_transfer.drivers.iscsi import identity
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

_CONNECTOR = 'os_brick.initiator.connectors.iscsi'
_ROOTWRAP = 'os_brick.privileged.rootwrap'
_INITIATOR_NAME = '/etc/iscsi/initiatorname.iscsi'
# Where iscsid listens (usr/iscsid.h of open-iscsi).
_ISCSID = '@ISCSIADM_ABSTRACT_NAMESPACE'
# How often os-brick looks again for a LUN that is not there.
_RESCANS = 1
# A login is tried that often; each try may take connect_timeout.
_LOGIN_TRIES = '2'
# Seconds that udev or a scan for partitions may have a device open.
_TRANSIENT = 3.0
_PAUSE = 0.1


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
        run = _commands_for(ctx)
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
    names = _devices(note, sysfs)
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
    :raises DetachError: it is in use, or something is left
    """
    if 'targets' not in attachment.details:
        return
    try:
        note = _note.from_details(attachment.details)
    except ValueError as exc:
        raise exceptions.DetachError(
            f'the record of {attachment.source} cannot be used: {exc}',
            (attachment.path,) if attachment.path else (),
        ) from exc
    if not note.adopted:
        with _turn(ctx):
            _take_away(note, attachment.source, ctx, force)


def open_source(
    driver: base.Driver, endpoint: _endpoint.Endpoint, ctx: _context.Context
) -> base.Source:
    """Attach a LUN for as long as it is read.

    :raises TransferError: as :func:`attach`
    """
    return attached.AttachedSource(ctx.attach(driver, endpoint), ctx)


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
        writing.attach(driver, endpoint), size, writing
    )


@contextlib.contextmanager
def _turn(ctx: _context.Context) -> Iterator[None]:
    """One process of ours at a time: looking and doing go together."""
    directory = brick.lock_path(ctx.conf)
    with lockfile.held(os.path.join(directory, 'oslo-transfer-iscsi'), ctx):
        yield


def _commands_for(
    ctx: _context.Context, note: _note.Note | None = None
) -> _commands.Commands:
    group = ctx.conf.oslo_transfer_iscsi
    settings = {
        'node.startup': 'manual',
        'node.conn[0].timeo.login_timeout': str(
            math.ceil(ctx.connect_timeout)
        ),
        'node.session.initial_login_retry_max': _LOGIN_TRIES,
        'node.session.timeo.replacement_timeout': str(group.path_timeout),
    }
    return _commands.Commands(
        brick.module(_ROOTWRAP, ctx.conf).execute,
        ctx,
        group.attach_timeout,
        note.kept if note else frozenset(),
        note.nodes if note else {},
        settings,
    )


def _connector(run: _commands.Commands, ctx: _context.Context) -> typing.Any:
    module = brick.module(_CONNECTOR, ctx.conf)
    return module.ISCSIConnector(
        None, execute=run, device_scan_attempts=_RESCANS
    )


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
    if _devices(note, sysfs):
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
    run = _commands_for(ctx, note)
    connector = _connector(run, ctx)
    connector.use_multipath = (
        len(note.targets) > 1
        and ctx.conf.oslo_transfer_iscsi.multipath
        and connector.supports_multipath()
    )
    properties = _properties(note)
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
        found = _commands_for(ctx).discover(portal)
    except exceptions.TransferError:
        raise
    except Exception:
        LOG.debug('asking %s for its targets failed', portal, exc_info=True)
        return False
    return iqn not in {each for _portal, each in found}


def _properties(note: _note.Note) -> dict[str, typing.Any]:
    """As Cinder tells os-brick, without the login."""
    first = note.targets[0]
    return {
        'target_portal': first.portal,
        'target_iqn': first.iqn,
        'target_lun': first.lun,
        'target_portals': [each.portal for each in note.targets],
        'target_iqns': [each.iqn for each in note.targets],
        'target_luns': [each.lun for each in note.targets],
    }


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


def _devices(note: _note.Note, sysfs: _sysfs.Sysfs) -> list[str]:
    """The disks of the LUN, one for each path that is there."""
    found: dict[str, None] = {}
    sessions = sysfs.sessions()
    for target in note.targets:
        for session in sessions:
            if session.leads_to(*target.node):
                found.update(
                    dict.fromkeys(sysfs.devices(session.sid, target.lun))
                )
    return list(found)


def _examine(
    lun: _lun.Lun, note: _note.Note, ctx: _context.Context
) -> _note.Note:
    """See that the right LUN has become a device, and which.

    :raises AttachError: the kernel has another size of it
    :raises IntegrityError: it is another LUN
    :raises Unavailable: none of its paths answers
    """
    sysfs = _sysfs.Sysfs()
    names = _devices(note, sysfs)
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
        _commands_for(ctx).stop_queueing(sysfs.map_name(top))
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
        _take_away(note, where, later, force=True)
    except exceptions.TransferError as error:
        raise exceptions.AttachError(f'{exc}; then {error}') from exc


def _take_away(
    note: _note.Note, where: str, ctx: _context.Context, force: bool
) -> None:
    sysfs = _sysfs.Sysfs()
    run = _commands_for(ctx, note)
    problems: list[str] = []
    if note.boot == _sysfs.boot():
        _disconnect(note, where, run, ctx, force, problems)
    else:
        with _problems(problems):
            for node in _stale_records(note, run, sysfs):
                run.delete(node)
    for node, settings in note.nodes.items():
        with _problems(problems):
            run.update(node, settings)
    left = _leftovers(note, sysfs)
    if left or problems:
        raise exceptions.DetachError(
            f'{where} was not detached cleanly: '
            f'{"; ".join(problems) or "something is left"}',
            tuple(left or problems),
        )


def _disconnect(
    note: _note.Note,
    where: str,
    run: _commands.Commands,
    ctx: _context.Context,
    force: bool,
    problems: list[str],
) -> None:
    sysfs = _sysfs.Sysfs()
    names = _devices(note, sysfs)
    top = sysfs.multipath(names) or next(iter(names), None)
    if top is not None:
        _check_unused(top, where, sysfs, ctx)
    with _problems(problems):
        _connector(run, ctx).disconnect_volume(
            _properties(note),
            {'path': f'/dev/{top}' if top else ''},
            force=force,
        )
    for name in _orphans(note, sysfs):
        with _problems(problems):
            run.flush_map(sysfs.map_name(name))


@contextlib.contextmanager
def _problems(found: list[str]) -> Iterator[None]:
    """Note what fails, and go on: what can be taken away is."""
    try:
        yield
    except Exception as exc:
        LOG.debug('a step of detaching failed', exc_info=True)
        found.append(' '.join(str(exc).split()) or type(exc).__name__)


def _check_unused(
    name: str, where: str, sysfs: _sysfs.Sysfs, ctx: _context.Context
) -> None:
    end = time.monotonic() + _TRANSIENT
    while users := inuse.users_of_device(name, ctx.conf, sysfs):
        if time.monotonic() > end:
            raise exceptions.DetachError(
                f'{where} is in use, and stays attached', tuple(users)
            )
        ctx.sleep(_PAUSE)


def _orphans(note: _note.Note, sysfs: _sysfs.Sysfs) -> list[str]:
    """Multipath devices that are left without a path."""
    if not note.map:
        return []
    return [each for each in sysfs.maps(note.map) if not sysfs.slaves(each)]


def _stale_records(
    note: _note.Note, run: _commands.Commands, sysfs: _sysfs.Sysfs
) -> list[_note.Node]:
    """Records of ours that no session needs."""
    sessions = sysfs.sessions()
    return sorted(
        node
        for node in run.records() & (note.made - set(note.nodes))
        if not any(each.leads_to(*node) for each in sessions)
    )


def _leftovers(note: _note.Note, sysfs: _sysfs.Sysfs) -> list[str]:
    if note.boot != _sysfs.boot():
        return []
    found = [f'/dev/{name}' for name in _devices(note, sysfs)]
    found += [f'/dev/{name}' for name in _orphans(note, sysfs)]
    for session in sysfs.sessions():
        if any(session.leads_to(*node) for node in note.made):
            if not sysfs.devices(session.sid):
                found.append(f'session {session.sid} to {session.iqn}')
    return found
