# SPDX-License-Identifier: Apache-2.0
"""The command line: what it prints, and how it ends."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import logging
import os
import pathlib
import re
import signal
import socket
import struct
import subprocess
import sys
import termios
import threading
import time
import typing

import pytest

import oslo_transfer
from oslo_transfer import _loader
from oslo_transfer.cli import console
from oslo_transfer.cli import exit_codes
from oslo_transfer.cli import interrupt
from oslo_transfer.cli import main
from oslo_transfer.cli import progress
from oslo_transfer.cli import units
from oslo_transfer.drivers import file as file_driver
from oslo_transfer import exceptions
from oslo_transfer import flight
from oslo_transfer import journal
from tests.servers import resource

DATA = resource.pattern(300_000)
DIGEST = f'sha256:{hashlib.sha256(DATA).hexdigest()}'
KEYS = (
    'strategy driver source destination form verified attachment '
    'bytes_written bytes_by_origin bytes_by_location '
    'wasted digest seconds seeding attempts'
).split()
COMMANDS = (
    'copy',
    'explain',
    'driver list',
    'driver show',
    'strategy list',
    'attachment list',
    'detach',
    'prefetch',
    'prefetch list',
    'cleanup',
    'serve',
    'cache list',
    'cache scrub',
    'trace convert',
    'trace record',
    'trace show',
    'seed add',
    'seed list',
    'seed remove',
)
SCRIPT = (
    'import sys; from oslo_transfer.cli import main; sys.exit(main.main())'
)


class Ran(typing.NamedTuple):
    """What a run of the command came to."""

    status: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


class Command:
    """Runs the command in this process."""

    def __init__(self, capsys, path):
        self._capsys = capsys
        self.config = path / 'config'
        self.configure()

    def configure(self, **options):
        options = {
            'state_path': self.config.parent / 'state',
            'max_retries': 0,
            'stall_timeout': 1,
            'connect_timeout': 3,
            **options,
        }
        lines = [f'{name} = {value}' for name, value in options.items()]
        self.config.write_text('\n'.join(['[oslo_transfer]', *lines]))

    def __call__(self, *argv, config=True):
        arguments = ['--config-file', str(self.config)] if config else []
        arguments += [str(each) for each in argv]
        self._capsys.readouterr()
        status = main.main(arguments)
        out, err = self._capsys.readouterr()
        return Ran(status, out, err)

    def fails(self, status, *argv, **options):
        """Run, and expect one line about an error."""
        ran = self(*argv, **options)
        assert (ran.status, ran.out) == (status, '')
        # Before it there may be warnings about what was tried again.
        *warnings, error = ran.err.splitlines()
        assert error.startswith('oslo-transfer: error: ')
        assert all(
            line.startswith('oslo-transfer: warning: ') for line in warnings
        )
        assert ran.err.endswith('\n')
        return error


@pytest.fixture
def command(capsys, tmp_path, monkeypatch, nothing_left):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(main, 'DEFAULT_CONFIG', str(tmp_path / 'default'))
    for name in ('OSLO_TRANSFER_TOKEN', 'OSLO_TRANSFER_TOKEN_URL'):
        monkeypatch.delenv(name, raising=False)
    return Command(capsys, tmp_path)


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'source'
    path.write_bytes(DATA)
    return path


def auth_file(path, *lines):
    path.write_text('\n'.join(lines))
    path.chmod(0o600)
    return path


# Results


def test_json(command, server, tmp_path):
    url = server.put('/image', DATA)
    ran = command('copy', '-f', 'json', '--hash', DIGEST, url, 'target')
    assert (ran.status, ran.err) == (0, '')
    assert list(ran.json) == KEYS
    assert ran.json['attempts'][0].keys() == {
        'strategy',
        'location',
        'reason',
        'error',
        'retryable',
    }
    assert ran.json['attachment'] is None
    assert ran.json['verified'] is True
    assert ran.json['bytes_by_origin'] == {'origin': len(DATA)}
    assert ran.json['bytes_written'] == len(DATA)
    assert ran.json['digest'] == DIGEST
    assert (tmp_path / 'target').read_bytes() == DATA


def test_attachment_in_json(command, monkeypatch):
    attachment = oslo_transfer.Attachment(
        id='a1',
        driver='x',
        source='x://h/',
        form='path',
        path='/p',
        size=5,
        details={'of': 'the driver'},
    )
    result = oslo_transfer.TransferResult(
        strategy='zero_copy',
        driver='x',
        source='x://h/',
        destination='/p',
        form='path',
        verified=False,
        attachment=attachment,
        bytes_written=0,
        bytes_by_origin={},
        wasted=0,
        digest=None,
        seconds=0.1,
        attempts=(),
    )
    monkeypatch.setattr(oslo_transfer, 'copy', lambda *_a, **_k: result)
    assert command('copy', 'a', 'b', '-f', 'json').json['attachment'] == {
        'id': 'a1',
        'driver': 'x',
        'source': 'x://h/',
        'form': 'path',
        'path': '/p',
        'size': 5,
        'read_only': True,
    }
    assert '| /p (a1)' in command('copy', 'a', 'b').out


def test_table_is_for_people(command, source):
    ran = command('copy', source, 'target')
    assert ran.status == 0
    assert '293.0 KiB' in ran.out
    assert '300000' not in ran.out
    assert re.search(r'verified +\| no ', ran.out)


def test_value_is_for_scripts(command, source):
    ran = command(
        'copy', source, 'target', '-f', 'value', '-c', 'bytes_written'
    )
    assert ran.out == '300000\n'


def test_digest_without_a_value_is_computed(command, source):
    ran = command('copy', source, 'b', '--hash', 'sha256', '-f', 'json')
    assert ran.json['digest'] == DIGEST
    assert ran.json['verified'] is False


def test_next_source(command, server, source):
    broken = server.url('/nothing')
    # An option between the sources is no obstacle.
    ran = command('copy', broken, '--overwrite', source, 'b', '-f', 'json')
    assert ran.status == 0
    assert ran.json['driver'] == 'file'
    assert 'NotFound' in [each['error'] for each in ran.json['attempts']]


def test_names_that_look_like_options(command, tmp_path):
    (tmp_path / '--debug').write_bytes(b'x')
    assert command('copy', '--', '--debug', '-f').status == 0
    assert (tmp_path / '-f').read_bytes() == b'x'


def test_names_that_are_no_text(command, tmp_path, source):
    name = os.fsdecode(b'\xff')
    ran = command('copy', source, name, '-f', 'json')
    assert ran.json['destination'] == name
    env = {**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)}
    ran = subprocess.run(
        [sys.executable, '-c', SCRIPT, 'copy', source, '--overwrite']
        + ['--config-file', command.config, name],
        capture_output=True,
        env=env,
    )
    assert b'| \xff ' in ran.stdout
    assert ran.returncode == 0


def test_config_file_behind_the_command(command, source):
    ran = command(
        'copy', '--config-file', command.config, source, 'b', config=False
    )
    assert ran.status == 0


def test_default_config_file(command, monkeypatch):
    monkeypatch.setattr(main, 'DEFAULT_CONFIG', str(command.config))
    command.configure(enabled_drivers='file')
    ran = command('driver', 'list', '-f', 'json', config=False)
    rows = {row['name']: row for row in ran.json}
    assert rows['file']['available'] is True
    assert 'enabled_drivers' in rows['http']['reason']


# How it ends, group by group


def test_0_version_and_help(command):
    assert command('--version').out.startswith('oslo-transfer ')
    ran = command('--help')
    assert ran.status == 0
    for group in exit_codes.GROUPS:
        assert f'{group.status:>5}  {group.meaning}' in ran.out
    for name in COMMANDS:
        ran = command(*name.split(), '--help', '-f', 'json')
        assert ran.status == 0
        assert ran.out.startswith(f'usage: oslo-transfer {name} ')
        assert f'\n  oslo-transfer {name} ' in ran.out
        assert command('help', *name.split()).out == ran.out


def test_1_bug(command, monkeypatch):
    def copy(*_args, **_kwargs):
        raise RuntimeError('two\nlines')

    monkeypatch.setattr(oslo_transfer, 'copy', copy)
    err = command.fails(1, 'copy', 'a', 'b')
    assert 'RuntimeError: two lines' in err
    assert '--debug' in err
    err = command('copy', 'a', 'b', '--debug').err
    assert err.startswith('Traceback ')
    assert 'in copy' in err


@pytest.mark.parametrize(
    'argv',
    [
        (),
        ('copy',),
        ('copy', 'a'),
        ('copy', 'a', 'b', '--expected-size', '-3'),
        ('copy', 'a', 'b', '--rate-limit', '5X'),
        ('copy', 'a', 'b', '--deadline', 'soon'),
        ('copy', 'a', 'b', '-c', 'nothing'),
        ('copy', 'a', 'b', '-f', 'nothing'),
        ('copy', 'a', 'b', '--nothing'),
        ('cleanup', '--older-than', '7y', '.'),
        ('driver', 'list', '-c', 'nothing'),
        ('-q', '-v', 'driver', 'list'),
        ('nothing',),
        ('help', 'nothing'),
    ],
)
def test_2_usage(command, argv):
    assert '--help' in command.fails(2, *argv) or '-c' in argv


def test_3_wrong_argument(command):
    assert '"//"' in command.fails(3, 'copy', 'http:h/', 'b')
    command.fails(3, 'copy', 'a', 'b', '--hash', 'md4711:00')
    command.fails(3, 'copy', 'a', 'b', '--rate-limit', '0')


@pytest.mark.parametrize(
    'content',
    [
        b'[oslo_transfer\n',
        b'[oslo_transfer]\nCANARY\n',
        b'[oslo_transfer]\nmax_streams = many\n',
        b'[oslo_transfer]\nmax_streams = 99\n',
        b'\xff\xfe',
    ],
)
def test_3_wrong_configuration(command, content, source):
    command.config.write_bytes(content)
    err = command.fails(3, 'copy', source, 'b')
    assert str(command.config) in err
    assert 'CANARY' not in err
    assert 'LocationInfo' not in err


def test_3_missing_configuration(command):
    err = command.fails(
        3, '--config-file', 'nothing', 'driver', 'list', config=False
    )
    assert 'nothing' in err


def test_4_no_driver_or_strategy(command, source, monkeypatch):
    assert 'gopher' in command.fails(4, 'copy', 'gopher://h/', 'b')
    err = command.fails(4, 'copy', source, 'b', '--strategy', 'magic')
    assert 'full_copy' in err

    def broken(scheme):
        raise exceptions.DriverLoadError('pip install it')

    monkeypatch.setattr(_loader, 'driver_class', broken)
    assert 'pip install it' in command.fails(4, 'copy', source, 'b')
    row = command('driver', 'list', '-f', 'json').json[0]
    assert row['driver'] is None
    assert row['available'] is False
    assert row['reason'] == 'pip install it'


def test_5_cannot(command, server):
    url = server.put('/image', DATA)
    command.fails(5, 'copy', url, 'b', '--strategy', 'clone')


def test_6_not_found(command, server):
    assert '404' in command.fails(6, 'copy', server.url('/x'), 'b')
    assert 'nothing' in command.fails(6, 'copy', 'nothing', 'b')
    command.fails(6, 'detach', 'nothing')


def test_7_denied(command, server):
    url = server.put('/image', DATA)
    server.require_token('/image', {'right'})
    assert '401' in command.fails(7, 'copy', url, 'b')


def test_8_refused(command, server):
    server.serve(
        '/image',
        lambda _request, conn: conn.reply(
            302, b'', {'Location': f'http://localhost:{server.port}/other'}
        ),
    )
    command.fails(8, 'copy', server.url('/image'), 'b')


def test_9_exists(command, source, tmp_path):
    (tmp_path / 'b').write_bytes(b'old')
    assert '--overwrite' in command.fails(9, 'copy', source, 'b')
    assert command('copy', '--overwrite', source, 'b').status == 0
    assert (tmp_path / 'b').read_bytes() == DATA


def test_10_no_space(command, server):
    url = server.put('/image', resource.Virtual(1 << 50))
    command.fails(10, 'copy', url, 'b')


def test_11_not_the_same(command, source):
    wrong = f'sha256:{"0" * 64}'
    command.fails(11, 'copy', source, 'b', '--hash', wrong)
    command.fails(11, 'copy', source, 'b', '--expected-size', '5')


def test_12_source_changed(command, server):
    def handler(request, conn):
        changing = resource.Resource(
            DATA, len(DATA), etag=f'"v{request.serial}"'
        )
        if changing.answer(request, conn, stop_at=len(DATA) // 2):
            conn.close()

    command.configure(max_retries=1, retry_delay=0)
    url = server.serve('/image', handler)
    command.fails(12, 'copy', url, 'b')


def test_13_unreachable(command):
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
    err = command.fails(13, 'copy', f'http://127.0.0.1:{port}/', 'b')
    assert 'may work later' in err


def test_13_all_sources_failed(command, server):
    server.put('/secret', DATA)
    server.require_token('/secret', {'right'})
    ran = command('copy', server.url('/x'), server.url('/secret'), 'b')
    assert ran.status == 13
    first, *attempts = ran.err.splitlines()
    assert first == ('oslo-transfer: error: all 2 locations failed')
    # What was passed over is not shown, unless it is asked for.
    assert [line.split()[0] for line in attempts] == ['full_copy'] * 2
    assert '404' in attempts[0]
    assert '401' in attempts[1]
    ran = command('-v', 'copy', server.url('/x'), server.url('/secret'), 'b')
    assert '\n  clone: ' in ran.err


def test_14_timed_out(command, server):
    url = server.serve('/image', lambda _request, conn: conn.wait(30))
    started = time.monotonic()
    command.fails(14, 'copy', url, 'b', '--deadline', '0.2')
    assert time.monotonic() - started < 5


def test_15_protocol(command, server):
    def handler(_request, conn):
        conn.send(b'SSH-2.0-OpenSSH_9.2\r\n\r\n')
        conn.close()

    command.fails(15, 'copy', server.serve('/image', handler), 'b')


def test_16_storage(command, source, monkeypatch):
    def fail(fd, *args):
        if os.readlink(f'/proc/self/fd/{fd}').endswith(flight.SUFFIX):
            raise OSError(5, 'Input/output error')
        return pwrite(fd, *args)

    pwrite = os.pwrite
    monkeypatch.setattr(os, 'pwrite', fail)
    assert 'Input/output' in command.fails(16, 'copy', source, 'b')


def test_17_detach(command, source, monkeypatch):
    def detach(*_args):
        raise exceptions.DetachError('it hangs', ('/dev/sdx',))

    monkeypatch.setattr(file_driver.FileDriver, 'detach', detach)
    app = main.TransferApp()
    app.options = app.parser.parse_args(['--config-file', str(command.config)])
    attachment = oslo_transfer.attach(str(source), conf=app.conf())
    err = command.fails(17, 'detach', attachment.id)
    assert '/dev/sdx' in err


def test_130_without_a_handler(command, monkeypatch):
    def interrupted(_namespace):
        raise KeyboardInterrupt

    monkeypatch.setattr(_loader, 'names', interrupted)
    assert command('driver', 'list') == (130, '', '')


def test_141_closed_pipe(command):
    reader, writer = os.pipe()
    os.close(reader)
    try:
        ran = subprocess.run(
            [sys.executable, '-c', SCRIPT, 'driver', 'list'],
            stdout=writer,
            stderr=subprocess.PIPE,
            env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        )
    finally:
        os.close(writer)
    assert (ran.returncode, ran.stderr) == (141, b'')


def test_every_error_has_its_group():
    def below(cls):
        yield cls
        for each in cls.__subclasses__():
            yield from below(each)

    for cls in below(exceptions.TransferError):
        if cls.__module__ != exceptions.__name__ or cls.__name__[0] == '_':
            continue
        statuses = [
            group.status
            for group in exit_codes.GROUPS
            if issubclass(cls, group.errors)
        ]
        assert len(statuses) == (cls is not exceptions.TransferError), cls


def test_statuses_are_documented():
    here = pathlib.Path(__file__)
    page = here.parents[2] / 'doc' / 'source' / 'user' / 'cli.rst'
    found = re.findall(r'^   \* - (\d+)\n     - (.*)$', page.read_text(), re.M)
    assert found == [
        (str(group.status), group.meaning[0].upper() + group.meaning[1:])
        for group in exit_codes.GROUPS
    ]


# Signals


@pytest.mark.parametrize('number', [signal.SIGINT, signal.SIGTERM])
def test_signal_and_resume(command, server, tmp_path, number):
    command.configure(buffer_bytes=65536)
    data = resource.pattern(2 << 20)
    url = server.put('/image', data, rate=1 << 20)
    child = subprocess.Popen(
        [sys.executable, '-c', SCRIPT, '--config-file', command.config]
        + ['copy', f'{url}?temp_url_expires=1&temp_url_sig=a', 'target'],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env={**os.environ, 'PYTHONPATH': os.pathsep.join(sys.path)},
        text=True,
    )
    part = flight.part_path(str(tmp_path / 'target'))
    end = time.monotonic() + 10
    while not (os.path.exists(part) and os.stat(part).st_blocks):
        assert time.monotonic() < end
        assert child.poll() is None
        threading.Event().wait(0.01)
    sent = time.monotonic()
    child.send_signal(number)
    out, err = child.communicate(timeout=10)
    assert time.monotonic() - sent < 1.5
    assert (child.returncode, out) == (128 + number, '')
    match = re.fullmatch(
        r'oslo-transfer: cancelled; run the same command again to go on '
        r'from byte (\d+)\n',
        err,
    )
    assert match
    info = os.stat(part)
    note = journal.load(flight.journal_path(part), info.st_ino, info.st_size)
    assert note is not None
    assert note.held.total == int(match[1])

    server.put('/image', data)
    # It may have to be signed anew.
    again = f'{url}?temp_url_expires=2&temp_url_sig=b'
    ran = command('copy', again, 'target', '-f', 'json')
    assert ran.json['bytes_by_origin']['resumed'] == int(match[1])
    assert (tmp_path / 'target').read_bytes() == data


def test_nothing_to_go_on_with(command, monkeypatch):
    def copy(*_args, **_kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        raise exceptions.TransferCancelled('stop')

    monkeypatch.setattr(oslo_transfer, 'copy', copy)
    ran = command('copy', 'a', 'b')
    assert ran == (
        143,
        '',
        'oslo-transfer: cancelled; nothing is left of it\n',
    )


def test_second_signal_is_not_caught():
    before = signal.getsignal(signal.SIGINT)
    with interrupt.Interruption() as interruption:
        assert not interruption.is_set()
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.is_set()
        assert interruption.status == 130
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) is before


# Secrets

CANARY = 'cAnArY-4711'


@pytest.mark.parametrize('verbosity', ['-q', '-vv'])
@pytest.mark.parametrize('debug', [(), ('--debug',)])
def test_no_secret_in_any_output(
    command, server, source, tmp_path, monkeypatch, verbosity, debug
):
    host = f'127.0.0.1:{server.port}'
    server.put('/image', DATA)
    urls = (
        f'http://user:{CANARY}@{host}/image',
        f'http://{host}/image?signature={CANARY}',
        f'http://{CANARY}@{host}/image',
    )
    bad = (
        f'http://user:{CANARY}@{host}/nothing?key={CANARY}',
        f'http://user:{CANARY}@@{host}/image',
        f'http://user:{CANARY}/@{host}/image',
        f'http://user:{CANARY}@{host}:port/image',
        f'http:user:{CANARY}@{host}/image',
        f'gopher://user:{CANARY}@{host}/image?{CANARY}',
    )
    runs: list[tuple] = [('copy', url, 'good', '--overwrite') for url in urls]
    runs += [('copy', url, 'bad') for url in bad]
    runs += [('copy', source, f'http://u:{CANARY}@{host}/no?{CANARY}')]
    runs += [('copy', urls[0], urls[1], 'bad', '--strategy', 'clone')]
    runs += [('driver', 'list', urls[0]), (urls[1],), ('help', urls[2])]
    runs += [('copy', 'a', 'b', '--nothing', urls[1])]
    broken = tmp_path / 'broken'
    for line in (
        f'http://{host} {CANARY}',
        f'http://{host} login:{CANARY}',
        f'http://{host} token:{CANARY}\x07',
        f'http://u:{CANARY}@{host} token:{CANARY}',
        f'{CANARY}',
    ):
        auth_file(broken, line)
        runs.append(('copy', urls[0], 'bad', '--auth-file', broken))
        for argv in runs:
            ran = command(*argv, verbosity, *debug)
            assert CANARY not in ran.out + ran.err, argv
        runs = []

    def copy(*_args, **_kwargs):
        try:
            raise ValueError(f'in http://u:{CANARY}@h/?{CANARY}')
        except ValueError as exc:
            raise RuntimeError(f'of {CANARY} at /?{CANARY}') from exc

    monkeypatch.setattr(oslo_transfer, 'copy', copy)
    ran = command('copy', urls[0], 'c', verbosity, *debug)
    assert ran.status == 1
    assert CANARY not in ran.err
    assert ('Traceback' in ran.err) == bool(debug)
    assert server.seen('/image')


def test_passwords_on_the_command_line(command, server):
    url = server.put('/image', DATA).replace('//', f'//user:{CANARY}@')
    ran = command('copy', url, 'b')
    assert ran.status == 0
    assert ran.err.startswith('oslo-transfer: warning: the password in ')
    assert '--auth-file' in ran.err
    assert ran.err.count('\n') == 1
    assert 'authorization' in server.requests[0].headers


def test_auth_file(command, server, tmp_path):
    url = server.put('/image', DATA)
    server.put('/login', DATA)
    server.require_token('/image', {CANARY})
    path = auth_file(
        tmp_path / 'auth',
        '# who we are',
        '',
        f'http://127.0.0.1:{server.port}/\ttoken:{CANARY}  ',
        'https://elsewhere.example login:user:pass:word',
    )
    ran = command('copy', '--auth-file', path, url, 'b')
    assert (ran.status, ran.err) == (0, '')
    auth_file(path, f'{server.origin} login:user:pass:word')
    url = server.url('/login')
    assert command('copy', '--auth-file', path, url, 'c').status == 0
    assert server.requests[-1].headers['authorization'].startswith('Basic ')
    # Another port is another origin.
    auth_file(path, f'http://127.0.0.1 token:{CANARY}')
    assert command('copy', '--auth-file', path, url, 'd').status == 0
    assert 'x-auth-token' not in server.requests[-1].headers


def test_auth_file_is_read_again(command, server, tmp_path):
    path = auth_file(tmp_path / 'auth', f'{server.origin} token:old')
    server.require_token('/image', {'new'})
    url = server.put('/image', DATA)
    seen = server.requests.append

    def renew(request):
        auth_file(path, f'{server.origin} token:new')
        seen(request)

    server.requests = type('Spy', (list,), {'append': lambda _, r: renew(r)})()
    assert command('copy', '--auth-file', path, url, 'b').status == 0


@pytest.mark.parametrize(
    'lines',
    [
        ['https://h'],
        ['https://h token:'],
        ['https://h login:user'],
        ['https://h other:x'],
        ['https://h/path token:x'],
        ['https://h?query token:x'],
        ['https://u@h token:x'],
        ['/path token:x'],
        ['https:h token:x'],
        ['https://h token:x', 'https://h:443 token:y'],
    ],
)
def test_wrong_auth_file(command, tmp_path, lines):
    path = auth_file(tmp_path / 'auth', *lines)
    err = command.fails(3, 'copy', '--auth-file', path, 'a', 'b')
    assert f'line {len(lines)}: ' in err


def test_auth_file_that_others_can_read(command, tmp_path):
    path = auth_file(tmp_path / 'auth', 'https://h token:x')
    path.chmod(0o640)
    err = command.fails(3, 'copy', '--auth-file', path, 'a', 'b')
    assert 'chmod 600' in err
    path.unlink()
    command.fails(3, 'copy', '--auth-file', path, 'a', 'b')


def test_token_in_the_environment(command, server, monkeypatch):
    url = server.put('/image', DATA)
    server.require_token('/image', {CANARY})
    monkeypatch.setenv('OSLO_TRANSFER_TOKEN', CANARY)
    err = command.fails(3, 'copy', url, 'b')
    assert 'OSLO_TRANSFER_TOKEN_URL' in err
    monkeypatch.setenv('OSLO_TRANSFER_TOKEN_URL', 'http://elsewhere.example')
    command.fails(7, 'copy', url, 'b')
    assert 'x-auth-token' not in server.requests[-1].headers
    monkeypatch.setenv('OSLO_TRANSFER_TOKEN_URL', server.origin)
    assert command('copy', url, 'b').status == 0


def test_console_cleans_what_it_writes():
    stream = io.StringIO()
    output = console.Console(stream)
    output.line('a\x1b[31m b\nc https://u:p@h/p?q https://***@h/?***: d')
    assert stream.getvalue() == (
        'a?[31m b c https://***@h/p?*** https://***@h/?***: d\n'
    )


# Progress


def on_terminal(monkeypatch, columns):
    master, slave = os.openpty()
    size = struct.pack('HHHH', 24, columns, 0, 0)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, size)
    monkeypatch.setattr(sys, 'stderr', open(slave, 'w'))
    return master


def all_of(master):
    sys.stderr.close()
    found = b''
    try:
        while piece := os.read(master, 65536):
            found += piece
    except OSError:
        pass  # That is how the end of a terminal looks.
    os.close(master)
    return found.decode()


def test_progress_on_a_terminal(command, source, monkeypatch):
    with monkeypatch.context() as patch:
        master = on_terminal(patch, 60)
        command.configure(buffer_bytes=65536)
        argv = ('copy', source, 'b', '--rate-limit', '600K')
        assert command(*argv).status == 0
        shown = all_of(master)
    assert shown.endswith('\r\n')
    assert shown.count('\n') == 1
    lines = shown.rstrip().split('\r')[1:]
    assert len(lines) >= 2
    for line in lines:
        assert len(line) < 60
    assert ' / 293.0 KiB' in lines[0]
    assert re.match(r' *\d+%', lines[0])
    assert '293.0 KiB' in lines[-1]


def test_error_comes_below_the_progress(command, source, monkeypatch):
    with monkeypatch.context() as patch:
        master = on_terminal(patch, 60)
        wrong = f'sha256:{"0" * 64}'
        argv = ('copy', source, 'b', '--hash', wrong)
        assert command(*argv, '--rate-limit', '600K').status == 11
        shown = all_of(master)
    assert '\noslo-transfer: error: ' in shown
    assert shown.count('\n') == 2


@pytest.mark.parametrize('option', ['--no-progress', '--quiet'])
def test_no_progress(command, source, monkeypatch, option):
    with monkeypatch.context() as patch:
        master = on_terminal(patch, 60)
        argv = ('copy', source, 'b', '--rate-limit', '600K', option)
        assert command(*argv).status == 0
        assert all_of(master) == ''


def test_log_lines_instead_of_progress(command, server, monkeypatch):
    monkeypatch.setattr(progress, '_LOG_INTERVAL', 0.15)
    command.configure(buffer_bytes=65536)
    url = server.put('/image', DATA, rate=600_000)
    ran = command('copy', url, 'b', '-v', '-f', 'value')
    assert re.search(r'^oslo-transfer: [0-9.]+ KiB / 293.0 KiB', ran.err, re.M)
    assert '\r' not in ran.err


def fails_at_first(server, times=2):
    """A location that is not there when it is first asked."""
    whole = resource.Resource(DATA, len(DATA), rate=600_000)

    def answer(request, conn):
        if request.nth < times:
            conn.reply(503)
        else:
            whole(request, conn)

    return server.serve('/image', answer)


@pytest.mark.parametrize('option', ['--no-progress', '--quiet'])
def test_why_nothing_happens_is_told_once(command, server, option):
    """A copy that waits to try again does not look as if it hung."""
    command.configure(max_retries=5, retry_delay=0.01)
    ran = command('copy', fails_at_first(server), 'b', option)
    assert ran.status == 0
    (line,) = ran.err.splitlines()
    assert line.startswith('oslo-transfer: warning: http://127.0.0.1')
    assert '503' in line
    assert 'trying again in' in line
    assert line.count('/image') == 1


def test_warning_comes_above_the_progress(command, server, monkeypatch):
    whole = resource.Resource(DATA, len(DATA), rate=600_000)

    def answer(request, conn):
        if whole.answer(request, conn, None if request.nth else 100_000):
            conn.reset()

    with monkeypatch.context() as patch:
        master = on_terminal(patch, 60)
        command.configure(max_retries=5, retry_delay=0.5, buffer_bytes=65536)
        url = server.serve('/image', answer)
        argv = ('--expected-size', str(len(DATA)), '--hash', DIGEST)
        assert command('copy', url, 'b', *argv).status == 0
        shown = all_of(master)
    warning, bar, *rest = shown.rstrip('\r\n').split('\r\n')
    assert rest == []
    warning = warning.split('\r')[-1]
    assert warning.startswith('oslo-transfer: warning: http://127.0.0.1')
    # What stood there is blanked out first and drawn again below.
    assert '%' not in warning
    assert re.match(r'\r *\d+%', bar)


def test_meter():
    meter = progress.Meter()
    assert meter.rate is meter.average is None
    for second in range(11):
        meter.add(second, 1000 + 100 * second)
    assert meter.rate == meter.average == 100
    for second in range(11, 21):
        meter.add(second, 2000 + 50 * (second - 10))
    assert meter.rate == 50
    assert meter.average == 75
    # It fades where nothing comes, also between two that are far apart.
    meter.add(40, 2500)
    assert meter.rate is not None
    assert 0 < meter.rate < 5
    # A new attempt starts anew.
    meter.add(41, 0)
    assert meter.rate is None
    meter.add(42, 100)
    assert meter.rate == meter.average == 100


@pytest.mark.parametrize(
    ('total', 'size', 'rate', 'end'),
    [
        (1 << 20, None, None, '1.0 MiB  0:07'),
        (1 << 20, None, 1024, '1.0 MiB  1.0 KiB/s  0:07'),
        (1 << 20, 4 << 20, None, '1.0 MiB / 4.0 MiB  0:07'),
        (1 << 20, 4 << 20, 1 << 20, '1.0 MiB/s  ETA 0:03'),
        (1 << 20, 4 << 20, 256, '256 B/s  ETA 3:24:48'),
        (1 << 20, 4 << 20, 0, '0 B/s  waiting'),
        (4 << 20, 4 << 20, 5, '5 B/s  finishing'),
    ],
)
def test_progress_line(total, size, rate, end):
    parts = progress.describe(total, size, rate, 7.0)
    for width in range(1, 100):
        line = progress.bar(parts, total, size, width)
        assert len(line) <= width
    assert line.endswith(end)
    assert ('[' in line) == (size is not None)


def test_log_line_above_the_status():
    stream = io.StringIO()
    output = console.Console(stream)
    output.status('status')
    output.line('line')
    output.status('new')
    output.end_status()
    output.end_status()
    assert stream.getvalue() == ('\rstatus\r      \rline\nstatus\rnew   \n')


# Other commands


def test_explain(command, source, server):
    command.configure(driver_order='http', strategy_order='clone, full_copy')
    url = server.url('/image')
    ran = command('explain', source, url, 'gopher://a/', 'b')
    assert (ran.status, ran.err) == (0, '')
    lines = ran.out.splitlines()
    assert max(map(len, lines)) < 120 + len(str(source))
    text = ' '.join(' '.join(lines).replace('|', ' ').split())
    for part in (
        f'1. {url} (http) "http" is number 1 of driver_order; as given ',
        f'2. {source} (file) "file" is not in driver_order; as given ',
        '3. gopher://a/ not used: no driver serves "gopher" URLs',
        f'1. clone: first clone {source} to b ',
        '2. full_copy: if that fails ',
        'location_selector = order',
    ):
        assert part in text, part
    assert server.connections.total == 0
    assert not os.path.exists('b')


def test_explain_for_programs(command, source, server):
    ran = command(
        'explain', '-f', 'json', '--strategy', 'clone', server.url('/'), 'b'
    )
    assert ran.status == 0
    assert list(ran.json) == [
        'destination',
        'strategy',
        'locations',
        'strategies',
        'remarks',
    ]
    assert ran.json['strategy'] is None
    (strategy,) = ran.json['strategies']
    assert strategy == {
        'strategy': 'clone',
        'choice': 'passed over',
        'reason': 'no location is a file on this host',
        'steps': [],
        'passed_over': [],
    }
    (location,) = ran.json['locations']
    assert location['usable'] is True
    ran = command('explain', '-f', 'value', '-c', 'strategy', source, 'b')
    assert ran.out == 'clone\n'


def test_explain_what_cannot_be(command, source):
    command.fails(2, 'explain', 'a')
    command.fails(2, 'explain', 'a', 'b', '-c', 'nothing')
    command.fails(3, 'explain', 'http:/x', 'b')
    command.fails(3, 'explain', source, 'b', '--hash', 'crc32')
    command.fails(4, 'explain', 'gopher://a/', 'b')
    command.configure(strategy_order='')
    assert 'strategy_order' in command.fails(3, 'explain', source, 'b')
    command.configure(datacenters='ams', datacenter='nowhere')
    assert 'datacenters' in command.fails(3, 'explain', source, 'b')


def test_explain_warns_of_passwords(command):
    ran = command('explain', f'http://user:{CANARY}@a.example/', 'b')
    assert 'is visible' in ran.err
    assert CANARY not in ran.out + ran.err


def test_driver_list(command):
    ran = command('driver', 'list', '-f', 'json')
    rows = {row['name']: row for row in ran.json}
    assert rows['https']['driver'] == 'http'
    assert 'random_read' in rows['https']['capabilities']
    assert rows['file']['available'] is True
    assert rows['file']['reason'] is None
    assert '| file    | file ' in command('driver', 'list').out


@pytest.mark.parametrize('name', ['http', 'https'])
def test_driver_show(command, name):
    ran = command('driver', 'show', name, '-f', 'json')
    assert ran.json['schemes'] == ['http', 'https']
    flags = {flag['name']: flag for flag in ran.json['capabilities']}
    assert flags['read']['supported'] is True
    assert flags['attach']['supported'] is False
    assert flags['attach']['help']
    options = {each['name']: each for each in ran.json['options']}
    assert options['max_redirects']['default'] == 5
    assert ran.json['option_group'] == 'oslo_transfer_http'
    assert 'max_redirects (5): ' in command('driver', 'show', name).out


def test_driver_show_of_nothing(command):
    assert 'nothing' in command.fails(4, 'driver', 'show', 'nothing')


def test_strategy_list(command):
    command.configure(strategy_order='full_copy,magic')
    ran = command('strategy', 'list', '-f', 'json')
    rows = {row['name']: row for row in ran.json}
    assert rows['full_copy']['order'] == 1
    assert rows['full_copy']['attaching'] is False
    assert rows['full_copy']['forms'] == ['device', 'file']
    assert rows['full_copy']['description'].endswith('.')
    assert rows['clone']['order'] is None
    assert 'no strategy is named' in rows['magic']['description']


def test_attachments(command, source):
    app = main.TransferApp()
    app.options = app.parser.parse_args(['--config-file', str(command.config)])
    attachment = oslo_transfer.attach(str(source), conf=app.conf())
    ran = command('attachment', 'list', '-f', 'json')
    assert [row['id'] for row in ran.json] == [attachment.id]
    assert ran.json[0]['size'] == len(DATA)
    assert ran.json[0]['read_only'] is True
    assert command('detach', attachment.id) == (0, '', '')
    assert command('attachment', 'list', '-f', 'json').json == []


def test_cleanup(command, tmp_path):
    part = tmp_path / '.b.oslo-part'
    part.write_bytes(bytes(10_000))
    young = tmp_path / '.c.oslo-part'
    young.write_bytes(b'x')
    os.utime(part, (1, time.time() - 8 * 86400))
    ran = command('cleanup', '--dry-run', tmp_path, '-f', 'json')
    assert [row['outcome'] for row in ran.json] == ['would be removed']
    assert part.exists()
    ran = command('cleanup', tmp_path, '-f', 'json')
    assert ran.json[0]['path'] == str(part)
    size = units.human_size(ran.json[0]['size'])
    assert ran.err == f'oslo-transfer: 1 files removed, {size}\n'
    assert not part.exists()
    assert young.exists()
    argv = ('cleanup', '-q', '--older-than', '0', tmp_path)
    assert '| 0s ' in command(*argv).out
    assert not young.exists()


def test_cleanup_of_records(command, tmp_path):
    records = tmp_path / 'state' / 'attachments'
    records.mkdir(parents=True)
    record = records / f'{"0" * 32}.json.new'
    record.touch()
    empty = tmp_path / 'empty'
    empty.mkdir()
    ran = command('cleanup', empty, '--older-than', '0s')
    assert str(record) in ran.out
    assert not record.exists()


def test_cleanup_that_fails(command, tmp_path, monkeypatch):
    (tmp_path / '.b.oslo-part').touch()

    def unlink(*_args, **_kwargs):
        raise PermissionError(13, 'Permission denied')

    with monkeypatch.context() as patch:
        patch.setattr(os, 'unlink', unlink)
        ran = command('cleanup', '-q', '--older-than', '0', tmp_path)
    assert ran.status == 16
    assert 'Permission denied' in ran.out
    assert ran.err.count('\n') == 1


@pytest.mark.parametrize(
    ('text', 'count'),
    [('0', 0), ('512', 512), ('2K', 2048), ('1M', 1 << 20), ('3GiB', 3 << 30)],
)
def test_byte_count(text, count):
    assert units.byte_count(text) == count


@pytest.mark.parametrize(
    ('text', 'count'),
    [('0', 0), ('1.5', 1.5), ('2m', 120), ('7d', 604800), ('1w', 604800)],
)
def test_seconds(text, count):
    assert units.seconds(text) == count


def test_units_for_people():
    assert units.human_size(0) == '0 B'
    assert units.human_size(1536) == '1.5 KiB'
    assert units.human_size(5 << 50) == '5.0 PiB'
    assert units.human_time(59.9) == '0:59'
    assert units.human_time(3661) == '1:01:01'
    assert units.human_age(90000) == '1d'
    assert units.human_age(-1) == '0s'


def test_other_loggers(command, monkeypatch):
    def names(_namespace):
        for level in ('debug', 'info', 'warning'):
            getattr(logging.getLogger('other'), level)(f'other {level}')
            getattr(logging.getLogger('oslo_transfer'), level)(f'our {level}')
        return []

    monkeypatch.setattr(_loader, 'names', names)
    before = logging.getLogger().handlers[:]
    ran = command('driver', 'list', '-vv')
    assert ran.err.splitlines() == [
        'oslo-transfer: our debug',
        'oslo-transfer: our info',
        'oslo-transfer: warning: other warning',
        'oslo-transfer: warning: our warning',
    ]
    assert 'our info' not in command('driver', 'list').err
    assert logging.getLogger().handlers == before
