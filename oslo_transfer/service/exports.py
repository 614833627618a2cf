# SPDX-License-Identifier: Apache-2.0
"""What the service exports, on disk, so that a restart goes on with it.

A directory for each, named after it. It has the socket, and a file
``record`` that is written before anything is started: a JSON object with a
version. What has to stay secret is in a file ``secret`` beside it: after a
restart nobody else is there to give it. Both can be read by the service's
user alone, like the passwords that the initiator of the kernel keeps.
"""

from __future__ import annotations

import abc
from collections.abc import Mapping
import contextlib
import json
import logging
import os
import re
import typing

from oslo_transfer import accounts
from oslo_transfer.drivers import localfs
from oslo_transfer import exceptions
from oslo_transfer import oserrors
from oslo_transfer.service import listening
from oslo_transfer import statefile

LOG = logging.getLogger(__name__)

_NAME = re.compile('[0-9a-f]{32}')
_RECORD = 'record'
_SECRET = 'secret'  # noqa: S105 (the name of a file)


class Record(typing.Protocol):
    """One export."""

    @property
    def id(self) -> str:
        """Its name: 32 hexadecimal digits."""


_R = typing.TypeVar('_R', bound=Record)


class Records(abc.ABC, typing.Generic[_R]):
    """The records in one directory, which is this process's alone.

    :param directory: is made if needed
    :param gid: whose members may connect to the sockets, or None
    :raises Unavailable: another process uses it
    :raises TransferError: it cannot be used
    """

    #: Of the records; others are refused.
    version: typing.ClassVar[int]
    #: Of the directories. Nobody can list them, and the files have their own.
    mode: typing.ClassVar[int] = 0o700
    #: Files that :meth:`remove` finds in a directory besides its own.
    files: typing.ClassVar[tuple[str, ...]]

    def __init__(self, directory: str, gid: int | None) -> None:
        self._directory = directory
        self._gid = gid
        with oserrors.os_errors(f'making {directory}'):
            os.makedirs(directory, mode=0o700, exist_ok=True)
            # Others get through to the sockets, whatever the umask.
            if gid is not None or self.mode != 0o700:
                os.chmod(directory, 0o711)  # noqa: S103 (no listing)
        self._lock = listening.Lock(os.path.join(directory, 'lock'), directory)

    @abc.abstractmethod
    def encode(self, record: _R) -> Mapping[str, typing.Any]:
        """What can be shown of a record, in JSON types."""

    @abc.abstractmethod
    def secret(self, record: _R) -> str | None:
        """What cannot be shown of it."""

    @abc.abstractmethod
    def decode(
        self, name: str, fields: Mapping[str, typing.Any], secret: str | None
    ) -> _R:
        """The record that they were made of.

        :raises ValueError: it makes no sense; also KeyError, TypeError and
            TransferError
        """

    def close(self) -> None:
        """Let another process use the directory."""
        self._lock.close()

    def path(self, identifier: str) -> str:
        """The directory of one export."""
        return os.path.join(self._directory, identifier)

    def load(self) -> list[_R]:
        """All records that can be used.

        What was cut short while it was made is removed.

        :raises StorageError: the directory cannot be read
        """
        with oserrors.os_errors(f'reading {self._directory}'):
            names = sorted(os.listdir(self._directory))
        found = []
        for name in names:
            if not _NAME.fullmatch(name):
                continue
            path = self.path(name)
            if not os.path.exists(os.path.join(path, _RECORD)):
                self.remove(name)
                continue
            try:
                found.append(self._load(name))
            except statefile.UNUSABLE as exc:
                LOG.warning('the record in %s cannot be used: %s', path, exc)
        return found

    def _load(self, name: str) -> _R:
        path = self.path(name)
        fields = json.loads(_read(path, _RECORD))
        if not isinstance(fields, dict):
            raise ValueError('it is no JSON object')
        if fields['version'] != self.version:
            raise ValueError(
                f'version {fields["version"]} is not {self.version}'
            )
        secret = None
        with contextlib.suppress(FileNotFoundError):
            secret = _read(path, _SECRET)
        return self.decode(name, fields, secret)

    def add(self, record: _R) -> None:
        """Make the directory and the record, durably.

        :raises InvalidEndpoint: its name is none
        :raises AlreadyExists: there is one of that name
        :raises TransferError: it cannot be written
        """
        if not _NAME.fullmatch(record.id):
            raise exceptions.InvalidEndpoint('"id" is no attachment')
        path = self.path(record.id)
        secret = self.secret(record)
        with oserrors.os_errors(f'making {path}'):
            os.mkdir(path, 0o700)
        try:
            with oserrors.os_errors(f'writing to {path}'):
                os.chmod(path, self.mode)
                if self._gid is not None:
                    accounts.give(path, None, self._gid)
                    os.chmod(path, 0o710)  # noqa: S103 (no listing)
                if secret is not None:
                    statefile.write(
                        os.path.join(path, _SECRET), secret.encode()
                    )
            self.save(record)
            with oserrors.os_errors(f'writing to {path}'):
                localfs.sync_directory(self._directory)
        except BaseException:
            self.remove(record.id)
            raise

    def save(self, record: _R) -> None:
        """Write a record anew, but for its secret; durably.

        :raises TransferError: it cannot be written
        """
        fields = {'version': self.version, **self.encode(record)}
        path = self.path(record.id)
        with oserrors.os_errors(f'writing to {path}'):
            data = json.dumps(fields).encode()
            statefile.write(os.path.join(path, _RECORD), data)

    def drop_secret(self, identifier: str) -> None:
        """Nobody needs the secret of a record any more.

        :raises TransferError: it cannot be removed
        """
        path = os.path.join(self.path(identifier), _SECRET)
        with (
            oserrors.os_errors(f'removing {path}'),
            contextlib.suppress(FileNotFoundError),
        ):
            os.unlink(path)

    def open_up(self, identifier: str, name: str) -> None:
        """Let the group connect to a socket, once it is there."""
        path = os.path.join(self.path(identifier), name)
        with oserrors.os_errors(f'changing {path}'):
            os.chmod(path, 0o600 if self._gid is None else 0o660)
            accounts.give(path, None, self._gid)

    def remove(self, identifier: str) -> None:
        """Take a record and its directory away; idempotent.

        :raises TransferError: it cannot be removed
        """
        path = self.path(identifier)
        # The record is the last of its own, so that a restart tries again.
        # Nothing else is touched, for a damaged one may name anything.
        new = (_SECRET + statefile.NEW, _RECORD + statefile.NEW)
        with oserrors.os_errors(f'removing {path}'):
            for name in (_SECRET, *new, *self.files, _RECORD):
                with contextlib.suppress(
                    FileNotFoundError, NotADirectoryError
                ):
                    os.unlink(os.path.join(path, name))
            with contextlib.suppress(FileNotFoundError):
                os.rmdir(path)


def _read(path: str, name: str) -> str:
    with open(os.path.join(path, name)) as file:
        return file.read()
