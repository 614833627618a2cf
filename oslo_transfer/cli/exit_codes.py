# SPDX-License-Identifier: Apache-2.0
"""What each exit status of the command means."""

from __future__ import annotations

import dataclasses
import textwrap

from oslo_config import cfg

from oslo_transfer import exceptions

UNEXPECTED = 1
USAGE = 2
STORAGE = 16
INTERRUPTED = 130  # 128 and the signal's number, as shells have it
BROKEN_PIPE = 141


class UsageError(Exception):
    """The command line makes no sense."""


class Interrupted(Exception):
    """A signal ended the command in an orderly way.

    :param status: the exit status
    :param text: what is left to do
    """

    def __init__(self, status: int, text: str) -> None:
        self.status = status
        super().__init__(text)


@dataclasses.dataclass(frozen=True)
class Group:
    """One exit status.

    :ivar status: the number
    :ivar meaning: for people
    :ivar errors: the exceptions that end the command with it
    :ivar advice: what can be done on the command line, or ''
    """

    status: int
    meaning: str
    errors: tuple[type[BaseException], ...] = ()
    advice: str = ''


GROUPS = (
    Group(0, 'done'),
    Group(UNEXPECTED, 'an unexpected error, which is a bug'),
    Group(USAGE, 'the command line is wrong', (UsageError,)),
    Group(
        3,
        'a URL, an argument or the configuration cannot be used',
        (
            exceptions.InvalidEndpoint,
            exceptions.ConfigurationError,
            cfg.Error,
        ),
    ),
    Group(
        4,
        'no such driver or strategy, or it cannot be loaded',
        (
            exceptions.DriverNotFound,
            exceptions.DriverLoadError,
            exceptions.StrategyNotFound,
        ),
    ),
    Group(
        5,
        'a driver, a strategy or a server cannot do this',
        (exceptions.CapabilityMissing,),
    ),
    Group(6, 'not found', (exceptions.NotFound,)),
    Group(7, 'access denied', (exceptions.AccessDenied,)),
    Group(8, 'refused by the URL policy', (exceptions.PolicyRefused,)),
    Group(
        9,
        'the destination exists and is not the same',
        (exceptions.AlreadyExists,),
        '--overwrite replaces it',
    ),
    Group(10, 'no space at the destination', (exceptions.NoSpace,)),
    Group(
        11,
        'the data is not what was asked for: another size or digest',
        (exceptions.IntegrityError,),
    ),
    Group(
        12,
        'the source kept changing while it was read',
        (exceptions.SourceChanged,),
    ),
    Group(
        13,
        'unreachable or busy, or all sources failed for various reasons',
        (exceptions.Unavailable, exceptions.AllSourcesFailed),
    ),
    Group(
        14,
        'the deadline has passed, or the peer stalled',
        (exceptions.TransferTimedOut,),
    ),
    Group(15, 'the peer broke its protocol', (exceptions.ProtocolError,)),
    Group(
        STORAGE,
        'local storage failed to read or write',
        (exceptions.StorageError,),
    ),
    Group(
        17,
        'attaching or detaching failed',
        (exceptions.AttachError, exceptions.DetachError),
    ),
    Group(
        INTERRUPTED,
        'cancelled by SIGINT (Ctrl-C)',
        (exceptions.TransferCancelled, KeyboardInterrupt),
    ),
    Group(
        BROKEN_PIPE,
        'nobody reads the output any more',
        (BrokenPipeError,),
    ),
    Group(143, 'cancelled by SIGTERM'),
)


def group_of(error: BaseException) -> Group:
    """The group that an error belongs to; that of bugs for any other."""
    for group in GROUPS:
        if isinstance(error, group.errors):
            return group
    return GROUPS[UNEXPECTED]


def table() -> str:
    """All exit statuses with what they mean, for ``--help``."""
    return '\n'.join(
        textwrap.fill(
            group.meaning,
            width=78,
            initial_indent=f'  {group.status:>3}  ',
            subsequent_indent=' ' * 7,
        )
        for group in GROUPS
    )
