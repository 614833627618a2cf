# SPDX-License-Identifier: Apache-2.0
"""The public calls: ``copy``, ``explain``, ``open_source``, ``attach``."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Sequence
import logging
import os
import time
import typing

from oslo_config import cfg

from oslo_transfer import attachment_records
from oslo_transfer import call as _call
from oslo_transfer import context as _context
from oslo_transfer import digest as _digest
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import explanation as _explanation
from oslo_transfer import landing as _landing
from oslo_transfer import opening
from oslo_transfer import progress as _progress
from oslo_transfer import request as _request
from oslo_transfer import result as _result

if typing.TYPE_CHECKING:
    from oslo_transfer import cached

LOG = logging.getLogger(__name__)


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
    call = _call.Call(conf, cancel, deadline, rate_limit)
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
        bytes_by_location=outcome.bytes_by_location,
        seeding=outcome.seeding,
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


def explain(
    src: typing.Any,
    dst: typing.Any,
    strategy: str | None = None,
    *,
    conf: cfg.ConfigOpts | None = None,
    accept: Iterable[str] = ('file',),
    expected_size: int | None = None,
    hash_algo: str | None = None,
    hash_value: str | None = None,
    overwrite: bool = False,
) -> _explanation.Explanation:
    """Say what :func:`copy` would do with the same arguments, and why.

    Opens nothing, sends no request and waits for nobody; only the location
    selector ``nearest`` connects for a moment to hosts that it does not
    know yet, as it would for the copy. What a server will say to it shows
    in the copy alone.

    :param src: as for :func:`copy`, like all other arguments
    :returns: the locations and the strategies in order, each with why
    :raises ConfigurationError: an argument or option cannot work
    :raises InvalidEndpoint: a URL or path is unusable
    :raises DriverNotFound: no driver serves the destination, or any source
    :raises DriverLoadError: their driver cannot be loaded
    """
    call = _call.Call(conf, None, None, None)
    request = call.request(
        src,
        dst,
        accept=accept,
        expected_size=expected_size,
        digest=_digest.expected(hash_algo, hash_value),
        observers=(),
        progress=None,
        overwrite=overwrite,
    )
    return _explanation.explain(call, request, strategy)


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
    call = _call.Call(conf, cancel, deadline, rate_limit)
    end = ends.end_of(src, call.driver)
    return opening.alone(end, call.ctx)


def open_cached(
    src: typing.Any,
    directory: str | os.PathLike[str],
    *,
    conf: cfg.ConfigOpts | None = None,
    rate_limit: int | None = None,
    cancel: _context.CancelEvent | None = None,
    deadline: float | None = None,
) -> cached.CachedSource:
    """Open data for reading at any place, and keep what was read.

    Each block is fetched once, however many threads read it, and found
    again by the next one that has the directory. As a context manager it
    is closed at the end; nothing outlives it. For guests, which do, see
    the strategy ``copy_on_read``.

    :param src: a URL, a path or a :class:`~oslo_transfer.Location`, which
        can be read at any place and has a validator
    :param directory: for the blocks; no other process has it. It is made
        if needed, and has to be empty or one of ours.
    :param conf: as for :func:`copy`
    :param rate_limit: the most bytes per second that are fetched
    :param cancel: ends all reads
    :param deadline: seconds after which all reads end
    :raises CapabilityMissing: it cannot be read at any place, or nothing
        tells its versions apart
    :raises Unavailable: another process has the directory
    :raises TransferError: it cannot be opened
    """
    # A server comes with it, which most callers have no use for.
    from oslo_transfer import cached

    call = _call.Call(conf, cancel, deadline, rate_limit)
    end = ends.end_of(src, call.driver)
    return cached.CachedSource(end, os.fspath(directory), call.ctx)


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
    call = _call.Call(conf, cancel, deadline, None)
    end = ends.end_of(src, call.driver)
    return end.attach(call.ctx.replace(lasting=True))


def attachments(
    conf: cfg.ConfigOpts | None = None,
) -> list[drivers_base.Attachment]:
    """All attachments on this host, of any process that shares the state.

    :param conf: as for :func:`copy`
    """
    call = _call.Call(conf, None, None, None)
    return attachment_records.load_all(call.ctx, call.driver)


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
        verified=request.digest is not None
        and request.digest.value is not None,
        attachment=None,
        bytes_written=0,
        bytes_by_origin={'resumed': size} if size else {},
        wasted=0,
        digest=digest,
        seconds=time.monotonic() - started,
        attempts=(),
    )
