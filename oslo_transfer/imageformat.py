# SPDX-License-Identifier: Apache-2.0
"""Finds out the format of an image, and refuses what reaches beyond it."""

from __future__ import annotations

from collections.abc import Collection
import dataclasses
import struct
import typing

from oslo_utils.imageutils import format_inspector

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import exceptions

# Enough for all that is known by its beginning; VHDX needs 320 KiB.
_LOOK = 1 << 20
_CHUNK = 64 << 10
# Less is no image: some formats cannot be told apart then.
_LEAST = 512
# An incompatible feature of qcow2.
_CORRUPT = 1 << 1
# To QEMU these are bytes like any others.
_RAW = frozenset({'raw', 'gpt', 'iso', 'luks'})


@dataclasses.dataclass(frozen=True)
class Image:
    """What an image is.

    :ivar format: QEMU's name of it, ``raw`` or ``qcow2``
    :ivar virtual_size: what a guest sees, in bytes
    """

    format: str
    virtual_size: int


def inspect(
    source: base.Source,
    where: str,
    allowed: Collection[str],
    ctx: _context.Context,
) -> Image:
    """Look at the beginning of an image.

    Blocks while up to 1 MiB is read.

    :param source: the image; its size is known
    :param where: names it in errors
    :param allowed: the formats that may be
    :param ctx: bounds the virtual size
    :raises IntegrityError: it is in a format that is not allowed, in two at
        once, damaged, or one that leads to other files (a backing or data
        file)
    """
    assert source.size is not None
    if source.size < _LEAST:
        raise exceptions.IntegrityError(
            f'{where} has {source.size} bytes; that is no image'
        )
    try:
        formats = _formats(source, ctx)
        names = {str(each) for each in formats}
        if names <= _RAW:
            found = Image('raw', source.size)
        elif names == {'qcow2'}:
            (qcow2,) = formats
            qcow2.safety_check()
            _check_whole(qcow2.region('header').data, source.size, where)
            found = Image('qcow2', qcow2.virtual_size)
        else:
            raise exceptions.IntegrityError(
                f'{where} is {" and ".join(sorted(names))}; only raw and '
                f'qcow2 images can be read in place'
            )
    except format_inspector.SafetyCheckFailed as exc:
        raise exceptions.IntegrityError(
            f'{where} is refused: {"; ".join(map(str, exc.failures.values()))}'
        ) from exc
    except format_inspector.ImageFormatError as exc:
        raise exceptions.IntegrityError(f'{where}: {exc}') from exc
    if found.format not in allowed:
        raise exceptions.IntegrityError(
            f'{where} is {found.format}, and zero_copy_formats allows only '
            f'{", ".join(sorted(allowed))}'
        )
    most = ctx.conf.oslo_transfer.max_size_bytes
    if not 0 < found.virtual_size <= most:
        raise exceptions.IntegrityError(
            f'{where} says that it has {found.virtual_size} bytes; '
            f'max_size_bytes allows {most}'
        )
    return found


def _check_whole(header: bytes | bytearray, size: int, where: str) -> None:
    """See that a qcow2 image is not known to be damaged, or cut off.

    :raises IntegrityError: it is
    """
    # docs/interop/qcow2.txt of QEMU; version 2 has no features.
    version, l1_size, l1_offset, features = struct.unpack_from(
        '>4xI28xIQ24xQ', header
    )
    if version > 2 and features & _CORRUPT:
        raise exceptions.IntegrityError(f'{where} is marked as corrupt')
    if l1_offset + 8 * l1_size > size:
        raise exceptions.IntegrityError(
            f'{where} has {size} bytes, and its table of clusters is behind '
            f'that; it was cut off'
        )


def _formats(
    source: base.Source, ctx: _context.Context
) -> list[format_inspector.FileInspector]:
    assert source.size is not None
    with source.stream(0, min(_LOOK, source.size)) as stream:
        wrapper = format_inspector.InspectWrapper(
            typing.cast(typing.IO[bytes], stream)
        )
        while wrapper.read(_CHUNK):
            ctx.check()
        wrapper.close()
    return wrapper.formats or []
