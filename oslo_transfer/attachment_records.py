# SPDX-License-Identifier: Apache-2.0
"""Attachments, and their records, which outlive the process.

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
        "sharing": ...,
        "boot": ...,
    }

``sharing`` says what attachments of one object have in common (one LUN,
one device): these are made and taken away one after the other, under a
lock file, and the last one takes it away. A record without a path is of an
attempt that was cut short. Nothing but records outlives a boot.

A record of another version, or one that cannot be read, is reported and
left alone: what it stands for may still be there.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import dataclasses
import hashlib
import json
import logging
import os
import threading
import typing
import uuid

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import lockfile
from oslo_transfer import opts
from oslo_transfer import oserrors
from oslo_transfer import statefile

LOG = logging.getLogger(__name__)

_VERSION = 1
_BOOT_ID = '/proc/sys/kernel/random/boot_id'


@dataclasses.dataclass(frozen=True)
class Record:
    """What the file of an attachment says.

    :ivar attachment: without a path until it is complete
    :ivar sharing: the driver's key
    :ivar boot: the boot in which it was made
    """

    attachment: base.Attachment
    sharing: str | None
    boot: str

    @property
    def complete(self) -> bool:
        """Whether attaching came to its end."""
        return bool(self.attachment.path)


class Records:
    """The records on this host, in one state directory.

    :param ctx: names the directory
    """

    def __init__(self, ctx: _context.Context) -> None:
        state = ctx.conf.oslo_transfer.state_path or opts.default_state_path()
        self.directory = os.path.join(state, 'attachments')

    def all(self) -> list[Record]:
        """All that can be read.

        :raises StorageError: the directory cannot be read
        """
        try:
            names = sorted(os.listdir(self.directory))
        except FileNotFoundError:
            return []
        except OSError as exc:
            raise oserrors.translate(exc, f'reading {self.directory}') from exc
        identifiers = [
            name.removesuffix('.json')
            for name in names
            if name.endswith('.json')
        ]
        found = (self.get(identifier) for identifier in identifiers)
        return [each for each in found if each is not None]

    def get(self, identifier: str) -> Record | None:
        """One record; None if there is none that can be used."""
        path = self.path(identifier)
        try:
            return _read(path)
        except FileNotFoundError:
            return None
        except (
            OSError,
            ValueError,
            KeyError,
            TypeError,
            AttributeError,
            RecursionError,
        ) as exc:
            LOG.warning('the record %s cannot be used: %s', path, exc)
            return None

    def write(self, record: Record) -> None:
        """Keep a record, durably."""
        path = self.path(record.attachment.id)
        fields = {
            field.name: getattr(record.attachment, field.name)
            for field in dataclasses.fields(record.attachment)
            if not field.name.startswith('_')
        }
        document = {
            'version': _VERSION,
            **fields,
            'sharing': record.sharing,
            'boot': record.boot,
        }
        with oserrors.os_errors(f'writing {path}'):
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
            statefile.write(path, json.dumps(document).encode())

    def remove(self, identifier: str) -> None:
        """Forget one; idempotent."""
        path = self.path(identifier)
        with (
            oserrors.os_errors(f'removing {path}'),
            contextlib.suppress(FileNotFoundError),
        ):
            os.unlink(path)

    @contextlib.contextmanager
    def turn(
        self, sharing: str | None, ctx: _context.Context
    ) -> Iterator[None]:
        """Wait until nobody else attaches or detaches the same.

        :raises TransferCancelled: or DeadlineExceeded, while it waits
        """
        if sharing is None:
            yield
            return
        name = hashlib.sha256(sharing.encode()).hexdigest()[:32]
        with oserrors.os_errors(f'creating {self.directory}'):
            os.makedirs(self.directory, mode=0o700, exist_ok=True)
        with lockfile.held(os.path.join(self.directory, f'{name}.lock'), ctx):
            yield

    def sharers(self, sharing: str | None, but: str) -> list[Record]:
        """The other records of this boot with the same key."""
        if sharing is None:
            return []
        boot = _boot()
        return [
            each
            for each in self.all()
            if each.sharing == sharing
            and each.boot == boot
            and each.attachment.id != but
        ]

    def path(self, identifier: str) -> str:
        """The file of one."""
        return os.path.join(self.directory, f'{identifier}.json')


def attach(
    driver: base.Driver, endpoint: _endpoint.Endpoint, ctx: _context.Context
) -> base.Attachment:
    """Attach an object, and keep a record of it.

    :param ctx: of this end: its identity, its trust
    :raises CapabilityMissing: its driver cannot attach
    :raises AttachError: it did not work
    """
    if base.Capability.ATTACH not in driver.capabilities:
        raise exceptions.CapabilityMissing(
            f'the {driver.name} driver cannot attach'
        )
    ctx.check()
    records = Records(ctx)
    sharing = driver.sharing(endpoint, ctx)
    pending = base.Attachment(
        id=uuid.uuid4().hex,
        driver=endpoint.scheme,
        source=str(endpoint),
        form='',
        path='',
        size=None,
        read_only=not ctx.writing,
    )
    with records.turn(sharing, ctx):
        shared = _shared(driver, records, pending, sharing, ctx)
        if shared is None:
            made = _attach(driver, endpoint, records, pending, sharing, ctx)
        else:
            made = dataclasses.replace(shared, id=pending.id)
        made = dataclasses.replace(
            made, driver=endpoint.scheme, source=str(endpoint)
        )
        try:
            records.write(Record(made, sharing, _boot()))
        except exceptions.TransferError:
            if shared is None:
                driver.detach(made, _later(ctx), True)
            records.remove(made.id)
            raise
    return dataclasses.replace(
        made, _detach=_detacher(lambda _scheme: driver, records, _later(ctx))
    )


def _attach(
    driver: base.Driver,
    endpoint: _endpoint.Endpoint,
    records: Records,
    pending: base.Attachment,
    sharing: str | None,
    ctx: _context.Context,
) -> base.Attachment:
    def record(details: Mapping[str, typing.Any]) -> None:
        noted = dataclasses.replace(pending, details=details)
        records.write(Record(noted, sharing, _boot()))

    try:
        made = driver.attach(endpoint, ctx, record)
    except BaseException as exc:
        # What is left can be detached by its record.
        if not (isinstance(exc, exceptions.AttachError) and exc.leftovers):
            records.remove(pending.id)
        raise
    return dataclasses.replace(made, id=pending.id)


def _shared(
    driver: base.Driver,
    records: Records,
    pending: base.Attachment,
    sharing: str | None,
    ctx: _context.Context,
) -> base.Attachment | None:
    """What another attachment of the same object has made, and is right.

    Attempts that were cut short are cleaned up first: their processes are
    gone, for they would hold the lock.
    """
    sharers = records.sharers(sharing, pending.id)
    complete = [each.attachment for each in sharers if each.complete]
    for each in sharers:
        if not each.complete:
            if not complete:
                driver.detach(each.attachment, _later(ctx), False)
            records.remove(each.attachment.id)
    if not complete:
        return None
    first = complete[0]
    if first.read_only == ctx.writing:
        how = 'reading' if first.read_only else 'writing'
        raise exceptions.AttachError(
            f'{pending.source} is attached for {how} as {first.id}; detach '
            f'that first'
        )
    driver.join(first, ctx)
    return first


def load_all(
    ctx: _context.Context, open_driver: Callable[[str], base.Driver]
) -> list[base.Attachment]:
    """All recorded attachments."""
    records = Records(ctx)
    found = []
    for each in records.all():
        try:
            open_driver(each.attachment.driver)
        except (
            exceptions.DriverNotFound,
            exceptions.DriverLoadError,
        ) as exc:
            LOG.warning(
                'the record %s cannot be used: %s',
                records.path(each.attachment.id),
                exc,
            )
            continue
        detach = _detacher(open_driver, records, ctx)
        found.append(dataclasses.replace(each.attachment, _detach=detach))
    return found


def _later(ctx: _context.Context) -> _context.Context:
    """The limits of a call end with it."""
    return ctx.replace(deadline=None, cancel=None, stop=threading.Event())


def _detacher(
    open_driver: Callable[[str], base.Driver],
    records: Records,
    ctx: _context.Context,
) -> Callable[[base.Attachment, bool], None]:
    def detach(attachment: base.Attachment, force: bool) -> None:
        record = records.get(attachment.id)
        if record is None:
            return
        driver = open_driver(attachment.driver)
        with records.turn(record.sharing, ctx):
            record = records.get(attachment.id)
            if record is None:
                return
            # One that is used by others stays for them.
            if not records.sharers(record.sharing, attachment.id):
                try:
                    driver.detach(record.attachment, ctx, force)
                except exceptions.DetachError as exc:
                    if not exc.leftovers:
                        records.remove(attachment.id)
                    raise
            records.remove(attachment.id)

    return detach


def _boot() -> str:
    """Tells one boot of this host from the next."""
    try:
        with open(_BOOT_ID) as file:
            return file.read().strip()
    except OSError:
        return ''


def _read(path: str) -> Record:
    with open(path) as file:
        fields = json.load(file)
    if not isinstance(fields, dict):
        raise ValueError('it is not a JSON object')
    version = fields.pop('version')
    if version != _VERSION:
        raise ValueError(f'version {version} is not {_VERSION}')
    for name in ('id', 'driver', 'source', 'form', 'path'):
        if not isinstance(fields[name], str):
            raise TypeError(f'{name} is no text')
    if os.path.basename(path) != f'{fields["id"]}.json':
        raise ValueError('it is the record of something else')
    return Record(
        sharing=fields.pop('sharing', None),
        boot=fields.pop('boot', ''),
        attachment=base.Attachment(**fields),
    )
