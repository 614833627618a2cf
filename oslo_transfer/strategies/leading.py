# SPDX-License-Identifier: Apache-2.0
"""Has a destination lead to what was attached."""

from __future__ import annotations

import abc
from collections.abc import Iterator
import contextlib
import os
import typing

from oslo_transfer import attempts as _attempts
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer.drivers import blockdev
from oslo_transfer.drivers import file
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import imageformat
from oslo_transfer import location as _location
from oslo_transfer import oserrors
from oslo_transfer import qemu_img
from oslo_transfer import shared
from oslo_transfer.strategies import base
from oslo_transfer.strategies import in_turn

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import ends
    from oslo_transfer import landing as _landing
    from oslo_transfer import request as _request


class Leading(abc.ABC):
    """Part of a strategy after which the destination leads to an attachment.

    It becomes either a qcow2 overlay over it, which takes all writes, or a
    symbolic link to its device or file. The attachment stays until it is
    detached. Nothing is verified. The next location is tried if one fails.
    """

    name: typing.ClassVar[str]
    forms: typing.ClassVar[frozenset[str]]
    attaching = True

    @abc.abstractmethod
    def attach(
        self, end: ends.End, request: _request.Request, ctx: _context.Context
    ) -> drivers_base.Attachment:
        """Attach one location, to stay.

        :raises TransferError: it cannot be attached, and is not
        """

    @abc.abstractmethod
    def choose(self, possible: frozenset[str], ctx: _context.Context) -> str:
        """What the destination becomes, of what it can be; never empty."""

    def run(
        self,
        plan: base.Plan,
        request: _request.Request,
        landing: _landing.Landing,
        ctx: _context.Context,
    ) -> base.Outcome:
        """Use the first location that works."""
        failed = _attempts.Attempts(self.name, plan.passed_over)
        landing.keep_part(False)
        for end in plan.sources:
            try:
                form, attachment = self._use(end, request, landing, ctx)
            except in_turn.FINAL as exc:
                failed.add(str(end), exc)
                exc.attempts = failed.all
                raise
            except exceptions.TransferError as exc:
                failed.add(str(end), exc)
                shared.current().locations.failed(end, exc)
                continue
            shared.current().locations.succeeded(end)
            return base.Outcome(
                driver=end.driver_name,
                source=str(end),
                form=form,
                verified=False,
                bytes_written=0,
                bytes_by_origin={},
                wasted=0,
                digest=None,
                method='attach',
                attachment=attachment,
                attempts=failed.all,
            )
        raise failed.error()

    def _use(
        self,
        end: ends.End,
        request: _request.Request,
        landing: _landing.Landing,
        ctx: _context.Context,
    ) -> tuple[str, drivers_base.Attachment]:
        """Attach one location, and have the destination lead to it."""
        attachment = self.attach(end, request, ctx)
        try:
            if (
                request.expected_size is not None
                and attachment.size is not None
                and attachment.size != request.expected_size
            ):
                raise exceptions.SizeMismatch(
                    request.expected_size, attachment.size, str(end)
                )
            possible = {'overlay', attachment.form} - {'nbd'}
            usable = self.usable(frozenset(possible), request)
            form = self.choose(usable, ctx)
            ctx.check()
            if form == 'overlay':
                _overlay(attachment, request, landing, ctx)
            else:
                _link(attachment, request, landing)
        except BaseException:
            # It is recorded, so what cannot be undone now can be later.
            with contextlib.suppress(exceptions.DetachError):
                attachment.detach(force=True)
            raise
        return form, attachment

    def usable(
        self, possible: frozenset[str], request: _request.Request
    ) -> frozenset[str]:
        """What a destination can be that the call can use.

        :raises CapabilityMissing: the call accepts nothing of it
        """
        accepted = request.accept & self.forms or possible
        found = possible & accepted
        if not found:
            raise exceptions.CapabilityMissing(
                f'the destination can become {" or ".join(sorted(possible))}, '
                f'and the call accepts {", ".join(sorted(accepted))}'
            )
        return found


def _overlay(
    attachment: drivers_base.Attachment,
    request: _request.Request,
    landing: _landing.Landing,
    ctx: _context.Context,
) -> None:
    group = ctx.conf.oslo_transfer
    backing = attachment.path
    if attachment.form == 'nbd':
        delay = group.zero_copy_nbd_reconnect_delay
        backing = qemu_img.nbd_backing(backing, delay)
    with _open(attachment, ctx) as source:
        image = imageformat.inspect(
            source, attachment.source, group.zero_copy_formats, ctx
        )
    sink = landing.open_sink(size=None, resume=False)
    try:
        qemu_img.create_overlay(
            landing.part_path,
            backing,
            image.format,
            image.virtual_size,
            ctx,
        )
        with oserrors.os_errors(f'looking at {landing.part_path}'):
            size = os.stat(landing.part_path).st_size
        ctx.check()
        with _or_nothing(landing.part_path, request):
            sink.commit(size)
    finally:
        sink.abort(keep=False)


def _open(
    attachment: drivers_base.Attachment, ctx: _context.Context
) -> drivers_base.Source:
    if attachment.form == 'nbd':
        return ctx.open_source(_location.Location(attachment.path))
    opener = blockdev.opener_of(attachment, ctx.conf)
    return file.FileSource(attachment.path, ctx, opener)


def _link(
    attachment: drivers_base.Attachment,
    request: _request.Request,
    landing: _landing.Landing,
) -> None:
    path = request.destination.local_path
    assert path is not None
    link = f'{landing.part_path}.link'
    with oserrors.os_errors(f'making the link {path}'):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(link)
        os.symlink(attachment.path, link)
        try:
            with _or_nothing(link, request):
                localfs.rename(link, path, request.overwrite)
                localfs.sync_directory(os.path.dirname(path))
        except BaseException:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(link)
            raise


@contextlib.contextmanager
def _or_nothing(made: str, request: _request.Request) -> Iterator[None]:
    """Take the name away again if it may not last, for it leads nowhere.

    :param made: what gets the name of the destination
    """
    path = request.destination.local_path
    assert path is not None
    with oserrors.os_errors(f'looking at {made}'):
        mine = os.lstat(made)
    try:
        yield
    except BaseException:
        with contextlib.suppress(OSError):
            if os.path.samestat(mine, os.lstat(path)):
                os.unlink(path)
        raise
