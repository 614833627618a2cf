# SPDX-License-Identifier: Apache-2.0
"""The public calls: ``copy``, ``open_source``, ``attach``."""

from __future__ import annotations

import logging
import time
import typing
from collections.abc import Iterable, Sequence

from oslo_config import cfg

from oslo_transfer import _loader
from oslo_transfer import attachments as _attachments
from oslo_transfer import attempts as _attempts
from oslo_transfer import connector
from oslo_transfer import context as _context
from oslo_transfer import digest as _digest
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import fileobj
from oslo_transfer import landing as _landing
from oslo_transfer import limiter
from oslo_transfer import location as _location
from oslo_transfer import opts
from oslo_transfer import progress as _progress
from oslo_transfer import request as _request
from oslo_transfer import result as _result
from oslo_transfer import urlpolicy
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer.strategies import base as strategies_base
from oslo_transfer.wrappers import retry
from oslo_transfer.wrappers import throttle

LOG = logging.getLogger(__name__)

_FORMS = frozenset({'file', 'overlay', 'device', 'path'})

# What the next strategy cannot mend either.
_FINAL = (
    exceptions.TransferCancelled,
    exceptions.DeadlineExceeded,
    exceptions.NoSpace,
    exceptions.AlreadyExists,
    exceptions.ConfigurationError,
)


def copy(
    src: typing.Any,
    dst: typing.Any,
    strategy: str | None = None,
    *,
    conf: cfg.ConfigOpts | None = None,
    accept: Iterable[str] = ('file',),
    expected_size: int | None = None,
    hash_algo: str | None = None,
    hash_value: str | None = None,
    observers: Sequence[_request.Observer] = (),
    progress: _progress.ProgressCallback | None = None,
    rate_limit: int | None = None,
    cancel: _context.CancelEvent | None = None,
    deadline: float | None = None,
    overwrite: bool = False,
) -> _result.TransferResult:
    """Copy data from where it is to where it should be.

    Blocks until it is done; may be called by any number of threads. At a
    file destination nothing shows until it is complete and verified. A
    destination that has the digest already is left as it is, and that is
    success. Two calls for one file destination, also of two processes, are
    one transfer: the second waits and uses what the first has brought.

    :param src: a URL, a path, a readable file object, a
        :class:`~oslo_transfer.Location`, or a list of these that all hold
        the same data: the next one is tried when one fails or has wrong
        bytes
    :param dst: a path, a URL, a block device, a writable file object, or a
        :class:`~oslo_transfer.Location`
    :param strategy: a strategy's name; None for the deployer's
        ``strategy_order``
    :param conf: an ``oslo.config`` object; None for ``cfg.CONF``. Options
        are registered on it.
    :param accept: the forms of destination that the caller can use:
        ``file``, and with ``overlay``, ``device`` or ``path`` also one
        that is readable before its data has arrived
    :param expected_size: the size in bytes that the data must have
    :param hash_algo: digest to compute (Glance's ``os_hash_algo``)
    :param hash_value: the hex digest that the data must have
    :param observers: objects whose ``update(data)`` sees each byte once
        and in order: from the verified file just before it appears, or,
        where the destination is no file, as bytes are sent. What they
        raise aborts the copy and reaches the caller.
    :param progress: ``progress(chunk_bytes, total_bytes)``; what it raises
        stops the copy and reaches the caller
    :param rate_limit: the most bytes per second
    :param cancel: a ``threading.Event``; setting it stops the copy within
        a second
    :param deadline: the most seconds that the call may take
    :param overwrite: an existing destination may be replaced
    :returns: what was done
    :raises ConfigurationError: an argument or option cannot work
    :raises InvalidEndpoint: a URL, path or destination is unusable
    :raises AlreadyExists: the destination exists and is not the same
    :raises NoSpace: the destination cannot hold the data
    :raises TransferCancelled: ``cancel`` was set
    :raises DeadlineExceeded: ``deadline`` has passed
    :raises TransferError: anything else that went wrong; its
        ``attempts`` say what was tried
    """
    started = time.monotonic()
    call = _Call(conf, cancel, deadline, rate_limit)
    request = call.request(
        src,
        dst,
        accept=accept,
        expected_size=expected_size,
        digest=_digest.expected(hash_algo, hash_value),
        observers=observers,
        progress=progress,
        overwrite=overwrite,
    )
    with _landing.Landing(request, call.ctx) as landing:
        if landing.reused is not None:
            return _reused(request, landing, started)
        name, outcome, failed = call.satisfy(request, landing, strategy)
    result = _result.TransferResult(
        strategy=name,
        driver=outcome.driver,
        source=outcome.source,
        destination=str(request.destination),
        form=outcome.form,
        verified=outcome.verified,
        attachment=outcome.attachment,
        bytes_written=outcome.bytes_written,
        bytes_by_origin=outcome.bytes_by_origin,
        wasted=outcome.wasted,
        digest=outcome.digest,
        seconds=time.monotonic() - started,
        attempts=failed + outcome.attempts,
        method=outcome.method,
    )
    LOG.info(
        'copied %d bytes from %s to %s by %s in %.2f s',
        result.size,
        result.source,
        result.destination,
        name,
        result.seconds,
    )
    return result


def open_source(
    src: typing.Any,
    *,
    conf: cfg.ConfigOpts | None = None,
    rate_limit: int | None = None,
    cancel: _context.CancelEvent | None = None,
    deadline: float | None = None,
) -> drivers_base.Source:
    """Open data for reading, at any offset where its protocol can.

    Streams are taken up again where a connection breaks, if the source
    has a strong validator. The caller closes the source.

    :param src: a URL, a path or a :class:`~oslo_transfer.Location`
    :param conf: as for :func:`copy`
    :param rate_limit: the most bytes per second, over all streams
    :param cancel: ends all reads
    :param deadline: seconds after which all reads end
    :raises TransferError: it cannot be opened
    """
    call = _Call(conf, cancel, deadline, rate_limit)
    end = ends.end_of(src, call.driver)
    source = end.open_source(call.ctx)
    if call.ctx.limiter.rate is not None:
        source = throttle.ThrottledSource(source, call.ctx)
    strong = source.validator is not None and source.validator.strong
    return retry.RetryingSource(source, call.ctx, str(end), strong)


def attach(
    src: typing.Any,
    *,
    conf: cfg.ConfigOpts | None = None,
    cancel: _context.CancelEvent | None = None,
    deadline: float | None = None,
) -> drivers_base.Attachment:
    """Make a remote object readable in place, moving no data.

    It stays when the process ends, until somebody detaches it.

    :param src: a URL, a path or a :class:`~oslo_transfer.Location`
    :param conf: as for :func:`copy`
    :param cancel: stops it; nothing is left then
    :param deadline: the most seconds that it may take
    :returns: a context manager that detaches at its end
    :raises CapabilityMissing: the protocol has no such thing
    :raises AttachError: it did not work
    """
    call = _Call(conf, cancel, deadline, None)
    return _attachments.attach(ends.end_of(src, call.driver), call.ctx)


def attachments(
    conf: cfg.ConfigOpts | None = None,
) -> list[drivers_base.Attachment]:
    """All attachments on this host, of any process that shares the state.

    :param conf: as for :func:`copy`
    """
    call = _Call(conf, None, None, None)
    return _attachments.load_all(call.ctx, call.driver)


def detach(
    attachment_id: str,
    *,
    conf: cfg.ConfigOpts | None = None,
    force: bool = False,
) -> None:
    """Take an attachment away, also one of another process.

    :param attachment_id: its ``id``
    :param conf: as for :func:`copy`
    :param force: go on where a step fails, and report at the end
    :raises NotFound: there is no such attachment
    :raises DetachError: something is left
    """
    for each in attachments(conf):
        if each.id == attachment_id:
            each.detach(force)
            return
    raise exceptions.NotFound(f'there is no attachment {attachment_id}')


class _Call:
    """What one public call works with."""

    def __init__(
        self,
        conf: cfg.ConfigOpts | None,
        cancel: _context.CancelEvent | None,
        deadline: float | None,
        rate_limit: int | None,
    ) -> None:
        self.conf = cfg.CONF if conf is None else conf
        opts.register_opts(self.conf)
        group = self.conf.oslo_transfer
        if rate_limit is not None and rate_limit <= 0:
            raise exceptions.ConfigurationError(
                'rate_limit must be a positive number of bytes per second'
            )
        rate = rate_limit or group.rate_limit_bytes_per_second or None
        self._drivers: dict[str, drivers_base.Driver] = {}
        self.ctx = _context.Context(
            conf=self.conf,
            connector=connector.Connector(urlpolicy.from_conf(self.conf)),
            stall=_context.StallRule(
                group.stall_timeout, group.stall_bytes_per_second
            ),
            connect_timeout=group.connect_timeout,
            deadline=None if deadline is None else time.monotonic() + deadline,
            cancel=cancel,
            limiter=limiter.Limiter(rate),
        )

    def driver(self, scheme: str) -> drivers_base.Driver:
        """The driver of a scheme; one for the whole call."""
        if scheme not in self._drivers:
            self._drivers[scheme] = _loader.driver(scheme, self.conf)
        return self._drivers[scheme]

    def request(
        self,
        src: typing.Any,
        dst: typing.Any,
        *,
        accept: Iterable[str],
        progress: _progress.ProgressCallback | None,
        expected_size: int | None,
        observers: Sequence[_request.Observer],
        **rest: typing.Any,
    ) -> _request.Request:
        """Check the arguments and find the drivers."""
        forms = frozenset(accept)
        if not forms <= _FORMS:
            raise exceptions.ConfigurationError(
                f'accept= has unknown forms; known are: '
                f'{", ".join(sorted(_FORMS))}'
            )
        if expected_size is not None and expected_size < 0:
            raise exceptions.ConfigurationError(
                'expected_size must not be negative'
            )
        sources, unusable = self._sources(src)
        return _request.Request(
            sources=sources,
            unusable=unusable,
            destination=ends.FileObjectEnd(dst)
            if fileobj.is_writable(dst)
            else ends.end_of(dst, self.driver),
            accept=forms,
            expected_size=expected_size,
            observers=tuple(observers),
            progress=_progress.Progress(progress),
            **rest,
        )

    def _sources(
        self, src: typing.Any
    ) -> tuple[tuple[ends.End, ...], tuple[_result.Attempt, ...]]:
        """All usable sources; one that cannot be used is passed over."""
        given = src if isinstance(src, list | tuple) else [src]
        if not given:
            raise exceptions.InvalidEndpoint('the list of sources is empty')
        files: list[ends.End] = []
        locations: list[typing.Any] = []
        for each in given:
            if fileobj.is_readable(each):
                files.append(ends.FileObjectEnd(each))
            else:
                locations.append(_location.as_location(each))
        failed = _attempts.Attempts('')
        found: list[ends.End] = []
        for location in _location.unique(locations):
            try:
                found.append(ends.end_of(location, self.driver))
            except (
                exceptions.DriverNotFound,
                exceptions.DriverLoadError,
            ) as exc:
                failed.add(str(location), exc)
        if not found and not files:
            raise failed.error()
        return (*found, *files), failed.all

    def satisfy(
        self,
        request: _request.Request,
        landing: _landing.Landing,
        strategy: str | None,
    ) -> tuple[str, strategies_base.Outcome, tuple[_result.Attempt, ...]]:
        """Run the named strategy, or the first of the order that works."""
        order = (
            [strategy] if strategy else self.conf.oslo_transfer.strategy_order
        )
        failed = list(request.unusable)
        last: exceptions.TransferError | None = None
        for name in order:
            try:
                outcome = self._run(name, request, landing, bool(strategy))
            except exceptions.TransferError as exc:
                if isinstance(exc, _FINAL) or strategy:
                    exc.attempts = (*failed, *exc.attempts)
                    raise
                failed.extend(
                    exc.attempts or [_attempts.attempt(name, '', exc)]
                )
                # What was only passed over is no answer to the caller.
                if last is None or not isinstance(
                    exc, exceptions.CapabilityMissing
                ):
                    last = exc
                continue
            return name, outcome, tuple(failed)
        if last is None:
            raise exceptions.ConfigurationError(
                '[oslo_transfer] strategy_order is empty'
            )
        last.attempts = tuple(failed)
        raise last

    def _run(
        self,
        name: str,
        request: _request.Request,
        landing: _landing.Landing,
        named: bool,
    ) -> strategies_base.Outcome:
        cls = _loader.strategy_class(name)
        if cls.attaching and not named and not cls.forms & request.accept:
            raise exceptions.CapabilityMissing(
                f'it gives {" or ".join(sorted(cls.forms))}, and the call '
                f'accepts {", ".join(sorted(request.accept))}'
            )
        chosen = cls()
        plan = chosen.plan(request)
        return chosen.run(plan, request, landing, self.ctx)


def _reused(
    request: _request.Request, landing: _landing.Landing, started: float
) -> _result.TransferResult:
    size = landing.reused_size
    digest = landing.reused or None
    return _result.TransferResult(
        strategy=None,
        driver=None,
        source=str(request.sources[0]),
        destination=str(request.destination),
        form='file',
        verified=digest is not None,
        attachment=None,
        bytes_written=0,
        bytes_by_origin={'resumed': size} if size else {},
        wasted=0,
        digest=digest,
        seconds=time.monotonic() - started,
        attempts=(),
    )
