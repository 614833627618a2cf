# SPDX-License-Identifier: Apache-2.0
"""The head of an HTTP answer, and how long its body is (RFC 9112)."""

from __future__ import annotations

import dataclasses
import http.client
import io
import re
import typing

from oslo_transfer import exceptions
from oslo_transfer import sockets


# Any number of them may come before an answer (RFC 9110, 15.2). 101 may
# not, for nothing is asked for that it could stand for.
INFORMATIONAL = frozenset({100, *range(102, 200)})


class Continue(Exception):  # noqa: N818
    """The server wants the body, or asks for patience."""


class Response(http.client.HTTPResponse):
    """An answer whose head is read strictly and within bounds.

    :param watched: the connection; not closed by this object
    :param method: of the request
    """

    def __init__(self, watched: sockets.WatchedSocket, method: str) -> None:
        super().__init__(typing.cast(typing.Any, watched), method=method)
        self._watched = watched
        self._where = watched.where
        self._reader = typing.cast(
            sockets.WatchedReader, typing.cast(typing.Any, self.fp).raw
        )
        #: Raise :class:`Continue` for these; others below 200 are skipped.
        self.interim = frozenset({100} if method == 'PUT' else ())

    @property
    def buffered(self) -> io.BufferedReader:
        """What is read next from the connection."""
        return self.fp

    @property
    def watched(self) -> sockets.WatchedSocket:
        """The connection."""
        return self._watched

    def arrived_within(self, seconds: float) -> bool:
        """Whether an answer begins to arrive in time."""
        return self._watched.readable_within(seconds)

    def arrived(self) -> bool:
        """Whether bytes are there that nobody has read."""
        return self.holds_more() or self._watched.unread()

    def holds_more(self) -> bool:
        """Whether bytes were read from the connection and not from here."""
        # A raw read would block; with a budget of 0 it raises.
        budget, self._reader.budget = self._reader.budget, 0
        try:
            return bool(self.buffered.peek(1))
        except exceptions.ProtocolError:
            return False
        finally:
            self._reader.budget = budget

    def read_head(self) -> None:
        """Read the status line and the headers.

        :raises ProtocolError: they are malformed or too long
        :raises Unavailable: the connection ended before they did
        :raises Continue: the server wants the body first
        """
        try:
            self.begin()
        except Continue:
            raise
        except (http.client.HTTPException, ValueError, OSError) as exc:
            raise translate(exc, self._where) from exc
        if self._reader.at_end:
            # http.client takes a cut-off head for a complete one.
            raise exceptions.Unavailable(
                f'{self._where}: the connection ended within the headers of '
                f'the answer'
            )
        if self.headers.defects or any(
            '\x00' in value for value in self.headers.values()
        ):
            raise exceptions.ProtocolError(
                f'{self._where}: the answer has malformed headers'
            )
        self._reader.budget = None

    def _read_status(self) -> tuple[str, int, str]:
        while True:
            found: tuple[str, int, str] = super()._read_status()  # type: ignore[misc]
            if found[1] not in INFORMATIONAL:
                return found
            while self.fp.readline(65537).strip():
                pass
            if found[1] in self.interim:
                raise Continue


def translate(exc: Exception, where: str) -> exceptions.TransferError:
    """The library's error for what ``http.client`` raises."""
    if isinstance(exc, exceptions.TransferError):
        return exc
    if isinstance(exc, http.client.RemoteDisconnected | OSError):
        return exceptions.Unavailable(
            f'{where}: the connection ended before an answer came'
        )
    return exceptions.ProtocolError(
        f'{where}: not understood ({type(exc).__name__})'
    )


@dataclasses.dataclass(frozen=True)
class Framing:
    """How the end of a body is known.

    :ivar length: its bytes, or None
    :ivar chunked: it comes in chunks; without both it lasts until the
        connection ends
    """

    length: int | None
    chunked: bool


def framing(headers: http.client.HTTPMessage) -> Framing:
    """How the end of the body is known (RFC 9112, 6.3).

    Anything that two readers could understand differently is refused.

    :raises ProtocolError: it is contradictory, malformed or encoded
    """
    encodings = headers.get_all('Content-Encoding', [])
    if any(value.strip().lower() != 'identity' for value in encodings):
        raise exceptions.ProtocolError(
            'the server encodes the body (Content-Encoding), though it was '
            'asked not to'
        )
    transfer = headers.get_all('Transfer-Encoding')
    lengths = headers.get_all('Content-Length')
    if transfer is not None:
        if lengths is not None or [
            value.strip().lower() for value in transfer
        ] != ['chunked']:
            raise exceptions.ProtocolError(
                'contradictory or unknown Transfer-Encoding'
            )
        return Framing(None, True)
    if lengths is None:
        return Framing(None, False)
    values = {part.strip() for value in lengths for part in value.split(',')}
    value = values.pop()
    if values or not re.fullmatch(r'[0-9]{1,18}', value):
        raise exceptions.ProtocolError(
            'malformed or contradictory Content-Length'
        )
    return Framing(int(value), False)


@dataclasses.dataclass(frozen=True)
class ContentRange:
    """A Content-Range header: first and last byte, and the whole size."""

    first: int
    last: int
    total: int | None


def content_range(value: str | None) -> ContentRange:
    """Parse a Content-Range (RFC 9110, 14.4).

    :raises ProtocolError: it is missing or malformed
    """
    match = re.fullmatch(
        r'bytes +([0-9]{1,18})-([0-9]{1,18})/([0-9]{1,18}|\*)',
        (value or '').strip(),
    )
    if match is None:
        raise exceptions.ProtocolError(
            'a partial answer without a valid Content-Range'
        )
    first, last = int(match.group(1)), int(match.group(2))
    total = None if match.group(3) == '*' else int(match.group(3))
    if last < first or (total is not None and last >= total):
        raise exceptions.ProtocolError('an impossible Content-Range')
    return ContentRange(first, last, total)
