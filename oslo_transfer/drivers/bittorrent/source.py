# SPDX-License-Identifier: Apache-2.0
"""A torrent as a source."""

from __future__ import annotations

from collections.abc import Iterator
import logging
import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.bittorrent import filling as _filling
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer.drivers.bittorrent import reading as _reading
from oslo_transfer import exceptions
from oslo_transfer import location as _location
from oslo_transfer import ranges
from oslo_transfer.service import client

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer.drivers import target as _target
    from oslo_transfer import endpoint as _endpoint

LOG = logging.getLogger(__name__)


class TorrentSource(base.Source):
    """The file that a torrent describes.

    It joins the swarm when something is read, or when it fills a file.

    :param endpoint: where the torrent file is
    :param group: the options of the driver
    :param ctx: the limits, and how to get the torrent file
    """

    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.EXTENTS
        | base.Capability.FILL
    )

    def __init__(
        self,
        endpoint: _endpoint.Endpoint,
        group: typing.Any,
        ctx: _context.Context,
    ) -> None:
        self._where = str(endpoint)
        self._group = group
        self._ctx = ctx
        self._meta = _read(endpoint, ctx)
        self.size = self._meta.size
        self.validator = self._meta.validator
        self.geometry = base.Geometry(preferred=self._meta.piece_length)
        if self._meta.info_hash_v2 is None:
            self.doubt = 'its pieces have SHA-1 hashes, which can be forged'
        zeros = ranges.RangeSet()
        for index in self._meta.zero_pieces():
            offset, length = self._meta.piece_span(index)
            zeros.add(offset, offset + length)
        self._zeros = list(zeros)
        self._lock = threading.Lock()
        self._closed = False
        self._reading: _reading.Reading | None = None
        self._filling: _filling.Filling | None = None

    @property
    def origin(self) -> str:  # type: ignore[override]
        """Where what streams read came from."""
        reading = self._reading
        return 'peer' if reading and reading.from_peers else 'origin'

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """Read pieces as they come."""
        size = self._meta.size
        end = size if length is None else offset + length
        if not 0 <= offset <= end <= size:
            raise exceptions.SourceChanged(
                f'{self._where} has {size} bytes; {offset}..{end} were asked '
                f'for'
            )
        with self._lock:
            self._check_open()
            if offset == end:
                return base.EmptyStream()
            if self._reading is None:
                self._reading = _reading.Reading(
                    self._meta, self._group, self._ctx
                )
            return _reading.TorrentStream(self._reading, offset, end)

    def extents(self, offset: int, length: int) -> Iterator[base.Extent]:
        """Pieces that are all zeros are known by their hashes."""
        end = offset + length
        for start, stop in self._zeros:
            if stop <= offset:
                continue
            if start >= end:
                break
            if start > offset:
                yield base.Extent(offset, start - offset, True)
                offset = start
            yield base.Extent(offset, min(stop, end) - offset, False)
            offset = min(stop, end)
        if offset < end:
            yield base.Extent(offset, end - offset, True)

    def fill(self, target: _target.Target) -> None:
        """Have libtorrent fill a file; stays in the swarm until closed."""
        with self._lock:
            self._check_open()
            self._filling = _filling.Filling(
                self._meta, target, self._group, self._ctx
            )
        self._filling.run()

    def landed(self, path: str) -> bool | None:
        """Have the service of this host go on seeding, if there is one."""
        filling = self._filling
        if filling is None:
            return None
        service = client.Client(self._ctx.conf, self._ctx)
        try:
            service.add_seed(self._meta.data, path)
        except exceptions.ServiceNotRunning as exc:
            LOG.info('seeding of %s ends with the copy: %s', path, exc)
            return False
        except exceptions.TransferError as exc:
            LOG.warning('seeding of %s ends with the copy: %s', path, exc)
            return False
        finally:
            filling.close()
        return True

    def _check_open(self) -> None:
        if self._closed:
            raise exceptions.TransferCancelled('the source was closed')

    def close(self) -> None:
        """Leave the swarm."""
        with self._lock:
            self._closed = True
            reading, filling = self._reading, self._filling
        if reading is not None:
            reading.close()
        if filling is not None:
            filling.close()


def _read(
    endpoint: _endpoint.Endpoint, ctx: _context.Context
) -> metainfo.Metainfo:
    """Fetch and check the torrent file."""
    carried = endpoint.carried
    if carried is None:
        raise exceptions.InvalidEndpoint(
            f'{endpoint}: say how to get the torrent file: '
            f'{endpoint.scheme}+https://..., {endpoint.scheme}+file:///...'
        )
    location = _location.Location(
        carried.text(), credentials=ctx.credentials, trusted=ctx.trusted
    )
    with ctx.open_source(location) as source:
        data = metainfo.read(source)
    return metainfo.parse(data, pinned=endpoint.fragment or None)
