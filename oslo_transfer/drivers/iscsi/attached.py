# SPDX-License-Identifier: Apache-2.0
"""Reads and writes a LUN as a block device, attached for that long."""

from __future__ import annotations

from collections.abc import Callable
import logging

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer.drivers import blockdev
from oslo_transfer.drivers import device
from oslo_transfer.drivers import file
from oslo_transfer import exceptions

LOG = logging.getLogger(__name__)

_Join = Callable[[base.Attachment, _context.Context], object]


class AttachedSource(file.FileSource):
    """The device of an attachment, which ends with it.

    :param attachment: recorded, and nobody else's
    :param join: as of a driver; sees that it still is the same LUN
    """

    def __init__(
        self,
        attachment: base.Attachment,
        ctx: _context.Context,
        join: _Join,
    ) -> None:
        self._attachment = attachment
        self._join = join
        try:
            super().__init__(attachment.path, ctx, blockdev.opener(ctx.conf))
        except BaseException:
            _detach(attachment)
            raise

    def check_unchanged(self) -> None:
        """See whether it is the same LUN, of the same size.

        :raises IntegrityError: another one has taken its place
        :raises SourceChanged: it was resized
        """
        super().check_unchanged()
        _check(self._attachment, self.ctx, self._join)

    def close(self) -> None:
        """Close the device, and take it away; idempotent."""
        super().close()
        _detach(self._attachment)


class AttachedSink(device.DeviceSink):
    """The device of an attachment, which ends with it.

    :param attachment: recorded, and nobody else's
    :param size: bytes that will be written, or None
    :param join: as of a driver; sees that it still is the same LUN
    """

    def __init__(
        self,
        attachment: base.Attachment,
        size: int | None,
        ctx: _context.Context,
        join: _Join,
    ) -> None:
        self._attachment = attachment
        self._ctx = ctx
        self._join = join
        try:
            super().__init__(attachment.path, size, blockdev.opener(ctx.conf))
        except BaseException:
            _detach(attachment)
            raise

    def commit(self, size: int) -> None:
        """Flush, see that it was the right LUN to the end, and detach.

        :raises IntegrityError: another one has taken its place
        """
        self.sync()
        _check(self._attachment, self._ctx, self._join)
        super().commit(size)

    def abort(self, keep: bool) -> None:
        """Let the device go, and take it away; idempotent."""
        super().abort(keep)
        _detach(self._attachment)


def _check(
    attachment: base.Attachment, ctx: _context.Context, join: _Join
) -> None:
    try:
        join(attachment, ctx)
    except exceptions.AttachError as exc:
        raise exceptions.IntegrityError(str(exc)) from exc


def _detach(attachment: base.Attachment) -> None:
    """Detach without a fuss: what is left stays recorded."""
    try:
        attachment.detach()
    except exceptions.TransferError as exc:
        LOG.warning('%s', exc)
