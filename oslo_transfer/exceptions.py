# SPDX-License-Identifier: Apache-2.0
"""What can go wrong, grouped by what a caller can do about it.

Everything the library raises on purpose is a :class:`TransferError`. The
one exception that passes through unchanged is the caller's own: what a
``progress`` callback or an observer raises reaches the caller as it was
raised.

All classes survive pickling, and none carries a secret in ``str()`` or
``repr()``: endpoints are named by their redacted form only.
"""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from oslo_transfer.result import Attempt


class TransferError(Exception):
    """The root of all errors of this library."""

    #: Whether the same call may succeed later without any change.
    retryable: bool = False

    #: What was tried and given up before this error ended the call.
    attempts: tuple[Attempt, ...] = ()

    #: Seconds after which the peer asked to be tried again, if it did.
    retry_after: float | None = None


class ConfigurationError(TransferError):
    """An option or an argument has a value that cannot work."""


class InvalidEndpoint(TransferError, ValueError):
    """A URL, path or file object that cannot be used as given."""


class DriverNotFound(TransferError):
    """No installed and enabled driver serves the URL's scheme."""


class DriverLoadError(TransferError):
    """A driver or strategy is installed, but cannot be loaded."""


class StrategyNotFound(TransferError):
    """No installed strategy has the asked name."""


class CapabilityMissing(TransferError):
    """A driver, a handle or a peer cannot do what was asked of it."""


class NotFound(TransferError):
    """The source does not exist."""


class AccessDenied(TransferError):
    """The peer or the file system refused the credentials in use."""

    #: Whether they prove nothing (any more), so that newer ones may help.
    unproven: bool = False


class NoSpace(TransferError):
    """The destination cannot hold the data."""


class AlreadyExists(TransferError):
    """The destination exists, and replacing it was not asked for."""


class IntegrityError(TransferError):
    """Bytes arrived, but they are not the bytes that were asked for."""


class SizeMismatch(IntegrityError):
    """The source has another size than expected or promised."""

    def __init__(self, expected: int, actual: int, where: str = '') -> None:
        self.expected = expected
        self.actual = actual
        self.where = where
        super().__init__(expected, actual, where)

    def __str__(self) -> str:
        place = f'{self.where}: ' if self.where else ''
        return f'{place}expected {self.expected} bytes, found {self.actual}'


class DigestMismatch(IntegrityError):
    """The data's digest is not the expected one."""

    def __init__(
        self, algorithm: str, expected: str, actual: str, where: str = ''
    ) -> None:
        self.algorithm = algorithm
        self.expected = expected
        self.actual = actual
        self.where = where
        super().__init__(algorithm, expected, actual, where)

    def __str__(self) -> str:
        place = f'{self.where}: ' if self.where else ''
        return (
            f'{place}{self.algorithm} is {self.actual}, '
            f'expected {self.expected}'
        )


class SourceChanged(TransferError):
    """The source became another version while it was read."""

    retryable = True


class PolicyRefused(TransferError):
    """The URL policy forbids this URL, address or redirect."""


class ProtocolError(TransferError):
    """The peer broke its protocol; what it sent cannot be trusted."""


class Unavailable(TransferError):
    """The peer cannot be reached or asks to be tried later."""

    retryable = True


class ServiceNotRunning(Unavailable):
    """The service of this host, ``oslo-transfer serve``, is not there."""

    retryable = False


class StorageError(TransferError):
    """Reading or writing local storage failed."""


class TransferTimedOut(TransferError):
    """A time limit has passed: the deadline or the stall rule."""


class Stalled(TransferTimedOut):
    """The peer sent or took too few bytes for too long."""

    retryable = True


class DeadlineExceeded(TransferTimedOut):
    """The deadline of the call has passed."""


class TransferCancelled(TransferError):
    """The caller cancelled the transfer."""


class AllSourcesFailed(TransferError):
    """Every location failed, each for a reason of its own.

    ``attempts`` holds the reasons; ``retryable`` is true if any of the
    reasons was.
    """

    def __init__(self, message: str, retryable: bool = False) -> None:
        super().__init__(message, retryable)
        self.retryable = retryable

    def __str__(self) -> str:
        return str(self.args[0])


class _Leftovers(TransferError):
    def __init__(self, message: str, leftovers: tuple[str, ...] = ()) -> None:
        self.leftovers = leftovers
        super().__init__(message, leftovers)

    def __str__(self) -> str:
        left = ', '.join(self.leftovers)
        return f'{self.args[0]} (left: {left})' if left else str(self.args[0])


class AttachError(_Leftovers):
    """A remote object could not be attached.

    :ivar leftovers: what is still there, in words an operator can act on;
        it is listed, and can be detached. Empty if nothing is
    """


class DetachError(_Leftovers):
    """An attachment could not be taken away completely, or not safely.

    :ivar leftovers: what is still there, in words an operator can act on;
        empty if nothing is, and there is nothing to detach any more, but
        what was written last may be lost
    """
