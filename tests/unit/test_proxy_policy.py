# SPDX-License-Identifier: Apache-2.0
"""What a proxy may be asked for."""

from __future__ import annotations

import urllib.parse

from hypothesis import example
from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

from oslo_transfer import exceptions
from oslo_transfer.service.proxy import policy as _policy

ORIGINS = [
    *('http://far.example/public/', 'http://far.example/one.raw'),
    'https://far.example:8443',
]
NAMES = {'golden': 'http://elsewhere.example/golden.raw?sig=1'}


@pytest.fixture
def policy():
    return _policy.Policy(ORIGINS, NAMES)


def ask(policy, target):
    path = urllib.parse.unquote(target.partition('?')[0])
    return policy.asked(target, path).text()


@pytest.mark.parametrize(
    ('target', 'url'),
    [
        ('/http/far.example/public/a', 'http://far.example/public/a'),
        ('/http/FAR.example:80/public/a', 'http://far.example/public/a'),
        (
            '/http/far.example/public/a?b=/c',
            'http://far.example/public/a?b=/c',
        ),
        ('/http/far.example/public/a%20b', 'http://far.example/public/a%20b'),
        ('/http/far.example/%70ublic/a', 'http://far.example/%70ublic/a'),
        ('/http/far.example/one.raw', 'http://far.example/one.raw'),
        ('/http/far.example/one.raw/2', 'http://far.example/one.raw/2'),
        ('/https/far.example:8443', 'https://far.example:8443/'),
        ('/https/far.example:8443/?a', 'https://far.example:8443/?a'),
        ('/images/golden', NAMES['golden']),
    ],
)
def test_what_may_be_asked(policy, target, url):
    assert ask(policy, target) == url


@pytest.mark.parametrize(
    'target',
    [
        '/http/far.example/private/a',
        '/http/far.example/public',
        '/http/far.example/publicity',
        '/http/far.example/one.raw2',
        '/http/far.example/',
        '/http/far.example:8080/public/a',
        '/https/far.example/public/a',
        '/ftp/far.example/public/a',
        '/http/far.example.evil.example/public/a',
        '/http/169.254.169.254/latest/meta-data',
        '/file//etc/passwd',
        '/nbd/far.example/public/a',
        '/http/elsewhere.example/golden.raw?sig=1',
    ],
)
def test_what_is_refused(policy, target):
    with pytest.raises(exceptions.PolicyRefused, match='origins'):
        ask(policy, target)


@pytest.mark.parametrize(
    'target',
    [
        '/http/far.example/public/../private/a',
        '/http/far.example/public/%2e%2e/private/a',
        '/http/far.example/public/.%2E/private/a',
        '/http/far.example/public/%252e%252e/private/a',
        '/http/far.example/public/..%2fprivate/a',
        '/http/far.example/public/..%5cprivate/a',
        '/http/far.example/public/..;/private/a',
        '/http/far.example/public/%2e.%3bx=y/private/a',
        '/http/far.example/public/./a',
        '/http/far.example/public/%2525252525252e',
        '/http/far.example/public/a%00',
        '/http/me:secret@far.example/public/a',
        '/http/far.example:0/public/a',
        '/http/far.example:99999/public/a',
        '/http//public/a',
    ],
)
def test_what_is_malformed(policy, target):
    with pytest.raises(exceptions.InvalidEndpoint) as caught:
        ask(policy, target)
    assert 'secret' not in str(caught.value)


@pytest.mark.parametrize(
    'target',
    ['/', '/image', '/images/', '/images/other', '/http', '//', '/1/a'],
)
def test_what_is_no_image(policy, target):
    with pytest.raises(exceptions.NotFound):
        ask(policy, target)


def test_without_origins_it_says_so():
    policy = _policy.Policy([], NAMES)
    assert ask(policy, '/images/golden') == NAMES['golden']
    with pytest.raises(exceptions.PolicyRefused, match='is empty'):
        ask(policy, '/http/far.example/a')


def test_refusals_show_no_signature(policy):
    with pytest.raises(exceptions.PolicyRefused) as caught:
        ask(policy, '/http/other.example/a?signature=geheim')
    assert 'geheim' not in str(caught.value)


def test_names_of_exports(policy):
    assert policy.named('golden').text() == NAMES['golden']
    url = 'http://far.example/public/a'
    assert policy.named(url).text() == url
    with pytest.raises(exceptions.NotFound):
        policy.named('other')
    with pytest.raises(exceptions.NotFound):
        policy.named('')
    with pytest.raises(exceptions.PolicyRefused):
        policy.named('http://far.example/a')


def test_files_may_be_origins(tmp_path):
    policy = _policy.Policy([f'file://{tmp_path}/'], {})
    assert ask(policy, f'/file/{tmp_path}/image') == f'{tmp_path}/image'
    with pytest.raises(exceptions.PolicyRefused):
        ask(policy, '/file//etc/passwd')
    with pytest.raises(exceptions.InvalidEndpoint):
        ask(policy, f'/file/{tmp_path}/../other')


@pytest.mark.parametrize(
    ('origins', 'names'),
    [
        (['far.example'], {}),
        (['http://me@far.example/'], {}),
        (['http://far.example/?a'], {}),
        (['http://far.example/../a'], {}),
        ([], {'golden': '/srv/golden.raw'}),
        ([], {'golden': 'http:///golden.raw'}),
    ],
)
def test_malformed_options(origins, names):
    with pytest.raises(exceptions.ConfigurationError, match='oslo_transfer_p'):
        _policy.Policy(origins, names)


_PIECES = st.sampled_from(
    [
        *('/', '//', '\\', '?', '#', '@', ':', '%', '%2e', '%2f', '%5c'),
        *('%25', '..', '.', '...', '%00', ' ', '\t', '80', '8443', '[::1]'),
        *('http', 'https', 'HTTP', 'file', 'far.example', 'FAR.EXAMPLE.'),
        *('public', 'one.raw', 'private', 'evil.example', '\xe9', '\u202e'),
    ]
)


@settings(deadline=None)
@given(st.lists(st.one_of(_PIECES, st.text(max_size=3)), max_size=12))
@example(['far.example', '/', 'public', '/', '%2e%2e', '/', 'private'])
@example(['far.example', '@', 'evil.example', '/', 'public', '/'])
def test_whatever_is_asked_for_is_allowed_or_refused(pieces):
    """Written in any way; nothing else is ever asked of anybody."""
    policy = _policy.Policy(ORIGINS, NAMES)
    for target in ('/http/', '/https/', '/http/far.example/public/', '/'):
        asked = target + ''.join(pieces)
        try:
            path = urllib.parse.unquote(asked.partition('?')[0])
            found = policy.asked(asked, path)
        except (
            exceptions.InvalidEndpoint,
            exceptions.NotFound,
            exceptions.PolicyRefused,
        ):
            continue
        split = urllib.parse.urlsplit(found.url())
        here = urllib.parse.unquote(split.path).split('/')
        assert not {'.', '..'} & {*here}
        if (split.scheme, split.netloc) == ('http', 'far.example'):
            assert here[1] in ('public', 'one.raw')
        else:
            assert (split.scheme, split.port) == ('https', 8443)
            assert split.hostname == 'far.example'
