# SPDX-License-Identifier: Apache-2.0
"""Records of attachments, which outlive the process that made them.

One JSON file for each, in ``<state_path>/attachments``, written before
anything is done that would have to be undone::

    {
        "version": 1,
        "id": ...,
        "driver": ...,
        "source": ...,
        "form": ...,
        "path": ...,
        "size": ...,
        "read_only": ...,
        "details": {...},
    }

A record of another version, or one that cannot be read, is reported and
left alone: what it stands for may still be there.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import contextlib
import dataclasses
import json
import logging
import os
import typing
import uuid

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import opts
from oslo_transfer import oserrors

LOG = logging.getLogger(__name__)

_VERSION = 1


def _directory(ctx: _context.Context) -> str:
    state = ctx.conf.oslo_transfer.state_path or opts.default_state_path()
    return os.path.join(state, 'attachments')


def attach(end: ends.LocationEnd, ctx: _context.Context) -> base.Attachment:
    """Attach an object, and keep a record of it.

    :raises CapabilityMissing: its driver cannot attach
    :raises AttachError: it did not work
    """
    identifier = uuid.uuid4().hex
    path = os.path.join(_directory(ctx), f'{identifier}.json')
    pending = base.Attachment(
        id=identifier,
        driver=end.endpoint.scheme,
        source=str(end),
        form='',
        path='',
        size=None,
    )

    def record(details: Mapping[str, typing.Any]) -> None:
        _write(path, dataclasses.replace(pending, details=details))

    end_ctx = end.context(ctx)
    try:
        made = end.driver.attach(end.endpoint, end_ctx, record)
    except BaseException:
        _remove(path)
        raise
    # The limits of this call end with it.
    later = end_ctx.replace(deadline=None, cancel=None)
    attachment = dataclasses.replace(
        made,
        id=identifier,
        driver=end.endpoint.scheme,
        _detach=_detacher(end.driver, later, path),
    )
    try:
        _write(path, attachment)
    except exceptions.TransferError:
        attachment.detach(force=True)
        raise
    return attachment


def load_all(
    ctx: _context.Context, open_driver: Callable[[str], base.Driver]
) -> list[base.Attachment]:
    """All recorded attachments."""
    directory = _directory(ctx)
    try:
        names = sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
    except OSError as exc:
        raise oserrors.translate(exc, f'reading {directory}') from exc
    found = []
    for name in names:
        if not name.endswith('.json'):
            continue
        path = os.path.join(directory, name)
        try:
            attachment = _read(path)
            driver = open_driver(attachment.driver)
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            RecursionError,
            exceptions.DriverNotFound,
            exceptions.DriverLoadError,
        ) as exc:
            LOG.warning('the record %s cannot be used: %s', path, exc)
            continue
        found.append(
            dataclasses.replace(
                attachment, _detach=_detacher(driver, ctx, path)
            )
        )
    return found


def _detacher(
    driver: base.Driver, ctx: _context.Context, path: str
) -> Callable[[base.Attachment, bool], None]:
    def detach(attachment: base.Attachment, force: bool) -> None:
        driver.detach(attachment, ctx, force)
        _remove(path)

    return detach


def _read(path: str) -> base.Attachment:
    with open(path) as file:
        fields = json.load(file)
    if not isinstance(fields, dict):
        raise ValueError('it is not a JSON object')
    version = fields.pop('version')
    if version != _VERSION:
        raise ValueError(f'version {version} is not {_VERSION}')
    return base.Attachment(**fields)


def _write(path: str, attachment: base.Attachment) -> None:
    fields = {
        field.name: getattr(attachment, field.name)
        for field in dataclasses.fields(attachment)
        if not field.name.startswith('_')
    }
    directory = os.path.dirname(path)
    with oserrors.os_errors(f'writing {path}'):
        os.makedirs(directory, mode=0o700, exist_ok=True)
        temporary = path + '.new'
        with open(
            os.open(
                temporary,
                os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW,
                0o600,
            ),
            'w',
        ) as file:
            json.dump({'version': _VERSION, **fields}, file)
            file.flush()
            os.fsync(file.fileno())
        os.rename(temporary, path)
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(fd)
        finally:
            os.close(fd)


def _remove(path: str) -> None:
    with (
        oserrors.os_errors(f'removing {path}'),
        contextlib.suppress(FileNotFoundError),
    ):
        os.unlink(path)
