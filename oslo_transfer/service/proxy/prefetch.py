# SPDX-License-Identifier: Apache-2.0
"""Brings images, or parts of them, before anybody asks for them.

What was begun goes on after a restart, with the blocks that are missing
then, and while the WAN is cut it waits. Those who read go first.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
from concurrent import futures
import dataclasses
import logging
import threading
import time
import typing
import uuid

from oslo_transfer.cache import opts as _cache_opts
from oslo_transfer import context as _context
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.service.proxy import prefetch_plan as _plan
from oslo_transfer.service.proxy import prefetch_records as _records
from oslo_transfer.service.proxy.prefetch_records import Record
from oslo_transfer.service.proxy.prefetch_records import Wanted

if typing.TYPE_CHECKING:
    from oslo_transfer.cache import hydrate
    from oslo_transfer.service import images
    from oslo_transfer.service.proxy import catalog as _catalog

LOG = logging.getLogger(__name__)

#: How many are brought at once; the others wait.
AT_ONCE = 4
#: The most that wait or run, and the most whose records are kept besides.
MOST = 1000
# Seconds between two tries while the origin cannot be reached.
_SHORTEST, _LONGEST = 1.0, 60.0
# Seconds for those that run to notice that they have to end.
_PATIENCE = 2.0
# What is handed over at once, in bytes, where there is no limit; else it is
# what comes in a second.
_PIECE = 8 << 20


class Job:
    """One prefetch while it waits or runs.

    :param record: what it is to bring
    """

    def __init__(self, record: Record) -> None:
        self.record = record
        self.cancelled = threading.Event()
        #: Why it does not get on now.
        self.problem = ''
        #: What runs it.
        self.future: futures.Future[None] | None = None
        # When it is to be tried again, by ``time.monotonic()``.
        self._due: float | None = None
        self._pause = _SHORTEST
        self._plan: _plan.Plan | None = None
        self._since: float | None = None
        self._made: hydrate.Prefetch | None = None

    @property
    def wanted(self) -> Wanted:
        """What it is to bring."""
        assert self.record.wanted is not None, 'it has ended'
        return self.record.wanted

    def begin(self) -> None:
        """It runs from now on."""
        self._since = time.monotonic()
        self.record = dataclasses.replace(self.record, state=_records.RUNNING)

    def wait(self, problem: str) -> None:
        """It is to be tried again later; meanwhile others have their turn."""
        self.problem = problem
        if not problem:
            self._pause = _SHORTEST
        self.record = dataclasses.replace(self.now(), state=_records.WAITING)
        self._since, self._due = None, time.monotonic() + self._pause
        self._pause = min(2 * self._pause, _LONGEST)

    def becomes_due(self) -> bool:
        """Whether it is to be tried again now; that is told once."""
        if self._due is None or self._due > time.monotonic():
            return False
        self._due = None
        return True

    def found(self, image: str, plan: _plan.Plan) -> None:
        """It is known what it wants."""
        self._plan = plan
        self.record = dataclasses.replace(
            self.record, image=image, bytes_wanted=plan.wanted
        )

    def brings(self, made: hydrate.Prefetch) -> None:
        """This brings it now."""
        self._made = made
        self.limit(self.record.rate_limit)

    def limit(self, rate: int | None) -> None:
        """Have another limit from now on; None leaves it as it is."""
        if rate is not None:
            self.record = dataclasses.replace(self.record, rate_limit=rate)
            if self._made is not None:
                self._made.limiter.rate = rate

    def now(self) -> Record:
        """Its record, with how far it has come."""
        record, plan, since = self.record, self._plan, self._since
        if record.ended is not None:
            return record
        now = time.monotonic()
        return dataclasses.replace(
            record,
            seconds=record.seconds + (now - since if since else 0.0),
            problem=self.problem,
            bytes_here=None if plan is None else plan.here,
        )

    def end(self, state: str, problem: str = '') -> None:
        """It has come to its end."""
        self._due = None
        self.record = dataclasses.replace(
            self.now(),
            state=state,
            ended=time.time(),
            problem=problem,
            wanted=None,
        )


class Prefetches:
    """All prefetches of a proxy. Thread-safe.

    :param catalog: has the images
    :param directory: of the records; is made if needed
    :param ctx: its configuration is used
    :raises Unavailable: another process uses the directory
    :raises TransferError: the directory cannot be used
    """

    def __init__(
        self,
        catalog: _catalog.Catalog,
        directory: str,
        ctx: _context.Context,
    ) -> None:
        self._catalog = catalog
        self._conf = ctx.conf
        self._ctx = ctx.replace(
            stop=threading.Event(), cancel=None, deadline=None
        )
        self._lock = threading.Lock()
        self._records = _records.Records(directory, None)
        self._jobs: dict[str, Job] = {}
        self._pool = futures.ThreadPoolExecutor(
            AT_ONCE, 'oslo-transfer-prefetch'
        )

    def start(self) -> None:
        """Go on with what was left by the process before.

        :raises TransferError: the records cannot be read
        """
        found = sorted(self._records.load(), key=lambda record: record.added)
        for record in found:
            job = self._jobs[record.id] = Job(record)
            if record.ended is None:
                self._submit(job)

    def close(self) -> None:
        """End within a second or two; the next process goes on."""
        self._ctx.stop.set()
        self._pool.shutdown(wait=False, cancel_futures=True)
        with self._lock:
            running = [job.future for job in self._jobs.values() if job.future]
        # One that waits for an origin ends with the catalog.
        futures.wait(running, _PATIENCE)
        self._records.close()

    def tick(self) -> None:
        """Try again what is due; called about once a second."""
        with self._lock:
            for job in self._jobs.values():
                if job.becomes_due():
                    self._submit(job)

    def _submit(self, job: Job) -> None:
        job.future = self._pool.submit(self._run, job)

    # What can be asked

    def add(self, body: Mapping[str, typing.Any]) -> tuple[Record, bool]:
        """Have something brought, and kept in mind until it is here.

        :param body: as the control API has it
        :returns: its record, and whether it is a new one: the same may be
            under way already
        :raises InvalidEndpoint: it makes no sense
        :raises Unavailable: there are too many
        :raises TransferError: the record cannot be written
        """
        wanted = _records.wanted_of(body)
        rate = _records.rate_limit_of(body)
        record = Record(
            uuid.uuid4().hex,
            wanted.kind,
            str(_endpoint.parse(wanted.url)),
            time.time(),
            rate,
            wanted=wanted,
        )
        with self._lock:
            active = [each for each in self._jobs.values() if _is_active(each)]
            for job in active:
                if (
                    job.wanted.what == wanted.what
                    and not job.cancelled.is_set()
                ):
                    job.limit(rate)
                    return job.now(), False
            if len(active) >= MOST:
                raise exceptions.Unavailable(
                    f'{MOST} prefetches are under way already'
                )
            self._records.add(record)
            job = self._jobs[record.id] = Job(record)
            self._drop_old()
        LOG.info('prefetch %s of %s is asked for', record.id, record.origin)
        self._submit(job)
        return job.now(), True

    def all(self) -> list[Record]:
        """Those of now and before, the newest first."""
        with self._lock:
            jobs = list(self._jobs.values())
        return [job.now() for job in reversed(jobs)]

    def get(self, identifier: str) -> Record:
        """One of them.

        :raises NotFound: there is none
        """
        return self._find(identifier).now()

    def cancel(self, identifier: str) -> Record:
        """End one; what it has brought stays.

        One that has ended is forgotten.

        :raises NotFound: there is none
        :raises TransferError: it cannot be noted
        """
        job = self._find(identifier)
        job.cancelled.set()
        with self._lock:
            if job.record.ended is not None:
                self._jobs.pop(identifier, None)
                self._records.remove(identifier)
            elif job.record.state == _records.WAITING:
                self._end(job, _records.CANCELLED)
        return dataclasses.replace(job.now(), state=_records.CANCELLED)

    def _find(self, identifier: str) -> Job:
        with self._lock:
            job = self._jobs.get(identifier)
        if job is None:
            raise exceptions.NotFound(f'there is no prefetch {identifier}')
        return job

    def _drop_old(self) -> None:
        ended = [job for job in self._jobs.values() if not _is_active(job)]
        for job in ended[: max(0, len(ended) - MOST)]:
            del self._jobs[job.record.id]
            self._records.remove(job.record.id)

    # Bringing

    def _run(self, job: Job) -> None:
        with self._lock:
            if job.record.ended is not None or self._ctx.stop.is_set():
                return
            job.begin()
        state, problem = self._go_on(job)
        with self._lock:
            if state != _records.WAITING:
                self._end(job, state, problem)
            elif job.cancelled.is_set():
                self._end(job, _records.CANCELLED)
            else:
                job.wait(problem)

    def _go_on(self, job: Job) -> tuple[str, str]:
        """Bring what is missing; returns what becomes of it, and why."""
        where = job.record.origin
        try:
            if not self._go_through(job):
                return _records.WAITING, ''
        except exceptions.TransferError as exc:
            # It is cancelled where somebody has closed the image, too.
            if exc.retryable or isinstance(exc, exceptions.TransferCancelled):
                return _records.WAITING, str(exc)
            LOG.warning('prefetching %s: %s', where, exc)
            return _records.FAILED, str(exc)
        except Exception:
            LOG.exception('prefetching %s', where)
            return _records.FAILED, 'a bug; see the log'
        LOG.info('%s is prefetched', where)
        return _records.DONE, ''

    def _end(self, job: Job, state: str, problem: str = '') -> None:
        job.end(state, problem)
        try:
            self._records.save(job.record)
            self._records.drop_secret(job.record.id)
        except exceptions.TransferError as exc:
            LOG.warning('the end of a prefetch is not noted: %s', exc)

    def _check(self, job: Job) -> None:
        self._ctx.check()
        if job.cancelled.is_set():
            raise exceptions.TransferCancelled('the prefetch was cancelled')

    def _go_through(self, job: Job) -> bool:
        """Have brought what is missing; returns whether nothing is then."""
        wanted = job.wanted
        # Each time, for there may be another version, or another answer.
        opened = self._catalog.open(wanted.url, wanted.headers or None)
        with self._catalog.using(opened) as shared:
            image = opened.image
            plan = _plan.make(wanted, shared)
            job.found(opened.id, plan)
            limit = self._catalog.statistics()['bytes_limit']
            if limit and plan.wanted > limit:
                raise exceptions.NoSpace(
                    f'{plan.wanted} bytes are wanted, and the cache holds '
                    f'{limit}; raise [oslo_transfer_proxy] max_bytes'
                )
            before = plan.here
            failures = shared.image.statistics()['failures']
            if before < plan.wanted:
                self._fetch(job, plan, shared)
            here = plan.here
            if here >= plan.wanted:
                shared.blocks.flush()
                return True
            error = shared.image.error
            if isinstance(error, exceptions.TransferError):
                raise error
            if (
                here <= before
                # Somebody may have closed it.
                and opened.image is image
                and failures == shared.image.statistics()['failures']
            ):
                raise exceptions.NoSpace(
                    'blocks are let go of as fast as they come; raise '
                    '[oslo_transfer_proxy] max_bytes, or unpin images'
                )
        return False

    def _fetch(
        self, job: Job, plan: _plan.Plan, shared: images.Shared
    ) -> None:
        rate = job.record.rate_limit or (
            self._conf[_cache_opts.GROUP].prefetch_bytes_per_second or None
        )

        def runs() -> Iterator[tuple[int, int]]:
            for each in plan.missing(rate or _PIECE):
                if job.cancelled.is_set() or self._ctx.stop.is_set():
                    return
                yield each

        made = shared.image.prefetch(runs(), rate)
        job.brings(made)
        while not made.wait(_context.TICK):
            self._check(job)
        self._check(job)
        if made.error is not None:
            raise made.error


def _is_active(job: Job) -> bool:
    return job.record.ended is None
