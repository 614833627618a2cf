# SPDX-License-Identifier: Apache-2.0
"""Which requests a read-only export answers (proto.md, "Request types")."""

from __future__ import annotations

from oslo_transfer.export import nbd_misses
from oslo_transfer.export import nbd_options
from oslo_transfer import nbd_wire as wire

Command = wire.Command
Error = wire.Error
Refusal = tuple[Error, str]

_WRITES = (Command.WRITE, Command.WRITE_ZEROES, Command.TRIM)


def refusal(
    flags: int,
    kind: int,
    offset: int,
    length: int,
    size: int,
    *,
    structured: bool,
    context: bool,
) -> Refusal | None:
    """Why a request cannot be answered otherwise; None if it can.

    :param size: of the export
    :param structured: replies are
    :param context: a metadata context was agreed upon
    """
    if kind in _WRITES:
        return Error.EPERM, 'the export is read-only'
    if kind == Command.FLUSH:
        return None
    allowed = 0
    if kind == Command.BLOCK_STATUS:
        if not context:
            return Error.EINVAL, 'no metadata context was agreed upon'
        allowed = int(wire.RequestFlag.REQ_ONE)
    elif kind == Command.READ:
        allowed = int(wire.RequestFlag.DF) if structured else 0
    elif kind != Command.CACHE:
        return Error.EINVAL, f'there is no command {kind}'
    if flags & ~allowed:
        return Error.EINVAL, f'flags {flags:#x} cannot be'
    if not length or offset + length > size:
        return Error.EINVAL, f'there are no {length} bytes from {offset} on'
    return _too_much(flags, length) if kind == Command.READ else None


def _too_much(flags: int, length: int) -> Refusal | None:
    if length > nbd_options.MOST_PAYLOAD:
        return Error.EINVAL, f'{length} bytes are too many'
    # Without parts all of it has to be there first.
    if flags and length > nbd_misses.PART:
        return Error.EOVERFLOW, f'{length} bytes are too many for one chunk'
    return None
