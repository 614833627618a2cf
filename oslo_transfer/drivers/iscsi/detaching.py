# SPDX-License-Identifier: Apache-2.0
"""Takes devices and sessions away, and nothing that others have made."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import logging
import time

from oslo_transfer import context as _context
from oslo_transfer.drivers import inuse
from oslo_transfer.drivers.iscsi import commands as _commands
from oslo_transfer.drivers.iscsi import initiator
from oslo_transfer.drivers.iscsi import note as _note
from oslo_transfer.drivers.iscsi import sysfs as _sysfs
from oslo_transfer import exceptions

LOG = logging.getLogger(__name__)

# Seconds that a scan for partitions, say, may have a device open.
_TRANSIENT = 3.0
# They look at what is new, and let go by themselves; where the path is dead
# after [oslo_transfer_iscsi]path_timeout.
_PASSING = ('(udev-worker) ', 'systemd-udevd ')
_PAUSE = 0.1
# Of os-brick's ExceptionChainer, as sys.exc_info() tells them.
_CHAINED = '_exceptions'


def take_away(
    note: _note.Note,
    where: str,
    ctx: _context.Context,
    force: bool,
    read_only: bool,
) -> None:
    """Take away what stands in a note, if nobody uses it; idempotent.

    :param where: the redacted URL, for messages
    :param force: go on where a step fails
    :param read_only: nothing can have been written, so that a step which
        fails is none to stop at, and of no interest when all is gone
    :raises DetachError: it is in use, or something is left; or nothing is,
        but what was written last may be lost
    """
    sysfs = _sysfs.Sysfs()
    run = initiator.commands(ctx, note)
    problems: list[str] = []
    undone: list[str] = []
    if note.boot == _sysfs.boot():
        _disconnect(note, where, run, ctx, force or read_only, problems)
    else:
        with _problems(undone, 'records of nodes'):
            for node in _stale_records(note, run, sysfs):
                run.delete(node)
    for node, settings in note.nodes.items():
        with _problems(undone, f'settings of {_record_of(node)}'):
            run.update(node, settings)
    if problems:
        with _problems(undone, 'records of nodes'):
            stale = _stale_records(note, run, sysfs)
            undone += [_record_of(node) for node in stale]
    left = _leftovers(note, sysfs) + undone
    reasons = '; '.join(problems)
    if left:
        raise exceptions.DetachError(
            f'{where} was not detached cleanly: '
            f'{reasons or "something is left"}',
            tuple(left),
        )
    if problems and not read_only:
        raise exceptions.DetachError(
            f'{where} is detached, but what was written last may be lost: '
            f'{reasons}'
        )
    if problems:
        LOG.warning('%s is detached, but not cleanly: %s', where, reasons)


def _disconnect(
    note: _note.Note,
    where: str,
    run: _commands.Commands,
    ctx: _context.Context,
    force: bool,
    problems: list[str],
) -> None:
    sysfs = _sysfs.Sysfs()
    names = initiator.devices(note, sysfs)
    top = sysfs.multipath(names) or next(iter(names), None)
    if top is not None:
        _check_unused(top, where, sysfs, ctx)
    with _problems(problems):
        initiator.connector(run, ctx).disconnect_volume(
            initiator.properties(note),
            {'path': f'/dev/{top}' if top else ''},
            force=force,
        )
    for name in _orphans(note, sysfs):
        with _problems(problems):
            run.flush_map(sysfs.map_name(name))


@contextlib.contextmanager
def _problems(found: list[str], what: str = '') -> Iterator[None]:
    """Note what fails, and go on: what can be taken away is."""
    try:
        yield
    except Exception as exc:
        LOG.debug('a step of detaching failed', exc_info=True)
        reasons = '; '.join(dict.fromkeys(_reasons(exc)))
        found.append(f'{what}: {reasons}' if what else reasons)


def _reasons(exc: BaseException) -> list[str]:
    """What went wrong, in few words each.

    As text an exception of os-brick that holds others is their tracebacks,
    and one of a command says more than what the command said.
    """
    chained = [each for _kind, each, _trace in getattr(exc, _CHAINED, ())]
    if chained:
        return [reason for each in chained for reason in _reasons(each)]
    said = getattr(exc, 'stderr', None) or f'{exc}' or type(exc).__name__
    text = ' '.join(said.split())
    command = getattr(exc, 'cmd', None)
    return [f'{command}: {text}' if command else text]


def _record_of(node: _note.Node) -> str:
    return f'the record of {node[1]} at {node[0]}'


def _check_unused(
    name: str, where: str, sysfs: _sysfs.Sysfs, ctx: _context.Context
) -> None:
    started = time.monotonic()
    while users := inuse.users_of_device(name, ctx.conf, sysfs):
        limit = _TRANSIENT
        if all(each.startswith(_PASSING) for each in users):
            limit = ctx.conf.oslo_transfer_iscsi.attach_timeout
        if time.monotonic() - started > limit:
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
    found = [f'/dev/{name}' for name in initiator.devices(note, sysfs)]
    found += [f'/dev/{name}' for name in _orphans(note, sysfs)]
    for session in sysfs.sessions():
        if any(session.leads_to(*node) for node in note.made):
            if not sysfs.devices(session.sid):
                found.append(f'session {session.sid} to {session.iqn}')
    return found
