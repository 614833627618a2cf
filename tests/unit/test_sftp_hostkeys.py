# SPDX-License-Identifier: Apache-2.0
"""Host keys are trusted as known_hosts files say, and not otherwise."""

from __future__ import annotations

import base64
import hmac

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.drivers.sftp import hostkeys
from oslo_transfer import exceptions


def blob(kind='ssh-ed25519', content=b'key'):
    return len(kind).to_bytes(4, 'big') + kind.encode() + content


KEY, OTHER = blob(), blob(content=b'other')
RSA = blob('ssh-rsa')


def line(hosts, key=KEY, kind='ssh-ed25519', marker=''):
    return f'{marker} {hosts} {kind} {base64.b64encode(key).decode()} me@x\n'


def hashed(name):
    digest = hmac.digest(b'salt', name.encode(), 'sha1')
    return f'|1|{base64.b64encode(b"salt").decode()}|' + (
        base64.b64encode(digest).decode()
    )


@pytest.fixture
def load(tmp_path):
    """Look a server up in a file with some lines."""

    def load(text, host='files.example', port=22):
        path = tmp_path / 'known_hosts'
        path.write_text(text)
        return hostkeys.load(str(path), host, port)

    return load


@pytest.mark.parametrize(
    ('hosts', 'host', 'port'),
    [
        ('files.example', 'files.example', 22),
        ('a.example,files.example,10.0.0.1', 'files.example', 22),
        ('Files.Example', 'files.example', 22),
        ('*.example', 'files.example', 22),
        ('f?les.example', 'files.example', 22),
        ('[files.example]:2222', 'files.example', 2222),
        ('::1', '::1', 22),
        ('[::1]:2222', '::1', 2222),
        (hashed('files.example'), 'files.example', 22),
        (hashed('[files.example]:2222'), 'files.example', 2222),
    ],
)
def test_known(load, hosts, host, port):
    load(line(hosts), host, port).check(KEY)


@pytest.mark.parametrize(
    ('hosts', 'port'),
    [
        ('other.example', 22),
        ('files.exampl', 22),
        ('[files.example]:2222', 22),
        ('files.example', 2222),
        ('[files.example]:2222', 2223),
        ('*.example,!files.example', 22),
        ('!files.example,*.example', 22),
        ('[a-z]iles.example', 22),
        (hashed('other.example'), 22),
        ('#files.example', 22),
    ],
)
def test_unknown(load, hosts, port):
    with pytest.raises(exceptions.AccessDenied) as caught:
        load(line(hosts), port=port).check(KEY)
    text = str(caught.value)
    assert 'is not known' in text
    assert hostkeys.fingerprint(KEY) in text
    assert 'known_hosts' in text


def test_the_line_to_add_works(load):
    with pytest.raises(exceptions.AccessDenied) as caught:
        load('', port=2222).check(KEY)
    load(str(caught.value).partition(': ')[2], port=2222).check(KEY)


def test_fingerprints_are_those_of_openssh():
    assert hostkeys.fingerprint(b'') == (
        'SHA256:47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU'
    )


def test_changed(load):
    with pytest.raises(exceptions.AccessDenied) as caught:
        load(line('files.example', OTHER)).check(KEY)
    text = str(caught.value)
    assert 'has changed' in text
    assert hostkeys.fingerprint(KEY) in text
    assert hostkeys.fingerprint(OTHER) in text


def test_one_of_several_is_enough(load):
    known = load(line('files.example', OTHER) + line('files.*'))
    known.check(KEY)
    known.check(OTHER)


def test_revoked(load):
    text = line('files.example') + line('*', marker='@revoked')
    with pytest.raises(exceptions.AccessDenied, match='revoked'):
        load(text).check(KEY)


def test_an_authority_is_no_host(load):
    with pytest.raises(exceptions.AccessDenied, match='is not known'):
        load(line('*', marker='@cert-authority')).check(KEY)


def test_known_types_are_asked_for_first(load):
    offered = ['ssh-ed25519', 'ecdsa-sha2-nistp256', 'rsa-sha2-512']
    known = load(line('files.example', RSA, 'ssh-rsa'))
    assert known.preferred(offered) == [
        'rsa-sha2-512',
        'ssh-ed25519',
        'ecdsa-sha2-nistp256',
    ]
    assert load('').preferred(offered) == offered


@pytest.mark.parametrize(
    'text',
    [
        'files.example\n',
        'files.example ssh-ed25519\n',
        'files.example ssh-ed25519 not+base64!\n',
        'files.example ssh-ed25519 AAAA\n',
        line('files.example', kind='ssh-rsa'),
        line('|2|c2FsdA==|c2FsdA=='),
        line('|1|c2FsdA=='),
        line('|1|c2FsdA==|!!!!'),
        '\0\0\0 \0 \0\n',
    ],
)
def test_what_is_no_line(load, text):
    with pytest.raises(exceptions.ConfigurationError, match='line 3'):
        load(f'# a comment\n\n{text}')


@hypothesis.given(st.binary(max_size=200))
@hypothesis.settings(
    deadline=None,
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture],
)
def test_noise_trusts_nobody(tmp_path, noise):
    path = tmp_path / 'noise'
    path.write_bytes(noise)
    try:
        known = hostkeys.load(str(path), 'files.example', 22)
    except exceptions.ConfigurationError:
        return
    with pytest.raises(exceptions.AccessDenied):
        known.check(KEY)


def test_a_configured_file_has_to_be_there(tmp_path):
    with pytest.raises(exceptions.ConfigurationError, match='none'):
        hostkeys.load(str(tmp_path / 'none'), 'files.example', 22)


def test_the_files_of_the_user_and_the_system(tmp_path, monkeypatch):
    """Both count, and neither has to be there."""
    monkeypatch.setenv('HOME', str(tmp_path))
    system = tmp_path / 'system'
    monkeypatch.setattr(
        hostkeys, 'DEFAULT_FILES', ('~/.ssh/known_hosts', str(system))
    )
    with pytest.raises(exceptions.AccessDenied, match='~/.ssh/known_hosts'):
        hostkeys.load(None, 'files.example', 22).check(KEY)
    (tmp_path / '.ssh').mkdir()
    (tmp_path / '.ssh/known_hosts').write_text(line('files.example'))
    system.write_text(line('files.example', OTHER))
    known = hostkeys.load(None, 'files.example', 22)
    known.check(KEY)
    known.check(OTHER)
