# SPDX-License-Identifier: Apache-2.0
"""A signature tells who may read, not what."""

from __future__ import annotations

import pytest

from oslo_transfer import endpoint
from oslo_transfer import ends
from oslo_transfer import signed_urls

S3 = (
    'X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Credential=K%2F20261123%2Fs3'
    '&X-Amz-Date=20261123T000000Z&X-Amz-Expires=600'
    '&X-Amz-SignedHeaders=host&X-Amz-Signature=abc'
)
S3_2 = 'AWSAccessKeyId=K&Expires=1&Signature=a%2Bb%3D'
SWIFT = 'temp_url_sig=abc&temp_url_expires=1'
SIGNED = {
    's3, temporary login': f'{S3}&X-Amz-Security-Token=def',
    's3, version 2, temporary login': f'{S3_2}&x-amz-security-token=def',
    'cloudfront': 'Expires=1&Signature=abc&Key-Pair-Id=K',
    'cloudfront, policy': 'Policy=abc&Signature=abc&Key-Pair-Id=K',
    'google': S3.replace('X-Amz', 'X-Goog'),
    'google, version 2': 'GoogleAccessId=a%40b&Expires=1&Signature=abc',
    'swift': SWIFT,
    'swift, prefix': 'temp_url_sig=a&temp_url_expires=1&temp_url_prefix=i',
    'azure': 'sv=2024-11-04&sr=b&sp=r&st=a&se=b&spr=https&sig=a%2Bb',
    'azure, policy': 'sv=2024-11-04&sr=b&si=readers&sig=a%2Bb',
}


def unsigned(url):
    return signed_urls.unsigned(endpoint.parse(url)).url()


def identity(url):
    return ends.end_of(url, lambda _scheme: None).identity


@pytest.mark.parametrize('query', SIGNED.values(), ids=SIGNED)
def test_what_signs_a_url_is_left_out(query):
    url = 'https://far.example/images/golden'
    assert unsigned(f'{url}?{query}') == url
    # What is asked for stays, wherever it stands.
    for mixed in (f'versionId=7&{query}', f'{query}&versionId=7'):
        assert unsigned(f'{url}?{mixed}') == f'{url}?versionId=7'
    assert identity(f'{url}?{query}') == identity(url)


@pytest.mark.parametrize(
    ('query', 'name'), [(S3, 'X-Amz-Credential'), (S3_2, 'AWSAccessKeyId')]
)
def test_accounts_differ(query, name):
    """Ceph has buckets of one name in several of them."""
    url = 'https://far.example/images/golden'
    signed = f'{url}?{query}'
    assert unsigned(signed) == f'{url}?{name}=K'
    again = signed.replace('20261123', '20261124').replace('abc', 'def')
    assert identity(again) == identity(signed)
    assert identity(signed.replace('=K', '=L')) != identity(signed)


@pytest.mark.parametrize(
    'query',
    [
        'Signature=abc&Expires=1',
        'sig=abc',
        'sig=abc&sv=1&sr=one',
        'X-Amz-Date=20261123T000000Z',
        'temp_url_sig=abc',
        'id=7&x-amz',
        '',
        '&&=',
    ],
)
def test_what_is_signed_in_no_known_way_stays(query):
    """For it may say what is asked for."""
    url = f'https://far.example/images/golden?{query}'
    assert unsigned(url) == url
    assert identity(url) != identity('https://far.example/images/golden')


def test_only_http_has_such_urls():
    url = 'ftp://far.example/golden?sig=a&sv=b'
    assert unsigned(url) == url
    torrent = f'torrent+https://far.example/golden.torrent?{SWIFT}#name'
    assert (
        unsigned(torrent) == 'torrent+https://far.example/golden.torrent#name'
    )


def test_another_path_is_another_thing():
    one, two = (f'https://far.example/{name}?{S3}' for name in 'ab')
    assert identity(one) != identity(two)
