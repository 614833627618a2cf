# SPDX-License-Identifier: Apache-2.0
"""What bad SFTP servers can do to a copy: nothing but fail it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import socket
import threading
import time
import traceback

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.servers import evil_sftp
from tests.servers import resource
from tests.servers import sftp_session

DATA = resource.pattern(evil_sftp.SIZE)
FACTS = {
    'none': {},
    'size': {'expected_size': len(DATA)},
    'digest': {
        'hash_algo': 'sha256',
        'hash_value': hashlib.sha256(DATA).hexdigest(),
    },
}
STALL = 0.4


@pytest.fixture(autouse=True)
def limits(conf):
    """Be done with a bad server soon."""
    for name, value in {
        'max_size_bytes': 16 << 20,
        'max_retries': 1,
        'stall_timeout': STALL,
        'connect_timeout': 0.8,
    }.items():
        conf.set_override(name, value, group='oslo_transfer')


def know(conf, directory, *servers):
    """Let the driver know host keys."""
    path = directory / 'known_hosts'
    path.write_text(''.join(server.known_hosts for server in servers))
    conf.set_override(
        'known_hosts_file', str(path), group='oslo_transfer_sftp'
    )


@pytest.mark.parametrize(
    ('key', 'facts'),
    [(row.id, facts) for row in evil_sftp.ROWS.values() for facts in row.runs],
)
def test_server_cannot_corrupt(
    key, facts, conf, tmp_path, caplog, nothing_left
):
    """Right bytes or a typed error; nothing visible, told or left."""
    caplog.set_level(logging.DEBUG)
    row = evil_sftp.ROWS[key]
    there = tmp_path / 'there'
    there.mkdir()
    dst = there / 'image'
    with contextlib.ExitStack() as stack:
        server = row.start(stack, DATA)
        know(conf, tmp_path, server)
        started = time.monotonic()
        error = None
        try:
            result = oslo_transfer.copy(
                server.url(row.path), dst, conf=conf, **FACTS[facts]
            )
        except exceptions.TransferError as exc:
            error = exc
        elapsed = time.monotonic() - started
    out = dst.read_bytes() if error is None else None
    want = row.expects(facts)
    detail = f'{row.title}: {error!r}'
    if out is not None and want != 'undetectable':
        assert out in row.right(DATA, facts), detail
    if want == 'ok':
        assert error is None, detail
    if want == 'fail':
        assert error is not None, detail
        kind = type(error).__name__
        assert not row.errors or kind in row.errors, detail
    assert elapsed < row.seconds, detail
    if error is None:
        assert result.size == len(out)
        assert result.verified == (facts == 'digest')
        assert os.listdir(there) == ['image']
    else:
        assert not dst.exists()
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        assert len(str(error)) < 5000
        assert str(error).isprintable()
        told = ''.join(traceback.format_exception(error))
        assert evil_sftp.PASSWORD not in told
    assert evil_sftp.PASSWORD not in caplog.text


@pytest.mark.parametrize('key', evil_sftp.UPLOADS)
def test_server_cannot_fake_an_upload(
    key, conf, tmp_path, caplog, nothing_left
):
    """All of it is there, or an error; never a part under the name."""
    caplog.set_level(logging.DEBUG)
    row = evil_sftp.UPLOADS[key]
    src = tmp_path / 'image'
    # More than may be on its way.
    data = resource.pattern(evil_sftp.SIZE)
    src.write_bytes(data)
    store = sftp_session.Store()
    if row.old is not None:
        store.files[evil_sftp.TARGET] = sftp_session.File(row.old)
    error = None
    with contextlib.ExitStack() as stack:
        server = evil_sftp.serve(stack, store, row.session)
        know(conf, tmp_path, server)
        started = time.monotonic()
        try:
            oslo_transfer.copy(
                src,
                server.url(evil_sftp.TARGET),
                conf=conf,
                overwrite=row.old is not None,
            )
        except exceptions.TransferError as exc:
            error = exc
        elapsed = time.monotonic() - started
    detail = f'{row.title}: {error!r}'
    found = store.files.pop(evil_sftp.TARGET, None)
    if row.expect != 'ok_or_fail':
        assert (error is None) == (row.expect == 'ok'), detail
    if error is None:
        assert bytes(found.data) == data
    else:
        assert (found and found.data) == row.old, detail
        kind = type(error).__name__
        assert not row.errors or kind in row.errors, detail
        assert str(error).isprintable()
        told = ''.join(traceback.format_exception(error))
        assert evil_sftp.PASSWORD not in told
    assert elapsed < 8, detail
    assert evil_sftp.PASSWORD not in caplog.text
    if row.reachable:
        assert set(store.files) == {'/image'}, 'something is left'


# Where a server can be silent, and the row that is. The key exchange has
# begun where a version came, and nothing behind it.
PHASES = {
    'banner': 'S-17-silent',
    'trickle': 'S-17-bytes',
    'kex': 'S-17-no-kex',
    'flood': 'S-20-ignore',
    'auth': 'S-18-slow',
    'channel': 'S-19-channel',
    'subsystem': 'S-19-sftp',
    'init': 'S-19-init',
    'open': 'S-19-open',
    'data': 'S-19-read',
}


@contextlib.contextmanager
def silent(phase, conf, directory):
    """A server that is silent from a phase on; gives a URL."""
    for name in ('connect_timeout', 'stall_timeout'):
        conf.set_override(name, 30.0, group='oslo_transfer')
    with contextlib.ExitStack() as stack:
        if phase == 'connect':
            # A queue that is full: what comes is not answered.
            full = stack.enter_context(socket.create_server(('127.0.0.1', 0)))
            full.listen(0)
            for _ in range(2):
                sock = stack.enter_context(socket.socket())
                sock.setblocking(False)
                sock.connect_ex(full.getsockname())
            (directory / 'known_hosts').touch()
            conf.set_override(
                'known_hosts_file',
                str(directory / 'known_hosts'),
                group='oslo_transfer_sftp',
            )
            port = full.getsockname()[1]
            yield f'sftp://user:{evil_sftp.PASSWORD}@127.0.0.1:{port}/image'
            return
        server = evil_sftp.ROWS[PHASES[phase]].start(stack, DATA)
        know(conf, directory, server)
        yield server.url()


@pytest.mark.parametrize('phase', ['connect', *PHASES])
def test_cancel(phase, conf, tmp_path, nothing_left):
    """It ends within a second, and leaves nothing."""
    cancel = threading.Event()
    with silent(phase, conf, tmp_path) as url:
        timer = threading.Timer(0.4, cancel.set)
        timer.start()
        started = time.monotonic()
        with pytest.raises(exceptions.TransferCancelled):
            oslo_transfer.copy(url, tmp_path / 'dst', conf=conf, cancel=cancel)
        assert 0.3 < time.monotonic() - started < 1.4
        timer.join()


@pytest.mark.parametrize('phase', ['connect', *PHASES])
def test_deadline(phase, conf, tmp_path, nothing_left):
    """It holds, whatever the server does."""
    with silent(phase, conf, tmp_path) as url:
        started = time.monotonic()
        with pytest.raises(exceptions.DeadlineExceeded):
            oslo_transfer.copy(url, tmp_path / 'dst', conf=conf, deadline=0.4)
        assert time.monotonic() - started < 1.4


@pytest.mark.parametrize(
    'key', ['good', 'S-16-eof', 'S-16-closed', 'S-20-huge', 'S-17-version']
)
def test_no_thread_is_left(key, conf, tmp_path, nothing_left):
    """Not one of paramiko's own, either, of ten connections."""
    conf.set_override('max_retries', 0, group='oslo_transfer')
    conf.set_override('stall_timeout', 0.1, group='oslo_transfer')
    before = set(threading.enumerate())
    for number in range(10):
        with contextlib.ExitStack() as stack:
            if key == 'good':
                server = evil_sftp.serve(stack, sftp_session.Store(DATA))
            else:
                server = evil_sftp.ROWS[key].start(stack, DATA)
            know(conf, tmp_path, server)
            with contextlib.suppress(exceptions.TransferError):
                oslo_transfer.copy(
                    server.url(), tmp_path / f'dst{number}', conf=conf
                )
            # Ours is gone when the call returns, not some time later.
            ours = [
                thread
                for thread in set(threading.enumerate()) - before
                if thread.name.startswith('oslo-transfer')
            ]
            assert not ours


def test_rows():
    """Each row of the notes that a server can be asked for has a case."""
    rows = {'-'.join(key.split('-')[:2]) for key in evil_sftp.ROWS}
    # The others need an sshd, see tests/functional/test_openssh.py.
    for number in (1, 2, 4, 5, 9, 10, 13, 16, 17, 18, 19, 20):
        assert f'S-{number:02}' in rows
    blind = {
        row.id
        for row in evil_sftp.ROWS.values()
        if row.expect == 'undetectable'
    }
    assert blind == {'S-10-zero', 'S-13-swapped'}
    assert len(evil_sftp.ROWS) > 100
