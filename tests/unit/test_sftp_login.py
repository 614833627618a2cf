# SPDX-License-Identifier: Apache-2.0
"""Who is shown what, and in which order."""

from __future__ import annotations

import os
import pwd

import paramiko
import pytest

from oslo_transfer import credentials
from oslo_transfer.drivers.sftp import login
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from tests.unit import fakes

URL = 'sftp://files.example/image'
KEY = 'key material'
SECRET = 'correct-horse'


class FakeTransport:
    """A server that wants a way, or several ways one after the other."""

    def __init__(self, *wanted, allowed=None):
        self.wanted = list(wanted)
        self.allowed = allowed or list(wanted)
        self.shown = []

    def is_active(self):
        return True

    def is_authenticated(self):
        return not self.wanted

    def auth_none(self, username):
        self.username = username
        if self.wanted:
            raise paramiko.BadAuthenticationType('no', self.allowed)
        return []

    def _try(self, way, proof):
        self.shown.append((way, proof))
        if not self.wanted or self.wanted[0] != way:
            raise paramiko.AuthenticationException('no')
        self.wanted.pop(0)
        return list(self.wanted)

    def auth_publickey(self, username, key):
        return self._try('publickey', key)

    def auth_password(self, username, password, fallback):
        assert not fallback
        return self._try('password', password)

    def auth_interactive(self, username, handler):
        (answer,) = handler('', '', [('Password: ', False)])
        assert handler('', '', []) == []
        for prompts in ([('Name: ', True)], [('1', False), ('2', False)]):
            with pytest.raises(paramiko.AuthenticationException):
                handler('', '', prompts)
        return self._try('keyboard-interactive', answer)


@pytest.fixture
def identity(conf, monkeypatch):
    """Who we are by some options, a URL and credentials."""
    monkeypatch.setattr(paramiko.PKey, 'from_path', lambda *_args: KEY)

    class Agent:
        def get_keys(self):
            return [f'agent {number}' for number in range(20)]

        def close(self):
            pass

    monkeypatch.setattr(paramiko, 'Agent', Agent)

    def make(url=URL, options=(), **changes):
        for name, value in dict(options).items():
            conf.set_override(name, value, group='oslo_transfer_sftp')
        ctx = fakes.make_ctx(conf, **changes)
        return login.identity(endpoint.parse(url), ctx)

    return make


def test_nothing_is_shown_unasked(identity):
    transport = FakeTransport('publickey', 'password')
    with pytest.raises(exceptions.AccessDenied, match='tried: nothing'):
        identity().log_in(transport)
    assert not transport.shown
    assert transport.username == pwd.getpwuid(os.geteuid()).pw_name


def test_the_order_of_user_names(identity):
    given = credentials.LoginCredentials('given', SECRET)
    url = 'sftp://url@files.example/image'
    for found, expected in (
        (identity(options={'username': 'option'}), 'option'),
        (identity(url), 'url'),
        (identity(url, credentials=given), 'given'),
    ):
        transport = FakeTransport()
        found.log_in(transport)
        assert transport.username == expected


def test_the_order_of_ways(identity):
    transport = FakeTransport(
        'never', allowed=['password', 'publickey', 'keyboard-interactive']
    )
    found = identity(
        f'sftp://me:{SECRET}@files.example/image',
        {'private_key_file': '/key', 'use_agent': True},
    )
    with pytest.raises(exceptions.AccessDenied) as caught:
        found.log_in(transport)
    ways = [way for way, _proof in transport.shown]
    assert transport.shown[0] == ('publickey', KEY)
    assert ways[-2:] == ['password', 'keyboard-interactive']
    # A server hangs up after six.
    assert len(ways) < 8
    text = str(caught.value)
    for name in ('private_key_file', 'agent', 'password', 'publickey'):
        assert name in text
    for secret in (SECRET, 'me:', KEY):
        assert secret not in text


@pytest.mark.parametrize('way', ['password', 'keyboard-interactive'])
def test_a_password_only_by_what_the_server_allows(identity, way):
    transport = FakeTransport(way)
    identity(f'sftp://me:{SECRET}@files.example/image').log_in(transport)
    assert transport.shown == [(way, SECRET)]


def test_two_proofs(identity):
    transport = FakeTransport('publickey', 'password', allowed=['publickey'])
    found = identity(
        f'sftp://me:{SECRET}@files.example/image',
        {'private_key_file': '/key'},
    )
    found.log_in(transport)
    assert transport.shown == [('publickey', KEY), ('password', SECRET)]


def test_a_tenants_host_gets_only_what_its_url_holds(identity):
    transport = FakeTransport('password', allowed=['publickey', 'password'])
    found = identity(
        f'sftp://me:{SECRET}@files.example/image',
        {'private_key_file': '/key', 'use_agent': True},
        trusted=False,
    )
    found.log_in(transport)
    assert transport.shown == [('password', SECRET)]


@pytest.mark.parametrize('content', [None, b'', b'no key'])
def test_a_key_that_cannot_be_used(conf, tmp_path, content):
    path = tmp_path / 'key'
    if content is not None:
        path.write_bytes(content)
    for passphrase in (None, SECRET):
        for name, value in {
            'private_key_file': str(path),
            'private_key_passphrase': passphrase,
        }.items():
            conf.set_override(name, value, group='oslo_transfer_sftp')
        with pytest.raises(exceptions.ConfigurationError) as caught:
            login.identity(endpoint.parse(URL), fakes.make_ctx(conf))
        assert 'private_key_file' in str(caught.value)
        assert SECRET not in str(caught.value)
