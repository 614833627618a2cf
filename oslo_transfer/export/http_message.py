# SPDX-License-Identifier: Apache-2.0
"""Requests of HTTP/1.1, read strictly: RFC 9110 and RFC 9112.

What two programs could take for different things - a length given twice or
in two ways, a folded line, a lone CR or LF, a space before a colon - is
refused, and the connection ends. The standard library's parser
(``http.client``, ``email``) takes all of those, and ten times as long.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Mapping
import functools
import re
import typing
import urllib.parse

#: The most bytes of a request's first line with its headers.
MAX_HEAD = 16 * 1024
#: The most bytes of a body.
MAX_BODY = 4 << 20
_MAX_LINE = 8 * 1024
_MAX_FIELDS = 100

_END = b'\r\n\r\n'
_NAME = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_FIRST = rf'({_NAME}) ([!-~]+) HTTP/([0-9])\.([0-9])\r\n'
# Neither a lone CR nor any other control character but the tab.
_VALUE = r'[\t\x20-\x7e\x80-\xff]*'
_HEAD = re.compile(rf'{_FIRST}((?:{_NAME}:{_VALUE}\r\n)*)')
_FIELD = re.compile(rf'({_NAME}):({_VALUE})\r\n')
_LINE = re.compile(_FIRST)
# As nearly all of those who ask for one range write it, on a line of its own.
_RANGE = re.compile(r'\r\nRange: (bytes=[0-9]{1,18}-[0-9]{1,18})(?=\r\n)')
_LONE_LF = re.compile(rb'(?<!\r)\n')
_HOST = re.compile(r"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_ABSOLUTE = re.compile(r'https?://[^/?#]+', re.IGNORECASE)
_ESCAPE = re.compile(r'%(?![0-9A-Fa-f]{2})')
# Names of requests that others gave them, and that fit a line of a log.
_ID = re.compile(r'[0-9A-Za-z][0-9A-Za-z._:/+=@-]{0,127}')
# Those whose targets have other forms, at which nobody looks, are not here.
_METHODS = ('GET', 'HEAD', 'POST', 'DELETE')
_WITH_BODY = ('POST', 'DELETE')
# One of each at most: of two, others might take the other one.
_SINGLE = frozenset(
    (
        'authorization',
        'content-length',
        'expect',
        'host',
        'if-range',
        'proxy-authorization',
        'range',
    )
)

_RARE = ('content-length', 'expect', 'transfer-encoding')


class Refused(Exception):  # noqa: N818
    """A request that is answered with an error; the connection then ends.

    :ivar status: of the answer
    """

    def __init__(self, status: int, why: str) -> None:
        self.status = status
        super().__init__(why)


class Head(typing.NamedTuple):
    """A request without its body, its range and its name.

    :ivar method: as it came
    :ivar target: origin-form with the query, as it came
    :ivar path: decoded, without the query; always begins with a slash
    :ivar fields: by name in lower case; ISO 8859-1
    :ivar old: the client speaks HTTP/1.0
    :ivar keep: the client wants to go on with the connection
    :ivar length: of the body that follows, in bytes
    :ivar id: X-Request-Id where it fits a line of a log, or ''
    """

    method: str
    target: str
    path: str
    fields: Mapping[str, str]
    old: bool
    keep: bool
    length: int
    id: str


class Request(typing.NamedTuple):
    """A request; its body is still to come.

    :ivar head: all but the range
    :ivar range: the value of Range, None without it
    :ivar id: its name in logs
    """

    head: Head
    range: str | None
    id: str

    def last(self) -> Request:
        """The same, but the connection ends behind it."""
        return self._replace(head=self.head._replace(keep=False))


def take(received: bytearray, names: Iterator[str]) -> Request | None:
    """Take a request from the beginning of what was received.

    :param names: for requests that have none
    :returns: None where some of it is still to come
    :raises Refused: it is none that can be answered
    """
    while received.startswith(b'\r\n'):
        # RFC 9112, 2.2: behind the body of a request before.
        del received[:2]
    end = received.find(_END, 0, MAX_HEAD)
    if end < 0:
        _check_part(received)
        return None
    text = received[: end + 2].decode('latin-1')
    del received[: end + 4]
    return parse(text, names)


def _check_part(received: bytearray) -> None:
    """Refuse what cannot become a request, however it goes on."""
    if _LONE_LF.search(received):
        raise Refused(400, 'a line ends with LF alone')
    line = received.find(b'\r\n')
    if (len(received) if line < 0 else line) > _MAX_LINE:
        raise Refused(414, 'the first line is too long')
    if len(received) >= MAX_HEAD:
        raise Refused(431, f'more than {MAX_HEAD} bytes of headers')


def parse(text: str, names: Iterator[str]) -> Request:
    """Take apart a first line and headers, each with its CR LF.

    Clients say the same again and again, but for the range: what is left
    without it is taken apart once.

    :raises Refused: it is none that can be answered
    """
    match = _RANGE.search(text)
    if match is None:
        head = _parse(text)
        span = head.fields.get('range')
    else:
        head = _parse(text[: match.start()] + text[match.end() :])
        if 'range' in head.fields:
            raise Refused(400, 'range is given twice')
        span = match.group(1)
    return Request(head, span, head.id or next(names))


@functools.lru_cache(128)
def _parse(text: str) -> Head:
    match = _HEAD.fullmatch(text)
    if match is None:
        raise _malformed(text)
    method, target, major, minor, lines = match.groups()
    if major != '1':
        raise Refused(505, 'only HTTP/1.0 and HTTP/1.1 are spoken here')
    if len(target) > _MAX_LINE:
        raise Refused(414, 'the first line is too long')
    fields = _fields(_FIELD.findall(lines))
    old = minor == '0'
    host = fields.get('host', '' if old else None)
    if host is None or not _HOST.fullmatch(host):
        raise Refused(400, 'one valid Host is needed')
    length = 0
    if not fields.keys().isdisjoint(_RARE):
        length = _length(method, fields)
    keep = not old
    if 'connection' in fields:
        options = fields['connection'].lower().replace(' ', '').split(',')
        keep = 'close' not in options and (keep or 'keep-alive' in options)
    target = _origin_form(target) if method in _METHODS else '/'
    path, name = _path(target), fields.get('x-request-id', '')
    if not _ID.fullmatch(name):
        name = ''
    return Head(method, target, path, fields, old, keep, length, name)


def _malformed(text: str) -> Refused:
    if _LINE.match(text) is None:
        return Refused(400, 'the first line is no request of HTTP/1.1')
    return Refused(400, 'a header is malformed')


def _fields(pairs: list[tuple[str, str]]) -> dict[str, str]:
    if len(pairs) > _MAX_FIELDS:
        raise Refused(431, f'more than {_MAX_FIELDS} headers')
    fields = {name.lower(): value.strip(' \t') for name, value in pairs}
    if len(fields) == len(pairs):
        return fields
    fields.clear()
    for name, value in pairs:
        name, value = name.lower(), value.strip(' \t')
        if name in fields:
            if name in _SINGLE:
                raise Refused(400, f'{name} is given twice')
            value = f'{fields[name]}, {value}'
        fields[name] = value
    return fields


def _length(method: str, fields: Mapping[str, str]) -> int:
    """How long the body is."""
    if 'transfer-encoding' in fields:
        raise Refused(400, 'no body may come in pieces')
    length = fields.get('content-length', '0')
    # Not what int() would take, such as "+1_000".
    if not (length.isascii() and length.isdigit()):
        raise Refused(400, 'the Content-Length is no number')
    length = length.lstrip('0') or '0'
    # int() would take time for millions of digits.
    if len(length) > len(str(MAX_BODY)) or int(length) > MAX_BODY:
        raise Refused(413, f'no body may have more than {MAX_BODY} bytes')
    if length != '0' and method not in _WITH_BODY:
        raise Refused(413, f'only {" and ".join(_WITH_BODY)} have a body')
    if fields.get('expect', '100-continue').lower() != '100-continue':
        raise Refused(417, 'nothing but 100-continue can be expected')
    return int(length)


def _origin_form(target: str) -> str:
    if not target.startswith('/'):
        # What a client sends to a proxy has to be taken, too.
        origin = _ABSOLUTE.match(target)
        if origin is None:
            raise Refused(400, 'the target is no path')
        target = target[origin.end() :]
        if not target.startswith('/'):
            target = f'/{target}'
    if '#' in target:
        raise Refused(400, 'the target has a fragment')
    return target


def _path(target: str) -> str:
    path = target.partition('?')[0]
    if '%' not in path:
        return path
    if _ESCAPE.search(path):
        raise Refused(400, 'the path has a % that escapes nothing')
    try:
        return urllib.parse.unquote_to_bytes(path).decode()
    except UnicodeDecodeError:
        raise Refused(400, 'the path is not UTF-8') from None
