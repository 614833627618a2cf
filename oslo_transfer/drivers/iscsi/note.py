# SPDX-License-Identifier: Apache-2.0
"""What the engine of the kernel's initiator notes to undo an attachment."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import typing

from oslo_transfer.drivers.iscsi import identity
from oslo_transfer.drivers.iscsi import portals

Node = tuple[str, str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Note:
    """The details of an attachment; no secret.

    :ivar boot: the boot in which it was made; nothing but records of nodes
        outlives it
    :ivar targets: the paths
    :ivar kept: nodes whose session others have made
    :ivar nodes: nodes whose record others have made, with the settings
        that os-brick changes
    :ivar adopted: the device was there before: nothing is to be undone
    :ivar device: its name, as ``sda`` or ``dm-0``
    :ivar map: the UUID of the multipath device, or ''
    :ivar disk: what the LUN says that it is
    """

    boot: str
    targets: tuple[portals.Target, ...]
    kept: frozenset[Node] = frozenset()
    nodes: Mapping[Node, Mapping[str, str]] = dataclasses.field(
        default_factory=dict
    )
    adopted: bool = False
    device: str | None = None
    map: str = ''
    disk: identity.Disk | None = None

    @property
    def made(self) -> frozenset[Node]:
        """The nodes whose session is our own."""
        if self.adopted:
            return frozenset()
        return frozenset(each.node for each in self.targets) - self.kept

    def as_details(self) -> dict[str, typing.Any]:
        """As JSON."""
        return {
            'boot': self.boot,
            'targets': [list(each) for each in self.targets],
            'kept': [list(each) for each in sorted(self.kept)],
            'nodes': [
                [*node, dict(settings)]
                for node, settings in sorted(self.nodes.items())
            ],
            'adopted': self.adopted,
            'device': self.device,
            'map': self.map,
            'disk': self.disk.as_details() if self.disk else None,
        }


def from_details(details: Mapping[str, typing.Any]) -> Note:
    """What :meth:`Note.as_details` gave.

    :raises ValueError: it is something else
    """
    try:
        return _note(details)
    except (AttributeError, KeyError, TypeError) as exc:
        raise ValueError('it is not a record of this engine') from exc


def _note(details: Mapping[str, typing.Any]) -> Note:
    disk = details['disk']
    return Note(
        boot=details['boot'],
        targets=tuple(portals.Target(*each) for each in details['targets']),
        kept=frozenset((portal, iqn) for portal, iqn in details['kept']),
        nodes={
            (portal, iqn): settings
            for portal, iqn, settings in details['nodes']
        },
        adopted=details['adopted'],
        device=details['device'],
        map=details['map'],
        disk=identity.from_details(disk) if disk else None,
    )
