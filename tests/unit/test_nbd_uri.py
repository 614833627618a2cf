# SPDX-License-Identifier: Apache-2.0
"""What an NBD URL names, and what is no NBD URL."""

from __future__ import annotations

import pytest

from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer import nbd_uri


@pytest.mark.parametrize(
    ('url', 'name'),
    [
        ('nbd://host', (b'', None, False)),
        ('nbd://host/', (b'', None, False)),
        ('nbds://host:99/disk', (b'disk', None, True)),
        ('nbd://host//disk', (b'/disk', None, False)),
        ('nbd://host/a%20b%2Fc/d', (b'a b/c/d', None, False)),
        ('nbd://host/%C3%A4%FF', (b'\xc3\xa4\xff', None, False)),
        ('nbd+unix:///?socket=/run/s', (b'', '/run/s', False)),
        ('nbds+unix:///x?socket=/run/s', (b'x', '/run/s', True)),
        ('nbd+unix:///x?socket=%2Frun%2Fa%20b', (b'x', '/run/a b', False)),
    ],
)
def test_names(url, name):
    assert nbd_uri.name_of(endpoint.parse(url)) == nbd_uri.Name(*name)


@pytest.mark.parametrize(
    'url',
    [
        'nbd://user@host/x',
        'nbd://user:s3cret@host/x',
        'nbd://host/x?socket=/run/s',
        'nbd://host/x?key=s3cret',
        'nbd+unix:///x',
        'nbd+unix:///x?socket=',
        'nbd+unix:///x?socket=relative',
        'nbd+unix:///x?socket=/a&socket=/b',
        'nbd+unix:///x?socket=/a&key=s3cret',
        'nbd+unix:///x?socket=/' + 'x' * 107,
        'nbd+unix:///x?socket=/a%00b',
        'nbd+unix://host/x?socket=/a',
        'nbd+unix:///x?socket=/a#part',
        'nbd+http://host/x',
        'nbd://host/' + 'x' * 4097,
        'nbd://host/%00',
    ],
)
def test_no_names(url):
    with pytest.raises(exceptions.InvalidEndpoint) as caught:
        nbd_uri.name_of(endpoint.parse(url))
    assert 's3cret' not in str(caught.value)
