# SPDX-License-Identifier: Apache-2.0
"""Mounts an export for one attachment, by os-brick, and unmounts it."""

from __future__ import annotations

import contextlib
import functools
import os
import secrets
import time
import typing

from oslo_transfer.drivers import brick
from oslo_transfer.drivers import inuse
from oslo_transfer import exceptions
from oslo_transfer import opts
from oslo_transfer import oserrors

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer import context as _context
    from oslo_transfer.drivers.nfs import share as _share

_CONNECTOR = 'os_brick.initiator.connectors.remotefs'
_ROOTWRAP = 'os_brick.privileged.rootwrap'
_PRIVILEGED = 'oslo_transfer.privileged.mounts'
# What a file of a server may not do to this host, whatever options say.
_ALWAYS = ('nosuid', 'nodev', 'noexec')
# mount.nfs goes on trying for two minutes, unless it is told not to.
_ONCE = 'retry=0'
#: What mount.nfs(8) says, and what it means.
_REASONS: tuple[tuple[str, type[exceptions.TransferError]], ...] = (
    ('access denied', exceptions.AccessDenied),
    ('not permitted', exceptions.AccessDenied),
    ('no such file or directory', exceptions.NotFound),
    ('not a directory', exceptions.NotFound),
    ('refused', exceptions.Unavailable),
    ('timed out', exceptions.Unavailable),
    ('no route', exceptions.Unavailable),
    ('unreachable', exceptions.Unavailable),
    ('name or service', exceptions.Unavailable),
    ('failed to resolve', exceptions.Unavailable),
    ('took more than', exceptions.Unavailable),
)


def new_directory(conf: cfg.ConfigOpts) -> str:
    """A name for the directory of one attachment; nothing is made."""
    state = conf.oslo_transfer.state_path or opts.default_state_path()
    base = conf.oslo_transfer_nfs.mount_base or os.path.join(state, 'mounts')
    return os.path.join(os.path.abspath(base), secrets.token_hex(8))


def mount(
    share: _share.Share, directory: str, writing: bool, ctx: _context.Context
) -> str:
    """Mount an export somewhere in a directory; blocks until it is.

    For ``[oslo_transfer_nfs]mount_timeout`` seconds at most; what the
    context says is heeded before and after. What fails leaves the directory
    for :func:`unmount`.

    :returns: where
    :raises AccessDenied: the server does not export it to this host
    :raises NotFound: it has no such export
    :raises Unavailable: the server does not answer
    :raises AttachError: any other reason
    """
    group = ctx.conf.oslo_transfer_nfs
    options = ','.join(
        each
        for each in (
            group.mount_options,
            _ONCE,
            share.options,
            *_ALWAYS,
            'rw' if writing else 'ro',
        )
        if each
    )
    with oserrors.os_errors(f'creating {directory}'):
        os.makedirs(directory, mode=0o755)
    module = brick.module(_CONNECTOR, ctx.conf)
    connector = module.RemoteFsConnector(
        'nfs',
        None,
        execute=_Bounded(ctx, group.mount_timeout),
        conn={'mount_point_base': directory},
        nfs_mount_options=options,
    )
    try:
        path: str = connector.connect_volume(
            {'export': share.export, 'name': share.name}
        )['path']
    except exceptions.TransferError:
        raise
    except Exception as exc:
        raise _reason(share, exc) from exc
    point = os.path.dirname(path)
    # os-brick takes a command that it had to end for one that worked.
    if point not in _mounted(directory):
        raise exceptions.Unavailable(
            f'{share.where}: {share.export} is not mounted after '
            f'[oslo_transfer_nfs]mount_timeout seconds'
        )
    ctx.check()
    return point


def unmount(directory: str, ctx: _context.Context, force: bool) -> None:
    """Unmount all that is mounted in a directory, and remove it.

    Idempotent. Blocks for ``[oslo_transfer_nfs]mount_timeout`` seconds for
    a server that does not answer.

    :param force: take it out of sight where unmounting fails otherwise
    :raises DetachError: it is in use, or cannot be unmounted
    """
    for point in reversed(_mounted(directory)):
        users = inuse.users_of_mount(point, ctx.conf)
        if users:
            raise exceptions.DetachError(
                f'{point} is in use, and stays mounted', tuple(users)
            )
        _unmount(point, ctx, force)
    with contextlib.suppress(FileNotFoundError):
        for name in os.listdir(directory):
            _remove(os.path.join(directory, name))
        _remove(directory)


def _mounted(directory: str) -> list[str]:
    found = (each.path for each in inuse.mounts())
    return [each for each in found if os.path.dirname(each) == directory]


def _unmount(point: str, ctx: _context.Context, force: bool) -> None:
    privileged = brick.module(_PRIVILEGED, ctx.conf)
    timeout = ctx.conf.oslo_transfer_nfs.mount_timeout
    try:
        ctx.call(
            functools.partial(privileged.unmount, point),
            f'unmounting {point}',
            timeout,
        )
    except (OSError, exceptions.Unavailable) as exc:
        # A server that is silent holds it up, but nothing is in use.
        if isinstance(exc, exceptions.Unavailable) or force:
            with contextlib.suppress(OSError, ValueError):
                privileged.unmount(point, lazy=True)
        if point in _mounted(os.path.dirname(point)):
            raise exceptions.DetachError(
                f'{point} cannot be unmounted: {exc}', (point,)
            ) from exc


def _remove(path: str) -> None:
    try:
        os.rmdir(path)
    except FileNotFoundError:
        pass
    except OSError as exc:
        raise exceptions.DetachError(
            f'{path} cannot be removed: {exc.strerror}', (path,)
        ) from exc


class _Bounded:
    """Runs os-brick's commands, all together within a time.

    :param ctx: ends them
    :param seconds: for all of them
    """

    def __init__(self, ctx: _context.Context, seconds: float) -> None:
        self._execute = brick.module(_ROOTWRAP, ctx.conf).execute
        self._ctx = ctx
        self._seconds = seconds
        self._end = time.monotonic() + seconds

    def __call__(self, *command: str, **how: typing.Any) -> typing.Any:
        self._ctx.check()
        left = self._end - time.monotonic()
        if left <= 0:
            raise exceptions.Unavailable(
                f'mounting took more than {self._seconds:g} seconds'
            )
        return self._execute(*command, **{**how, 'timeout': left})


def _reason(share: _share.Share, exc: Exception) -> exceptions.TransferError:
    text = ' '.join(str(exc).split())
    said = text.lower()
    kind = next(
        (kind for words, kind in _REASONS if words in said),
        exceptions.AttachError,
    )
    return kind(f'{share.where}: mounting {share.export} failed: {text}')
