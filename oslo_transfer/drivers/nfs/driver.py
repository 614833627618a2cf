# SPDX-License-Identifier: Apache-2.0
"""NFS, by mounts of the kernel."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import os
import stat
import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.nfs import handles
from oslo_transfer.drivers.nfs import mount as _mount
from oslo_transfer.drivers.nfs import opts
from oslo_transfer.drivers.nfs import share as _share
from oslo_transfer import exceptions
from oslo_transfer import oserrors

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint

# Where an attachment has its mount, in its details.
_DIRECTORY = 'directory'


class NFSDriver(base.Driver):
    """``nfs`` URLs: files of NFS servers, as Cinder's NFS volumes are.

    ``nfs://SERVER[:PORT]/EXPORT/FILE``: ``SERVER:/EXPORT`` is mounted, by
    os-brick and in a directory of its own, and unmounted in the end. A
    symbolic link instead of the file is refused: it would lead to files of
    this host. Mounting needs privileges; files are read and written as the
    user of this process.

    Each attachment has its own mount: the kernel shares connections and
    caches between them, and nobody has to count.
    """

    name = 'nfs'
    schemes = ('nfs',)
    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.EXTENTS
        | base.Capability.WRITE
        | base.Capability.RANDOM_WRITE
        | base.Capability.ATOMIC
        | base.Capability.READBACK
        | base.Capability.ATTACH
    )
    OPTIONS = opts.OPTIONS

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> base.Source:
        """Mount the export, and open the file."""
        return handles.NFSSource(ctx.attach(self, endpoint), ctx)

    def open_sink(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> base.Sink:
        """Mount the export, and create a file beside the target."""
        writing = ctx.replace(writing=True)
        return handles.NFSSink(
            writing.attach(_Export(self.conf), endpoint),
            size=size,
            overwrite=overwrite,
            preallocate=ctx.conf.oslo_transfer.preallocate,
        )

    def attach(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        record: Callable[[Mapping[str, typing.Any]], None],
    ) -> base.Attachment:
        """Mount the export: the file has a path of this host."""
        return self._attach(endpoint, ctx, record, _size)

    def _attach(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        record: Callable[[Mapping[str, typing.Any]], None],
        size: Callable[[str, str], int | None],
    ) -> base.Attachment:
        share = _share.from_endpoint(endpoint, ctx)
        directory = _mount.new_directory(ctx.conf)
        details = {_DIRECTORY: directory, 'export': share.export}
        record(details)
        try:
            point = _mount.mount(share, directory, ctx.writing, ctx)
            path = os.path.join(point, share.name)
            return base.Attachment(
                id='',
                driver=self.name,
                source=share.where,
                form='path',
                path=path,
                size=size(path, share.where),
                read_only=not ctx.writing,
                details=details,
            )
        except BaseException as exc:
            _undo(directory, ctx, exc)
            raise

    def detach(
        self,
        attachment: base.Attachment,
        ctx: _context.Context,
        force: bool,
    ) -> None:
        """Unmount it, unless somebody has a file open."""
        directory = attachment.details.get(_DIRECTORY)
        if directory is not None:
            _mount.unmount(directory, ctx, force)


class _Export(NFSDriver):
    """Mounts the export of a file that need not be there."""

    def attach(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        record: Callable[[Mapping[str, typing.Any]], None],
    ) -> base.Attachment:
        """Mount the export; the path is that of a file to make."""
        return self._attach(endpoint, ctx, record, lambda *_names: None)


def _size(path: str, where: str) -> int:
    with (
        handles.server_errors(where),
        oserrors.os_errors(f'looking at {where}'),
    ):
        found = os.lstat(path)
    if not stat.S_ISREG(found.st_mode):
        raise exceptions.InvalidEndpoint(f'{where} is no regular file')
    return found.st_size


def _undo(directory: str, ctx: _context.Context, exc: BaseException) -> None:
    """Leave nothing of an attempt that failed.

    :raises AttachError: something is left all the same
    """
    later = ctx.replace(deadline=None, cancel=None, stop=threading.Event())
    try:
        _mount.unmount(directory, later, True)
    except exceptions.DetachError as error:
        raise exceptions.AttachError(
            f'{exc}; then {error.args[0]}', error.leftovers
        ) from exc
