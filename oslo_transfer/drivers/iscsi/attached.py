# SPDX-License-Identifier: Apache-2.0
"""Reads and writes a LUN as a block device, attached for that long."""

from __future__ import annotations

import logging

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer.drivers import blockdev
from oslo_transfer.drivers import device
from oslo_transfer.drivers import file
from oslo_transfer import exceptions

LOG = logging.getLogger(__name__)


class AttachedSource(file.FileSource):
    """The device of an attachment, which ends with it.

    :param attachment: recorded, and nobody else's
    """

    def __init__(
        self, attachment: base.Attachment, ctx: _context.Context
    ) -> None:
        self._attachment = attachment
        try:
            super().__init__(attachment.path, ctx, blockdev.opener(ctx.conf))
        except BaseException:
            _detach(attachment)
            raise

    def close(self) -> None:
        """Close the device, and take it away; idempotent."""
        super().close()
        _detach(self._attachment)


class AttachedSink(device.DeviceSink):
    """The device of an attachment, which ends with it.

    :param attachment: recorded, and nobody else's
    :param size: bytes that will be written, or None
    """

    def __init__(
        self,
        attachment: base.Attachment,
        size: int | None,
        ctx: _context.Context,
    ) -> None:
        self._attachment = attachment
        try:
            super().__init__(attachment.path, size, blockdev.opener(ctx.conf))
        except BaseException:
            _detach(attachment)
            raise

    def abort(self, keep: bool) -> None:
        """Let the device go, and take it away; idempotent."""
        super().abort(keep)
        _detach(self._attachment)


def _detach(attachment: base.Attachment) -> None:
    """Detach without a fuss: what is left stays recorded."""
    try:
        attachment.detach()
    except exceptions.TransferError as exc:
        LOG.warning('%s', exc)
