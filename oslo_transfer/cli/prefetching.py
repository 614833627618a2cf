# SPDX-License-Identifier: Apache-2.0
"""Has images brought to datacenters, and watches how far they come."""

from __future__ import annotations

import base64
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import dataclasses
import logging
import threading
import time
import typing

import oslo_transfer
from oslo_transfer import buffers
from oslo_transfer.cache import trace as _trace
from oslo_transfer.cli import places
from oslo_transfer import context as _context
from oslo_transfer import credentials as _credentials
from oslo_transfer import datacenters
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import opening
from oslo_transfer import proxied
from oslo_transfer.service import proxy_client

if typing.TYPE_CHECKING:
    from oslo_transfer import call as _call

LOG = logging.getLogger(__name__)

#: What the record of one has become when nothing more will happen.
ENDED = frozenset({'done', 'failed', 'cancelled'})
_INTERVAL = 0.5
_BUFFER = 1 << 20
# Of those that a proxy brings at once each gets its part of a limit.
_AT_ONCE = 4


class Wanted(typing.NamedTuple):
    """What is to be brought.

    :ivar location: of the origin
    :ivar kind: ``full``, ``hot`` or ``trace``
    :ivar trace: of the kind ``trace``
    """

    location: oslo_transfer.Location
    kind: str
    trace: _trace.Trace | None


@dataclasses.dataclass
class Task:
    """One image, for one datacenter.

    :ivar what: to bring
    :ivar datacenter: the name of it
    :ivar proxy: that was asked, or None yet
    :ivar id: of the prefetch there, or None
    :ivar ours: whether it was not under way before
    """

    what: Wanted
    datacenter: str
    proxy: datacenters.Proxy | None = None
    id: str | None = None
    ours: bool = False
    state: str = 'waiting'
    wanted: int | None = None
    here: int | None = None
    seconds: float = 0.0
    problem: str = ''
    error: exceptions.TransferError | None = None

    def note(self, fields: Mapping[str, typing.Any]) -> None:
        """Take over what the proxy says."""
        state = fields.get('state')
        if state != self.state:
            LOG.info(
                '%s in %s: %s', self.what.location, self.datacenter, state
            )
        self.state = str(state)
        self.wanted = _count(fields.get('bytes_wanted'))
        self.here = _count(fields.get('bytes_here'))
        seconds = fields.get('seconds')
        self.seconds = seconds if isinstance(seconds, int | float) else 0.0
        self.problem = str(fields.get('problem') or '')

    def fail(self, error: exceptions.TransferError) -> None:
        """It cannot be done."""
        self.state, self.problem, self.error = 'failed', str(error), error


def _count(value: typing.Any) -> int | None:
    return value if isinstance(value, int) else None


#: What asks a proxy, with the limits of a call.
Ask = Callable[[datacenters.Proxy, '_call.Call'], proxy_client.ProxyApi]


class Center:
    """Has several images brought to one datacenter.

    :param center: the datacenter
    :param wanted: what
    :param call: the options and the limits
    :param ask: makes clients
    :param rate: bytes per second for all together, or None
    :param wait: whether to stay until it is all there
    """

    def __init__(
        self,
        center: datacenters.Datacenter,
        wanted: Sequence[Wanted],
        call: _call.Call,
        ask: Ask,
        *,
        rate: int | None,
        wait: bool,
    ) -> None:
        self._center = center
        self.tasks = [Task(each, center.name) for each in wanted]
        self._call = call
        self._ask = ask
        self._rate = rate
        self._wait = wait
        # Those that did not answer; they are not asked again.
        self._down: dict[datacenters.Proxy, exceptions.TransferError] = {}
        self._thread = threading.Thread(
            target=self._run, name='oslo-transfer-prefetch', daemon=True
        )

    def start(self) -> None:
        """Begin, in a thread of its own."""
        self._thread.start()

    def join(self, meanwhile: Callable[[], None]) -> None:
        """Wait until it is over; signals are taken meanwhile.

        :param meanwhile: called now and then, and at the end
        """
        while self._thread.is_alive():
            self._thread.join(_context.TICK)
            meanwhile()

    def _run(self) -> None:
        with contextlib.suppress(
            exceptions.TransferCancelled, exceptions.DeadlineExceeded
        ):
            for task in self.tasks:
                try:
                    self._begin(task)
                except exceptions.TransferError as exc:
                    self._call.ctx.check()
                    task.fail(exc)
            if self._wait:
                self._watch()

    def _begin(self, task: Task) -> None:
        """Ask the first proxy that takes it."""
        last: exceptions.TransferError | None = None
        for proxy in self._center.proxies:
            if proxy in self._down:
                last = last or self._down[proxy]
                continue
            task.proxy = proxy
            try:
                if proxy.plain:
                    self._read_through(task, proxy)
                else:
                    self._hand_over(task, proxy)
                return
            except exceptions.TransferError as exc:
                self._call.ctx.check()
                if isinstance(exc, exceptions.Unavailable):
                    self._down[proxy] = exc
                LOG.warning('%s: %s', proxy, exc)
                last = exc
        raise last or exceptions.ConfigurationError(
            f'datacenter {self._center.name} has no proxies'
        )

    def _limit(self) -> int | None:
        if self._rate is None:
            return None
        return max(1, self._rate // min(len(self.tasks), _AT_ONCE))

    # By a proxy of this library

    def _hand_over(self, task: Task, proxy: datacenters.Proxy) -> None:
        end = ends.end_of(task.what.location, self._call.driver)
        if not places.is_here(proxy):
            # Refuses what would show secrets to others.
            proxied.through(proxy, end, None)
        wanted: dict[str, typing.Any] = {
            'url': end.endpoint.without_userinfo().text(),
            'kind': task.what.kind,
            'headers': _headers(task.what.location),
        }
        if task.what.trace is not None:
            wanted['iolog'] = task.what.trace.dump('image').decode('ascii')
        if (limit := self._limit()) is not None:
            wanted['rate_limit'] = limit
        found, task.ours = self._ask(proxy, self._call).prefetch(wanted)
        task.id = str(found.get('id'))
        task.note(found)

    def _watch(self) -> None:
        """Look until all have ended."""
        silent = False
        while open_ := [each for each in self.tasks if _is_open(each)]:
            self._call.ctx.sleep(_INTERVAL)
            try:
                self._look(open_)
                silent = False
            except exceptions.TransferError as exc:
                self._call.ctx.check()
                if not exc.retryable:
                    for each in open_:
                        each.fail(exc)
                    return
                if not silent:
                    # It goes on when it is started again.
                    LOG.warning('%s; waiting for it', exc)
                silent = True

    def _look(self, tasks: Sequence[Task]) -> None:
        for proxy in {each.proxy for each in tasks if each.proxy}:
            found = {
                each.get('id'): each
                for each in self._ask(proxy, self._call).prefetches()
            }
            for task in tasks:
                if task.proxy != proxy:
                    continue
                if task.id in found:
                    task.note(found[task.id])
                else:
                    task.fail(
                        exceptions.NotFound(f'{proxy} has forgotten about it')
                    )

    # By a plain cache

    def _read_through(self, task: Task, proxy: datacenters.Proxy) -> None:
        """Read it by the cache, which keeps it then."""
        if task.what.kind == 'hot':
            raise exceptions.CapabilityMissing(
                'a plain cache does not know what is read first; say it by '
                '--trace'
            )
        started = time.monotonic()
        call = self._call
        end = ends.end_of(task.what.location, call.driver)
        location = proxied.through(proxy, end, None)
        ctx = call.ctx.replace(piecemeal=task.what.kind != 'full')
        ctx.limiter.rate = self._rate
        with contextlib.closing(
            opening.alone(ends.end_of(location, call.driver), ctx)
        ) as source:
            ranges: list[tuple[int, int | None]] = [(0, source.size)]
            task.wanted = source.size
            if task.what.trace is not None:
                found = task.what.trace.merged(source.size)
                ranges = [(each.offset, each.length) for each in found.touches]
                task.wanted = found.ranges().total
            task.state, task.here = 'running', 0
            buffer = buffers.aligned(_BUFFER)
            for offset, length in ranges:
                with contextlib.closing(
                    source.stream(offset, length)
                ) as stream:
                    while count := stream.readinto(buffer):
                        task.here += count
        task.state, task.seconds = 'done', time.monotonic() - started


def _is_open(task: Task) -> bool:
    return task.id is not None and task.state not in ENDED


def _headers(location: oslo_transfer.Location) -> dict[str, str]:
    """What proves to the origin who asks."""
    endpoint, proof = location.endpoint, location.credentials
    if proof is None:
        if endpoint.username is None:
            return {}
        proof = _credentials.LoginCredentials(
            endpoint.username, endpoint.password or ''
        )
    found = dict(proof.headers())
    if (login := proof.login()) is not None:
        text = base64.b64encode(':'.join(login).encode()).decode('ascii')
        found['Authorization'] = f'Basic {text}'
    return found


def cancel(tasks: Sequence[Task], call: _call.Call, ask: Ask) -> None:
    """End what was begun by us and has not ended; never raises.

    :param call: one that was not cancelled itself
    """
    for task in tasks:
        if not (_is_open(task) and task.ours and task.proxy and task.id):
            continue
        try:
            ask(task.proxy, call).cancel(task.id)
        except exceptions.TransferError as exc:
            LOG.warning('%s goes on: %s', task.what.location, exc)


def trace_from(
    center: datacenters.Datacenter,
    location: oslo_transfer.Location,
    call: _call.Call,
    ask: Ask,
) -> _trace.Trace:
    """What the readers in a datacenter have read first of an image.

    :raises NotFound: none of its proxies knows
    """
    last: exceptions.TransferError = exceptions.NotFound(
        f'no proxy of datacenter {center.name} knows {location}'
    )
    for proxy in center.proxies:
        if proxy.plain:
            continue
        client = ask(proxy, call)
        try:
            for image in client.images():
                if image.get('origin') == str(location):
                    data = client.trace(str(image.get('id')))
                    return _trace.Trace.parse(data)
        except exceptions.TransferError as exc:
            call.ctx.check()
            last = exc
    raise last
