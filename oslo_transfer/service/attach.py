# SPDX-License-Identifier: Apache-2.0
"""The role ``attach``: holds LUNs attached in user space."""

from __future__ import annotations

import collections
from collections.abc import Mapping
from collections.abc import Sequence
from concurrent import futures
import contextlib
import dataclasses
import http
import logging
import os
import threading
import time
import typing

from oslo_transfer import accounts
from oslo_transfer import call as _call
from oslo_transfer import context as _context
from oslo_transfer.drivers.iscsi import qemunbd
from oslo_transfer.drivers.iscsi import userspace
from oslo_transfer import exceptions
from oslo_transfer import opts
from oslo_transfer.service import attached
from oslo_transfer.service import listening
from oslo_transfer.service import role

if typing.TYPE_CHECKING:
    from oslo_config import cfg

LOG = logging.getLogger(__name__)

#: Seconds between two looks at the processes.
_LOOK = 0.5
#: How many are started at once: one whose target is silent takes long.
_STARTERS = 8
#: Seconds until one that cannot be started is tried again, at first and
#: at last.
_FIRST_PAUSE = 1.0
_LAST_PAUSE = 60.0
_PATIENCE = 3.0
# How many names are remembered that were given up.
_MOST_GIVEN_UP = 1024


class _Held:
    """One attachment; its lock is taken for what takes time.

    :ivar record: what it is
    :ivar server: its process, or None
    :ivar due: when to start it again, by ``time.monotonic()``
    :ivar problem: why it does not run, or ''
    :ivar gone: it was taken away
    :ivar queued: it is about to be started again
    :ivar cancel: ends the attempt to start it that is under way
    """

    def __init__(self, record: attached.Record) -> None:
        self.lock = threading.Lock()
        self.record = record
        self.server: qemunbd.Server | None = None
        self.due = 0.0
        self.problem = ''
        self.gone = False
        self.queued = False
        self.cancel = threading.Event()
        self._pause = _FIRST_PAUSE

    @property
    def running(self) -> bool:
        """Whether its process runs."""
        server = self.server
        return server is not None and server.running

    def failed(self, problem: str) -> None:
        """Try again later, each time a bit later still."""
        self.problem = problem
        self.due = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LAST_PAUSE)

    def works(self, server: qemunbd.Server) -> None:
        """It serves."""
        self.server, self.problem = server, ''
        self._pause = _FIRST_PAUSE


class AttachRole(role.Role):
    """Runs a qemu-nbd for each attachment, and starts it again if it ends.

    They end with the service; the next one starts them again, on the same
    sockets.

    :param conf: the configuration
    """

    name = 'attach'

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        self._lock = threading.Lock()
        self._held: dict[str, _Held] = {}
        # Requests can overtake each other: what was removed is not added.
        self._given_up: collections.deque[str] = collections.deque(
            maxlen=_MOST_GIVEN_UP
        )
        self._stopping = threading.Event()
        self._records: attached.Records | None = None
        self._thread = threading.Thread(
            target=self._watch, name='oslo-transfer-attach', daemon=True
        )
        self._starters = futures.ThreadPoolExecutor(
            _STARTERS, 'oslo-transfer-attach'
        )

    # Life

    def start(self) -> None:
        state = self._conf.oslo_transfer.state_path
        group = self._conf.oslo_transfer_service.control_socket_group
        records = attached.Records(
            os.path.join(state or opts.default_state_path(), 'exports'),
            accounts.gid_of(group, listening.GROUP_OPTION),
        )
        try:
            found = records.load()
        except BaseException:
            records.close()
            raise
        self._records = records
        self._held = {record.id: _Held(record) for record in found}
        self._ctx = _call.Call(self._conf, None, None, None).ctx.replace(
            stop=self._stopping
        )
        self._thread.start()

    def tick(self) -> None:
        """Nothing: logging in to a target may take long."""

    def stop(self) -> None:
        if self._records is None:
            return
        self._stopping.set()
        self._thread.join(_PATIENCE)
        self._starters.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            held, self._held = list(self._held.values()), {}
        for each in held:
            # One that is being started looks at the context soon.
            if each.lock.acquire(timeout=_PATIENCE):
                with contextlib.suppress(exceptions.DetachError):
                    _close(each)
                each.gone = True
                each.lock.release()
        self._records.close()
        self._records = None

    def _watch(self) -> None:
        while not self._stopping.wait(_LOOK):
            with self._lock:
                held = list(self._held.values())
            for each in held:
                waits = time.monotonic() < each.due
                if not (each.running or each.queued or waits):
                    each.queued = True
                    self._starters.submit(self._start_again, each)

    def _start_again(self, held: _Held) -> None:
        # Who has the lock attaches it, or takes it away.
        if held.lock.acquire(blocking=False):
            try:
                self._restart(held)
            finally:
                held.lock.release()
        held.queued = False

    def _restart(self, held: _Held) -> None:
        if held.gone or held.running or self._stopping.is_set():
            return
        if held.server is not None:
            LOG.warning(
                '%s: qemu-nbd has ended (%s); starting it again',
                held.record.lun.where,
                held.server.errors,
            )
        try:
            _close(held)
            self._serve(held)
        except exceptions.TransferError as exc:
            if not self._stopping.is_set():
                LOG.warning('%s', exc)
            held.failed(str(exc))
        except Exception:
            LOG.exception('%s', held.record.lun.where)
            held.failed('a bug; see the log of the service')

    # What can be asked

    def status(self) -> Mapping[str, typing.Any]:
        with self._lock:
            held = list(self._held.values())
        return {
            'attachments': len(held),
            'running': sum(each.running for each in held),
        }

    def routes(self) -> Sequence[role.Route]:
        return (
            role.Route('GET', '/v1/attachments', self._list),
            role.Route('POST', '/v1/attachments', self._add),
            role.Route('DELETE', '/v1/attachments/', self._remove),
        )

    def _list(self, _: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        with self._lock:
            held = list(self._held.values())
        found = [self._describe(each) for each in held]
        return http.HTTPStatus.OK, {'attachments': found}

    def _add(self, _: str, body: Mapping[str, typing.Any]) -> role.Reply:
        identifier, writing = body.get('id'), body.get('writing')
        if not (isinstance(identifier, str) and isinstance(writing, bool)):
            raise exceptions.InvalidEndpoint(
                'the body needs "id", "lun", "password" and "writing"'
            )
        lun = userspace.from_json(body.get('lun'), body.get('password'))
        held = _Held(attached.Record(identifier, lun, writing, time.time()))
        with held.lock:
            with self._lock:
                if identifier in self._given_up:
                    raise exceptions.AttachError(
                        f'{lun.where}: {identifier} was given up'
                    )
                self._live.add(held.record)
                self._held[identifier] = held
            try:
                self._serve(held)
                # What has another name or size later is another volume.
                lun = userspace.pinned(lun, self._limits(held))
                held.record = dataclasses.replace(held.record, lun=lun)
                self._live.save(held.record)
            except BaseException:
                with contextlib.suppress(exceptions.DetachError):
                    _close(held)
                self._forget(held)
                raise
        LOG.info('%s is attached as %s', lun.where, identifier)
        return http.HTTPStatus.CREATED, self._describe(held)

    def _remove(self, name: str, _: Mapping[str, typing.Any]) -> role.Reply:
        with self._lock:
            held = self._held.get(name)
            if held is None:
                self._given_up.append(name)
        if held is None:
            raise exceptions.NotFound(f'there is no attachment {name}')
        if not held.running:
            held.cancel.set()
        with held.lock:
            held.cancel.clear()
            if held.gone:
                raise exceptions.NotFound(f'there is no attachment {name}')
            found = self._describe(held)
            if held.running:
                userspace.wait_for_idle(self._live.path(name))
            _close(held)
            self._forget(held)
        LOG.info('%s is detached', held.record.lun.where)
        return http.HTTPStatus.OK, found

    # All below but _describe needs the lock of what is held

    @property
    def _live(self) -> attached.Records:
        if self._records is None:
            raise exceptions.Unavailable('the service is about to end')
        return self._records

    def _limits(self, held: _Held) -> _context.Context:
        return self._ctx.replace(cancel=held.cancel)

    def _serve(self, held: _Held) -> None:
        record, ctx = held.record, self._limits(held)
        userspace.check_unit(record.lun, ctx)
        server = qemunbd.Server(
            record.lun,
            self._live.path(record.id),
            ctx,
            writing=record.writing,
        )
        try:
            self._live.open_up(record.id, qemunbd.SOCKET)
        except BaseException:
            server.close()
            raise
        held.works(server)

    def _forget(self, held: _Held) -> None:
        held.gone = True
        with self._lock:
            self._held.pop(held.record.id, None)
        self._live.remove(held.record.id)

    def _describe(self, held: _Held) -> dict[str, typing.Any]:
        directory = self._live.path(held.record.id)
        return {
            **attached.describe(held.record),
            'path': qemunbd.uri(directory),
            'size': held.record.lun.size,
            'running': held.running,
            'connections': qemunbd.clients(directory),
            'problem': held.problem,
        }


def _close(held: _Held) -> None:
    server, held.server = held.server, None
    if server is not None:
        server.close()
