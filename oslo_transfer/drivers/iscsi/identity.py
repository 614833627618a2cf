# SPDX-License-Identifier: Apache-2.0
"""Sees that a disk of the kernel is the LUN that was asked for."""

from __future__ import annotations

from collections.abc import Iterable
import dataclasses
import os
import typing

from oslo_transfer.drivers import blockdev
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import sgio
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_config import cfg

_LENGTH = 252


@dataclasses.dataclass(frozen=True)
class Disk:
    """What a disk says of itself, asked just now.

    :ivar serial: unit serial number, or ''
    :ivar names: its designators
    :ivar size: in bytes; None if it does not say
    """

    serial: str
    names: frozenset[str]
    size: int | None

    def as_details(self) -> dict[str, typing.Any]:
        """As JSON."""
        return {
            'serial': self.serial,
            'names': sorted(self.names),
            'size': self.size,
        }


def from_details(details: dict[str, typing.Any]) -> Disk:
    """What :meth:`Disk.as_details` gave."""
    return Disk(
        details['serial'], frozenset(details['names']), details['size']
    )


def read(name: str, conf: cfg.ConfigOpts) -> Disk:
    """Ask a disk who it is, whatever the kernel remembers.

    Blocks until it answers, half a minute for each of three questions at
    most.

    :param name: as ``sda``
    :raises OSError: it cannot be reached
    :raises ProtocolError: it makes no sense
    """
    fd = blockdev.open_device(
        f'/dev/{name}', os.O_RDONLY | os.O_NONBLOCK, conf
    )
    try:
        serial = _page(fd, scsi.SERIAL)
        names = _page(fd, scsi.IDENTIFICATION)
        found = sgio.ask(fd, scsi.read_capacity_16(), 32)
    finally:
        os.close(fd)
    return Disk(
        scsi.parse_serial(serial),
        scsi.parse_identification(names),
        scsi.parse_capacity_16(found).size if found else None,
    )


def _page(fd: int, page: int) -> bytes:
    found = sgio.ask(fd, scsi.inquiry(page, _LENGTH), _LENGTH)
    return scsi.page_body(found, page) if found else b''


def check(lun: _lun.Lun, disks: Iterable[Disk]) -> None:
    """See that all paths lead to the LUN that was asked for.

    :raises IntegrityError: they lead to another, or to several
    :raises SizeMismatch: it has another size
    """
    found = list(disks)
    for disk in found:
        if lun.serial is not None and disk.serial != lun.serial:
            raise exceptions.IntegrityError(
                f'{lun.where}: the serial number of the LUN there is '
                f'{disk.serial!r}, expected {lun.serial!r}; it is not touched'
            )
        if lun.wwn is not None and lun.wwn not in disk.names:
            raise exceptions.IntegrityError(
                f'{lun.where}: the LUN there is '
                f'{", ".join(sorted(disk.names)) or "without a name"}, '
                f'expected {lun.wwn}; it is not touched'
            )
        if (disk.serial, disk.names) != (found[0].serial, found[0].names):
            raise exceptions.IntegrityError(
                f'{lun.where}: its paths lead to different LUNs; none is '
                f'touched'
            )
        if lun.size is not None and disk.size != lun.size:
            raise exceptions.SizeMismatch(lun.size, disk.size or 0, lun.where)
