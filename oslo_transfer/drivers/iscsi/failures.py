# SPDX-License-Identifier: Apache-2.0
"""What targets refuse, and what a caller can do about it."""

from __future__ import annotations

from oslo_transfer.drivers.iscsi import scsi
from oslo_transfer import exceptions


class Broken(exceptions.Unavailable):
    """The session is gone; another one may do what this one has not."""


class News(Exception):  # noqa: N818
    """Something about the unit has changed; never leaves the driver.

    A target tells each session once: of a reset, another size, another
    disk (SAM-5, 5.14).
    """


class SenseError(Exception):
    """A target has refused a command; never leaves the driver.

    :ivar what: what the command was to do
    :ivar key: sense key
    :ivar code: additional sense code and qualifier
    """

    def __init__(self, what: str, key: int, code: int) -> None:
        super().__init__(what, key, code)
        self.what = what
        self.key = key
        self.code = code

    @property
    def unsupported(self) -> bool:
        """Whether the target does not know such a command."""
        return self.key == scsi.ILLEGAL_REQUEST and self.code not in (
            scsi.OUT_OF_RANGE,
            scsi.NO_UNIT,
        )

    def translated(self, where: str) -> exceptions.TransferError:
        """The error for the caller.

        :param where: the redacted endpoint
        """
        text = f'{where}: {self.what} failed'
        detail = f'(SCSI sense {self.key:X}h/{self.code:04X}h)'
        if self.code == scsi.SPACE_ALLOCATION_FAILED:
            return exceptions.NoSpace(
                f'{text}: the storage behind the LUN is full {detail}'
            )
        if self.key == scsi.DATA_PROTECT:
            return exceptions.AccessDenied(
                f'{text}: the LUN is write-protected {detail}'
            )
        if self.code == scsi.OUT_OF_RANGE:
            return exceptions.SourceChanged(
                f'{text}: the LUN has another size than before {detail}'
            )
        if self.code == scsi.NO_UNIT:
            return exceptions.NotFound(
                f'{text}: the target has no such LUN {detail}'
            )
        if self.key in (scsi.MEDIUM_ERROR, scsi.HARDWARE_ERROR):
            return exceptions.StorageError(
                f'{text}: the storage has an error there {detail}'
            )
        if self.key in (scsi.NOT_READY, scsi.ABORTED):
            return exceptions.Unavailable(
                f'{text}: the LUN is not ready {detail}'
            )
        return exceptions.ProtocolError(
            f'{text}: the target does not do that {detail}'
        )
