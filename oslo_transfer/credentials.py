# SPDX-License-Identifier: Apache-2.0
"""What proves the caller's identity to one origin."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import threading
import typing


class Credentials:
    """Proof of identity for the origin of one location.

    A driver sends it to that origin only, never along a redirect to
    another scheme, host or port. Subclasses override what they can give.
    All methods may be called by several threads at once.
    """

    def headers(self) -> Mapping[str, str]:
        """Headers to send with each request to the origin."""
        return {}

    def login(self) -> tuple[str, str] | None:
        """User name and password, or None."""
        return None

    def refresh(self) -> bool:
        """Get fresh credentials after the origin refused these.

        May block for as long as the identity service takes.

        :returns: True if there is anything new to try
        """
        return False

    def __repr__(self) -> str:
        return f'<{type(self).__name__}>'


class LoginCredentials(Credentials):
    """A user name and a password."""

    def __init__(self, username: str, password: str) -> None:
        self._login = (username, password)

    def login(self) -> tuple[str, str] | None:
        """User name and password."""
        return self._login


class TokenCredentials(Credentials):
    """A token in a header, as Keystone gives them; it can be renewed.

    :param token: the token in use at first
    :param renew: called without arguments when the origin refuses the
        token; returns a new one. Without it a refused token is final.
    :param header: the header that carries the token
    """

    def __init__(
        self,
        token: str,
        renew: Callable[[], str] | None = None,
        header: str = 'X-Auth-Token',
    ) -> None:
        self._token = token
        self._renew = renew
        self._header = header
        self._lock = threading.Lock()
        self._used: typing.Any = threading.local()

    def headers(self) -> Mapping[str, str]:
        """The token's header."""
        with self._lock:
            self._used.token = self._token
            return {self._header: self._token}

    def refresh(self) -> bool:
        """Renew the token, once for all streams that saw it refused."""
        if self._renew is None:
            return False
        with self._lock:
            if self._token == getattr(self._used, 'token', None):
                self._token = self._renew()
            return True
