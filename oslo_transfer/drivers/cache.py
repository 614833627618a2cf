# SPDX-License-Identifier: Apache-2.0
"""Any other driver's URLs, through the block cache of this host."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import typing
import uuid

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.service import client
from oslo_transfer.service import holding

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint

_ID = 'service'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is to become of an image that is attached.

    :ivar form: ``overlay`` or ``path``: a destination leads to it; ``nbd``:
        the export is all
    :ivar destination: the absolute path of what leads to it, or None
    :ivar digest: that the image must have, as ALGORITHM:HEX, or None
    """

    form: str = 'nbd'
    destination: str | None = None
    digest: str | None = None


def export_of(attachment: base.Attachment) -> str:
    """What the service calls what it exports for an attachment.

    :raises CapabilityMissing: it is none of the cache
    """
    if attachment.driver != CacheDriver.name:
        raise exceptions.CapabilityMissing(
            f'the attachment {attachment.id} is not read through the cache'
        )
    return str(attachment.details.get(_ID))


class CacheDriver(base.Driver):
    """``cache+URL``: what the URL names, block by block as it is read.

    The service of this host (role ``cache``) fetches each block once, keeps
    it, and exports the image by NBD, or as a file. To be attached only:
    ``cache+https://web.example/image.raw``.

    :param conf: the configuration
    :param wanted: what is to become of the image
    """

    name = 'cache'
    schemes = ('cache',)
    capabilities = base.Capability.ATTACH

    def __init__(
        self, conf: cfg.ConfigOpts, wanted: Wanted | None = None
    ) -> None:
        super().__init__(conf)
        self._wanted = wanted or Wanted()

    def attach(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        record: Callable[[Mapping[str, typing.Any]], None],
    ) -> base.Attachment:
        """Have the service serve it; blocks until its size is known."""
        if endpoint.carrier is None:
            raise exceptions.InvalidEndpoint(
                f'{endpoint} does not say what is to be cached; write '
                f'cache+https://HOST/PATH, for example'
            )
        if ctx.writing:
            raise exceptions.CapabilityMissing(
                f'{endpoint}: what is cached is read-only'
            )
        identifier = uuid.uuid4().hex
        record({_ID: identifier})
        fields = {**self._describe(endpoint, ctx), 'id': identifier}
        form, path, size = holding.hold(
            identifier,
            str(endpoint),
            ctx,
            lambda service: service.add_cached(fields),
            client.Client.remove_cached,
            'images are cached by the service of this host: start '
            '"oslo-transfer serve --role cache"',
        )
        return base.Attachment(
            id='',
            driver=self.name,
            source=str(endpoint),
            form=form,
            path=path,
            size=size,
            details={_ID: identifier},
        )

    def _describe(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> dict[str, typing.Any]:
        origin, who = endpoint.carried, ctx.credentials
        assert origin is not None
        return {
            'url': origin.text(),
            'headers': dict(who.headers()) if who else {},
            'login': who.login() if who else None,
            'connection_info': ctx.connection_info,
            'trusted': ctx.trusted,
            **dataclasses.asdict(self._wanted),
        }

    def detach(
        self, attachment: base.Attachment, ctx: _context.Context, force: bool
    ) -> None:
        """Have the service end it.

        :raises DetachError: somebody reads it
        """
        identifier = attachment.details.get(_ID)
        if identifier is not None:
            remove = client.Client.remove_cached
            holding.let_go(str(identifier), ctx, remove)
