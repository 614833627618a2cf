# SPDX-License-Identifier: Apache-2.0
"""The status page: what a browser shows of a proxy, without the internet.

Its files say nothing about the proxy. What is shown the page asks of the
control API, as anybody else would, so it goes out to everybody.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
from importlib import resources
import typing

from oslo_transfer.export import gate

#: Where the page is.
HOME = '/status'


class _File(typing.NamedTuple):
    name: str
    content_type: str


_FILES: Mapping[str, _File] = {
    HOME: _File('page.html', 'text/html; charset=utf-8'),
    f'{HOME}/page.css': _File('page.css', 'text/css; charset=utf-8'),
    **{
        f'{HOME}/{name}': _File(name, 'text/javascript; charset=utf-8')
        for name in ('page.js', 'elements.js', 'map.js', 'text.js')
    },
}
# https://www.w3.org/TR/CSP3/ and https://w3c.github.io/trusted-types/
_POLICY = '; '.join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "connect-src 'self'",
        # An icon of no bytes, or browsers ask for one.
        'img-src data:',
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        # No text becomes elements, or a script.
        "require-trusted-types-for 'script'",
        "trusted-types 'none'",
    )
)
_FIELDS: Mapping[str, str] = {
    'Cache-Control': 'no-cache',
    'Content-Security-Policy': _POLICY,
    'Cross-Origin-Resource-Policy': 'same-origin',
    'Referrer-Policy': 'no-referrer',
    'X-Content-Type-Options': 'nosniff',
}


def has(path: str) -> bool:
    """Whether a path is the page's; never blocks."""
    return path == '/' or path in _FILES


def find(method: str, path: str) -> gate.Page | None:
    """What a request for the page is answered with; None where it has none.

    Thread-safe; reads a file at the first time.

    :param path: decoded; ``/`` leads to the page
    """
    if not has(path):
        return None
    if method not in ('GET', 'HEAD'):
        return _text(405, 'only GET and HEAD', {'Allow': 'GET, HEAD'})
    if path == '/':
        return _text(302, 'the page is at /status', {'Location': 'status'})
    file = _FILES[path]
    return gate.Page(200, file.content_type, _read(file.name), _FIELDS)


def _text(status: int, text: str, fields: Mapping[str, str]) -> gate.Page:
    return gate.Page(
        status,
        'text/plain; charset=utf-8',
        f'{text}\n'.encode(),
        {**_FIELDS, **fields},
    )


@functools.cache
def _read(name: str) -> bytes:
    return resources.files(__name__).joinpath(name).read_bytes()
