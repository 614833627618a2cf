# SPDX-License-Identifier: Apache-2.0
"""Secrets of a proxy: read again when they change, and never shown."""

from __future__ import annotations

import os

import pytest

from oslo_transfer import exceptions
from oslo_transfer.service.proxy import access as _access
from oslo_transfer.service.proxy import opts
from oslo_transfer.service.proxy import tokens


@pytest.fixture
def path(tmp_path):
    path = tmp_path / 'secrets'
    path.write_text('# of the hosts\nalpha\n\nbeta\n')
    return path


def change(path, text):
    """Also where the clock stands still."""
    before = path.stat().st_mtime_ns
    path.write_text(text)
    os.utime(path, ns=(before + 1, before + 1))


def test_tokens(path):
    found = tokens.Tokens(str(path), 'tokens_file')
    assert found.has('alpha') and found.has('beta')
    for other in ('', 'alph', 'alphaa', '# of the hosts', '\xe4'):
        assert not found.has(other)


def test_tokens_are_read_again(path):
    found = tokens.Tokens(str(path), 'tokens_file')
    assert not found.look()
    change(path, 'gamma\n')
    assert found.look() and not found.look()
    assert found.has('gamma') and not found.has('alpha')
    change(path, '')
    assert found.look()
    assert not found.has('gamma') and not found.has('')


@pytest.mark.parametrize('text', ['geheim und offen\n', '\xe4\n', 'a' * 5000])
def test_what_cannot_be_used_changes_nothing(path, text, caplog):
    found = tokens.Tokens(str(path), 'tokens_file')
    change(path, text)
    assert not found.look()
    assert found.has('alpha')
    assert 'tokens_file' in caplog.text and 'geheim' not in caplog.text
    caplog.clear()
    # It is said once.
    assert not found.look() and not caplog.text
    path.unlink()
    assert not found.look() and found.has('alpha')
    change_back = 'delta\n'
    path.write_text(change_back)
    assert found.look() and found.has('delta')


def test_what_cannot_be_used_at_first(tmp_path):
    with pytest.raises(exceptions.ConfigurationError, match='tokens_file'):
        tokens.Tokens(str(tmp_path / 'missing'), 'tokens_file')


def test_one_token(path):
    with pytest.raises(exceptions.ConfigurationError, match='one line'):
        tokens.Token(str(path), 'upstream_token_file')
    path.write_text('alpha\n')
    assert tokens.Token(str(path), 'upstream_token_file').value == 'alpha'


def test_headers(path):
    path.write_text('X-Auth-Token: geheim\n# more\nX-Other:a b\n')
    found = tokens.Headers(str(path), 'origin_headers_file')
    assert found.value == {'X-Auth-Token': 'geheim', 'X-Other': 'a b'}
    for text in ('geheim\n', 'Host: geheim\n', 'Range: bytes=geheim\n'):
        path.write_text(text)
        with pytest.raises(exceptions.ConfigurationError) as caught:
            tokens.Headers(str(path), 'origin_headers_file')
        assert 'geheim' not in str(caught.value)


def test_bearer():
    assert tokens.bearer('Bearer alpha') == 'alpha'
    assert tokens.bearer('bearer  alpha') == 'alpha'
    for field in (None, '', 'Bearer', 'Bearer ', 'Basic alpha', 'Bearer a b'):
        assert tokens.bearer(field) is None


# Who may what


@pytest.fixture
def make(conf, tmp_path):
    def make(**options):
        for name, value in options.items():
            if name.endswith('_file'):
                file = tmp_path / name
                file.write_text(value)
                value = str(file)
            conf.set_override(name, value, group=opts.GROUP)
        return _access.Access(conf[opts.GROUP])

    return make


def shown(token, name='proxy-authorization'):
    return {name: f'Bearer {token}'}


def test_readers_need_no_token_by_default(make):
    make().check_reader({})


def test_readers_need_a_token(make):
    access = make(tokens_file='alpha\n', admin_tokens_file='root\n')
    access.check_reader(shown('alpha'))
    access.check_reader(shown('root'))
    # What is for the origin is none for the proxy.
    for fields in ({}, shown('beta'), shown('alpha', 'authorization')):
        with pytest.raises(exceptions.AccessDenied) as caught:
            access.check_reader(fields)
        assert 'beta' not in str(caught.value)


def test_admins(make):
    access = make(tokens_file='alpha\n', admin_tokens_file='root\n')
    for change in (True, False):
        for name in ('authorization', 'proxy-authorization'):
            assert access.may_manage(shown('root', name), change=change)
        for fields in ({}, shown('beta')):
            with pytest.raises(exceptions.AccessDenied):
                access.may_manage(fields, change=change)
    assert access.may_manage(shown('alpha'), change=False)
    with pytest.raises(exceptions.AccessDenied):
        access.may_manage(shown('alpha'), change=True)


def test_without_admins_nothing_changes(make):
    access = make(tokens_file='alpha\n')
    assert not access.may_manage({}, change=True)
    assert not access.may_manage(shown('alpha'), change=True)
    assert access.may_manage(shown('alpha'), change=False)


def test_anybody_may_look_where_anybody_may_read(make):
    access = make(admin_tokens_file='root\n')
    assert access.may_manage({}, change=False)
    with pytest.raises(exceptions.AccessDenied):
        access.may_manage({}, change=True)


FIELDS = {
    'authorization': 'Basic eA==',
    'x-auth-token': 'geheim',
    'proxy-authorization': 'Bearer alpha',
    'cookie': 'a=b',
    'host': 'proxy.example',
}


def test_the_caller_is_shown_to_the_origin(make):
    access = make()
    assert access.proof_of(FIELDS) == {
        'Authorization': 'Basic eA==',
        'X-Auth-Token': 'geheim',
    }
    given = {'Proxy-Authorization': 'a', 'X-Mine': 'b', 'Range': 'c'}
    assert access.proof(given) == {'X-Mine': 'b'}


def test_tokens_for_the_proxy_are_not_shown_to_the_origin(make):
    """Not even where they were put in the wrong place."""
    access = make(tokens_file='alpha\n', admin_tokens_file='root\n')
    for token in ('alpha', 'root'):
        assert access.proof_of(shown(token, 'authorization')) == {}
    assert access.proof_of(shown('other', 'authorization')) == {
        'Authorization': 'Bearer other'
    }


def test_the_proxy_is_shown_to_the_origin(make):
    access = make(
        origin_identity='own', origin_headers_file='X-Auth-Token: own\n'
    )
    assert access.proof_of(FIELDS) == {'X-Auth-Token': 'own'}
    assert access.proof({'X-Mine': 'b'}) == {'X-Auth-Token': 'own'}


def test_nobody_is_shown_to_the_origin(make):
    access = make(origin_identity='none')
    assert access.proof_of(FIELDS) == {} == access.proof({'X-Mine': 'b'})


def test_options_that_do_not_fit(make):
    with pytest.raises(exceptions.ConfigurationError):
        make(origin_identity='own')
    with pytest.raises(exceptions.ConfigurationError):
        make(origin_identity='none', origin_headers_file='X-Auth-Token: own\n')
