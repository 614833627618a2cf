# SPDX-License-Identifier: Apache-2.0
"""What a logical unit is: asked once a session is there, before all else."""

from __future__ import annotations

import dataclasses

from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import identity
from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer.drivers.iscsi import session as _session
from oslo_transfer.drivers.iscsi import waiting
from oslo_transfer import exceptions

_PAGE = 252
_CAPACITY = 32
_STATUS = 24


@dataclasses.dataclass(frozen=True)
class Unit:
    """A disk behind a target.

    :ivar disk: what tells it from others
    :ivar capacity: its size, and that of its blocks
    :ivar limits: what one command may move
    :ivar provisioning: how its blocks are let go
    :ivar status: GET LBA STATUS tells holes, and they read as zeros
    """

    disk: identity.Disk
    capacity: scsi.Capacity
    limits: scsi.Limits
    provisioning: scsi.Provisioning
    status: bool


def examine(session: _session.Session, waiter: waiting.Waiter) -> Unit:
    """Ask a unit what it is.

    :raises NotFound: the target has none with this number
    :raises InvalidEndpoint: it is no disk
    :raises ProtocolError: it makes no sense
    :raises Unavailable: it is not ready
    """
    found, disk = greet(session, waiter)
    try:
        return Unit(
            disk,
            found,
            scsi.parse_limits(_page(session, scsi.BLOCK_LIMITS, waiter)),
            scsi.parse_provisioning(_page(session, scsi.PROVISIONING, waiter)),
            found.provisioned
            and found.zeros
            and _tells_status(session, found, waiter),
        )
    except failures.SenseError as exc:
        raise exc.translated(waiter.where) from exc


def greet(
    session: _session.Session, waiter: waiting.Waiter
) -> tuple[scsi.Capacity, identity.Disk]:
    """Begin a session: see that there is a disk, and which one.

    :raises TransferError: as :func:`examine` does
    """
    try:
        # A new session is greeted with the news of the last ones.
        session.run(
            [_session.Command('opening', scsi.test_unit_ready())], waiter
        )
        there, is_disk = scsi.parse_inquiry(
            session.ask('INQUIRY', scsi.inquiry(length=_PAGE), _PAGE, waiter)
        )
        if not there:
            raise exceptions.NotFound(
                f'{waiter.where}: the target has no such LUN'
            )
        if not is_disk:
            raise exceptions.InvalidEndpoint(
                f'{waiter.where}: the LUN is no disk'
            )
        return look(session, waiter)
    except failures.SenseError as exc:
        raise exc.translated(waiter.where) from exc


def look(
    session: _session.Session, waiter: waiting.Waiter
) -> tuple[scsi.Capacity, identity.Disk]:
    """Ask for the size, and what tells the disk from others.

    In one round trip, where the target answers all three questions.
    """
    questions = (
        (scsi.read_capacity_16(_CAPACITY), _CAPACITY),
        (scsi.inquiry(scsi.SERIAL, _PAGE), _PAGE),
        (scsi.inquiry(scsi.IDENTIFICATION, _PAGE), _PAGE),
    )
    commands = [
        _session.Command('looking at the LUN', cdb, into=bytearray(length))
        for cdb, length in questions
    ]
    try:
        outcomes = session.run(commands, waiter)
    except failures.SenseError as exc:
        if not exc.unsupported:
            raise
        size = _capacity(session, waiter)
        serial = _page(session, scsi.SERIAL, waiter)
        names = _page(session, scsi.IDENTIFICATION, waiter)
    else:
        answers = [
            bytes(command.into[: outcome.moved])
            for command, outcome in zip(commands, outcomes)
        ]
        size = scsi.parse_capacity_16(answers[0])
        serial = scsi.page_body(answers[1], scsi.SERIAL)
        names = scsi.page_body(answers[2], scsi.IDENTIFICATION)
    return size, identity.Disk(
        scsi.parse_serial(serial),
        scsi.parse_identification(names),
        size.size,
    )


def _capacity(
    session: _session.Session, waiter: waiting.Waiter
) -> scsi.Capacity:
    """Ask for the size."""
    try:
        return scsi.parse_capacity_16(
            session.ask(
                'READ CAPACITY',
                scsi.read_capacity_16(_CAPACITY),
                _CAPACITY,
                waiter,
            )
        )
    except failures.SenseError as exc:
        if not exc.unsupported:
            raise
    found = scsi.parse_capacity_10(
        session.ask('READ CAPACITY', scsi.read_capacity_10(), 8, waiter)
    )
    if found is None:
        raise exceptions.ProtocolError(
            f'{waiter.where}: the target does not say how large the LUN is'
        )
    return found


def write_protected(session: _session.Session, waiter: waiting.Waiter) -> bool:
    """Ask whether it can be written; what does not say so can."""
    try:
        return scsi.parse_write_protected(
            session.ask('MODE SENSE', scsi.mode_sense_6(), 192, waiter)
        )
    except failures.SenseError as exc:
        if exc.unsupported:
            return False
        raise exc.translated(waiter.where) from exc


def _page(
    session: _session.Session, page: int, waiter: waiting.Waiter
) -> bytes:
    """A VPD page; nothing where the target does not have it."""
    try:
        data = session.ask('INQUIRY', scsi.inquiry(page, _PAGE), _PAGE, waiter)
    except failures.SenseError as exc:
        if exc.unsupported:
            return b''
        raise
    return scsi.page_body(data, page)


def _tells_status(
    session: _session.Session, capacity: scsi.Capacity, waiter: waiting.Waiter
) -> bool:
    # Of the last block: some targets search up to the next change.
    last = max(0, capacity.blocks - 1)
    try:
        session.ask(
            'GET LBA STATUS',
            scsi.get_lba_status(last, _STATUS),
            _STATUS,
            waiter,
        )
    except failures.SenseError as exc:
        if exc.unsupported:
            return False
        raise
    return True
