# SPDX-License-Identifier: Apache-2.0
"""Reading by GET, with ranges where the server has them."""

from __future__ import annotations

import email.utils
import http.client
import re
import threading
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.http import body
from oslo_transfer.drivers.http import exchange
from oslo_transfer.drivers.http import message
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

# Seconds by which clocks may differ.
_WRONG = 60
_STRONG_ETAG = re.compile(r'"[\x21\x23-\x7e\x80-\xff]*"')


def validator_of(
    headers: http.client.HTTPMessage,
) -> base.Validator | None:
    """What tells this version from others.

    Last-Modified counts as weak always: two changes within a second look
    the same (RFC 9110, 8.8.2.2).
    """
    etag = headers.get('ETag')
    if etag is not None:
        etag = etag.strip()
        return base.Validator(etag, bool(_STRONG_ETAG.fullmatch(etag)))
    modified = headers.get('Last-Modified')
    if modified is None:
        return None
    return base.Validator(modified, False, _is_fresh(modified, headers))


def _is_fresh(modified: str, headers: http.client.HTTPMessage) -> bool:
    """Whether the second of the last change was not over."""
    try:
        age = int(headers.get('Age', '0')[:12])
        ahead = (
            email.utils.parsedate_to_datetime(modified)
            - email.utils.parsedate_to_datetime(headers.get('Date', ''))
        ).total_seconds() - age
    except (ValueError, TypeError, OverflowError):
        return False
    # What is far ahead was not written just now: a clock is wrong.
    return 0 <= ahead < _WRONG


class HTTPSource(base.Source):
    """An object behind an http or https URL.

    Opening it sends the first GET; the first stream from there uses its
    answer, so a whole copy by one stream is one request. Where it will be
    read piecemeal that GET is for one byte: what a server has begun to send
    is sent in vain when it is not read on. Each further stream is a request
    with a range, pinned to the version that was opened.
    """

    def __init__(
        self, endpoint: _endpoint.Endpoint, ctx: _context.Context
    ) -> None:
        self._endpoint = endpoint
        self._client = exchange.Client(endpoint, ctx)
        self._lock = threading.Lock()
        self._closed = False
        self.capabilities = base.Capability.READ | base.Capability.RANDOM_READ
        self.size = None
        self._first_start = 0
        self._first: body.BodyStream | None = None
        if not (ctx.piecemeal and self._open_piecemeal()):
            self._first = self._open_first(ctx.start)
        self.geometry = base.Geometry()

    def _open_piecemeal(self) -> bool:
        """Ask for one byte; returns whether that is how it can be read."""
        answer = self._get({'Range': 'bytes=0-0'})
        if answer.status != 206:
            # It is empty, or not for us; or there are no ranges.
            if answer.status in (200, 400, 501):
                self.capabilities &= ~base.Capability.RANDOM_READ
            answer.close()
            return False
        try:
            found = message.content_range(answer.headers.get('Content-Range'))
            if found.total is None:
                raise exceptions.ProtocolError(
                    f'{self._endpoint}: the server does not say how many '
                    f'bytes there are'
                )
            self.size = found.total
            self.validator = validator_of(answer.headers)
            with self._range_body(answer, 0, 1) as stream:
                stream.readinto(bytearray(1))
        except BaseException:
            answer.close()
            raise
        return True

    def _open_first(self, start: int) -> body.BodyStream | None:
        answer = self._get({'Range': f'bytes={start}-'} if start else {})
        if start and answer.status in (400, 416, 501):
            # Too short by now, or no ranges at all: take it from zero.
            if answer.status != 416:
                self.capabilities &= ~base.Capability.RANDOM_READ
            answer.close()
            start = 0
            answer = self._get({})
        try:
            if answer.status == 206 and start:
                return self._first_range(answer, start)
            self._expect(answer, 200)
            framing = message.framing(answer.headers)
            self.size = framing.length
            self.delimited = framing.chunked or self.size is not None
            self.validator = validator_of(answer.headers)
            accepted = answer.headers.get('Accept-Ranges', '').lower()
            # Saying nothing does not mean no (RFC 9110, 14.3); Glance
            # says nothing. The first range asked for will show.
            if start or accepted.strip() == 'none' or self.size is None:
                self.capabilities &= ~base.Capability.RANDOM_READ
            return body.BodyStream(answer, framing, None, str(self._endpoint))
        except BaseException:
            answer.close()
            raise

    def _first_range(
        self, answer: exchange.Answer, start: int
    ) -> body.BodyStream:
        found = message.content_range(answer.headers.get('Content-Range'))
        if found.total is None or found.last != found.total - 1:
            raise exceptions.ProtocolError(
                f'{self._endpoint}: a range to the end was asked for, '
                f'{found.first}-{found.last} came'
            )
        self.size = found.total
        self.validator = validator_of(answer.headers)
        self._first_start = start
        return self._range_body(answer, start, found.total - start)

    def _get(self, headers: dict[str, str]) -> exchange.Answer:
        answer = self._client.open('GET', headers)
        assert isinstance(answer, exchange.Answer)
        return answer

    def _expect(self, answer: exchange.Answer, status: int) -> None:
        if answer.status == status:
            return
        if 200 <= answer.status < 300:
            raise exceptions.ProtocolError(
                f'{self._endpoint}: the server answers {answer.status} '
                f'where {status} is due'
            )
        raise exchange.error_for(
            answer.status, answer.headers, str(self._endpoint)
        )

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """The body of the first GET, or a new request with a range."""
        with self._lock:
            if self._closed:
                raise exceptions.TransferCancelled(
                    f'{self._endpoint}: the source was closed'
                )
            if self._ends_before(offset, length):
                return base.EmptyStream()
            first, self._first = self._first, None
        if first is not None:
            if offset == self._first_start and length in (
                None,
                self._whole_rest(offset),
            ):
                return first
            if offset == self._first_start:
                return _Limited(
                    first, typing.cast(int, length), str(self._endpoint)
                )
            first.close()
        if offset or base.Capability.RANDOM_READ in self.capabilities:
            return self._range(offset, length)
        answer = self._get({})
        try:
            return self._whole(answer, length)
        except BaseException:
            answer.close()
            raise

    def _ends_before(self, offset: int, length: int | None) -> bool:
        """Whether there is nothing to ask for: HTTP has no empty range."""
        if self.size is None:
            return length == 0
        end = self.size if length is None else offset + length
        if not 0 <= offset <= end <= self.size:
            raise exceptions.SourceChanged(
                f'{self._endpoint} has {self.size} bytes; {offset}..{end} '
                f'were asked for'
            )
        return offset == end

    def _whole_rest(self, offset: int) -> int | None:
        return None if self.size is None else self.size - offset

    def _whole(
        self, answer: exchange.Answer, length: int | None
    ) -> base.Stream:
        """The body of an answer that is the whole object once more."""
        self._expect(answer, 200)
        self._check_version(answer, validator_of(answer.headers))
        framing = message.framing(answer.headers)
        if framing.length != self.size:
            raise exceptions.SourceChanged(
                f'{self._endpoint}: it had {self.size} bytes and has '
                f'{framing.length} now'
            )
        stream = body.BodyStream(answer, framing, None, str(self._endpoint))
        if length is None or length == self.size:
            return stream
        return _Limited(stream, length, str(self._endpoint))

    def _range(self, offset: int, length: int | None) -> base.Stream:
        if base.Capability.RANDOM_READ not in self.capabilities:
            raise exceptions.CapabilityMissing(
                f'{self._endpoint}: the server gives no ranges'
            )
        if length is None:
            rest = self._whole_rest(offset)
            assert rest is not None
            length = rest
        headers = {'Range': f'bytes={offset}-{offset + length - 1}'}
        if self.validator is not None and self.validator.strong:
            headers['If-Range'] = self.validator.value
        answer = self._get(headers)
        try:
            if answer.status == 206:
                return self._range_body(answer, offset, length)
            if answer.status == 416:
                raise exceptions.SourceChanged(
                    f'{self._endpoint}: the server has nothing at byte '
                    f'{offset} any more'
                )
            if answer.status == 200:
                self._check_version(answer, validator_of(answer.headers))
            elif answer.status not in (400, 501):
                self._expect(answer, 206)
            self.capabilities &= ~base.Capability.RANDOM_READ
            if answer.status == 200 and offset == 0:
                return self._whole(answer, length)
            if offset == 0:
                answer.close()
                return self.stream(offset, length)
            raise exceptions.CapabilityMissing(
                f'{self._endpoint}: the server gives no ranges; it answers '
                f'{answer.status}'
            )
        except BaseException:
            answer.close()
            raise

    def _range_body(
        self, answer: exchange.Answer, offset: int, length: int
    ) -> body.BodyStream:
        found = message.content_range(answer.headers.get('Content-Range'))
        if found.total not in (None, self.size):
            raise exceptions.SourceChanged(
                f'{self._endpoint}: it had {self.size} bytes and has '
                f'{found.total} now'
            )
        self._check_version(answer, validator_of(answer.headers))
        if (found.first, found.last) != (offset, offset + length - 1):
            raise exceptions.ProtocolError(
                f'{self._endpoint}: bytes {offset}-{offset + length - 1} '
                f'were asked for, {found.first}-{found.last} came'
            )
        framing = message.framing(answer.headers)
        if framing.length not in (None, length):
            raise exceptions.ProtocolError(
                f'{self._endpoint}: a range of {length} bytes has a '
                f'Content-Length of {framing.length}'
            )
        return body.BodyStream(answer, framing, length, str(self._endpoint))

    def _check_version(
        self, answer: exchange.Answer, found: base.Validator | None
    ) -> None:
        if self.validator is not None and found != self.validator:
            raise exceptions.SourceChanged(
                f'{self._endpoint}: the server has another version now'
            )

    def close(self) -> None:
        """Drop the first answer if nobody used it."""
        with self._lock:
            self._closed = True
            first, self._first = self._first, None
        if first is not None:
            first.close()
        self._client.close()


class _Limited(base.Stream):
    """The start of a longer stream."""

    def __init__(self, stream: base.Stream, length: int, where: str) -> None:
        super().__init__()
        self._stream = stream
        self._left = length
        self._where = where

    @property
    def waited(self) -> float:  # type: ignore[override]
        return self._stream.waited

    def readinto(self, buffer: typing.Any) -> int:
        view = memoryview(buffer).cast('B')[: self._left]
        count = self._stream.readinto(view) if view else 0
        self._check_early_end(count)
        self._left -= count
        return count

    def splice(self, fd: int, offset: int, count: int) -> int | None:
        count = min(count, self._left)
        moved = self._stream.splice(fd, offset, count) if count else 0
        if moved is not None:
            self._check_early_end(moved)
            self._left -= moved
        return moved

    def _check_early_end(self, count: int) -> None:
        if not count and self._left:
            raise exceptions.SourceChanged(
                f'{self._where}: it ends {self._left} bytes before the end '
                f'of what was asked for'
            )

    def close(self) -> None:
        self._stream.close()
        super().close()
