# SPDX-License-Identifier: Apache-2.0
"""The service of a host: its socket, its control API, its client."""

from __future__ import annotations

import dataclasses
import json
import os
import select
import socket
import stat
import threading
import time

import pytest

from oslo_transfer import call
from oslo_transfer import exceptions
from oslo_transfer.service import client
from oslo_transfer.service import control
from oslo_transfer.service import listening
from oslo_transfer.service import notify
from oslo_transfer.service import role
from tests.unit import services


class Echo(role.Role):
    """Answers with what it was asked; its calls can be held up."""

    name = 'echo'

    def __init__(self):
        self.go = threading.Event()
        self.go.set()
        self.busy = threading.Semaphore(0)
        self.calls = []

    def start(self):
        self.calls.append('start')

    def tick(self):
        self.calls.append('tick')

    def stop(self):
        self.calls.append('stop')

    def status(self):
        return {'fine': True}

    def routes(self):
        return [
            role.Route('POST', '/v1/echo', self._echo),
            role.Route('GET', '/v1/echo/', self._echo),
            role.Route('GET', '/v1/fail/', self._fail),
        ]

    def _echo(self, argument, body):
        self.busy.release()
        assert self.go.wait(20)
        return 200, {'argument': argument, 'body': body}

    def _fail(self, argument, _body):
        if hasattr(exceptions, argument):
            raise getattr(exceptions, argument)('why')
        raise OSError('this is a bug')


@pytest.fixture
def place(conf):
    place = services.Place(conf)
    yield place
    place.close()


@pytest.fixture
def echo():
    return Echo()


@pytest.fixture
def serving(place, echo, nothing_left):
    with place.serve(echo):
        yield place


# The control API


def test_status(serving):
    status, found = serving.ask('GET', '/v1/status')
    assert status == 200
    assert found['pid'] == os.getpid()
    assert found['roles'] == {'echo': {'fine': True}}
    assert found['uptime_seconds'] >= 0
    assert found['version']


def test_argument_is_the_last_part_of_the_path(serving):
    assert serving.ask('GET', '/v1/echo/abc?x=y') == (
        200,
        {'argument': 'abc', 'body': {}},
    )


@pytest.mark.parametrize(
    ('method', 'path', 'status'),
    [
        ('GET', '/', 404),
        ('GET', '/v1/nothing', 404),
        ('GET', '/v2/status', 404),
        ('GET', '/v1/echo/a/b', 404),
        ('GET', '/v1/../v1/status', 404),
        ('DELETE', '/v1/status', 405),
        ('GET', '/v1/echo', 405),
        ('PUT', '/v1/echo', 501),
        ('GET', 'x', 404),
    ],
)
def test_unknown_request(serving, method, path, status):
    found, fields = serving.ask(method, path)
    assert found == status
    assert set(fields) == {'error', 'message'}


@pytest.mark.parametrize(
    'body',
    [
        b'',
        b'{',
        b'[]',
        b'"text"',
        b'null',
        b'\xff\xfe',
        b'{"a": 1} x',
        b'[' * 100_000,
    ],
)
def test_body_that_is_no_object(serving, body):
    status, fields = serving.ask('POST', '/v1/echo', body)
    assert (status, fields['message']) == (400, 'the body is no JSON object')


@pytest.mark.parametrize(
    ('header', 'status'),
    [
        ('', 411),
        ('Content-Length: -1\r\n', 411),
        ('Content-Length: +5\r\n', 411),
        ('Content-Length: 1_0\r\n', 411),
        ('Content-Length: ²\r\n', 411),
        ('Content-Length: 99999999999999999999\r\n', 411),
        ('Transfer-Encoding: chunked\r\n', 411),
        (f'Content-Length: {control.MAX_BODY + 1}\r\n', 413),
    ],
)
def test_body_of_no_length_or_too_long(serving, header, status):
    request = f'POST /v1/echo HTTP/1.1\r\nHost: x\r\n{header}\r\n{{}}'
    assert serving.send(request.encode())[0] == status


@pytest.mark.parametrize(
    ('request_', 'status'),
    [
        (b'\r\n', None),
        (b'nonsense\r\n\r\n', 400),
        (b'GET /v1/status HTTP/9.9\r\n\r\n', 505),
        (b'GET /%s HTTP/1.1\r\n\r\n' % (b'x' * 70_000), None),
        (b'GET / HTTP/1.1\r\n' + b'a: b\r\n' * 200 + b'\r\n', 431),
        (b'GET / HTTP/1.1\r\n' + b'a: %s\r\n' % (b'b' * 60_000) * 9, None),
        (b'\x16\x03\x01\x02\x00\x01\x00\x01\xfc', None),
        (bytes(range(256)) * 400, None),
    ],
)
def test_nonsense_is_refused_or_dropped(serving, request_, status):
    found, _fields = serving.send(request_, end=True)
    assert found == status or (status is None and found in (400, 414))
    assert serving.ask('GET', '/v1/status')[0] == 200


def test_slow_clients_cost_others_nothing(serving, monkeypatch):
    monkeypatch.setattr(control, 'PATIENCE', 1.0)
    silent = serving.connection()
    begun = serving.connection()
    begun.sendall(b'GET /v1/st')
    half = serving.connection()
    half.sendall(b'POST /v1/echo HTTP/1.1\r\nContent-Length: 9\r\n\r\n{')
    assert serving.ask('GET', '/v1/status')[0] == 200
    assert services.receive(silent) == (None, None)
    assert services.receive(begun) == (None, None)
    assert services.receive(half)[0] == 408
    for sock in (silent, begun, half):
        sock.close()


def test_trickle_has_no_more_time(serving, monkeypatch):
    """Each byte comes soon, but all of them do not."""
    monkeypatch.setattr(control, 'PATIENCE', 0.5)
    with serving.connection() as sock:
        started = time.monotonic()
        with pytest.raises(OSError):
            while time.monotonic() < started + 5:
                sock.sendall(b'x')
                # It may be told before that it is over.
                select.select([sock], [], [], 0.02)
        assert time.monotonic() < started + 3


def test_client_that_does_not_read(serving, monkeypatch):
    monkeypatch.setattr(control, 'PATIENCE', 0.5)
    body = json.dumps({'x': 'y' * 4_000_000}).encode()
    with serving.connection() as sock:
        sock.sendall(
            b'POST /v1/echo HTTP/1.1\r\nContent-Length: %d\r\n\r\n' % len(body)
            + body
        )
        assert serving.ask('GET', '/v1/status')[0] == 200


def test_many_at_once(serving):
    """More than there are turns: all are answered."""
    found = []

    def ask(number):
        found.append(serving.ask('GET', f'/v1/echo/{number}')[1]['argument'])

    threads = [
        threading.Thread(target=ask, args=(number,))
        for number in range(5 * control.MAX_REQUESTS)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found, key=int) == [str(n) for n in range(len(threads))]


def test_too_many_at_once_are_refused_soon(serving, echo, monkeypatch):
    monkeypatch.setattr(control, '_TURN', 0.1)
    echo.go.clear()
    held = [serving.connection() for _ in range(control.MAX_REQUESTS)]
    for sock in held:
        sock.sendall(b'GET /v1/echo/x HTTP/1.1\r\n\r\n')
        assert echo.busy.acquire(timeout=5)
    status, fields = serving.ask('GET', '/v1/echo/x')
    assert (status, fields['error']) == (503, 'Unavailable')
    echo.go.set()
    for sock in held:
        assert services.receive(sock)[0] == 200
        sock.close()
    assert serving.ask('GET', '/v1/status')[0] == 200


@pytest.mark.parametrize(
    ('error', 'status', 'told'),
    [
        ('NotFound', 404, 'NotFound'),
        ('AccessDenied', 403, 'AccessDenied'),
        ('PolicyRefused', 403, 'PolicyRefused'),
        ('InvalidEndpoint', 400, 'InvalidEndpoint'),
        ('IntegrityError', 422, 'IntegrityError'),
        ('NoSpace', 507, 'NoSpace'),
        ('CapabilityMissing', 501, 'CapabilityMissing'),
        ('Stalled', 500, 'TransferError'),
        ('ServiceNotRunning', 503, 'Unavailable'),
    ],
)
def test_errors_of_the_library(serving, error, status, told):
    assert serving.ask('GET', f'/v1/fail/{error}') == (
        status,
        {'error': told, 'message': 'why'},
    )
    with pytest.raises(getattr(exceptions, told), match='service: why'):
        client.Client(serving.conf).ask('GET', f'/v1/fail/{error}')


def test_bug_is_logged_and_not_told(serving, caplog):
    status, fields = serving.ask('GET', '/v1/fail/bug')
    assert status == 500
    assert 'this is a bug;' in fields['message']
    assert "OSError('this is a bug')" in caplog.text or (
        'OSError: this is a bug' in caplog.text
    )


# The socket


def test_only_the_user_may_ask(serving):
    info = os.lstat(serving.socket)
    assert stat.S_ISSOCK(info.st_mode)
    assert stat.S_IMODE(info.st_mode) == 0o600


def test_group_may_ask_if_configured(place, echo):
    gid = os.getgroups()[0] if os.geteuid() else 12345
    place.set('control_socket_group', str(gid), 'oslo_transfer_service')
    with place.serve(echo):
        info = os.lstat(place.socket)
        assert stat.S_IMODE(info.st_mode) == 0o660
        assert info.st_gid == gid


def test_unknown_group(place, echo):
    place.set('control_socket_group', 'no-such-group', 'oslo_transfer_service')
    with pytest.raises(
        exceptions.ConfigurationError, match='control_socket_group.*no-such'
    ):
        place.serve(echo).__enter__()
    assert echo.calls == []


def test_second_one_is_refused(serving):
    other = Echo()
    with pytest.raises(
        exceptions.Unavailable, match=rf'process {os.getpid()}\) uses /'
    ):
        serving.serve(other).__enter__()
    assert other.calls == []
    assert serving.ask('GET', '/v1/status')[0] == 200


def test_stale_socket_is_replaced(place, echo):
    place.socket.parent.mkdir()
    for suffix in ('', '.new'):
        left = socket.socket(socket.AF_UNIX)
        left.bind(f'{place.socket}{suffix}')
        left.close()
    with place.serve(echo):
        assert place.ask('GET', '/v1/status')[0] == 200
    assert [each.name for each in place.socket.parent.iterdir()] == [
        'control.sock.lock'
    ]


def test_file_that_is_no_socket_is_left_alone(place, echo):
    place.socket.parent.mkdir()
    place.socket.write_text('precious')
    with pytest.raises(exceptions.ConfigurationError, match='is no socket'):
        place.serve(echo).__enter__()
    assert place.socket.read_text() == 'precious'


@pytest.mark.parametrize('path', ['control.sock', f'/tmp/{"x" * 100}'])
def test_path_that_cannot_be_one_of_a_socket(place, echo, path):
    place.set('control_socket', path, 'oslo_transfer_service')
    with pytest.raises(exceptions.ConfigurationError, match='control_socket'):
        place.serve(echo).__enter__()


def test_roles_are_started_and_stopped_once(place, echo, nothing_left):
    with place.serve(echo) as service:
        service.tick()
    assert echo.calls == ['start', 'tick', 'stop']
    with pytest.raises(exceptions.ServiceNotRunning):
        client.Client(place.conf).status()


def test_role_that_cannot_start_leaves_nothing(place, echo, nothing_left):
    class Broken(Echo):
        def start(self):
            raise exceptions.StorageError('no disk')

    with pytest.raises(exceptions.StorageError):
        place.serve(echo, Broken()).__enter__()
    assert echo.calls == ['start', 'stop']
    assert not place.socket.exists()


def test_lock_ends_with_its_file(tmp_path):
    first = listening.Lock(str(tmp_path / 'lock'), 'it')
    with pytest.raises(exceptions.Unavailable, match='uses it'):
        listening.Lock(str(tmp_path / 'lock'), 'it')
    first.close()
    first.close()
    listening.Lock(str(tmp_path / 'lock'), 'it').close()


# The client


def test_client_without_a_service(place):
    with pytest.raises(
        exceptions.ServiceNotRunning, match='oslo-transfer serve'
    ):
        client.Client(place.conf).status()
    assert issubclass(exceptions.ServiceNotRunning, exceptions.Unavailable)


def test_client_finds_a_socket_that_nobody_listens_on(place):
    place.socket.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(place.socket))
    with pytest.raises(exceptions.ServiceNotRunning):
        client.Client(place.conf).status()


def test_client_that_may_not_ask(place, monkeypatch):
    def refuse(*_args):
        raise PermissionError(13, 'Permission denied')

    class Socket(socket.socket):
        connect = refuse

    monkeypatch.setattr(client.socket, 'socket', Socket)
    with pytest.raises(exceptions.AccessDenied, match='control.sock'):
        client.Client(place.conf).status()


@pytest.fixture
def impostor(place):
    """Something else on the socket: says what it is told to."""
    place.socket.parent.mkdir()
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(place.socket))
    listener.listen(1)
    listener.settimeout(5)
    yield listener
    listener.close()


@pytest.mark.parametrize(
    'answer',
    [
        b'220 hello\r\n',
        b'HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{}',
        b'HTTP/1.1 200 OK\r\n\r\n[]',
        b'HTTP/1.1 200 OK\r\n\r\n<html>',
        b'HTTP/1.1 200 OK\r\n\r\n' + b'[' * 100_000,
        b'HTTP/1.1 404 Not Found\r\n\r\n{}',
    ],
)
def test_client_meets_nonsense(place, impostor, answer):
    def act():
        sock, _ = impostor.accept()
        with sock:
            sock.sendall(answer)

    thread = threading.Thread(target=act)
    thread.start()
    with pytest.raises(exceptions.ProtocolError):
        client.Client(place.conf).status()
    thread.join(5)


def test_client_meets_one_that_ends(place, impostor):
    thread = threading.Thread(target=lambda: impostor.accept()[0].close())
    thread.start()
    with pytest.raises(exceptions.Unavailable):
        client.Client(place.conf).status()
    thread.join(5)


def test_client_waits_no_longer_than_allowed(place, impostor, monkeypatch):
    monkeypatch.setattr(client, 'TIMEOUT', 0.3)
    with pytest.raises(exceptions.Stalled):
        client.Client(place.conf).status()


@pytest.mark.parametrize('limit', ['deadline', 'cancel'])
def test_client_keeps_the_limits_of_the_call(place, impostor, limit):
    cancel = threading.Event()
    ctx = call.Call(place.conf, cancel, None, None).ctx
    expected = exceptions.TransferCancelled
    if limit == 'deadline':
        ctx = dataclasses.replace(ctx, deadline=time.monotonic() + 0.3)
        expected = exceptions.DeadlineExceeded
    else:
        threading.Timer(0.3, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(expected):
        client.Client(place.conf, ctx).add_seed(b'x' * 1_000_000, '/x')
    assert time.monotonic() < started + 2


def test_client_waits_where_many_wait_to_connect(place, impostor):
    """The backlog is full for a moment."""
    waiting = []
    while True:
        sock = socket.socket(socket.AF_UNIX)
        sock.setblocking(False)
        try:
            sock.connect(str(place.socket))
        except BlockingIOError:
            sock.close()
            break
        waiting.append(sock)

    def act():
        for _ in waiting:
            impostor.accept()[0].close()
        sock, _ = impostor.accept()
        with sock:
            sock.sendall(b'HTTP/1.1 200 OK\r\n\r\n{"it": "works"}')

    timer = threading.Timer(0.3, act)
    timer.start()
    assert client.Client(place.conf).status() == {'it': 'works'}
    timer.join(5)
    for sock in waiting:
        sock.close()


# What systemd is told


@pytest.fixture
def manager(tmp_path, monkeypatch):
    """A service manager's socket."""
    monkeypatch.chdir(tmp_path)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind('notify')
        sock.settimeout(0)
        yield sock


def told(manager):
    found = []
    while True:
        try:
            found.append(manager.recv(100))
        except BlockingIOError:
            return found


@pytest.mark.parametrize(
    ('environ', 'alive'),
    [
        ({}, []),
        ({'WATCHDOG_USEC': '1000'}, [b'WATCHDOG=1']),
        (
            {'WATCHDOG_USEC': '1000', 'WATCHDOG_PID': str(os.getpid())},
            [b'WATCHDOG=1'],
        ),
        ({'WATCHDOG_USEC': '1000', 'WATCHDOG_PID': '1'}, []),
    ],
)
def test_manager_is_told(manager, environ, alive):
    notifier = notify.Notifier({'NOTIFY_SOCKET': 'notify', **environ})
    notifier.ready()
    notifier.alive()
    notifier.stopping()
    assert told(manager) == [b'READY=1', *alive, b'STOPPING=1']


def test_manager_with_an_abstract_address():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        name = f'oslo-transfer-test-{os.getpid()}'
        sock.bind(f'\0{name}')
        notify.Notifier({'NOTIFY_SOCKET': f'@{name}'}).ready()
        assert told_once(sock) == b'READY=1'


def told_once(sock):
    sock.settimeout(5)
    return sock.recv(100)


def test_without_a_manager_nothing_is_sent(monkeypatch):
    monkeypatch.delattr(socket, 'socket')
    notify.Notifier({}).ready()


def test_manager_that_does_not_listen_is_no_reason_to_fail(caplog):
    notify.Notifier({'NOTIFY_SOCKET': '/nowhere/notify'}).ready()
    assert 'READY=1' in caplog.text
