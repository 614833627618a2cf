# SPDX-License-Identifier: Apache-2.0
"""What is written to stderr: whole lines, one status line, no secrets."""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Iterator
import contextlib
import os
import re
import threading
import typing
import urllib.parse

# A shorter secret is no secret, and would be found everywhere.
_SHORTEST = 4
_URL = re.compile(
    r"""([A-Za-z][A-Za-z0-9+.-]*://)  # scheme
        ([^\s/?#'"]*@)?               # login
        ([^\s?#'"]*)                  # host and path
        (\?(?!\*\*\*)[^\s'"]*)?       # query
    """,
    re.VERBOSE,
)


class Console:
    """Writes to stderr; may be used by several threads.

    The library redacts what it says. This is for what others say: parsers
    that repeat an argument, libraries that repeat a URL in an exception.

    :param stream: stderr
    """

    def __init__(self, stream: typing.TextIO) -> None:
        self._stream = stream
        self._lock = threading.RLock()
        self._status = ''
        self._hidden: list[str] = []

    @property
    def terminal(self) -> bool:
        """Whether somebody looks at it."""
        return self._stream.isatty()

    @property
    def width(self) -> int:
        """The columns of the terminal at the moment."""
        try:
            found = os.get_terminal_size(self._stream.fileno()).columns
        except (OSError, ValueError):
            found = 0
        return found or 80

    def hide(self, secrets: Iterable[str]) -> None:
        """Never write these."""
        self._hidden.extend(
            secret for secret in secrets if len(secret) >= _SHORTEST
        )
        # One may be part of another.
        self._hidden.sort(key=len, reverse=True)

    def redact(self, text: str) -> str:
        """Text without secrets and without control characters."""
        text = _URL.sub(_without_secrets, text)
        for secret in self._hidden:
            text = text.replace(secret, '***')
        return ''.join(
            each if each.isprintable() else ' ' if each.isspace() else '?'
            for each in text
        )

    def line(self, text: str) -> None:
        """Write one line, above the status line if there is one."""
        with self._lock:
            blank = ' ' * len(self._status)
            start = f'\r{blank}\r' if blank else ''
            self._write(f'{start}{self.redact(text)}\n{self._status}')

    def status(self, text: str) -> None:
        """Write or replace the status line; it stays the last line."""
        with self._lock:
            # Blanks and no escape sequence: that works on any terminal.
            blank = ' ' * (len(self._status) - len(text))
            self._write(f'\r{text}{blank}')
            self._status = text

    def end_status(self) -> None:
        """Leave the status line as it is; what comes next is below."""
        with self._lock:
            if self._status:
                self._status = ''
                self._write('\n')

    def _write(self, text: str) -> None:
        # Whoever has closed stderr does not want to hear about it.
        with contextlib.suppress(OSError, ValueError):
            self._stream.write(text)
            self._stream.flush()


def secrets_in(argument: str) -> Iterator[str]:
    """What must not be repeated of an argument that may be a URL."""
    _scheme, mark, rest = argument.partition('://')
    if not mark:
        return
    before, _mark, query = rest.partition('?')
    yield query
    # Also where the login holds a slash that should have been escaped.
    userinfo, at, _host = before.rpartition('@')
    if at:
        _name, colon, password = userinfo.partition(':')
        secret = password if colon else userinfo
        yield secret
        yield urllib.parse.unquote(secret)
    elif '@' in query:
        yield rest.rpartition('@')[0]


def _without_secrets(match: re.Match[str]) -> str:
    login = '***@' if match[2] else ''
    query = '?***' if match[4] else ''
    return f'{match[1]}{login}{match[3]}{query}'
