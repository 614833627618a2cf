# SPDX-License-Identifier: Apache-2.0
"""The limits that every wait of a transfer keeps.

A :class:`Context` travels with each open handle. Whoever waits, waits in
slices of at most :data:`TICK` seconds and calls :meth:`Context.check` in
between: that is what makes cancel work within a second whatever the peer
does, also where sockets are green (eventlet) and cannot be interrupted.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import dataclasses
import importlib
import socket
import sys
import threading
import time
import typing

from oslo_transfer import exceptions
from oslo_transfer import limiter as _limiter

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer import connector as _connector
    from oslo_transfer import credentials as _credentials
    from oslo_transfer.drivers import base
    from oslo_transfer import endpoint as _endpoint
    from oslo_transfer import location as _location

#: The longest uninterrupted wait, in seconds.
TICK = 0.2


class CancelEvent(typing.Protocol):
    """What ``cancel=`` needs to be: a ``threading.Event`` fits."""

    def is_set(self) -> bool:
        """Whether the transfer is to stop."""


@dataclasses.dataclass(frozen=True)
class StallRule:
    """When a peer that still talks is given up.

    :ivar seconds: the length of a window of waiting
    :ivar bytes_per_second: what a window has to bring on average
    """

    seconds: float
    bytes_per_second: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Context:
    """Deadline, stall rule, cancel, identity and network access.

    Immutable; shared by all threads of one transfer.

    :ivar conf: the configuration in use, with all options registered
    :ivar connector: opens every TCP connection
    :ivar deadline: ``time.monotonic()`` value at which the call must end
    :ivar stall: the rule that ends a slow peer
    :ivar connect_timeout: seconds for resolving and connecting
    :ivar cancel: set by the caller to stop
    :ivar stop: set by the library to stop all threads of this transfer
    :ivar credentials: for the origin of the location in use
    :ivar origin: the origin that the credentials belong to
    :ivar trusted: False if the URL policy applies to the location
    :ivar limiter: takes the transfer's bytes per second
    :ivar start: where reading will probably begin, in bytes; a driver may
        use it to save a request
    :ivar piecemeal: it will be read here and there: a driver that would
        begin with the whole to save a request is not to
    :ivar hurried: others have the data, too: who fails is given up soon
    :ivar anew: what a proxy keeps was wrong: it is not to be believed
    :ivar transfer: stands for the call; the same in all its contexts
    :ivar writing: it is the context of the call's destination
    :ivar lasting: what is attached is to stay when the call has ended
    :ivar connection_info: the location's, see
        :class:`~oslo_transfer.Location`
    :ivar opener: opens other locations, see :meth:`open_source`
    :ivar attacher: attaches and records, see :meth:`attach`
    """

    conf: cfg.ConfigOpts
    connector: _connector.Connector
    stall: StallRule
    connect_timeout: float
    deadline: float | None = None
    cancel: CancelEvent | None = None
    stop: threading.Event = dataclasses.field(default_factory=threading.Event)
    credentials: _credentials.Credentials | None = None
    trusted: bool = True
    limiter: _limiter.Limiter = dataclasses.field(
        default_factory=_limiter.Limiter
    )
    start: int = 0
    piecemeal: bool = False
    hurried: bool = False
    anew: bool = False
    transfer: object = dataclasses.field(default_factory=object)
    writing: bool = False
    lasting: bool = False
    connection_info: Mapping[str, typing.Any] | None = None
    opener: Callable[[_location.Location, Context], base.Source] | None = None
    attacher: (
        Callable[[base.Driver, _endpoint.Endpoint, Context], base.Attachment]
        | None
    ) = None

    def check(self) -> None:
        """Raise if the transfer has to end now.

        :raises TransferCancelled: the caller cancelled, or another part
            of the same transfer failed
        :raises DeadlineExceeded: the deadline has passed
        """
        if self.cancel is not None and self.cancel.is_set():
            raise exceptions.TransferCancelled('cancelled by the caller')
        if self.stop.is_set():
            raise exceptions.TransferCancelled('another part has failed')
        if self.deadline is not None and time.monotonic() >= self.deadline:
            raise exceptions.DeadlineExceeded(
                'the deadline of the call has passed'
            )

    def breathe(self) -> None:
        """Check, and let the other green threads of the process run.

        Called for each chunk by what reads and writes files, for only
        sockets do that by themselves.
        """
        self.check()
        if threads_are_green():
            time.sleep(0)

    def sleep(self, seconds: float) -> None:
        """Wait, ending early only by raising what :meth:`check` raises."""
        end = time.monotonic() + seconds
        while True:
            self.check()
            left = end - time.monotonic()
            if left <= 0:
                return
            self.stop.wait(min(left, TICK))

    def call(
        self,
        function: Callable[[], typing.Any],
        name: str,
        timeout: float | None = None,
        *,
        cooperative: bool = False,
    ) -> typing.Any:
        """Run a call that cannot be interrupted, and stay interruptible.

        The call goes on in a daemon thread of its own when the wait for it
        ends early; use it only for what ends by itself and needs no
        cleaning up, like name resolution or fsync.

        :param name: says what it does, for the error
        :param timeout: seconds, or None to wait for as long as it takes
        :param cooperative: it waits by Python's locks and sockets only, so
            that a green thread can run it
        :raises Unavailable: it took longer than ``timeout``
        """
        if threads_are_green() and not cooperative:
            # A green thread would block its hub in C code; a real thread
            # of eventlet's own pool does not.
            tpool = importlib.import_module('eventlet.tpool')
            return tpool.execute(function)
        outcome: list[typing.Any] = []
        done = threading.Event()

        def run() -> None:
            try:
                outcome.append((function(), None))
            except Exception as exc:
                outcome.append((None, exc))
            done.set()

        started = time.monotonic()
        threading.Thread(target=run, name=name, daemon=True).start()
        while not done.wait(TICK):
            self.check()
            if timeout is not None and time.monotonic() > started + timeout:
                raise exceptions.Unavailable(
                    f'{name} took more than {timeout:g} seconds'
                )
        value, error = outcome[0]
        if error is not None:
            raise error
        return value

    def connect(
        self, endpoint: _endpoint.Endpoint, port: int
    ) -> socket.socket:
        """Open a TCP connection to the endpoint's host, policy applied.

        :raises PolicyRefused: the URL policy refuses the host or address
        :raises Unavailable: no address answered in time
        """
        return self.connector.connect(endpoint.host, port, self)

    def open_source(self, location: _location.Location) -> base.Source:
        """Open another location that a driver needs, by its own driver.

        Its streams retry and keep the limits. The location says who it is
        asked as, and whether the URL policy applies.

        :raises TransferError: it cannot be opened
        """
        if self.opener is None:
            raise exceptions.CapabilityMissing(
                'this context opens no further locations'
            )
        return self.opener(location, self)

    def attach(
        self, driver: base.Driver, endpoint: _endpoint.Endpoint
    ) -> base.Attachment:
        """Have a driver attach what it opens, with a record of it.

        Whatever handle is opened on it calls its ``detach()`` in the end.

        :raises AttachError: it did not work, and nothing is left
        """
        if self.attacher is None:
            raise exceptions.CapabilityMissing('this context attaches nothing')
        return self.attacher(driver, endpoint, self)

    def login(self, endpoint: _endpoint.Endpoint) -> tuple[str, str] | None:
        """User name and password for an endpoint.

        The location's credentials come before the URL's userinfo.
        """
        login = self.credentials.login() if self.credentials else None
        if login is None and endpoint.username is not None:
            login = endpoint.username, endpoint.password or ''
        return login

    def replace(self, **changes: typing.Any) -> Context:
        """A copy with some fields changed."""
        return dataclasses.replace(self, **changes)


def threads_are_green() -> bool:
    """Whether the host process runs under eventlet's patching."""
    patcher: typing.Any = sys.modules.get('eventlet.patcher')
    return patcher is not None and patcher.is_monkey_patched('thread')
