# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer torrent``: an image is published in one command."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios

import pytest

from oslo_transfer.drivers.bittorrent import create
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer import exceptions
from tests.servers import resource
from tests.servers import torrents
from tests.unit import test_cli

BLOCK = torrents.BLOCK
DATA = resource.pattern(300_000)
CREATED = (
    'torrent name size piece_length pieces info_hash_v1 info_hash_v2 location'
).split()
SHOWN = (
    'name size zero_bytes piece_length pieces info_hash_v1 info_hash_v2 '
    'private trackers web_seeds comment created_by location warnings'
).split()


@pytest.fixture
def command(capsys, tmp_path, monkeypatch, nothing_left):
    monkeypatch.chdir(tmp_path)
    return test_cli.Command(capsys, tmp_path)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'image.raw'
    path.write_bytes(DATA)
    return path


def create_torrent(command, *arguments):
    ran = command('torrent', 'create', *arguments, '-f', 'json')
    assert (ran.status, ran.err) == (0, '')
    return ran.json


def show(command, *arguments):
    ran = command('torrent', 'show', *arguments, '-f', 'json')
    assert (ran.status, ran.err) == (0, '')
    return ran.json


# create


def test_create(command, source, tmp_path):
    made = create_torrent(command, source, '-o', 'image.torrent')
    expected = torrents.make(DATA, name='image.raw')
    path = tmp_path / 'image.torrent'
    assert path.read_bytes() == expected.encoded
    assert list(made) == CREATED
    assert made == {
        'torrent': 'image.torrent',
        'name': 'image.raw',
        'size': 300_000,
        'piece_length': 65536,
        'pieces': 5,
        'info_hash_v1': expected.v1,
        'info_hash_v2': expected.v2,
        'location': f'torrent+file://{path}#{expected.v2}',
    }
    # What anybody may read, as if a copy had made it.
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask
    assert sorted(os.listdir(tmp_path)) == [
        'config',
        'image.raw',
        'image.torrent',
    ]


def test_create_with_all_options(command, source, tmp_path):
    made = create_torrent(
        command,
        *(source, '--output', 'x', '--name', 'other', '--private'),
        *('--web-seed', 'https://a/x', '--web-seed', 'ftp://b/x'),
        *('--tracker', 'http://c/announce', '--tracker', 'udp://d:1/'),
        *('--piece-size', '16K', '--torrent-version', 'v2'),
    )
    assert made['info_hash_v1'] is None
    assert (tmp_path / 'x').read_bytes() == (
        torrents.make(
            DATA,
            'v2',
            name='other',
            piece_bytes=BLOCK,
            trackers=['http://c/announce', 'udp://d:1/'],
            web_seeds=['https://a/x', 'ftp://b/x'],
            private=True,
        ).encoded
    )


def test_the_location_for_a_script(command, source):
    ran = command(
        *('torrent', 'create', source, '-o', 'a b.torrent'),
        *('-f', 'value', '-c', 'location'),
    )
    location = ran.out.rstrip('\n')
    assert location.startswith('torrent+file:///')
    assert '/a%20b.torrent#' in location
    assert show(command, location)['location'] == location


def test_create_from_and_to_a_server(command, server, tmp_path):
    url = server.put('/images/an%20image', DATA)
    there = server.allow_put('/torrents/image.torrent', readable=True)
    made = create_torrent(command, url, '-o', there)
    assert made['name'] == 'an image'
    assert made['torrent'] == there
    assert made['location'] == f'torrent+{there}#{made["info_hash_v2"]}'
    assert show(command, made['location'])['size'] == 300_000


def test_create_with_a_token(command, server, tmp_path):
    url = server.put('/image', DATA)
    server.require_token('/image', {'CANARY'})
    command.fails(7, 'torrent', 'create', url, '-o', 'x')
    auth = test_cli.auth_file(
        tmp_path / 'auth', f'{server.origin} token:CANARY'
    )
    made = create_torrent(command, url, '-o', 'x', '--auth-file', auth)
    assert made['size'] == 300_000
    assert b'CANARY' not in (tmp_path / 'x').read_bytes()


def test_secrets_of_urls_are_not_shown(command, server):
    url = server.put('/image', DATA)
    secret = url.replace('http://', 'http://user:CANARY@') + '?sig=CANARY'
    ran = command('torrent', 'create', secret, '-o', 'x', '-f', 'json')
    assert ran.status == 0
    assert ran.json['name'] == 'image'
    assert 'CANARY' not in ran.out + ran.err
    assert 'list of processes' in ran.err


def test_existing_file_is_kept(command, source, tmp_path, monkeypatch):
    path = tmp_path / 'x'
    path.write_bytes(b'old')
    monkeypatch.setattr(create, 'create', None)  # It is not even begun.
    error = command.fails(9, 'torrent', 'create', source, '-o', path)
    assert '--overwrite' in error
    assert path.read_bytes() == b'old'


def test_dangling_link_is_kept(command, source, tmp_path):
    (tmp_path / 'x').symlink_to('nowhere')
    command.fails(9, 'torrent', 'create', source, '-o', 'x')
    assert not (tmp_path / 'nowhere').exists()


def test_overwrite(command, source, tmp_path):
    (tmp_path / 'x').write_bytes(b'old')
    create_torrent(command, source, '-o', 'x', '--overwrite')
    assert show(command, 'x')['size'] == 300_000


def test_the_image_is_never_overwritten(command, source):
    error = command.fails(
        2, 'torrent', 'create', source, '--overwrite', '-o', './image.raw'
    )
    assert 'the same' in error
    assert source.read_bytes() == DATA


@pytest.mark.parametrize(
    ('status', 'arguments'),
    [
        (2, ('image.raw',)),
        (2, ('-o', 'x')),
        (2, ('image.raw', '-o', 'x', '--piece-size', 'large')),
        (2, ('image.raw', '-o', 'x', '--torrent-version', 'v3')),
        (2, ('image.raw', '-o', 'x', '-c', 'nothing')),
        (3, ('image.raw', '-o', 'x', '--piece-size', '100K')),
        (3, ('image.raw', '-o', 'x', '--name', '..')),
        (3, ('image.raw', '-o', 'x', '--tracker', 'example')),
        (3, ('image.raw', '-o', 'x', '--web-seed', 'http://u:p@h/')),
        (3, ('http:h/', '-o', 'x')),
        (4, ('nothing://h/', '-o', 'x')),
        (5, ('empty', '-o', 'x')),
        (6, ('missing', '-o', 'x')),
        (6, ('image.raw', '-o', 'missing/x')),
    ],
)
def test_create_fails(command, source, tmp_path, status, arguments):
    (tmp_path / 'empty').touch()
    command.fails(status, 'torrent', 'create', *arguments)
    assert not (tmp_path / 'x').exists()


def test_name_that_is_no_text(command, tmp_path):
    name = os.fsdecode(b'\xff')
    (tmp_path / name).write_bytes(DATA)
    error = command.fails(3, 'torrent', 'create', name, '-o', 'x')
    assert 'name' in error
    create_torrent(command, name, '-o', 'x', '--name', 'x')


def test_interrupted(command, source, tmp_path, monkeypatch):
    def interrupted(_source, *, cancel, **_options):
        os.kill(os.getpid(), signal.SIGTERM)
        assert cancel.is_set()
        raise exceptions.TransferCancelled('cancelled by the caller')

    monkeypatch.setattr(create, 'create', interrupted)
    ran = command('torrent', 'create', source, '-o', 'x')
    assert (ran.status, ran.out) == (143, '')
    assert ran.err == 'oslo-transfer: cancelled; nothing is left of it\n'
    assert not (tmp_path / 'x').exists()


def test_progress_is_shown_on_a_terminal(command, source):
    master, slave = os.openpty()
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack('4H', 24, 99, 0, 0))
    argv = ['torrent', 'create', str(source), '-o']
    for options, expected in ((['a'], True), (['b', '--no-progress'], False)):
        done = subprocess.run(
            [sys.executable, '-c', test_cli.SCRIPT]
            + ['--config-file', str(command.config), *argv, *options],
            stdout=subprocess.PIPE,
            stderr=slave,
        )
        assert done.returncode == 0
        os.write(slave, b'END')
        seen = b''
        while not seen.endswith(b'END'):
            seen += os.read(master, 4096)
        assert (b'293.0 KiB' in seen) == expected
    os.close(master)
    os.close(slave)


# show


@pytest.mark.parametrize('kind', torrents.KINDS)
def test_show(command, kind, tmp_path):
    data = bytearray(DATA)
    data[65536 : 3 * 65536] = bytes(2 * 65536)
    made = torrents.make(
        bytes(data),
        kind,
        trackers=['http://a/announce', 'udp://b:1/'],
        web_seeds=['https://c/x'],
        private=True,
    )
    path = made.write(tmp_path / 'x')
    shown = show(command, path)
    assert list(shown) == SHOWN
    warnings = shown.pop('warnings')
    assert bool(warnings) == (kind == 'v1')
    assert shown == {
        'name': 'image',
        'size': 300_000,
        'zero_bytes': 2 * 65536,
        'piece_length': 65536,
        'pieces': 5,
        'info_hash_v1': made.v1 if kind != 'v2' else None,
        'info_hash_v2': made.v2 if kind != 'v1' else None,
        'private': True,
        'trackers': [
            {'tier': 1, 'url': 'http://a/announce'},
            {'tier': 2, 'url': 'udp://b:1/'},
        ],
        'web_seeds': ['https://c/x'],
        'comment': None,
        'created_by': None,
        'location': f'torrent+file://{path}#'
        f'{made.v1 if kind == "v1" else made.v2}',
    }


def test_show_is_for_people(command, tmp_path):
    torrents.make(DATA, 'v1').write(tmp_path / 'x')
    out = command('torrent', 'show', 'x').out
    assert '293.0 KiB' in out
    assert 'SHA-1 only' in out
    assert 'no trackers and no web seeds' in out


def test_show_from_a_server(command, server):
    made = torrents.make(DATA)
    url = server.put('/x.torrent', made.encoded)
    assert show(command, url)['location'] == f'torrent+{url}#{made.v2}'
    for pin in (made.v1, made.v2):
        assert show(command, f'torrent+{url}#{pin}')['size'] == 300_000
    assert show(command, f'TORRENT+{url}')['size'] == 300_000


def test_show_checks_the_info_hash(command, tmp_path):
    path = torrents.make(DATA).write(tmp_path / 'x')
    location = f'torrent+file://{path}#{"0" * 64}'
    error = command.fails(11, 'torrent', 'show', location)
    assert '0' * 64 in error


def test_names_and_urls_are_shown_safely(command, tmp_path):
    torrents.make(
        DATA,
        name='../\x1b[2J\n\u202eexe.img',
        trackers=['http://user:CANARY@a/?key=CANARY'],
        web_seeds=['http://CANARY@b/x?CANARY'],
    ).write(tmp_path / 'x')
    for arguments in (['-f', 'json'], ['-f', 'value'], []):
        ran = command('torrent', 'show', 'x', *arguments)
        assert ran.status == 0
        assert 'CANARY' not in ran.out
        assert '\x1b' not in ran.out
        assert '\u202e' not in ran.out
        assert 'u202eexe.img' in ran.out


@pytest.mark.parametrize(
    ('status', 'content'),
    [
        (15, b''),
        (15, b'<!DOCTYPE html>'),
        (11, torrents.WRONG['wrong-layer'](torrents.make(DATA))),
        (5, torrents.WRONG['two-files'](torrents.make(DATA))),
    ],
)
def test_show_fails(command, tmp_path, status, content):
    (tmp_path / 'x').write_bytes(content)
    command.fails(status, 'torrent', 'show', 'x')


def test_show_what_is_not_there(command, server):
    command.fails(6, 'torrent', 'show', 'missing')
    command.fails(6, 'torrent', 'show', server.url('/missing'))
    command.fails(3, 'torrent', 'show', 'torrent+file:x')


def test_a_large_file_is_not_read(command, tmp_path):
    with (tmp_path / 'x').open('wb') as file:
        file.truncate(1 << 40)
    error = command.fails(15, 'torrent', 'show', 'x')
    assert str(metainfo.MAX_BYTES) in error


@pytest.mark.parametrize('name', ['torrent create', 'torrent show'])
def test_help(command, name):
    ran = command(*name.split(), '--help')
    assert ran.status == 0
    assert ran.out.startswith(f'usage: oslo-transfer {name} ')
    assert f'\n  oslo-transfer {name} ' in ran.out
    assert command('help', *name.split()).out == ran.out


def test_without_libtorrent(source, tmp_path):
    """A publisher needs none: no extra, no compiler."""
    code = 'import sys; sys.modules["libtorrent"] = None; ' + test_cli.SCRIPT
    for argv in (['create', source, '-o', 'x'], ['show', 'x']):
        done = subprocess.run(
            [sys.executable, '-c', code, 'torrent', *argv, '-f', 'json'],
            capture_output=True,
            cwd=tmp_path,
        )
        assert done.returncode == 0
        assert json.loads(done.stdout)['size'] == 300_000
