# SPDX-License-Identifier: Apache-2.0
"""What an ftp URL names, and what of it may be sent."""

from __future__ import annotations

import urllib.parse

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer import context
from oslo_transfer import credentials
from oslo_transfer.drivers.ftp import names
from oslo_transfer import endpoint
from oslo_transfer import exceptions

SECRET = 's3cr3t'


def path_of(url):
    return names.path_of(endpoint.parse(url))


@pytest.mark.parametrize(
    ('url', 'path'),
    [
        ('ftp://h/file', 'file'),
        ('ftp://h/dir/file', 'dir/file'),
        ('ftp://h/%2Fetc/file', '/etc/file'),
        ('ftp://h//etc/file', '/etc/file'),
        ('ftp://h/a%20b%23%3F', 'a b#?'),
        ('ftp://h/file;type=i', 'file'),
        ('ftp://h/file;TYPE=I', 'file'),
        ('ftp://h/file;version=2', 'file;version=2'),
        ('ftp://h/%3Btype=a', ';type=a'),
        ('ftp://h/%C3%A9', 'é'),
        ('ftp://h/é', 'é'),
        ('ftp://h/%FF', '\udcff'),
    ],
)
def test_path(url, path):
    """A path is relative to the login; %2F makes it absolute."""
    assert path_of(url) == path


@pytest.mark.parametrize(
    'url',
    [
        'ftp://h',
        'ftp://h/',
        'ftp://h/dir/',
        'ftp://h/dir%2F',
        'ftp://h/;type=i',
        'ftp://h/file;type=a',
        'ftp://h/file;type=d',
        'ftp://h/file;type=',
        f'ftp://h/file?{SECRET}',
        'ftp://h/file?',
        'ftp://h/file%0D%0ADELE%20x',
        'ftp://h/file%0A',
        'ftp://h/file%0D',
        'ftp://h/file%00.img',
    ],
)
def test_no_path(url):
    """What names no file, or cannot be sent, is refused."""
    with pytest.raises(exceptions.InvalidEndpoint) as caught:
        path_of(url)
    assert str(caught.value).isprintable()
    assert SECRET not in str(caught.value)


@hypothesis.given(st.binary(min_size=1, max_size=600))
def test_any_path(raw):
    """Any bytes arrive as they are, or are refused."""
    url = 'ftp://h/' + urllib.parse.quote_from_bytes(raw, safe='')
    try:
        path = path_of(url)
    except exceptions.InvalidEndpoint:
        assert raw.endswith(b'/') or any(byte in raw for byte in b'\r\n\0')
    else:
        assert path.encode(errors='surrogateescape') == raw


@hypothesis.given(st.binary(min_size=1, max_size=255))
@hypothesis.example('é'.encode() * 127)
def test_temporary_name(raw):
    """It is in the same directory, fits, and is another one each time."""
    name = raw.replace(b'/', b'_').decode(errors='surrogateescape')
    for directory in ('', '/', 'a/b/', '/a/'):
        found = names.temporary_name(directory + name)
        assert found.startswith(f'{directory}.')
        assert '/' not in found[len(directory) :]
        encoded = found[len(directory) :].encode(errors='surrogateescape')
        assert len(encoded) <= 255
        assert found != names.temporary_name(directory + name)


@pytest.mark.parametrize(
    ('path', 'directory'),
    [('x', None), ('a/x', 'a'), ('/x', '/'), ('/a/x', '/a')],
)
def test_directory(path, directory):
    """That of the login has no name."""
    assert names.directory_of(path) == directory


def ctx(login=None):
    return context.Context(
        conf=None,
        connector=None,
        stall=context.StallRule(1, 1),
        connect_timeout=1,
        credentials=login and credentials.LoginCredentials(*login),
    )


@pytest.mark.parametrize(
    ('userinfo', 'login', 'found'),
    [
        ('', None, ('anonymous', 'anonymous@')),
        ('u@', None, ('u', '')),
        ('u:p%40@', None, ('u', 'p@')),
        ('u:p@', ('location', 'its'), ('location', 'its')),
    ],
)
def test_login(userinfo, login, found):
    """The location's login goes before that of the URL, then a guest's."""
    where = endpoint.parse(f'ftp://{userinfo}h/file')
    assert names.login_of(where, ctx(login)) == found


@pytest.mark.parametrize('bad', ['\r', '\n', '\0', 'x\r\nDELE y'])
def test_login_that_cannot_be_sent(bad):
    """A line end in a login would be a command of its own."""
    quoted = urllib.parse.quote(bad)
    for userinfo, login in (
        (f'{quoted}:{SECRET}@', None),
        (f'u:{SECRET}{quoted}@', None),
        ('', (bad, SECRET)),
        ('', ('u', SECRET + bad)),
    ):
        where = endpoint.parse(f'ftp://{userinfo}h/file')
        with pytest.raises(exceptions.InvalidEndpoint) as caught:
            names.login_of(where, ctx(login))
        assert SECRET not in str(caught.value)
