# SPDX-License-Identifier: Apache-2.0
"""Which paths to a LUN the kernel's initiator is to take."""

from __future__ import annotations

import typing

from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers.iscsi import commands as _commands


class Target(typing.NamedTuple):
    """One path, as the initiator names it.

    :ivar portal: numeric ``address:port``
    :ivar iqn: name of the target
    :ivar lun: number as the kernel sees it
    """

    portal: str
    iqn: str
    lun: int

    @property
    def node(self) -> tuple[str, str]:
        """What sessions and records are named by."""
        return self.portal, self.iqn


def reach(lun: _lun.Lun, ctx: _context.Context) -> tuple[Target, ...]:
    """The paths whose portals answer, by the addresses that answer.

    os-brick finds no session again that was opened by a host's name, and a
    login waits long for a portal that is dead. Blocks for at most
    ``ctx.connect_timeout`` for each portal.

    :raises Unavailable: no portal answers
    """
    addresses: dict[tuple[str, int], str | exceptions.Unavailable] = {}
    for path in lun.paths:
        place = path.host, path.port
        if place not in addresses:
            try:
                addresses[place] = _address(*place, ctx)
            except exceptions.Unavailable as exc:
                addresses[place] = exc
    found = []
    for path in lun.paths:
        address = addresses[path.host, path.port]
        if isinstance(address, str):
            found.append(Target(address, path.iqn, path.lun))
    if found:
        return tuple(dict.fromkeys(found))
    reasons = '; '.join(dict.fromkeys(map(str, addresses.values())))
    raise exceptions.Unavailable(f'{lun.where}: {reasons}')


def _address(host: str, port: int, ctx: _context.Context) -> str:
    with ctx.connector.connect(host, port, ctx) as sock:
        numeric: str = sock.getpeername()[0]
    return f'[{numeric}]:{port}' if ':' in numeric else f'{numeric}:{port}'


def more(
    targets: tuple[Target, ...], run: _commands.Commands
) -> tuple[Target, ...]:
    """The same LUN at all portals that the first one knows of.

    Another portal has it under the same number if it has the same target.
    """
    first = targets[0]
    found = [
        Target(portal, iqn, first.lun)
        for portal, iqn in run.discover(first.portal)
        if iqn == first.iqn
    ]
    return tuple(dict.fromkeys((*targets, *found)))
