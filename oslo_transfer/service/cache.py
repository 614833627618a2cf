# SPDX-License-Identifier: Apache-2.0
"""The role ``cache``: serves images that arrive as they are read."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import contextlib
import http
import logging
import os
import threading
import time
import typing

from oslo_transfer.cache import opts
from oslo_transfer.cache import store as _store
from oslo_transfer import call as _call
from oslo_transfer import exceptions
from oslo_transfer import opts as _core_opts
from oslo_transfer import oserrors
from oslo_transfer import proxied
from oslo_transfer.service import cached
from oslo_transfer.service import images
from oslo_transfer.service import outlets
from oslo_transfer.service import promoting
from oslo_transfer.service import role
from oslo_transfer.service import scrubbing
from oslo_transfer.service import serving

if typing.TYPE_CHECKING:
    from oslo_config import cfg

LOG = logging.getLogger(__name__)

_PATIENCE = 3.0
# Seconds to wait for one that is being looked after.
_BUSY = 10.0
#: How many exports are looked after at once.
_KEEPERS = 4
# How many names are remembered that were given up.
_MOST_GIVEN_UP = 1024


class CacheRole(role.Role):
    """Serves images from a cache by NBD, and makes files of them.

    What it serves ends with the service; the next one serves it again, on
    the same sockets, without the origin if need be.

    :param conf: the configuration
    """

    name = 'cache'

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        self._lock = threading.Lock()
        self._served: dict[str, serving.Served] = {}
        # Requests can overtake each other: what was removed is not added.
        self._given_up: collections.deque[str] = collections.deque(
            maxlen=_MOST_GIVEN_UP
        )
        self._stopping = threading.Event()
        self._stack = contextlib.ExitStack()
        self._keepers = futures.ThreadPoolExecutor(
            _KEEPERS, 'oslo-transfer-cache'
        )

    # Life

    def start(self) -> None:
        call = _call.Call(self._conf, None, None, None)
        self._ctx = call.ctx.replace(stop=self._stopping)
        group = self._conf[opts.GROUP]
        state = (
            self._conf.oslo_transfer.state_path
            or _core_opts.default_state_path()
        )
        with contextlib.ExitStack() as stack:
            self._records = cached.Records(os.path.join(state, 'cached'), None)
            stack.callback(self._records.close)
            self._store = _store.Store(
                group.directory or os.path.join(state, 'cache'),
                quota_bytes=group.max_bytes,
                block_bytes=group.block_bytes,
                owner=self._conf.oslo_transfer_service.control_socket,
            )
            stack.callback(self._store.close)
            self._scrubber = scrubbing.Scrubber(
                self._store, self._stopping, '/v1/cache/scrub'
            )
            traces = os.path.join(state, 'traces')
            with oserrors.os_errors(f'making {traces}'):
                os.makedirs(traces, mode=0o700, exist_ok=True)
            self._images = images.Images(
                call, self._ctx, self._store, traces, proxied.Opener(call)
            )
            self._outlets = outlets.Outlets(self._conf)
            stack.callback(self._outlets.close)
            stack.callback(self._stop_serving)
            for record in self._records.load():
                made = self._make(record)
                self._served[record.id] = made
                self._serve_again(made)
            self._sweep()
            self._stack = stack.pop_all()

    def tick(self) -> None:
        """Have those looked after that are due."""
        now = time.monotonic()
        with self._lock:
            due = [
                each
                for each in self._served.values()
                if each.due <= now
                and not (each.queued or each.record.released)
            ]
        for each in due:
            each.queued = True
            self._keepers.submit(self._look_after, each)

    def stop(self) -> None:
        self._stopping.set()
        self._keepers.shutdown(wait=False, cancel_futures=True)
        self._stack.close()

    def _stop_serving(self) -> None:
        with self._lock:
            served, self._served = list(self._served.values()), {}
        for each in served:
            # One that is being promoted looks at the context soon.
            if each.lock.acquire(timeout=_PATIENCE):
                each.stop()
                each.gone = True
                each.lock.release()

    def _make(self, record: cached.Record) -> serving.Served:
        return serving.Served(
            record, self._records, self._images, self._outlets, self._ctx
        )

    def _serve_again(self, served: serving.Served) -> None:
        """Go on with what the process before has served."""
        try:
            served.serve()
        except exceptions.TransferError as exc:
            LOG.error('%s: %s', served.record.where, exc)
            served.stop()
            served.failed(str(exc))
        except Exception:
            LOG.exception('%s', served.record.where)
            served.stop()
            served.failed('a bug; see the log of the service')

    def _sweep(self) -> None:
        """Remove what was taken out of the store for nobody."""
        taken = self._images.taken
        try:
            for name in os.listdir(taken):
                # One whose record cannot be used is still somebody's.
                if not os.path.lexists(self._records.path(name)):
                    os.unlink(os.path.join(taken, name))
        except FileNotFoundError:
            pass
        except OSError as exc:
            LOG.warning('%s cannot be tidied: %s', taken, exc.strerror)

    def _look_after(self, served: serving.Served) -> None:
        # Who has the lock adds it, or takes it away.
        if served.lock.acquire(blocking=False):
            try:
                if not self._stopping.is_set():
                    self._go_on(served)
            except Exception:
                LOG.exception('%s', served.record.where)
                served.failed('a bug; see the log of the service')
            finally:
                served.lock.release()
        served.queued = False

    def _go_on(self, served: serving.Served) -> None:
        try:
            served.look_after()
        except exceptions.TransferError as exc:
            # That a guest uses it is nothing to complain about.
            if not isinstance(exc, exceptions.DetachError):
                LOG.warning('%s: %s', served.record.where, exc)
            served.failed(str(exc))
        if served.shared is not None:
            served.shared.save_trace()

    # What can be asked

    def status(self) -> Mapping[str, typing.Any]:
        with self._lock:
            served = list(self._served.values())
        return {
            'exports': len(served),
            'store': dict(self._store.statistics()),
            'images': [
                {'image': each.key, **each.image.statistics()}
                for each in self._images.all()
            ],
        }

    def routes(self) -> Sequence[role.Route]:
        return (
            role.Route('GET', '/v1/cached', self._list),
            role.Route('POST', '/v1/cached', self._add),
            role.Route('DELETE', '/v1/cached/', self._remove),
            role.Route('GET', '/v1/traces/', self._trace),
            self._scrubber.route,
        )

    def _list(self, _: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        with self._lock:
            served = list(self._served.values())
        found = [each.describe() for each in served]
        return http.HTTPStatus.OK, {'cached': found}

    def _add(self, _: str, body: Mapping[str, typing.Any]) -> role.Reply:
        record = _record(body)
        if record.destination is not None:
            promoting.check(record.form, record.destination)
        record, source = self._images.find(record)
        with contextlib.ExitStack() as stack:
            stack.callback(source.close)
            served = self._make(record)
            with served.lock:
                with self._lock:
                    if record.id in self._given_up:
                        raise exceptions.AttachError(
                            f'{record.where}: {record.id} was given up'
                        )
                    self._records.add(record)
                    self._served[record.id] = served
                stack.callback(self._forget, served)
                stack.callback(served.stop)
                served.serve(source)
                # All is well: nothing is undone, and the source is in use.
                stack.pop_all()
        LOG.info('%s is served as %s', record.where, record.id)
        return http.HTTPStatus.CREATED, served.describe()

    def _forget(self, served: serving.Served) -> None:
        served.gone = True
        with self._lock:
            self._served.pop(served.record.id, None)
        self._records.remove(served.record.id)

    def _remove(self, name: str, _: Mapping[str, typing.Any]) -> role.Reply:
        with self._lock:
            served = self._served.get(name)
            if served is None:
                self._given_up.append(name)
        if served is None:
            raise exceptions.NotFound(f'there is no attachment {name}')
        if not served.lock.acquire(timeout=_BUSY):
            raise exceptions.Unavailable(
                f'{served.record.where} is just becoming a file of its own; '
                f'try again later'
            )
        try:
            if served.gone:
                raise exceptions.NotFound(f'there is no attachment {name}')
            found = served.describe()
            try:
                served.remove()
            except exceptions.NotFound as exc:
                raise exceptions.DetachError(str(exc)) from exc
        finally:
            served.lock.release()
        with self._lock:
            self._served.pop(name, None)
        LOG.info('%s is served no more', served.record.where)
        return http.HTTPStatus.OK, found

    def _trace(self, name: str, _: Mapping[str, typing.Any]) -> role.Reply:
        with self._lock:
            served = self._served.get(name)
        if served is None:
            raise exceptions.NotFound(f'there is no attachment {name}')
        noted = self._images.trace(served.record).dump('image')
        return http.HTTPStatus.OK, {'iolog': noted.decode('ascii')}


def _record(body: Mapping[str, typing.Any]) -> cached.Record:
    """What is asked for.

    :raises InvalidEndpoint: it makes no sense
    """
    new = {
        'added': time.time(),
        'size': 0,
        'validator': None,
        'strong': False,
        'promoted': None,
        'device': 0,
        'inode': 0,
        'boot': '',
        'released': False,
    }
    try:
        identifier = body['id']
        if not isinstance(identifier, str):
            raise TypeError('"id" is no text')
        return cached.make(identifier, {**body, **new})
    except (KeyError, TypeError, ValueError) as exc:
        raise exceptions.InvalidEndpoint(
            f'this does not name an image to be cached: {exc}'
        ) from exc
