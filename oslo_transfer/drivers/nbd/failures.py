# SPDX-License-Identifier: Apache-2.0
"""What the error numbers of NBD stand for."""

from __future__ import annotations

import typing

from oslo_transfer import exceptions
from oslo_transfer import nbd_wire as wire

if typing.TYPE_CHECKING:
    from oslo_transfer.drivers.nbd import replies

Command = wire.Command

_ERRORS: dict[int, type[exceptions.TransferError]] = {
    wire.Error.EPERM: exceptions.AccessDenied,
    wire.Error.EIO: exceptions.StorageError,
    wire.Error.ENOMEM: exceptions.Unavailable,
    wire.Error.ENOSPC: exceptions.NoSpace,
    wire.Error.EOVERFLOW: exceptions.CapabilityMissing,
    wire.Error.ENOTSUP: exceptions.CapabilityMissing,
    wire.Error.ESHUTDOWN: exceptions.Unavailable,
}
_DOING = {
    Command.READ: 'reading',
    Command.WRITE: 'writing',
    Command.FLUSH: 'flushing',
    Command.WRITE_ZEROES: 'zeroing',
    Command.BLOCK_STATUS: 'looking for holes in',
}


def error_for(
    request: replies.Request, where: str
) -> exceptions.TransferError:
    """The library's error for a request that failed."""
    failure = request.failure
    assert failure is not None
    what = f'{_DOING[request.kind]} '
    if failure.offset is not None:
        what += f'byte {failure.offset}'
    elif request.length:
        what += f'bytes {request.offset} to {request.offset + request.length}'
    else:
        what += 'the export'
    try:
        name = wire.Error(failure.code).name
    except ValueError:
        name = f'error {failure.code}'
    said = f': {failure.text}' if failure.text else ''
    # An unknown number is to be taken for EINVAL (proto.md, "Error
    # values"), and then the two sides do not understand one another.
    kind = _ERRORS.get(failure.code, exceptions.ProtocolError)
    return kind(f'{where}: {what}: the server answers {name}{said}')
