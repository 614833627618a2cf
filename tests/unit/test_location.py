# SPDX-License-Identifier: Apache-2.0
"""A location names a place, keeps its secrets, and is named once."""

from __future__ import annotations

import dataclasses
import pathlib
import threading

import pytest

import oslo_transfer
from oslo_transfer import credentials
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import location

URL = 'https://user:s3cr3t@host.example/image?token=s3cr3t'


def test_location_is_trusted_unless_said_otherwise():
    found = oslo_transfer.Location('http://host/')
    assert found.trusted
    assert found.credentials is found.connection_info is None
    assert found.weight == 0
    assert not found.zeroed
    assert found.metadata == {}


@pytest.mark.parametrize('show', [str, repr, '{}'.format, '{!r}'.format])
def test_location_never_shows_a_secret(show):
    found = oslo_transfer.Location(
        URL,
        metadata={'password': 's3cr3t'},
        credentials=oslo_transfer.LoginCredentials('s3cr3t', 's3cr3t'),
        connection_info={'data': {'auth_password': 's3cr3t'}},
    )
    assert 's3cr3t' not in show(found)
    assert 's3cr3t' not in show([found, {'a': found}])
    assert 'host.example/image' in show(found)


def test_malformed_location_shows_nothing():
    found = oslo_transfer.Location('http://user:s3cr3t@@host/')
    assert 's3cr3t' not in str(found) + repr(found)


def test_location_cannot_be_changed():
    found = oslo_transfer.Location('http://host/')
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.trusted = False


@pytest.mark.parametrize(
    'value', ['/a/b', pathlib.Path('/a/b'), oslo_transfer.Location('/a/b')]
)
def test_paths_become_locations(value):
    assert location.as_location(value).endpoint.path == '/a/b'


@pytest.mark.parametrize(
    'value', [None, 5, b'/a/b', object(), {}, ['/a'], '', 'http://']
)
def test_what_names_nothing_is_refused(value):
    with pytest.raises(exceptions.InvalidEndpoint):
        location.as_location(value)


def test_bytes_path_object_is_refused():
    class Bytes:
        def __fspath__(self):
            return b'/a'

    with pytest.raises(exceptions.InvalidEndpoint):
        location.as_location(Bytes())


def test_malformed_location_is_refused():
    with pytest.raises(exceptions.InvalidEndpoint):
        location.as_location(oslo_transfer.Location('http://a b/'))


def test_unique_keeps_the_first_and_the_order():
    # Nova appends direct_url to the locations, without their metadata.
    first = oslo_transfer.Location('http://b/', metadata={'store': 'x'})
    others = [oslo_transfer.Location('http://a/'), first]
    again = oslo_transfer.Location('http://b/')
    found = location.unique([first, *others, again])
    assert found == (first, others[0])
    assert found[0].metadata == {'store': 'x'}


def test_unique_keeps_other_credentials():
    login = credentials.LoginCredentials('user', 'password')
    plain, mine = (
        oslo_transfer.Location('http://b/', credentials=each)
        for each in (None, login)
    )
    again = oslo_transfer.Location('http://b/', credentials=login)
    assert location.unique([plain, mine, again]) == (plain, mine)


# Credentials


@pytest.mark.parametrize(
    'value',
    [
        credentials.Credentials(),
        credentials.LoginCredentials('s3cr3t', 's3cr3t'),
        credentials.TokenCredentials('s3cr3t', lambda: 's3cr3t'),
    ],
)
def test_credentials_never_show_themselves(value):
    assert 's3cr3t' not in f'{value} {value!r}'


def test_bare_credentials_prove_nothing():
    bare = credentials.Credentials()
    assert bare.headers() == {}
    assert bare.login() is None
    assert not bare.refresh()


def test_login():
    login = credentials.LoginCredentials('user', 'password')
    assert login.login() == ('user', 'password')
    assert login.headers() == {}
    assert not login.refresh()


def test_token_without_renewal_is_final():
    token = credentials.TokenCredentials('one')
    assert token.headers() == {'X-Auth-Token': 'one'}
    assert token.login() is None
    assert not token.refresh()


def test_token_is_renewed():
    token = credentials.TokenCredentials('one', lambda: 'two')
    token.headers()
    assert token.refresh()
    assert token.headers() == {'X-Auth-Token': 'two'}


def test_header_of_a_token_can_be_named():
    token = credentials.TokenCredentials('one', header='Authorization')
    assert token.headers() == {'Authorization': 'one'}


def test_token_is_renewed_once_for_all_streams_that_saw_it_refused():
    given = []

    def renew():
        given.append(None)
        return f'new-{len(given)}'

    token = credentials.TokenCredentials('old', renew)
    barrier = threading.Barrier(3)
    outcomes = []

    def stream():
        token.headers()
        barrier.wait(5)  # By now all have sent the old one.
        outcomes.append(token.refresh())

    threads = [threading.Thread(target=stream) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(5)
    assert outcomes == [True, True, True]
    assert len(given) == 1
    assert token.headers() == {'X-Auth-Token': 'new-1'}


def test_failed_renewal_leaves_the_token_as_it_was():
    def renew():
        raise LookupError('keystone is away')

    token = credentials.TokenCredentials('one', renew)
    token.headers()
    with pytest.raises(LookupError):
        token.refresh()
    assert token.headers() == {'X-Auth-Token': 'one'}


def test_connection_info_makes_another_location():
    """Journals and waiting copies must not take one LUN for another."""
    url = 'iscsi://portal/iqn.x/1'

    def end(lun, **more):
        info = {'data': {'target_luns': [lun], **more}}
        found = oslo_transfer.Location(url, connection_info=info)
        return ends.LocationEnd(found, found.endpoint, driver=None)

    assert end(1).identity == end(1, auth_password='x').identity
    assert end(1).identity != end(2).identity
    both = [end(1).location, end(2).location]
    assert location.unique(both) == tuple(both)
