# SPDX-License-Identifier: Apache-2.0
"""Who may ask the proxy, and as whom it asks the origins."""

from __future__ import annotations

from collections.abc import Mapping
import typing

from oslo_transfer import exceptions
from oslo_transfer.service.proxy import opts
from oslo_transfer.service.proxy import tokens

#: What proves to an origin who asks, in requests for images.
PROOF = ('Authorization', 'X-Auth-Token')
_CALLER, _OWN = 'caller', 'own'


class Access:
    """Decides by tokens. Thread-safe.

    :param group: the options of the proxy
    :raises ConfigurationError: they do not fit together, or a file cannot
        be used
    """

    def __init__(self, group: typing.Any) -> None:
        self._readers = _tokens(group, 'tokens_file')
        self._admins = _tokens(group, 'admin_tokens_file')
        self._identity = group.origin_identity
        path = group.origin_headers_file
        if (self._identity == _OWN) != (path is not None):
            raise exceptions.ConfigurationError(
                f'[{opts.GROUP}] origin_headers_file is for origin_identity '
                f'= own, and for nothing else'
            )
        self._own = (
            tokens.Headers(path, 'origin_headers_file') if path else None
        )

    @property
    def needs_tokens(self) -> bool:
        """Whether readers of images have to show one."""
        return self._readers is not None

    def look(self) -> bool:
        """Read files that have changed; returns whether any has."""
        files = (self._readers, self._admins, self._own)
        changed = [each.look() for each in files if each is not None]
        return any(changed)

    def check_reader(self, fields: Mapping[str, str]) -> None:
        """See whether one may read images.

        :param fields: headers, with names in lower case
        :raises AccessDenied: he may not
        """
        if self._readers is None:
            return
        token = tokens.bearer(fields.get('proxy-authorization'))
        if token is None:
            raise exceptions.AccessDenied(
                'this proxy wants a token: "Proxy-Authorization: Bearer TOKEN"'
            )
        if not (self._readers.has(token) or self._is_admin(token)):
            raise exceptions.AccessDenied('this proxy does not know the token')

    def may_manage(self, fields: Mapping[str, str], *, change: bool) -> bool:
        """Whether one may use the control API over TCP.

        :param fields: headers, with names in lower case
        :returns: False where nobody may
        :raises AccessDenied: he may not
        """
        shown = [
            token
            for name in ('authorization', 'proxy-authorization')
            if (token := tokens.bearer(fields.get(name))) is not None
        ]
        if any(map(self._is_admin, shown)):
            return True
        if change:
            if self._admins is None:
                return False
        elif self._readers is None or any(map(self._readers.has, shown)):
            return True
        raise exceptions.AccessDenied(
            'a token is needed: "Authorization: Bearer TOKEN", one of '
            f'[{opts.GROUP}] admin_tokens_file'
        )

    def _is_admin(self, token: str) -> bool:
        return self._admins is not None and self._admins.has(token)

    def proof_of(self, fields: Mapping[str, str]) -> Mapping[str, str]:
        """What the origin is shown for a request.

        :param fields: headers, with names in lower case
        """
        return self.proof(
            {
                name: fields[name.lower()]
                for name in PROOF
                if name.lower() in fields
            }
        )

    def proof(self, headers: Mapping[str, str]) -> Mapping[str, str]:
        """What the origin is shown for one who has given headers for it."""
        if self._own is not None:
            return self._own.value
        if self._identity != _CALLER:
            return {}
        return {
            name: value
            for name, value in headers.items()
            if name.lower() not in tokens.NOT_FOR_ORIGINS
            and not self._is_ours(value)
        }

    def _is_ours(self, value: str) -> bool:
        """Whether somebody has put a token for us in the wrong place."""
        token = tokens.bearer(value)
        return token is not None and any(
            each is not None and each.has(token)
            for each in (self._readers, self._admins)
        )


def _tokens(group: typing.Any, option: str) -> tokens.Tokens | None:
    path = group[option]
    return tokens.Tokens(path, option) if path else None
