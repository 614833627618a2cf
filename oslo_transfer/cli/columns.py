# SPDX-License-Identifier: Apache-2.0
"""Columns that are for people in a table, and raw in all other formats."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import typing

from cliff import columns

from oslo_transfer.cli import units

if typing.TYPE_CHECKING:
    from oslo_transfer.drivers import base

    _Column = columns.FormattableColumn
else:

    class _Column(columns.FormattableColumn):
        """The base class is not generic in older releases of cliff."""

        def __class_getitem__(cls, _item):
            """Return the class itself."""
            return cls


class Text(_Column[str | None]):
    """Text, or a dash."""

    def human_readable(self) -> str:
        """Return the text."""
        return self._value or '-'


class Flag(_Column[bool]):
    """Yes or no."""

    def human_readable(self) -> str:
        """Return the word."""
        return 'yes' if self._value else 'no'


class Seeding(_Column[bool | None]):
    """Whether a file is still given to peers."""

    def human_readable(self) -> str:
        """Return it in words."""
        if self._value is None:
            return '-'
        return 'by the service' if self._value else 'ended with the copy'


class Number(_Column[int | None]):
    """A number, or a dash."""

    def human_readable(self) -> str:
        """Return the number."""
        return '-' if self._value is None else str(self._value)


class Size(_Column[int | None]):
    """A number of bytes."""

    def human_readable(self) -> str:
        """Return it with a unit."""
        return '-' if self._value is None else units.human_size(self._value)


class Seconds(_Column[float]):
    """A time that was measured."""

    def human_readable(self) -> str:
        """Return it with its unit."""
        return f'{self._value:.2f} s'


class Left(_Column[float | None]):
    """Seconds until something ends, or a dash."""

    def human_readable(self) -> str:
        """Return it in minutes, or hours."""
        return '-' if self._value is None else units.human_time(self._value)


class Age(_Column[float]):
    """Seconds since something was used."""

    def human_readable(self) -> str:
        """Return it in the largest unit that fits."""
        return units.human_age(self._value)


class Sizes(_Column[Mapping[str, int]]):
    """Bytes by where they came from."""

    def human_readable(self) -> str:
        """Return them with units."""
        return (
            ', '.join(
                f'{name} {units.human_size(count)}'
                for name, count in self._value.items()
            )
            or '-'
        )


class Names(_Column[Sequence[str]]):
    """A list of words."""

    def human_readable(self) -> str:
        """Return them with spaces between."""
        return ' '.join(self._value) or '-'


class Lines(_Column[Sequence[str]]):
    """A list of sentences."""

    def human_readable(self) -> str:
        """Return one in each line."""
        return '\n'.join(self._value) or '-'


class Rows(_Column[Sequence[Mapping[str, typing.Any]]]):
    """A list of objects, each with a line for people.

    :param value: the objects
    :param lines: the lines
    """

    def __init__(
        self,
        value: Sequence[Mapping[str, typing.Any]],
        lines: Sequence[str],
    ) -> None:
        super().__init__(value)
        self._lines = lines

    def human_readable(self) -> str:
        """Return the lines."""
        return '\n'.join(self._lines) or '-'


class Attached(_Column[Mapping[str, typing.Any] | None]):
    """An attachment."""

    def __init__(self, value: base.Attachment | None) -> None:
        super().__init__(attachment_fields(value) if value else None)

    def human_readable(self) -> str:
        """Return where it is, and its id."""
        if self._value is None:
            return '-'
        return f'{self._value["path"]} ({self._value["id"]})'


#: What is shown of an attachment; ``details`` are its driver's own.
ATTACHMENT_FIELDS = (
    'id',
    'driver',
    'source',
    'form',
    'path',
    'size',
    'read_only',
)


def attachment_fields(value: base.Attachment) -> dict[str, typing.Any]:
    """What is shown of an attachment."""
    return {name: getattr(value, name) for name in ATTACHMENT_FIELDS}
