# SPDX-License-Identifier: Apache-2.0
"""Has the service of this host hold what is to outlive a call."""

from __future__ import annotations

from collections.abc import Callable
import threading
import time
import typing

from oslo_transfer import exceptions
from oslo_transfer.service import client

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

# Seconds in which the service can say that it holds nothing of ours.
_LAST_WORD = 1.0

_T = typing.TypeVar('_T')


def hold(
    identifier: str,
    where: str,
    ctx: _context.Context,
    add: Callable[[client.Client], _T],
    remove: Callable[[client.Client, str], None],
    advice: str,
) -> _T:
    """Ask for it, and see that nothing is held where that fails.

    :param identifier: names it
    :param where: what it is of, for messages
    :param add: asks
    :param remove: asks to take it away
    :param advice: what to do where there is no service for it
    :returns: what ``add`` has got
    :raises AttachError: there is no such service, or it cannot be told
        whether it holds anything
    :raises TransferError: what the service says
    """
    try:
        return add(client.Client(ctx.conf, ctx))
    except (exceptions.ServiceNotRunning, exceptions.CapabilityMissing) as exc:
        raise exceptions.AttachError(f'{where}: {advice} ({exc})') from exc
    except BaseException as exc:
        _give_up(identifier, where, ctx, remove, exc)
        raise


def _give_up(
    identifier: str,
    where: str,
    ctx: _context.Context,
    remove: Callable[[client.Client, str], None],
    why: BaseException,
) -> None:
    """See that the service has it no more: it may only not have answered."""
    limits = ctx.replace(
        deadline=time.monotonic() + _LAST_WORD,
        cancel=None,
        stop=threading.Event(),
    )
    try:
        remove(client.Client(ctx.conf, limits), identifier)
    except exceptions.NotFound:
        pass
    except exceptions.TransferError as exc:
        raise exceptions.AttachError(
            f'{where}: {why}; and the service of this host may hold it '
            f'nevertheless ({exc})',
            (f'attachment {identifier} of the service',),
        ) from why


def let_go(
    identifier: str,
    ctx: _context.Context,
    remove: Callable[[client.Client, str], None],
) -> None:
    """Have it taken away; idempotent.

    :raises DetachError: it is not
    """
    try:
        remove(client.Client(ctx.conf, ctx), identifier)
    except exceptions.NotFound:
        pass
    except exceptions.TransferError as exc:
        # Its own errors come without what is left.
        raise exceptions.DetachError(
            f'the service of this host has not taken it away: {exc}',
            (f'attachment {identifier} of the service',),
        ) from exc
