# SPDX-License-Identifier: Apache-2.0
"""iSCSI."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import opts
from oslo_transfer.drivers.iscsi import osbrick
from oslo_transfer.drivers.iscsi import sink
from oslo_transfer.drivers.iscsi import source
from oslo_transfer.drivers.iscsi import userspace
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint

# Who has made an attachment, in its details.
_ENGINE = 'engine'


class ISCSIDriver(base.Driver):
    """``iscsi`` URLs: LUNs of storage arrays and of iSCSI targets.

    ``iscsi://PORTAL[,PORTAL...]/TARGET-NAME/LUN``. What does not fit a URL
    - parallel lists of portals, names and LUNs - comes as Cinder's
    ``connection_info``, which may also have ``scsi_wwn``, ``scsi_serial``
    and ``scsi_size`` (bytes): a LUN with others is refused before anything
    of it is read or written.
    """

    name = 'iscsi'
    schemes = ('iscsi',)
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.EXTENTS
        | base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.READBACK
        | base.Capability.ATTACH
    )
    OPTIONS = opts.OPTIONS

    def _kernel(self) -> bool:
        """Whether the initiator of the kernel is to be used.

        :raises CapabilityMissing: it is, and cannot be
        """
        engine = self.conf.oslo_transfer_iscsi.engine
        if engine == 'libiscsi':
            return False
        reason = osbrick.usable(self.conf)
        if reason is not None and engine == 'os_brick':
            raise exceptions.CapabilityMissing(
                f'[{opts.GROUP}]engine is os_brick, which cannot run here: '
                f'{reason}'
            )
        return reason is None

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> base.Source:
        """Log in, and see that it is the right LUN."""
        lun = _lun.from_endpoint(endpoint, ctx)
        if self._kernel():
            return osbrick.open_source(self, endpoint, ctx)
        return source.ISCSISource(lun, ctx)

    def open_sink(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> base.Sink:
        """Log in, and see that it is the right LUN and can be written."""
        lun = _lun.from_endpoint(endpoint, ctx)
        if lun.read_only:
            raise exceptions.AccessDenied(
                f'{lun.where} is attached read-only (access_mode)'
            )
        if self._kernel():
            return osbrick.open_sink(self, endpoint, ctx, size)
        return sink.ISCSISink(lun, ctx, size)

    def sharing(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> str | None:
        """One LUN is one device of the kernel, however often attached."""
        if not self._kernel():
            return None
        return _lun.from_endpoint(endpoint, ctx).key

    def attach(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        record: Callable[[Mapping[str, typing.Any]], None],
    ) -> base.Attachment:
        """Make a block device of the LUN, or an NBD export."""
        lun = _lun.from_endpoint(endpoint, ctx)
        module: typing.Any = osbrick if self._kernel() else userspace
        engine = {_ENGINE: module.ENGINE}
        made: base.Attachment = module.attach(
            lun, ctx, lambda details: record({**details, **engine})
        )
        return dataclasses.replace(made, details={**made.details, **engine})

    def join(self, attachment: base.Attachment, ctx: _context.Context) -> None:
        """See that the device is still that of the LUN."""
        module: typing.Any = osbrick
        if attachment.details.get(_ENGINE) == userspace.ENGINE:
            module = userspace
        module.join(attachment, ctx)

    def detach(
        self,
        attachment: base.Attachment,
        ctx: _context.Context,
        force: bool,
    ) -> None:
        """Have it taken away by the engine that has made it."""
        engine = attachment.details.get(_ENGINE)
        for module in (osbrick, userspace):
            if module.ENGINE == engine:
                module.detach(attachment, ctx, force)
                return
        raise exceptions.DetachError(
            f'{attachment.source} was attached by the engine {engine}, '
            f'which this version does not know',
            (attachment.path or 'what it has made',),
        )
