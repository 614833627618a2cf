# SPDX-License-Identifier: Apache-2.0
"""What requests for images are answered with: RFC 9110.

Nothing is sent here, and nobody is asked: an answer says what is to go out,
as text and as ranges of an image.
"""

from __future__ import annotations

from collections.abc import Sequence
import email.utils
import functools
import http
import re
import secrets
import time
import typing

from oslo_transfer import exceptions
from oslo_transfer.export import exported
from oslo_transfer.export import gate
from oslo_transfer.export import http_message
from oslo_transfer.export import http_ranges

#: Methods that images are asked for with.
READS = ('GET', 'HEAD')
# Seconds after which something that failed may work.
_RETRY_AFTER = 5
_TAGS = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
# Why somebody is refused. More special ones come first.
_REASONS: Sequence[tuple[type[exceptions.TransferError], int]] = (
    (exceptions.NotFound, 404),
    (exceptions.InvalidEndpoint, 400),
    (exceptions.PolicyRefused, 403),
    (exceptions.AccessDenied, 403),
    (exceptions.SourceChanged, 502),
)
# What says who asks.
_PROOFS = ('authorization', 'proxy-authorization', 'x-auth-token')
# Of answers that have no body (RFC 9110, 6.4.1).
_EMPTY = (204, 304)
_TYPE = 'Content-Type: application/octet-stream\r\n'
# A browser that shows pages of this server must not run what images have.
_NO_SCRIPT = 'X-Content-Type-Options: nosniff\r\n'


class Part(typing.NamedTuple):
    """Text, and bytes of the image behind it.

    :ivar text: goes out first
    :ivar start: the first byte of the image
    :ivar end: the one behind the last
    """

    text: bytes
    start: int = 0
    end: int = 0


class Answer(typing.NamedTuple):
    """What goes out.

    :ivar status: for the statistics
    :ivar parts: what is sent, in order; the first begins with the headers
    :ivar image: whose bytes they are, None without any
    :ivar keep: the connection goes on afterwards
    """

    status: int
    parts: Sequence[Part]
    image: exported.Exported | None
    keep: bool


def answer(request: http_message.Request, image: exported.Exported) -> Answer:
    """Answer who asks for an image with GET or HEAD."""
    head = request.head
    fields, etag = head.fields, f'"{image.etag}"'
    # In this order: RFC 9110, 13.2.2.
    if 'if-match' in fields and not _fits(
        fields['if-match'], etag, strong=True
    ):
        return error(412, 'the image is another one', request)
    if 'if-none-match' in fields and _fits(fields['if-none-match'], etag):
        text = _text(304, f'ETag: {etag}\r\n', request)
        return Answer(304, [Part(text)], None, head.keep)
    # A date never fits: no image has one. HEAD has no ranges.
    if (
        request.range is not None
        and head.method == 'GET'
        and fields.get('if-range', etag) == etag
    ):
        spans = http_ranges.spans(request.range, image.size)
        if spans is not None:
            return _ranges(spans, request, image)
    more = f'Content-Length: {image.size}\r\n{_TYPE}{_about(image)}'
    end = image.size if head.method == 'GET' else 0
    part = Part(_text(200, more, request), 0, end)
    return Answer(200, [part], image, head.keep)


def _ranges(
    spans: list[http_ranges.Span],
    request: http_message.Request,
    image: exported.Exported,
) -> Answer:
    if not spans:
        return error(
            416,
            f'the image has {image.size} bytes',
            request,
            f'Content-Range: bytes */{image.size}\r\n',
        )
    if len(spans) > 1:
        return _multipart(spans, request, image)
    start, end = spans[0]
    more = (
        f'Content-Length: {end - start}\r\n'
        f'Content-Range: bytes {start}-{end - 1}/{image.size}\r\n'
        f'{_TYPE}{_about(image)}'
    )
    part = Part(_text(206, more, request), start, end)
    return Answer(206, [part], image, request.head.keep)


def _about(image: exported.Exported) -> str:
    return f'ETag: "{image.etag}"\r\nAccept-Ranges: bytes\r\n{_NO_SCRIPT}'


def _multipart(
    spans: list[http_ranges.Span],
    request: http_message.Request,
    image: exported.Exported,
) -> Answer:
    """Each range with headers of its own: RFC 9110, 14.6."""
    boundary = secrets.token_hex(16)
    parts = [
        Part(
            (
                f'\r\n--{boundary}\r\n{_TYPE}'
                f'Content-Range: bytes {start}-{end - 1}/{image.size}\r\n\r\n'
            ).encode(),
            start,
            end,
        )
        for start, end in spans
    ]
    parts.append(Part(f'\r\n--{boundary}--\r\n'.encode()))
    length = sum(len(text) + end - start for text, start, end in parts)
    text = _text(
        206,
        f'Content-Length: {length}\r\n'
        f'Content-Type: multipart/byteranges; boundary={boundary}\r\n'
        f'{_about(image)}',
        request,
    )
    parts[0] = parts[0]._replace(text=text + parts[0].text)
    return Answer(206, parts, image, request.head.keep)


def page(found: gate.Page, request: http_message.Request) -> Answer:
    """An answer that is no image."""
    head, data = request.head, found.data
    more = ''.join(f'{k}: {v}\r\n' for k, v in found.headers.items())
    if found.status not in _EMPTY:
        more += (
            f'Content-Type: {found.content_type}\r\n'
            f'Content-Length: {len(data)}\r\n'
        )
    text = _text(found.status, more, request)
    if found.status not in _EMPTY and head.method != 'HEAD':
        text += data
    return Answer(found.status, [Part(text)], None, head.keep)


def error(
    status: int,
    why: str,
    request: http_message.Request | None,
    more: str = '',
) -> Answer:
    """An answer that says what is wrong.

    :param request: None where what came is none: the connection ends
    :param more: headers
    """
    body = f'{why}\n'.encode(errors='replace')
    text = _text(
        status,
        f'{more}Content-Type: text/plain; charset=utf-8\r\n{_NO_SCRIPT}'
        f'Content-Length: {len(body)}\r\n',
        request,
    )
    if request is None or request.head.method != 'HEAD':
        text += body
    keep = request is not None and request.head.keep
    return Answer(status, [Part(text)], None, keep)


def refused(
    why: exceptions.TransferError, request: http_message.Request
) -> Answer:
    """An answer to who may not have it, or cannot; see :class:`gate.Gate`."""
    for kind, status in _REASONS:
        if isinstance(why, kind):
            break
    else:
        status = 503 if why.retryable else 502
    more = ''
    if status == 503:
        more = f'Retry-After: {_RETRY_AFTER}\r\n'
    elif isinstance(why, exceptions.AccessDenied) and (
        why.unproven or request.head.fields.keys().isdisjoint(_PROOFS)
    ):
        status, more = 401, 'WWW-Authenticate: Bearer\r\n'
    return error(status, str(why), request, more)


def busy(request: http_message.Request) -> Answer:
    """An answer where there is no memory for the one that there is."""
    more = f'Retry-After: {_RETRY_AFTER}\r\n'
    return error(503, 'too much is being sent from here', request, more)


def failed(
    why: exceptions.TransferError, request: http_message.Request
) -> Answer:
    """An answer where the image cannot be had; it names no origin."""
    if why.retryable:
        more = f'Retry-After: {_RETRY_AFTER}\r\n'
        return error(503, 'the image cannot be had now', request, more)
    return error(502, 'the image cannot be had', request)


def _fits(tags: str, etag: str, *, strong: bool = False) -> bool:
    """Whether a list of tags has one, or is ``*``."""
    if tags == '*':
        return True
    found = _TAGS.findall(tags)
    if strong:
        return etag in found
    return etag in (tag.removeprefix('W/') for tag in found)


def _text(
    status: int, more: str, request: http_message.Request | None
) -> bytes:
    """First line and headers."""
    if request is None or not request.head.keep:
        more += 'Connection: close\r\n'
    elif request.head.old:
        more += 'Connection: keep-alive\r\n'
    if request is not None:
        more += f'X-Request-Id: {request.id}\r\n'
    date = _date(int(time.time()))
    text = f'{_LINES[status]}Date: {date}\r\n{more}\r\n'
    return text.encode('latin-1', 'replace')


_LINES = {
    status.value: f'HTTP/1.1 {status.value} {status.phrase}\r\n'
    for status in http.HTTPStatus
}


@functools.lru_cache(1)
def _date(now: int) -> str:
    """A time as headers have it; made once a second."""
    return email.utils.formatdate(now, usegmt=True)
