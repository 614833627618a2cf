# SPDX-License-Identifier: Apache-2.0
"""What a proxy can be asked beside images: control API, metrics, health.

The same answers on the unix socket of the service, where whoever can connect
may do all, and on the HTTP port, where tokens decide. What they look like is
in :mod:`oslo_transfer.service.proxy.openapi`.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import http
import importlib.metadata
import json
import logging
import re
import threading
import time
import typing

from oslo_transfer import exceptions
from oslo_transfer.export import gate
from oslo_transfer.service import errors
from oslo_transfer.service.proxy import metrics
from oslo_transfer.service.proxy import openapi
from oslo_transfer.service.proxy import page as _page
from oslo_transfer.service.proxy import rates
from oslo_transfer.service import role

if typing.TYPE_CHECKING:
    from oslo_transfer.service.proxy import catalog as _catalog
    from oslo_transfer.service.proxy import prefetch as _prefetch

LOG = logging.getLogger(__name__)

_JSON = 'application/json'
# States of blocks by their number in openapi.BLOCK_STATES.
_RUNS = re.compile(rb'\x00+|\x01+|\x02+|\x03+')
_FLIGHT = openapi.BLOCK_STATES.index('flight')
_BASE = '/v1/proxy'
# What anybody may ask who can connect: it tells nothing of images.
_OPEN = frozenset({'/healthz', '/openapi.json'})
_METRICS = '/metrics'
_FIELDS: Mapping[str, str] = {
    'Cache-Control': 'no-store',
    'X-Content-Type-Options': 'nosniff',
}


@dataclasses.dataclass(frozen=True)
class Counts:
    """What the servers of a proxy have done since the start.

    :ivar requests: of clients, answered to the end
    :ivar connections: of clients, now
    """

    requests: int = 0
    connections: int = 0


class Api:
    """Answers; thread-safe.

    :param catalog: the images
    :param prefetches: what is brought ahead
    :param counts: tells what the servers have done
    :param datacenter: that the host is in, or None
    :param nbd_port: at which images can be had, too; 0 for none
    """

    def __init__(
        self,
        catalog: _catalog.Catalog,
        prefetches: _prefetch.Prefetches,
        *,
        counts: Callable[[], Counts],
        datacenter: str | None = None,
        nbd_port: int = 0,
    ) -> None:
        self._catalog = catalog
        self._prefetches = prefetches
        self._counts = counts
        self._datacenter = datacenter
        self._nbd_port = nbd_port
        self._accounts = rates.Accounts()
        # Counts are noted in the order in which they were looked up.
        self._noting = threading.Lock()
        self._started = time.monotonic()
        self._routes = (
            role.Route('GET', _BASE, self._summary),
            role.Route('GET', f'{_BASE}/images', self._images),
            role.Route('GET', f'{_BASE}/images/', self._image),
            role.Route('DELETE', f'{_BASE}/images/', self._evict),
            role.Route('GET', f'{_BASE}/maps/', self._map),
            role.Route('GET', f'{_BASE}/traces/', self._trace),
            role.Route('POST', f'{_BASE}/pins/', self._pin),
            role.Route('DELETE', f'{_BASE}/pins/', self._unpin),
            role.Route('GET', f'{_BASE}/prefetches', self._list),
            role.Route('POST', f'{_BASE}/prefetches', self._prefetch),
            role.Route('GET', f'{_BASE}/prefetches/', self._show),
            role.Route('DELETE', f'{_BASE}/prefetches/', self._cancel),
        )

    def routes(self) -> Sequence[role.Route]:
        """The control API, for the unix socket."""
        return self._routes

    def tick(self) -> None:
        """Do what is due; called about once a second."""
        self._note()
        self._prefetches.tick()

    def summary(self) -> dict[str, typing.Any]:
        """How the proxy is, in JSON types."""
        self._note()
        total, counts = self._accounts.total, self._counts()
        return {
            'version': importlib.metadata.version('oslo.transfer'),
            'uptime_seconds': round(time.monotonic() - self._started, 3),
            'datacenter': self._datacenter,
            'nbd_port': self._nbd_port,
            'problem': self._catalog.problem,
            'totals': {
                'requests': counts.requests,
                'connections': counts.connections,
                'refused': self._catalog.refused,
                **_sums(total),
            },
            'rates': self._accounts.rates().fields(),
            'store': dict(self._catalog.statistics()),
            'origins': [each._asdict() for each in self._catalog.origins()],
        }

    def _note(self) -> list[_catalog.Opened]:
        with self._noting:
            found = self._catalog.all()
            self._accounts.note({each.id: _sums_of(each) for each in found})
        return found

    # The HTTP port

    @staticmethod
    def is_page(path: str) -> bool:
        """Whether a path is no image; see :class:`.gate.Gate`."""
        return (
            path in _OPEN
            or path == _METRICS
            or path.startswith('/v1/')
            or _page.has(path)
        )

    def page(self, asked: gate.Asked, body: bytes) -> gate.Page | None:
        """Answer one who came over TCP; see :class:`.gate.Gate`."""
        found = _page.find(asked.method, asked.path)
        if found is not None:
            return found
        method = 'GET' if asked.method == 'HEAD' else asked.method
        try:
            if asked.path not in _OPEN:
                self._check(asked, method)
            return self._answer(method, asked.path, body)
        except exceptions.AccessDenied as exc:
            return _json(
                http.HTTPStatus.UNAUTHORIZED,
                errors.describe(exc)[1],
                {'WWW-Authenticate': 'Bearer'},
            )
        except exceptions.TransferError as exc:
            return _json(*errors.describe(exc))
        except Exception:
            LOG.exception('%s %s', asked.method, asked.path)
            return _json(
                http.HTTPStatus.INTERNAL_SERVER_ERROR,
                _error('ProtocolError', 'this is a bug; see the log'),
            )

    def _check(self, asked: gate.Asked, method: str) -> None:
        """See whether he may.

        :raises AccessDenied: he does not prove that he may
        :raises PolicyRefused: nobody may
        """
        change = method != 'GET'
        if not self._catalog.may_manage(asked.fields, change=change):
            raise exceptions.PolicyRefused(
                'the control API changes nothing over TCP unless '
                '[oslo_transfer_proxy] admin_tokens_file is set'
            )

    def _answer(self, method: str, path: str, body: bytes) -> gate.Page | None:
        if path == _METRICS and method == 'GET':
            return self._metrics()
        if path in _OPEN and method == 'GET':
            return self._health() if path == '/healthz' else _document()
        head, last = path[: path.rfind('/') + 1], path[path.rfind('/') + 1 :]
        methods = []
        for route in self._routes:
            if route.path.endswith('/'):
                argument, fits = last, bool(last) and route.path == head
            else:
                argument, fits = '', route.path == path
            if not fits:
                continue
            if route.method == method:
                return _json(*route.handle(argument, _parse(method, body)))
            methods.append(route.method)
        if path in _OPEN or path == _METRICS:
            methods = ['GET']
        if not methods:
            return _json(
                http.HTTPStatus.NOT_FOUND,
                _error('NotFound', f'there is no such path; {_BASE} is one'),
            )
        return _json(
            http.HTTPStatus.METHOD_NOT_ALLOWED,
            _error('ProtocolError', f'only {" and ".join(methods)}'),
            {'Allow': ', '.join(methods)},
        )

    def _metrics(self) -> gate.Page:
        summary = self.summary()
        found = [self._described(each) for each in self._catalog.all()]
        jobs = [each.fields() for each in self._prefetches.all()]
        text = metrics.render(summary, found, jobs)
        return gate.Page(
            http.HTTPStatus.OK, metrics.CONTENT_TYPE, text.encode(), _FIELDS
        )

    def _health(self) -> gate.Page:
        """It answers: that is all that a load balancer has to know."""
        problem = self._catalog.problem
        return _json(
            http.HTTPStatus.OK,
            {
                'status': 'impaired' if problem else 'ok',
                'problem': problem,
            },
        )

    # The control API

    def _summary(self, _: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        return http.HTTPStatus.OK, self.summary()

    def _images(self, _: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        found = self._note()
        return http.HTTPStatus.OK, {
            'images': [self._described(each) for each in found]
        }

    def _image(self, name: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        self._note()
        return http.HTTPStatus.OK, self._described(self._catalog.get(name))

    def _described(self, image: _catalog.Opened) -> dict[str, typing.Any]:
        statistics = image.statistics()
        return {
            'id': image.id,
            'origin': image.where,
            'size': image.size,
            'block_bytes': image.block_bytes,
            'blocks': image.blocks,
            'bytes_here': image.here,
            'pinned': image.pinned,
            'readers': statistics['readers'],
            **_sums(_sums_of(image)),
            'rates': self._accounts.rates(image.id).fields(),
            'used': image.used,
            'problem': image.problem,
        }

    def _evict(self, name: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        image = self._catalog.get(name)
        self._catalog.evict(name)
        LOG.info('%s was evicted', image.where)
        return http.HTTPStatus.OK, self._described(image)

    def _map(self, name: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        image = self._catalog.get(name)
        states = _states(image)
        return http.HTTPStatus.OK, {
            'blocks': image.blocks,
            'block_bytes': image.block_bytes,
            'runs': [
                [openapi.BLOCK_STATES[each[0][0]], len(each[0])]
                for each in _RUNS.finditer(states)
            ],
        }

    def _trace(self, name: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        found = self._catalog.get(name).trace().dump('image')
        return http.HTTPStatus.OK, {'iolog': found.decode('ascii')}

    def _pin(self, name: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        self._catalog.pin(name, True)
        return self._image(name, {})

    def _unpin(self, name: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        self._catalog.pin(name, False)
        return self._image(name, {})

    def _list(self, _: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        return http.HTTPStatus.OK, {
            'prefetches': [each.fields() for each in self._prefetches.all()]
        }

    def _prefetch(self, _: str, body: Mapping[str, typing.Any]) -> role.Reply:
        record, is_new = self._prefetches.add(body)
        status = http.HTTPStatus.ACCEPTED if is_new else http.HTTPStatus.OK
        return status, record.fields()

    def _show(self, name: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        return http.HTTPStatus.OK, self._prefetches.get(name).fields()

    def _cancel(
        self, name: str, _body: Mapping[str, typing.Any]
    ) -> role.Reply:
        return http.HTTPStatus.OK, self._prefetches.cancel(name).fields()


def _states(image: _catalog.Opened) -> bytearray:
    """The number of its state for each block."""
    here = int.from_bytes(image.presence(), 'little')
    hot = int.from_bytes(image.hot(), 'little')
    # All at once: an image can have millions of blocks.
    found = here + (here & hot)
    states = bytearray(found.to_bytes(image.blocks, 'little'))
    for index in image.under_way():
        if not states[index]:
            states[index] = _FLIGHT
    return states


def _sums_of(image: _catalog.Opened) -> rates.Sums:
    found = image.statistics()
    return rates.Sums(*(found[name] for name in rates.Sums._fields))


def _sums(sums: rates.Sums) -> dict[str, int]:
    return {**sums._asdict(), 'bytes_saved': sums.bytes_saved}


def _parse(method: str, body: bytes) -> Mapping[str, typing.Any]:
    """The JSON object of a request; none is an empty one.

    :raises InvalidEndpoint: it is something else
    """
    if method != 'POST' or not body:
        return {}
    try:
        found = json.loads(body)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise exceptions.InvalidEndpoint('the body is no JSON object')
    return found


def _document() -> gate.Page:
    return _json(http.HTTPStatus.OK, openapi.document())


def _error(name: str, message: str) -> dict[str, str]:
    return {'error': name, 'message': message}


def _json(
    status: int,
    fields: Mapping[str, typing.Any],
    headers: Mapping[str, str] | None = None,
) -> gate.Page:
    data = json.dumps(fields, allow_nan=False).encode() + b'\n'
    return gate.Page(status, _JSON, data, {**_FIELDS, **(headers or {})})
