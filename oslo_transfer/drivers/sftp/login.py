# SPDX-License-Identifier: Apache-2.0
"""Who we are to a server, and how to show it."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import functools
import os
import pwd
import typing

import paramiko

from oslo_transfer.drivers.sftp import opts
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context
    from oslo_transfer import endpoint as _endpoint

# OpenSSH's server hangs up after six attempts.
_MAX_AGENT_KEYS = 4


class Identity:
    """A user name and what proves it.

    :param host: the server, for messages
    :param username: shown in no message
    :param password: or None
    :param key: a private key, or None
    :param use_agent: offer the agent's keys, too
    """

    def __init__(
        self,
        host: str,
        username: str,
        password: str | None,
        key: paramiko.PKey | None,
        use_agent: bool,
    ) -> None:
        self._host = host
        self._username = username
        self._password = password
        self._key = key
        self._use_agent = use_agent

    def log_in(self, transport: paramiko.Transport) -> None:
        """Try what there is, in order, until the server is satisfied.

        :raises AccessDenied: it is not
        """
        tried: list[str] = []
        try:
            # The answer is the list of what the server allows.
            allowed = transport.auth_none(self._username) or []
        except paramiko.BadAuthenticationType as exc:
            allowed = exc.allowed_types
        for name, method, attempt in self._ways(transport):
            if transport.is_authenticated():
                return
            if method not in allowed:
                continue
            tried.append(name)
            try:
                # What is still needed after a part of it succeeded.
                allowed = attempt() or allowed
            except paramiko.BadAuthenticationType as exc:
                allowed = exc.allowed_types
            except paramiko.AuthenticationException:
                if not transport.is_active():
                    break
        if not transport.is_authenticated():
            raise exceptions.AccessDenied(
                f'{self._host} refuses the login; tried: '
                f'{", ".join(dict.fromkeys(tried)) or "nothing"}; '
                f'the server allows: {", ".join(allowed) or "nothing"}'
            )

    def _ways(
        self, transport: paramiko.Transport
    ) -> Iterator[tuple[str, str, Callable[[], typing.Any]]]:
        user = self._username
        key, password = self._key, self._password
        if key is not None:
            yield (
                'private_key_file',
                'publickey',
                lambda: transport.auth_publickey(user, key),
            )
        if self._use_agent:
            agent = paramiko.Agent()
            try:
                for each in agent.get_keys()[:_MAX_AGENT_KEYS]:
                    yield (
                        'a key of the agent',
                        'publickey',
                        functools.partial(
                            transport.auth_publickey, user, each
                        ),
                    )
            finally:
                agent.close()
        if password is not None:
            yield (
                'password',
                'password',
                lambda: transport.auth_password(
                    user, password, fallback=False
                ),
            )
            yield (
                'keyboard-interactive',
                'keyboard-interactive',
                lambda: transport.auth_interactive(user, self._answer),
            )

    def _answer(
        self, _title: str, _text: str, prompts: list[tuple[str, bool]]
    ) -> list[str]:
        """The password where one thing is asked for, and is not shown."""
        if not prompts:
            return []
        assert self._password is not None
        if len(prompts) > 1 or prompts[0][1]:
            raise paramiko.AuthenticationException('not a password prompt')
        return [self._password]


def identity(endpoint: _endpoint.Endpoint, ctx: _context.Context) -> Identity:
    """Who to be at an endpoint.

    The location's credentials come before the URL's userinfo, and that
    before the options. A host that a tenant names is shown neither the
    configured key nor the agent's.

    :raises ConfigurationError: the key cannot be used
    """
    group = ctx.conf.oslo_transfer_sftp
    username, password = ctx.login(endpoint) or ('', '')
    return Identity(
        endpoint.host,
        username or group.username or pwd.getpwuid(os.geteuid()).pw_name,
        password or None,
        _load_key(group) if ctx.trusted and group.private_key_file else None,
        ctx.trusted and group.use_agent,
    )


def _load_key(group: typing.Any) -> paramiko.PKey:
    path = os.path.expanduser(group.private_key_file)
    passphrase = group.private_key_passphrase
    try:
        return paramiko.PKey.from_path(
            path, passphrase.encode() if passphrase else None
        )
    except Exception as exc:
        # By the kind of the key it is one of many, and a text may quote
        # what was read.
        reason = exc.strerror if isinstance(exc, OSError) else ''
        if not reason:
            reason = (
                'it is no private key that can be read'
                if passphrase
                else 'it is no private key, or private_key_passphrase is '
                'missing'
            )
        raise exceptions.ConfigurationError(
            f'[{opts.GROUP}] private_key_file {path} cannot be used: {reason}'
        ) from None
