# SPDX-License-Identifier: Apache-2.0
"""What the catalogue of bad NBD servers is made of."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import typing

from tests.servers import nbd_session

Session = nbd_session.Session

#: Several requests of one stream: see Evil.blocks.
SIZE = 256 * 1024

OK = 'ok'
FAIL = 'fail'


class Evil(Session):
    """A session with requests of at most 64 KiB."""

    blocks = (1, 4096, 64 * 1024)


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to misbehave, and what a good client makes of it."""

    id: str
    title: str
    session: type[Session]
    #: 'ok' or 'fail', with no facts known, and with a digest.
    expect: str
    with_digest: str
    #: Names of the error's class: what it must be.
    errors: frozenset[str]
    #: What the error has to say.
    says: str
    #: What is right as well where no digest excludes it.
    version: Callable[[bytes], bytes] | None

    @property
    def runs(self) -> tuple[str, ...]:
        """Return what the caller knows, as far as it makes a difference."""
        # With a digest several streams may share, and be joined.
        if self.expect == OK or 'NotResumable' in self.errors:
            return ('none', 'digest')
        return ('none',)

    def right(self, data: bytes) -> set[bytes]:
        """Return what counts as right."""
        return {data, self.version(data)} if self.version else {data}


ROWS: dict[str, Row] = {}
UPLOADS: dict[str, Row] = {}

AnySession = typing.TypeVar('AnySession', bound=type[Session])


def row(
    key: str,
    title: str,
    errors: str = '',
    *,
    says: str = '',
    version: Callable[[bytes], bytes] | None = None,
    rows: dict[str, Row] = ROWS,
) -> Callable[[AnySession], AnySession]:
    """Register a session.

    :param errors: names of the errors that it has to end with; none if
        it has to work. With a version they are for a copy with a digest.
    """
    expect = OK if version or not errors else FAIL

    def register(cls: AnySession) -> AnySession:
        assert key not in rows, key
        rows[key] = Row(
            key,
            title,
            cls,
            expect,
            FAIL if errors else OK,
            frozenset(errors.split()),
            says,
            version,
        )
        return cls

    return register


def replaced(
    method: str, key: str, title: str, errors: str = '', **fields: typing.Any
) -> Callable[[Callable[..., typing.Any]], None]:
    """Register a session with one method replaced by what is decorated."""

    def register(function: Callable[..., typing.Any]) -> None:
        cls = type('Replaced', (Evil,), {method: function})
        row(key, title, errors, **fields)(cls)

    return register


def changed(
    key: str, title: str, errors: str = '', **attributes: typing.Any
) -> None:
    """Register a session with attributes replaced."""
    row(key, title, errors)(type('Changed', (Evil,), attributes))
