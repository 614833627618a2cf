# SPDX-License-Identifier: Apache-2.0
"""The driver contract: what a protocol has to bring.

A :class:`Driver` is one protocol. It is stateless and thread-safe, and
opens handles: a :class:`Source` to read from, a :class:`Sink` to write to,
an :class:`Attachment`. It declares what it can do as
:class:`Capability` flags and implements the methods that they stand for;
a class whose flags and methods disagree is refused when it is defined.

Retry, bandwidth limits, digests, resume and caching are not a driver's
business: the core wraps them around every driver alike. A driver knows no
strategy.
"""

from __future__ import annotations

import abc
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import io
import typing

from oslo_transfer.drivers.capability import Capability
from oslo_transfer.drivers.layout import Extent
from oslo_transfer.drivers.layout import Geometry
from oslo_transfer.drivers.layout import Pieces
from oslo_transfer.drivers.layout import Validator
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer import context as _context
    from oslo_transfer.drivers import target as _target
    from oslo_transfer import endpoint as _endpoint

__all__ = (
    'Attachment',
    'Capability',
    'Driver',
    'EmptyStream',
    'Extent',
    'Geometry',
    'Pieces',
    'Sink',
    'Source',
    'Stream',
    'Validator',
)


class Stream(io.RawIOBase):
    """A run of bytes of a source, read once from its start to its end.

    One thread at a time may read. :meth:`close` may come from any thread
    and ends another thread's read within a second.
    """

    #: Seconds spent waiting for the peer so far. A copier adds streams
    #: where this is most of the time.
    waited: float = 0.0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: typing.Any) -> int:
        """Read at least one byte; 0 at the end of the asked run only.

        Blocks until one byte is there, and MUST return then: a caller that
        wants a full buffer calls again.

        :param buffer: writable; MUST NOT be kept after the return
        :raises Stalled: the peer broke the context's stall rule
        :raises Unavailable: the peer vanished; going on may work
        :raises ProtocolError: the peer sent what makes no sense
        :raises SourceChanged: these would be bytes of another version
        :raises TransferCancelled: the context says stop, or the stream was
            closed
        """
        raise NotImplementedError

    def splice(self, fd: int, offset: int, count: int) -> int | None:
        """Have the kernel move bytes into a file; same rules as readinto.

        :param fd: a file that is open for writing
        :param offset: where in the file, in bytes
        :param count: the most bytes to move
        :returns: the bytes moved, 0 at the end; None where this stream
            cannot do it, and then nothing was moved
        :raises OSError: writing failed
        """
        return None


class EmptyStream(Stream):
    """An empty run, for protocols that cannot be asked for one."""

    def readinto(self, buffer: typing.Any) -> int:
        """Nothing."""
        return 0


class Source(abc.ABC):
    """An open handle to read from.

    All methods but :meth:`close` may be called by several threads at once.
    """

    #: What this handle can do; a subset of the driver's.
    capabilities: Capability

    #: Size in bytes; None, and never 0, if it is unknown.
    size: int | None

    #: Tells versions apart; None if the peer gives nothing to go by.
    validator: Validator | None = None

    geometry: Geometry = Geometry()

    #: Digests of pieces, or None.
    pieces: Pieces | None = None

    #: Whether the end of a stream proves that nothing is missing. False
    #: where a peer that vanished looks like the end: the core then relies
    #: on an expected size or digest, and refuses to go without.
    delimited: bool = True

    #: Where the bytes come from, a key of ``bytes_by_origin``.
    origin: str = 'origin'

    #: Whether a block device can be filled, too; with FILL.
    fills_devices: bool = False

    #: Whether it is read in place, request by request, as a disk is: what
    #: several streams bring at once then belongs together as much as what
    #: one does.
    in_place: bool = False

    #: Why nobody should rely on this data without a digest of it, or None:
    #: the core refuses it then where none is known.
    doubt: str | None = None

    @abc.abstractmethod
    def stream(self, offset: int, length: int | None) -> Stream:
        """Start to read a run of bytes.

        A run at offset 0 can always be asked for again. One that is empty
        ends at once; one that is not all there is an error, here or when it
        is read, and never a short run.

        :param offset: the first byte; needs RANDOM_READ if not 0
        :param length: bytes to read; None for all to the end
        :raises CapabilityMissing: RANDOM_READ is missing
        :raises SourceChanged: the object is no longer the one opened, or
            it has no such bytes
        :raises Unavailable: the peer cannot be reached
        :raises TransferCancelled: the source was closed
        """

    def extents(self, offset: int, length: int) -> Iterator[Extent] | None:
        """Tell data from holes, in order and without a gap.

        :returns: None if it is not known; needs EXTENTS otherwise
        """
        return None

    def fill(self, target: _target.Target) -> None:
        """Fill a file by a transport of its own; needs FILL.

        Or a device, with :attr:`fills_devices`. Blocks until all bytes
        have arrived, and are those that the source has. What has arrived
        when it raises can be gone on with.

        :raises IntegrityError: peers and helpers have wrong bytes only
        :raises Stalled: nobody brings anything
        :raises Unavailable: nobody is left who could
        :raises NoSpace: the file system is full
        :raises TransferCancelled: the context says stop, or the source was
            closed
        """
        raise exceptions.CapabilityMissing(
            f'{type(self).__name__} cannot fill files'
        )

    def landed(self, path: str) -> bool | None:
        """What was filled is complete, and has got its name.

        Blocks for seconds at most, and does not raise: the copy is done.

        :param path: the file's final path
        :returns: whether something goes on giving it to others now; None
            if that is not what the protocol does
        """
        return None

    @abc.abstractmethod
    def close(self) -> None:
        """Let go of everything; idempotent, and never raises."""

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.close()


class Sink(abc.ABC):
    """An open handle to write to.

    :meth:`pwrite`, :meth:`zero` and :meth:`pread` may be called by several
    threads at once if the handle has RANDOM_WRITE. Without it offsets are
    contiguous and come from one thread.
    """

    #: What this handle can do; a subset of the driver's.
    capabilities: Capability

    #: Bytes that can be held; None where no limit is known.
    capacity: int | None = None

    #: True if whatever is never written reads as zeros (a new file).
    zeroed: bool = False

    #: A file descriptor to splice into, or None.
    fd: int | None = None

    #: What the destination is: ``file`` or ``device``.
    form: str = 'file'

    #: Bytes at the start that get there only with the commit.
    held_back: int = 0

    @property
    def free(self) -> int | None:
        """Bytes of data that can still be stored; None if unknown."""
        return None

    @abc.abstractmethod
    def pwrite(self, buffer: memoryview, offset: int) -> None:
        """Write all of the buffer.

        Blocks until every byte is taken; they need not be durable before
        :meth:`sync` returns. If it raises, any part may be written. No bytes
        are no end: nothing happens.

        :param buffer: MUST NOT be kept after the return
        :param offset: in bytes
        :raises CapabilityMissing: RANDOM_WRITE is missing, and this is not
            what comes next
        :raises TransferCancelled: the sink was committed or aborted
        :raises NoSpace: nothing more fits
        :raises Stalled: the peer broke the context's stall rule
        :raises Unavailable: the peer vanished
        """

    def zero(self, offset: int, length: int) -> bool:
        """Make a run read as zeros without writing them one by one.

        Whatever was written there before.

        :returns: False if there is no cheap way; the core then writes
            zeros. After True the run MUST read as zeros.
        """
        return False

    def pread(self, buffer: memoryview, offset: int) -> int:
        """Read what was written; needs READBACK.

        :returns: bytes read, 0 at the end
        """
        raise exceptions.CapabilityMissing(
            f'{type(self).__name__} cannot be read back'
        )

    @abc.abstractmethod
    def sync(self) -> None:
        """Make all written bytes durable.

        :raises StorageError: they are not, and what was written before
            MUST be thrown away: the system reports it only once
        """

    @abc.abstractmethod
    def commit(self, size: int) -> None:
        """Make the destination complete and visible, durably.

        :param size: the final size in bytes
        :raises AlreadyExists: something else took the name meanwhile
        """

    @abc.abstractmethod
    def abort(self, keep: bool) -> None:
        """Give up; idempotent, does nothing after a commit, never raises.

        With ATOMIC nothing is visible afterwards that was not before.

        :param keep: leave what a later sink may resume, if the handle has
            RESUME
        """


@dataclasses.dataclass(frozen=True, kw_only=True)
class Attachment:
    """A remote object that was made readable in place.

    :ivar id: names it for ``oslo_transfer.detach()`` and the command line
    :ivar driver: the scheme of the driver that can take it away
    :ivar source: the redacted URL
    :ivar form: ``device``, ``path`` or ``nbd``
    :ivar path: the block device, the file or the NBD URI
    :ivar size: in bytes, or None if unknown
    :ivar read_only: whether it refuses writes
    :ivar details: what the driver needs to detach it, also from another
        process: JSON types, and no secret
    """

    id: str
    driver: str
    source: str
    form: str
    path: str
    size: int | None
    read_only: bool = True
    details: Mapping[str, typing.Any] = dataclasses.field(default_factory=dict)
    _detach: Callable[[Attachment, bool], None] | None = dataclasses.field(
        default=None, repr=False, compare=False
    )

    def detach(self, force: bool = False) -> None:
        """Take it away; idempotent.

        :param force: go on where a step fails, and report at the end
        :raises DetachError: something is left, named in ``leftovers``; or
            nothing is, and what was written last may be lost
        """
        if self._detach is not None:
            self._detach(self, force)

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_exc: object) -> None:
        self.detach()


# Which method a flag stands for. A class has to have both or neither.
_METHODS = {
    'open_source': Capability.READ,
    'open_sink': Capability.WRITE,
    'attach': Capability.ATTACH,
    'detach': Capability.ATTACH,
    'fill': Capability.CLONE | Capability.LOCAL_FILL,
    'local_path': Capability.LOCAL_PATH,
}
# Which flag makes no sense without another.
_REQUIRES = {
    Capability.RANDOM_READ: Capability.READ,
    Capability.EXTENTS: Capability.READ,
    Capability.PIECES: Capability.READ,
    Capability.FILL: Capability.READ,
    Capability.RANDOM_WRITE: Capability.WRITE,
    Capability.ATOMIC: Capability.WRITE,
    Capability.READBACK: Capability.WRITE,
    Capability.RESUME: Capability.WRITE | Capability.READBACK,
    Capability.CLONE: Capability.LOCAL_PATH,
    Capability.LOCAL_FILL: Capability.LOCAL_PATH,
}


class Driver:
    """One protocol: stateless, thread-safe, opens handles.

    Registered as an entry point in ``oslo.transfer.drivers``, once under
    each of its URL schemes. Its module may import third-party packages; it
    is imported on first use only.

    :param conf: the configuration, with :attr:`OPTIONS` registered in the
        group ``oslo_transfer_<name>``
    """

    #: The driver's name: that of its configuration group and its extra.
    name: typing.ClassVar[str]

    #: The URL schemes that it serves.
    schemes: typing.ClassVar[tuple[str, ...]]

    #: The most that any of its handles can do.
    capabilities: typing.ClassVar[Capability]

    #: Its configuration options.
    OPTIONS: typing.ClassVar[Sequence[cfg.Opt]] = ()

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self.conf = conf

    def __init_subclass__(cls, **kwargs: typing.Any) -> None:
        super().__init_subclass__(**kwargs)
        for attribute in ('name', 'schemes', 'capabilities'):
            if not hasattr(cls, attribute):
                raise TypeError(f'{cls.__name__} declares no {attribute}')
        for method, flags in _METHODS.items():
            has = getattr(cls, method) is not getattr(Driver, method)
            if has != bool(cls.capabilities & flags):
                raise TypeError(
                    f'{cls.__name__}.{method}() and the declared '
                    f'capabilities disagree'
                )
        for flag, needed in _REQUIRES.items():
            if flag in cls.capabilities and needed not in cls.capabilities:
                raise TypeError(
                    f'{cls.__name__} declares {flag.name} without '
                    f'{needed.name}'
                )

    def _missing(self, flag: Capability) -> exceptions.CapabilityMissing:
        return exceptions.CapabilityMissing(
            f'the {self.name} driver cannot {flag.name}: it has '
            f'{self.capabilities.name}'
        )

    def open_source(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> Source:
        """Open an object for reading.

        Blocks until its size and version are known, if they can be.

        :raises NotFound: there is no such object
        :raises AccessDenied: the credentials are not good enough
        :raises PolicyRefused: the URL policy forbids it or a redirect
        :raises Unavailable: the peer cannot be reached or is busy
        """
        raise self._missing(Capability.READ)

    def open_sink(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        *,
        size: int | None,
        resume: bool = False,
        overwrite: bool = False,
    ) -> Sink:
        """Open a destination for writing.

        :param size: bytes that will be written, None if unknown; up to
            there a sink that is ``zeroed`` and has READBACK can be read at
            once
        :param resume: go on with what an aborted sink has kept; only asked
            of drivers with RESUME
        :param overwrite: what is there may be replaced
        :raises NotFound: its directory or container does not exist
        :raises AlreadyExists: it may not be replaced; :meth:`Sink.commit`
            is the last to notice
        :raises AccessDenied: the credentials are not good enough
        :raises NoSpace: ``size`` cannot fit
        """
        raise self._missing(Capability.WRITE)

    def attach(
        self,
        endpoint: _endpoint.Endpoint,
        ctx: _context.Context,
        record: Callable[[Mapping[str, typing.Any]], None],
    ) -> Attachment:
        """Make an object readable in place; writable if ``ctx.writing``.

        What fails leaves nothing behind. Unless ``ctx.lasting`` it is taken
        away before the call ends, and may need child processes that end
        with it. A driver that opens handles on what it attaches calls
        :meth:`~oslo_transfer.context.Context.attach` for that, so that it
        is recorded.

        :param record: takes ``details`` and makes them durable; MUST be
            called before anything is done that would have to be undone.
            The attachment's ``id`` is filled in by the core.
        :raises NotFound: there is no such object
        :raises AttachError: it did not work; what is left is named in
            ``leftovers``, and stays recorded
        """
        raise self._missing(Capability.ATTACH)

    def detach(
        self, attachment: Attachment, ctx: _context.Context, force: bool
    ) -> None:
        """Take an attachment away, also one that another process made.

        Idempotent: what is gone already is no error. What is in use is
        refused, and what the driver did not make stays.

        :param force: go on where a step fails
        :raises DetachError: something is left, named in ``leftovers``; or
            nothing is, and what was written last may be lost
        """
        raise self._missing(Capability.ATTACH)

    def sharing(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> str | None:
        """What attachments of one object have in common on this host.

        One LUN has one device, one export one mount. The core then attaches
        and detaches one after the other, calls :meth:`attach` for the
        first only, :meth:`join` for each further one, and :meth:`detach`
        for the last. Pure, and quick.

        :returns: a key without secrets; None if each attachment is apart
        """
        return None

    def join(self, attachment: Attachment, ctx: _context.Context) -> None:
        """See that what another attachment shares is there, and right.

        Changes nothing.

        :param attachment: an earlier one with the same :meth:`sharing` key
        :raises AttachError: it is not there any more, or something else is
        """

    def fill(
        self,
        endpoint: _endpoint.Endpoint,
        part_path: str,
        ctx: _context.Context,
    ) -> str:
        """Move the object into a file by the driver's own means.

        The file exists; what it holds is replaced. Its lock, verification,
        fsync and final name are the core's.

        :param part_path: the file to fill
        :returns: how it was done, in a word (``reflink``)
        :raises NotFound: there is no such object
        :raises CapabilityMissing: not with this object and this file
            system; the message says why, and the file is as it was
        """
        raise self._missing(Capability.CLONE | Capability.LOCAL_FILL)

    def local_path(self, endpoint: _endpoint.Endpoint) -> str:
        """The path on this host that the endpoint names.

        :raises InvalidEndpoint: it names none that can be used
        """
        raise self._missing(Capability.LOCAL_PATH)
