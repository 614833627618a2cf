# SPDX-License-Identifier: Apache-2.0
"""What attaching and detaching share: os-brick, and the disks of a LUN."""

from __future__ import annotations

import math
import typing

from oslo_transfer import context as _context
from oslo_transfer.drivers import brick
from oslo_transfer.drivers.iscsi import commands as _commands
from oslo_transfer.drivers.iscsi import note as _note
from oslo_transfer.drivers.iscsi import sysfs as _sysfs

_CONNECTOR = 'os_brick.initiator.connectors.iscsi'
_ROOTWRAP = 'os_brick.privileged.rootwrap'
# How often os-brick looks again for a LUN that is not there.
_RESCANS = 1
# A login is tried that often; each try may take connect_timeout.
_LOGIN_TRIES = '2'


def commands(
    ctx: _context.Context, note: _note.Note | None = None
) -> _commands.Commands:
    """What is to run commands, for attach_timeout seconds from now.

    :param note: whose sessions and records are not touched
    """
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


def connector(run: _commands.Commands, ctx: _context.Context) -> typing.Any:
    """os-brick's connector; by one path unless it is told otherwise."""
    module = brick.module(_CONNECTOR, ctx.conf)
    return module.ISCSIConnector(
        None, execute=run, device_scan_attempts=_RESCANS
    )


def properties(note: _note.Note) -> dict[str, typing.Any]:
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


def devices(note: _note.Note, sysfs: _sysfs.Sysfs) -> list[str]:
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
