# SPDX-License-Identifier: Apache-2.0
"""What URLs, credentials and Cinder's dictionaries name."""

from __future__ import annotations

import types

import hypothesis
from hypothesis import strategies
import pytest

from oslo_transfer import credentials
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer import endpoint
from oslo_transfer import exceptions

IQN = 'iqn.2010-10.org.openstack:volume-1'
URL = f'iscsi://192.0.2.1/{IQN}/1'
SECRET = 's3cr3t-of-chap'


def lun(url=URL, info=None, login=None):
    where = endpoint.parse(url)
    own = (where.username, where.password or '')
    return _lun.from_endpoint(
        where,
        types.SimpleNamespace(
            connection_info=info,
            credentials=login,
            login=lambda _endpoint: None if own[0] is None else own,
        ),
    )


def paths(found):
    return [str(path) for path in found.paths]


def test_url():
    found = lun()
    assert found.paths == (_lun.Path('192.0.2.1', 3260, IQN, 1),)
    assert found.username is None
    assert found.key == f'{IQN}/1'


def test_url_with_several_portals():
    found = lun(f'iscsi://192.0.2.1,[2001:db8::1]:860,host/{IQN}/7')
    assert paths(found) == [
        f'192.0.2.1:3260/{IQN}/7',
        f'[2001:db8::1]:860/{IQN}/7',
        f'host:3260/{IQN}/7',
    ]


def test_the_same_portal_twice_is_one():
    assert len(lun(f'iscsi://192.0.2.1,192.0.2.1:3260/{IQN}/1').paths) == 1


@pytest.mark.parametrize(
    'path',
    [
        '',
        '/',
        f'/{IQN}',
        f'/{IQN}/',
        f'/{IQN}/x',
        f'/{IQN}/-1',
        f'/{IQN}/1/2',
        f'/{IQN}/{1 << 64}',
        '/volume-1/1',
        '/iqn./1',
        '/iqn.a%20b/1',
        '/iqn.a%00b/1',
        '/iqn.a,b/1',
        f'/iqn.{"x" * 220}/1',
        f'/{IQN}/1?key=value',
    ],
)
def test_bad_urls(path):
    with pytest.raises(exceptions.InvalidEndpoint):
        lun(f'iscsi://192.0.2.1{path}')


def test_escapes():
    assert lun(f'iscsi://h/{IQN.replace(":", "%3A")}/1').paths[0].iqn == IQN


# Cinder


def info(**data):
    return {'driver_volume_type': 'iscsi', 'data': data}


def test_parallel_lists():
    found = lun(
        info=info(
            target_discovered=True,
            target_portal='192.0.2.1:3260',
            target_iqn=IQN,
            target_lun=1,
            target_portals=['192.0.2.1:3260', '[2001:db8::1]:3261,1'],
            target_iqns=[IQN, f'{IQN}-b'],
            target_luns=[1, '2'],
        )
    )
    assert paths(found) == [
        f'192.0.2.1:3260/{IQN}/1',
        f'[2001:db8::1]:3261/{IQN}-b/2',
    ]
    assert not found.discover


def test_only_the_data():
    found = lun(
        info={
            'target_portal': '192.0.2.9',
            'target_iqn': IQN,
            'target_lun': 1,
            'target_discovered': False,
        }
    )
    assert paths(found) == [f'192.0.2.9:3260/{IQN}/1']
    assert found.discover


def test_what_the_lun_has_to_be():
    found = lun(
        info=info(
            scsi_serial=' S123 ',
            scsi_wwn='0x60014051234567890ABCDEF012345678',
            scsi_size=1 << 30,
            access_mode='ro',
        )
    )
    assert found.serial == 'S123'
    assert found.wwn == '60014051234567890abcdef012345678'
    assert found.size == 1 << 30
    assert found.read_only
    assert paths(found) == [f'192.0.2.1:3260/{IQN}/1']


@pytest.mark.parametrize(
    'text',
    [
        '60014051234567890abcdef012345678',
        '0x60014051234567890ABCDEF012345678',
        'naa.60014051234567890abcdef012345678',
        '360014051234567890abcdef012345678',
        'scsi-360014051234567890abcdef012345678',
        'wwn-0x60014051234567890abcdef012345678',
        ' 6001:4051:2345:6789:0abc:def0:1234:5678 ',
    ],
)
def test_spellings_of_an_identifier(text):
    assert _lun.normal_wwn(text) == '60014051234567890abcdef012345678'


@pytest.mark.parametrize(
    'bad',
    [
        'no dictionary',
        {'data': 'no dictionary'},
        {'driver_volume_type': 'rbd', 'data': {}},
        info(target_portal='192.0.2.1', target_iqn=IQN),
        info(
            target_portals=['192.0.2.1', '192.0.2.2'],
            target_iqns=[IQN],
            target_luns=[1, 1],
        ),
        info(target_portals='192.0.2.1', target_iqns=IQN, target_luns='1'),
        info(target_portal='a b', target_iqn=IQN, target_lun=1),
        info(target_portal='u:p@192.0.2.1', target_iqn=IQN, target_lun=1),
        info(target_portal='192.0.2.1/x', target_iqn=IQN, target_lun=1),
        info(target_portal='', target_iqn=IQN, target_lun=1),
        info(target_portal='192.0.2.1', target_iqn='x', target_lun=1),
        info(target_portal='192.0.2.1', target_iqn=IQN, target_lun='a'),
        info(target_portal='192.0.2.1', target_iqn=IQN, target_lun=True),
        info(scsi_serial=''),
        info(scsi_wwn='volume-1'),
        info(scsi_size='1 GiB'),
        info(auth_method='SRP', auth_username='u', auth_password=SECRET),
        info(auth_method='CHAP'),
        info(auth_method='CHAP', auth_username='u' * 300, auth_password='x'),
    ],
)
def test_bad_dictionaries(bad):
    with pytest.raises(exceptions.InvalidEndpoint) as caught:
        lun(info=bad)
    assert SECRET not in repr(caught.value)


def test_a_dictionary_of_another_lun():
    """Who names two LUNs does not get one of them."""
    for other in ({'target_lun': 2}, {'target_iqn': f'{IQN}0'}):
        data = {
            'target_portal': '192.0.2.1',
            'target_iqn': IQN,
            'target_lun': 1,
            **other,
        }
        with pytest.raises(exceptions.InvalidEndpoint, match='another LUN'):
            lun(info=info(**data))


# Logins


def test_who_logs_in():
    """Credentials come before Cinder's dictionary, and that before a URL."""
    url = URL.replace('://', '://url:of-the-url-itself@')
    chap = info(
        auth_method='CHAP', auth_username='cinder', auth_password=SECRET
    )
    own = credentials.LoginCredentials('own', 'my-own-secret')
    assert lun(url, chap, own).username == 'own'
    assert lun(url, chap).username == 'cinder'
    assert lun(url, chap).password == SECRET
    assert lun(url, info()).username == 'url'
    assert lun(URL, info()).username is None


def test_secrets_do_not_show():
    chap = info(
        auth_method='CHAP', auth_username='cinder-user', auth_password=SECRET
    )
    told = repr(lun(info=chap)) + str(lun(info=chap))
    assert SECRET not in told
    assert 'cinder-user' not in told


@pytest.mark.parametrize('secret', ['', 'x' * 256, 'a\0b'])
def test_secrets_that_would_be_cut_off(secret):
    """The library keeps 255 bytes, and would send other ones."""
    with pytest.raises(exceptions.InvalidEndpoint):
        lun(login=credentials.LoginCredentials('user', secret))


# Anything

_values = strategies.one_of(
    strategies.none(),
    strategies.booleans(),
    strategies.integers(),
    strategies.text(max_size=20),
    strategies.binary(max_size=5),
    strategies.lists(strategies.text(max_size=5), max_size=3),
)


@hypothesis.given(
    strategies.dictionaries(
        strategies.sampled_from(
            [
                'target_portal',
                'target_portals',
                'target_iqn',
                'target_iqns',
                'target_lun',
                'target_luns',
                'target_discovered',
                'auth_method',
                'auth_username',
                'auth_password',
                'scsi_serial',
                'scsi_wwn',
                'scsi_size',
                'access_mode',
                'data',
                'driver_volume_type',
            ]
        ),
        _values,
    )
)
def test_any_dictionary(data):
    try:
        assert lun(info=data).paths
    except exceptions.InvalidEndpoint:
        pass


@hypothesis.given(strategies.text(max_size=40))
def test_any_path(text):
    try:
        where = endpoint.parse(f'iscsi://h/{text}')
    except exceptions.InvalidEndpoint:
        return
    try:
        found = lun(where.text())
    except exceptions.InvalidEndpoint:
        return
    assert found.paths[0].iqn[:4].lower() in ('iqn.', 'eui.', 'naa.')
