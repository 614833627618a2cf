# SPDX-License-Identifier: Apache-2.0
"""What the kernel tells of iSCSI sessions and their devices.

Reads files below ``/sys`` only (Documentation/ABI/testing/sysfs-class-iscsi
and sysfs-block of the kernel): needs no privileges, starts nothing, and
waits for no peer.
"""

from __future__ import annotations

from collections.abc import Iterable
import contextlib
import dataclasses
import glob
import os
import re

# How Linux numbers a LUN of 256 and more is the target's business (SAM-5);
# os-brick asks for it by the same number.
_SECTOR = 512


@dataclasses.dataclass(frozen=True)
class Session:
    """A session of the kernel's initiator.

    :ivar sid: its number, not given twice in one boot
    :ivar iqn: the target
    :ivar portals: ``address:port`` that it was told and that it uses
    """

    sid: int
    iqn: str
    portals: frozenset[str]

    def leads_to(self, portal: str, iqn: str) -> bool:
        """Whether it is one to a target at a portal."""
        return portal.lower() in self.portals and iqn == self.iqn


class Sysfs:
    """A view of ``/sys``; looks anew at each call.

    :param root: where it is
    """

    def __init__(self, root: str = '/sys') -> None:
        self._root = root

    def sessions(self) -> list[Session]:
        """All sessions, also those that are just down."""
        found = []
        for path in self._glob('class/iscsi_session/session*'):
            iqn = _read(os.path.join(path, 'targetname'))
            sid = int(os.path.basename(path).removeprefix('session'))
            if iqn is not None:
                found.append(Session(sid, iqn, self._portals(sid)))
        return found

    def _portals(self, sid: int) -> frozenset[str]:
        found = set()
        for path in self._glob(f'class/iscsi_connection/connection{sid}:*'):
            for kind in ('persistent_', ''):
                address = _read(os.path.join(path, f'{kind}address'))
                port = _read(os.path.join(path, f'{kind}port'))
                if address and port:
                    host = f'[{address}]' if ':' in address else address
                    found.add(f'{host}:{port}'.lower())
        return frozenset(found)

    def devices(self, sid: int, lun: int | None = None) -> list[str]:
        """Names of the disks of a session, as ``sda``.

        :param lun: of this number only
        """
        place = f'class/iscsi_session/session{sid}/device/target*/*:*:*:*'
        found = []
        for path in self._glob(f'{place}/block/*'):
            address = os.path.basename(os.path.dirname(os.path.dirname(path)))
            if lun is None or int(address.rpartition(':')[2]) == lun:
                found.append(os.path.basename(path))
        return sorted(found)

    def multipath(self, names: Iterable[str]) -> str | None:
        """The multipath device over some disks, as ``dm-0``."""
        for name in names:
            for path in self._glob(f'class/block/{name}/holders/dm-*'):
                found = os.path.basename(path)
                if self.map_uuid(found).startswith('mpath-'):
                    return found
        return None

    def map_uuid(self, name: str) -> str:
        """What device-mapper identifies a device by; empty for others."""
        return _read(self._path(f'class/block/{name}/dm/uuid')) or ''

    def maps(self, uuid: str) -> list[str]:
        """The device-mapper devices of a UUID."""
        return [
            os.path.basename(path)
            for path in self._glob('class/block/dm-*')
            if self.map_uuid(os.path.basename(path)) == uuid
        ]

    def map_name(self, name: str) -> str:
        """The name of a device-mapper device, below ``/dev/mapper``."""
        return _read(self._path(f'class/block/{name}/dm/name')) or ''

    def slaves(self, name: str) -> list[str]:
        """The devices that a device is made of."""
        return self._names(f'class/block/{name}/slaves')

    def holders(self, name: str) -> list[str]:
        """The devices that are made of a device or its partitions."""
        found = set(self._names(f'class/block/{name}/holders'))
        for partition in self.partitions(name):
            found.update(self._names(f'class/block/{partition}/holders'))
        return sorted(found)

    def partitions(self, name: str) -> list[str]:
        """The partitions of a disk that the kernel has found."""
        return [
            os.path.basename(os.path.dirname(path))
            for path in self._glob(f'class/block/{name}/*/partition')
        ]

    def size(self, name: str) -> int | None:
        """The size of a device in bytes, as the kernel has it."""
        text = _read(self._path(f'class/block/{name}/size'))
        return None if text is None else int(text) * _SECTOR

    def read_only(self, name: str) -> bool:
        """Whether the kernel refuses to write to a device."""
        return _read(self._path(f'class/block/{name}/ro')) == '1'

    def number(self, name: str) -> str | None:
        """``major:minor`` of a device."""
        return _read(self._path(f'class/block/{name}/dev'))

    def name(self, major: int, minor: int) -> str | None:
        """The name of the device with a number."""
        path = self._path(f'dev/block/{major}:{minor}')
        if not os.path.exists(path):
            return None
        return os.path.basename(os.path.realpath(path))

    def loops(self) -> dict[str, str]:
        """Loop devices and the files or devices behind them."""
        found = {}
        for path in self._glob('class/block/loop*/loop/backing_file'):
            behind = _read(path)
            if behind:
                name = os.path.basename(os.path.dirname(os.path.dirname(path)))
                found[name] = behind
        return found

    def _names(self, place: str) -> list[str]:
        with contextlib.suppress(OSError):
            return sorted(os.listdir(self._path(place)))
        return []

    def _glob(self, pattern: str) -> list[str]:
        return sorted(glob.glob(self._path(pattern)), key=_natural)

    def _path(self, place: str) -> str:
        return os.path.join(self._root, place)


def _natural(path: str) -> tuple[tuple[int, str], ...]:
    return tuple(
        (int(part or -1), text)
        for text, part in re.findall(r'([^0-9]*)([0-9]*)', path)
    )


def _read(path: str) -> str | None:
    """An attribute; None where it is not there, or just goes away."""
    try:
        with open(path, errors='replace') as file:
            return file.read().strip()
    except OSError:
        return None


def boot() -> str:
    """Tells one boot of this host from the next."""
    return _read('/proc/sys/kernel/random/boot_id') or ''
