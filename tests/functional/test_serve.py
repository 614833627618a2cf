# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer serve`` as a process, with peers that others wrote."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import itertools
import json
import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import libtorrent
import pytest

from oslo_transfer import exceptions
from oslo_transfer.service import client
from tests import groups
from tests.servers import aria2
from tests.servers import child
from tests.servers import opentracker
from tests.servers import resource
from tests.servers import torrents
from tests import waiting

pytestmark = groups.marks(
    'bittorrent',
    aria2.Aria2.found() is not None
    and opentracker.OpenTracker.found() is not None,
)

SCRIPT = (
    'import sys; from oslo_transfer.cli import main; sys.exit(main.main())'
)
DATA = resource.pattern(3_000_000)
PIECE = 64 << 10


class Service:
    """The service of a host that consists of a directory."""

    def __init__(self, path):
        self.path = path
        self.socket = path / 'control.sock'
        self.options = {'seed_seconds': 3600}
        self.group = ''
        self.log = path / 'log'
        self.port = child.free_port()
        self.process = None
        self.notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notified.bind(str(path / 'notify'))
        self.notified.settimeout(20)

    def configure(self):
        seed = [f'{key} = {value}' for key, value in self.options.items()]
        lines = [
            '[oslo_transfer]',
            f'state_path = {self.path / "state"}',
            '[oslo_transfer_service]',
            f'control_socket = {self.socket}',
            self.group,
            '[oslo_transfer_bittorrent]',
            'peer_networks = 127.0.0.0/8',
            'listen_address = 127.0.0.1',
            f'port = {self.port}',
            '[oslo_transfer_seed]',
            *seed,
        ]
        (self.path / 'config').write_text('\n'.join(lines))

    def command(self, *arguments):
        self.configure()
        return [
            *(sys.executable, '-c', SCRIPT),
            *('--config-file', str(self.path / 'config'), *arguments),
        ]

    def start(self):
        """Start it, and wait until it says that it is ready."""
        command = self.command('serve', '--role', 'seed')
        if setpriv := shutil.which('setpriv'):
            command = [setpriv, '--pdeathsig', 'KILL', *command]
        with open(self.log, 'ab') as log:
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    'NOTIFY_SOCKET': str(self.path / 'notify'),
                    'WATCHDOG_USEC': '20000000',
                },
            )
        while self.notified.recv(100) != b'READY=1':
            pass

    def kill(self, number=signal.SIGKILL):
        """Send a signal that ends it; return the exit status."""
        self.process.send_signal(number)
        status = self.process.wait(20)
        self.process = None
        return status

    def run(self, *arguments):
        """Run a command of the command line."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=30,
        )

    def add(self, torrent, path):
        text = base64.b64encode(torrent.encoded).decode('ascii')
        body = self.path / 'body'
        body.write_text(json.dumps({'torrent': text, 'path': str(path)}))
        found = self.ask('seeds', '--json', f'@{body}')
        assert found['path'] == str(path)

    def ask(self, path, *options):
        """Ask it with curl."""
        ran = subprocess.run(
            ['curl', '-sS', '--fail', '--unix-socket', str(self.socket)]
            + [*options, f'http://localhost/v1/{path}'],
            capture_output=True,
            timeout=20,
        )
        assert ran.stderr == b''
        return json.loads(ran.stdout)

    @property
    def seeds(self):
        return self.ask('seeds')['seeds']

    def opened(self, path):
        """Whether it has a file open, be it deleted or not."""
        directory = pathlib.Path(f'/proc/{self.process.pid}/fd')
        for each in directory.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if os.readlink(each).startswith(str(path)):
                    return True
        return False

    def close(self):
        if self.process is not None:
            self.kill()
        self.notified.close()


@pytest.fixture
def service():
    # A short name: those of sockets are limited.
    with tempfile.TemporaryDirectory(prefix='ot') as path:
        found = Service(pathlib.Path(path))
        yield found
        found.close()


def published(service, tracker, data=DATA, kind='v1', name='image'):
    """A torrent, and its file where a copy would have put it."""
    torrent = torrents.make(
        data, kind, name=name, piece_bytes=PIECE, trackers=[tracker.url()]
    )
    path = service.path / f'finished-{name}'
    path.write_bytes(data)
    return torrent, path


def tracked(data=DATA):
    """A tracker of the torrent that published() makes; its hash first.

    The info-hash does not cover the URLs of trackers.
    """
    return opentracker.OpenTracker(
        *(
            torrents.make(data, kind, piece_bytes=PIECE)
            for kind in torrents.KINDS
        )
    )


def test_foreign_leech_and_kill(service):
    """A leech gets all, and after kill -9 and a restart another one."""
    with tracked() as tracker:
        torrent, path = published(service, tracker)
        before = path.stat()
        service.start()
        service.add(torrent, path)
        for _round in range(2):
            with aria2.Aria2(torrent) as leech:
                waiting.until(lambda: leech.complete, 30)
                assert leech.path.read_bytes() == DATA
            assert service.kill() == -signal.SIGKILL
            service.start()
            (seed,) = service.seeds
            assert seed['info_hash'] == torrent.v1
    after = path.stat()
    assert after.st_mtime_ns == before.st_mtime_ns, 'somebody wrote to it'
    assert service.kill(signal.SIGINT) == 0


class Leech:
    """Takes a torrent with libtorrent, and counts what is wrong."""

    def __init__(self, torrent, path, port):
        self.wrong = 0
        self._session = libtorrent.session(
            {
                'listen_interfaces': '127.0.0.1:0',
                'enable_dht': False,
                'enable_lsd': False,
                'enable_upnp': False,
                'enable_natpmp': False,
                'enable_outgoing_utp': False,
                'alert_mask': libtorrent.alert_category.status,
            }
        )
        parameters = libtorrent.load_torrent_buffer(torrent.encoded)
        parameters.save_path = str(path)
        parameters.trackers = []
        self._handle = self._session.add_torrent(parameters)
        self._handle.connect_peer(('127.0.0.1', port))

    @property
    def pieces(self):
        self.wrong += sum(
            isinstance(alert, libtorrent.hash_failed_alert)
            for alert in self._session.pop_alerts()
        )
        return self._handle.status().num_pieces


@pytest.mark.parametrize('kind', torrents.KINDS)
def test_wrong_bytes_are_sent_to_nobody(service, kind):
    """A file that rots: none of it leaves, and nobody mends it."""
    with tracked() as tracker:
        torrent, path = published(service, tracker, kind=kind)
        rotten = bytearray(DATA)
        rotten[20 * PIECE + 5] ^= 1
        path.write_bytes(rotten)
        service.start()
        service.add(torrent, path)
        leech = Leech(torrent, service.path, service.port)
        waiting.until(lambda: leech.pieces and not service.seeds, 30)
        assert leech.wrong == 0
        assert path.read_bytes() == rotten
        assert 'piece 20 of the file is not what' in service.log.read_text()
        assert not service.opened(path)


def test_deleted_file_frees_its_space(service):
    """Also while it is sent to somebody."""
    with tracked() as tracker:
        torrent, path = published(service, tracker)
        service.start()
        service.add(torrent, path)
        leech = Leech(torrent, service.path, service.port)
        waiting.until(lambda: leech.pieces)
        assert service.opened(path)
        path.unlink()
        waiting.until(lambda: not service.opened(path), 5)
        assert service.seeds == []
        assert 'the file was removed' in service.log.read_text()


def test_touched_file_is_seeded_on(service):
    with tracked() as tracker:
        torrent, path = published(service, tracker)
        service.start()
        service.add(torrent, path)
        os.utime(path)
        waiting.until(lambda: 'checking it again' in service.log.read_text())
        with aria2.Aria2(torrent) as leech:
            waiting.until(lambda: leech.complete, 30)
        (seed,) = service.seeds
        assert seed['uploaded'] >= len(DATA)


def test_it_ends_soon(service):
    """Whatever a tracker does, and whoever is in the middle of asking."""
    with (
        socket.create_server(('127.0.0.1', 0)) as black_hole,
        socket.socket(socket.AF_UNIX) as slow,
    ):
        port = black_hole.getsockname()[1]
        torrent = torrents.make(
            DATA,
            piece_bytes=PIECE,
            trackers=[f'http://127.0.0.1:{port}/announce'],
        )
        path = service.path / 'finished'
        path.write_bytes(DATA)
        service.start()
        service.add(torrent, path)
        black_hole.settimeout(20)
        announced, _ = black_hole.accept()
        slow.connect(str(service.socket))
        slow.sendall(b'POST /v1/seeds HTTP/1.1\r\n')
        while service.notified.recv(100) != b'WATCHDOG=1':
            pass
        started = time.monotonic()
        assert service.kill(signal.SIGTERM) == 0
        assert time.monotonic() < started + 8
        announced.close()
    assert not service.socket.exists()
    last = b''
    with contextlib.suppress(BlockingIOError):
        service.notified.settimeout(0)
        while True:
            last = service.notified.recv(100)
    assert last == b'STOPPING=1'


def test_what_was_accepted_survives_a_kill(service, conf):
    """Killed while it takes seeds, as fast as they come."""
    conf.set_override(
        'control_socket', str(service.socket), group='oslo_transfer_service'
    )
    asking = client.Client(conf)
    accepted = []

    def hand_over(until_killed):
        for number in itertools.count(len(accepted)):
            data = resource.pattern(100_000, seed=number)
            path = service.path / f'image-{number}'
            path.write_bytes(data)
            torrent = torrents.make(data, 'v2')
            try:
                asking.add_seed(torrent.encoded, str(path))
            except exceptions.TransferError:
                return
            accepted.append(torrent.v2)
            if len(accepted) == until_killed:
                enough.set()

    for count in (1, 7, 20):
        service.start()
        assert set(accepted) <= {each['info_hash'] for each in service.seeds}
        enough = threading.Event()
        thread = threading.Thread(target=hand_over, args=(count,))
        thread.start()
        assert enough.wait(20)
        service.kill()
        thread.join(20)
    service.start()
    assert set(accepted) <= {each['info_hash'] for each in service.seeds}
    assert 'cannot be used' not in service.log.read_text()


def test_only_the_group_may_ask(service, need):
    need('setpriv', root=True)
    gid = 54321
    service.group = f'control_socket_group = {gid}'
    service.path.chmod(0o755)
    service.start()
    curl = ['curl', '-sS', '--fail', '--unix-socket', str(service.socket)]
    user = ['setpriv', '--reuid', '65534', '--regid', '65534']
    for rights, status in (
        (['--clear-groups'], 7),
        ([f'--groups={gid}'], 0),
    ):
        ran = subprocess.run(
            [*user, *rights, *curl, 'http://localhost/v1/status'],
            capture_output=True,
            timeout=20,
        )
        assert ran.returncode == status, ran.stderr


def test_configuration_is_read_again(service):
    torrent = torrents.make(DATA, piece_bytes=PIECE)
    path = service.path / 'finished'
    path.write_bytes(DATA)
    service.start()
    service.add(torrent, path)
    assert service.seeds[0]['seconds_left'] > 3000
    (service.path / 'config').write_text('nonsense')
    service.process.send_signal(signal.SIGHUP)
    waiting.until(lambda: 'is kept as it was' in service.log.read_text())
    assert service.seeds[0]['seconds_left'] > 3000
    service.options['seed_seconds'] = 0
    service.configure()
    service.process.send_signal(signal.SIGHUP)
    waiting.until(lambda: service.seeds[0]['seconds_left'] is None)


def test_second_service_is_refused(service):
    service.start()
    ran = service.run('serve')
    assert ran.returncode == 13
    assert f'process {service.process.pid}' in ran.stderr
    assert len(ran.stderr.splitlines()) == 1
    assert service.ask('status')['pid'] == service.process.pid


def test_command_line(service):
    torrent = torrents.make(DATA, piece_bytes=PIECE, name='debian.raw')
    path = service.path / 'finished'
    path.write_bytes(DATA)
    file = torrent.write(service.path / 'it.torrent')
    ran = service.run('seed', 'add', str(file), str(path))
    assert (ran.returncode, ran.stdout) == (13, '')
    assert 'start "oslo-transfer serve"' in ran.stderr
    service.start()
    ran = service.run('seed', 'add', str(file), str(path))
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, '', '')
    ran = service.run('seed', 'list', '-f', 'json')
    (listed,) = json.loads(ran.stdout)
    left = listed.pop('left')
    assert 3500 < left <= 3600
    assert listed == {
        'info_hash': torrent.v2,
        'name': 'debian.raw',
        'size': len(DATA),
        'ratio': 0.0,
        'peers': 0,
        'path': str(path),
    }
    table = service.run('seed', 'list').stdout
    assert '2.9 MiB' in table
    assert '59:' in table or '1:00:00' in table
    ran = service.run('seed', 'remove', '0' * 40)
    assert (ran.returncode, ran.stdout) == (6, '')
    ran = service.run('seed', 'remove', torrent.v1)
    assert (ran.returncode, ran.stdout, ran.stderr) == (0, '', '')
    assert service.seeds == []


def test_copy_hands_its_file_over(service):
    """One copy fetches from a foreign seed, the service goes on with it."""
    with tracked() as tracker:
        torrent, path = published(service, tracker)
        path.unlink()
        file = torrent.write(service.path / 'image.torrent')
        with aria2.Aria2(torrent, DATA):
            service.start()
            ran = service.run(
                *('copy', '-f', 'json', f'torrent+file://{file}', str(path)),
                *('--hash', f'sha256:{hashlib.sha256(DATA).hexdigest()}'),
            )
        assert ran.returncode == 0, ran.stderr
        assert json.loads(ran.stdout)['seeding'] is True
        (seed,) = service.seeds
        assert seed['path'] == str(path)
        with aria2.Aria2(torrent) as leech:
            waiting.until(lambda: leech.complete, 30)
            assert leech.path.read_bytes() == DATA


def test_many_bytes_from_curl(service):
    """Curl asks first whether it may send so much."""
    service.start()
    body = service.path / 'body'
    body.write_text(json.dumps({'torrent': 'x' * 3_000_000, 'path': '/x'}))
    ran = subprocess.run(
        ['curl', '-sS', '--unix-socket', str(service.socket), '--json']
        + [f'@{body}', 'http://localhost/v1/seeds'],
        capture_output=True,
        timeout=20,
    )
    assert json.loads(ran.stdout)['error'] == 'ProtocolError'
