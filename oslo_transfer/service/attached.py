# SPDX-License-Identifier: Apache-2.0
"""The records of LUNs that the service has attached.

In ``<state_path>/exports``; see :mod:`oslo_transfer.service.exports`. Each
has ``{"version": 1, "lun": {...}, "writing": ..., "added": ...}``, and its
secret is the password for CHAP.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import typing

from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import qemunbd
from oslo_transfer.drivers.iscsi import userspace
from oslo_transfer.service import exports


@dataclasses.dataclass(frozen=True)
class Record:
    """One attachment.

    :ivar id: its name
    :ivar lun: what is attached, with the password
    :ivar writing: whether it takes writes
    :ivar added: when it was asked for, in seconds of the Unix clock
    """

    id: str
    lun: _lun.Lun
    writing: bool
    added: float


class Records(exports.Records[Record]):
    """The records of attachments."""

    version = 1
    files = qemunbd.FILES

    def encode(self, record: Record) -> Mapping[str, typing.Any]:
        """All but the password."""
        return {
            'lun': userspace.as_json(record.lun),
            'writing': record.writing,
            'added': record.added,
        }

    def secret(self, record: Record) -> str | None:
        """The password."""
        return record.lun.password

    def decode(
        self, name: str, fields: Mapping[str, typing.Any], secret: str | None
    ) -> Record:
        """See that it makes sense."""
        writing, added = fields['writing'], fields['added']
        if not isinstance(writing, bool) or not isinstance(added, float | int):
            raise ValueError('a field is of another kind')
        lun = userspace.from_json(fields['lun'], secret)
        return Record(name, lun, writing, float(added))


def describe(record: Record) -> dict[str, typing.Any]:
    """A record for those who ask; without a secret."""
    return {
        'id': record.id,
        'source': record.lun.where,
        'read_only': not record.writing,
    }
