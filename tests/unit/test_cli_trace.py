# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer trace``: recorded, shown and converted by one command."""

from __future__ import annotations

import pytest

import oslo_transfer
from oslo_transfer.cache import trace as _trace
from oslo_transfer import exceptions
from oslo_transfer.service import client
from tests.unit import test_cli

BLOCK = 64 << 10
ID = '4f6c0d2a9be84d0c8f3f2a1b5d7e9c10'
MADE = _trace.Trace(
    _trace.Touch(*each)
    for each in [
        (0, 0, 4096),
        (1_500_000, 10 * BLOCK, BLOCK),
        (1_600_000, 9 * BLOCK, BLOCK),
        (2_000_000, 0, 8192),
    ]
)


@pytest.fixture
def command(capsys, tmp_path, monkeypatch, nothing_left):
    monkeypatch.chdir(tmp_path)
    return test_cli.Command(capsys, tmp_path)


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / 'boot.trace'
    path.write_bytes(MADE.dump('/image'))
    return path


def test_show(command, trace):
    ran = command('trace', 'show', trace, '-f', 'json')
    assert (ran.status, ran.err) == (0, '')
    assert ran.json == {
        'touches': 4,
        'bytes': 8192 + 2 * BLOCK,
        'seconds': 2.0,
        'end': 11 * BLOCK,
        'requests': 2,
        'ranges': [
            {
                'seconds': touch.time / 1e6,
                'offset': touch.offset,
                'length': touch.length,
            }
            for touch in MADE.touches
        ],
    }


def test_show_for_people(command, trace):
    ran = command('trace', 'show', trace)
    assert '136.0 KiB' in ran.out
    assert '1.500000 s          655360 +65536' in ran.out


def test_convert(command, trace, tmp_path):
    made = tmp_path / 'made'
    for version in (2, 3):
        ran = command(
            *('trace', 'convert', trace, made, '--to', version),
            *('--name', '/dev/sdb', '--overwrite'),
        )
        assert ran == (0, '', '')
        assert made.read_bytes() == MADE.dump('/dev/sdb', version)


def test_merge(command, trace, tmp_path):
    ran = command(
        *('trace', 'convert', trace, 'made', '--merge'),
        *('--block-size', '128K', '--size', '700000'),
    )
    assert ran == (0, '', '')
    found = _trace.Trace.load(str(tmp_path / 'made'))
    assert [each[1:] for each in found.touches] == [
        (0, 2 * BLOCK),
        (8 * BLOCK, 700000 - 8 * BLOCK),
    ]


def test_record(command, tmp_path, monkeypatch):
    asked = []

    def answer(_client, identifier):
        asked.append(identifier)
        return MADE.dump('/image')

    monkeypatch.setattr(client.Client, 'trace', answer)
    assert command('trace', 'record', ID, 'x') == (0, '', '')
    assert asked == [ID]
    assert (tmp_path / 'x').read_bytes() == MADE.dump('/image')
    error = command.fails(9, 'trace', 'record', ID, 'x')
    assert 'exists' in error


@pytest.mark.parametrize(('driver', 'status'), [('cache', 0), ('iscsi', 5)])
def test_record_of_an_attachment(
    command, tmp_path, monkeypatch, driver, status
):
    attachment = oslo_transfer.Attachment(
        id=ID,
        driver=driver,
        source='http://host/image',
        form='nbd',
        path='nbd:',
        size=None,
        details={'service': 'f' * 32},
    )
    asked = []
    monkeypatch.setattr(oslo_transfer, 'attachments', lambda _: [attachment])
    monkeypatch.setattr(
        client.Client,
        'trace',
        lambda _client, name: asked.append(name) or MADE.dump('/image'),
    )
    assert command('trace', 'record', ID, 'x').status == status
    assert asked == ['f' * 32] * (not status)


def test_record_refuses_what_is_no_trace(command, tmp_path, monkeypatch):
    monkeypatch.setattr(client.Client, 'trace', lambda *_arguments: b'what?')
    error = command.fails(15, 'trace', 'record', ID, 'x')
    assert 'no iolog' in error
    assert not (tmp_path / 'x').exists()


@pytest.mark.parametrize(
    ('status', 'arguments'),
    [
        (2, ('show',)),
        (2, ('show', 'boot.trace', '-c', 'nothing')),
        (6, ('show', 'none')),
        (6, ('show', 'boot.trace', '--file', '/other')),
        (2, ('convert', 'boot.trace')),
        (2, ('convert', 'boot.trace', 'x', '--to', '1')),
        (2, ('convert', 'boot.trace', 'x', '--name', 'a b')),
        (2, ('convert', 'boot.trace', 'x', '--block-size', '100K')),
        (2, ('convert', 'boot.trace', 'x', '--block-size', '8M')),
        (6, ('record', ID, 'x')),
    ],
)
def test_failures(command, trace, tmp_path, monkeypatch, status, arguments):
    def absent(*_arguments):
        raise exceptions.NotFound('no such attachment')

    monkeypatch.setattr(client.Client, 'trace', absent)
    command.fails(status, 'trace', *arguments)
    assert not (tmp_path / 'x').exists()
