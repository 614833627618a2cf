# SPDX-License-Identifier: Apache-2.0
"""What the public calls take, refuse, and promise."""

from __future__ import annotations

import hashlib
import io
import os
import pathlib
import stat
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.servers import http
from tests.servers import resource

pytestmark = pytest.mark.usefixtures('nothing_left')

DATA = resource.pattern(3 << 20, seed=6)
SHA512 = hashlib.sha512(DATA).hexdigest()


@pytest.fixture
def src(tmp_path):
    path = tmp_path / 'in' / 'source'
    path.parent.mkdir()
    path.write_bytes(DATA)
    return path


@pytest.fixture
def dst(tmp_path):
    (tmp_path / 'out').mkdir()
    return tmp_path / 'out' / 'image'


# What can be an end


@pytest.mark.parametrize(
    'make',
    [
        str,
        pathlib.Path,
        lambda path: f'file://{path}',
        lambda path: f'FILE://localhost{path}',
        lambda path: oslo_transfer.Location(str(path)),
        lambda path: os.path.relpath(path),
        lambda path: [path],
        lambda path: (str(path), path),
    ],
)
def test_source_that_is_a_path(conf, src, dst, make):
    result = oslo_transfer.copy(make(src), dst, conf=conf)
    assert dst.read_bytes() == DATA
    assert result.size == len(DATA)
    assert result.driver == 'file'


@pytest.mark.parametrize(
    'make',
    [
        str,
        pathlib.Path,
        lambda path: f'file://{path}',
        lambda path: oslo_transfer.Location(str(path)),
        lambda path: os.path.relpath(path),
    ],
)
def test_destination_that_is_a_path(conf, src, dst, make):
    oslo_transfer.copy(src, make(dst), conf=conf)
    assert dst.read_bytes() == DATA
    assert os.listdir(dst.parent) == ['image']


class OnlyRead:
    """Has nothing but read()."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def read(self, size):
        return self._file.read(size)


class OnlyReadinto:
    """Has nothing but readinto(), and gives little at a time."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def readinto(self, buffer):
        return self._file.readinto(memoryview(buffer)[:70_001])


@pytest.mark.parametrize('make', [io.BytesIO, OnlyRead, OnlyReadinto])
def test_source_that_is_a_file_object(conf, dst, make):
    result = oslo_transfer.copy(
        make(DATA), dst, conf=conf, hash_algo='sha512', hash_value=SHA512
    )
    assert dst.read_bytes() == DATA
    assert result.verified
    assert result.source == f'<{make.__name__}>'


def test_file_object_is_read_from_where_it_stands(conf, src, dst):
    with open(src, 'rb') as file:
        file.seek(1000)
        oslo_transfer.copy(file, dst, conf=conf)
        assert not file.closed
    assert dst.read_bytes() == DATA[1000:]


def test_pipe(conf, dst):
    read_end, write_end = os.pipe()

    def feed():
        with open(write_end, 'wb') as file:
            file.write(DATA)

    thread = threading.Thread(target=feed)
    thread.start()
    with open(read_end, 'rb') as file:
        oslo_transfer.copy(file, dst, conf=conf)
    thread.join(5)
    assert dst.read_bytes() == DATA


def test_nonblocking_pipe_is_not_taken_for_the_end(conf, dst):
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    with open(write_end, 'wb'), open(read_end, 'rb', buffering=0) as file:
        with pytest.raises(exceptions.InvalidEndpoint, match='non-blocking'):
            oslo_transfer.copy(file, dst, conf=conf)
    assert os.listdir(dst.parent) == []


def test_file_object_to_file_object(conf):
    data = io.BytesIO()
    result = oslo_transfer.copy(io.BytesIO(DATA), data, conf=conf)
    assert data.getvalue() == DATA
    assert result.destination == '<BytesIO>'


@pytest.mark.parametrize('size', [0, 1, 4095, 4096, (1 << 20) + 1])
def test_size(conf, src, dst, size):
    src.write_bytes(DATA[:size])
    result = oslo_transfer.copy(
        src, dst, conf=conf, hash_algo='sha512', expected_size=size
    )
    assert dst.read_bytes() == DATA[:size]
    assert result.size == sum(result.bytes_by_origin.values()) == size
    assert result.digest == (
        'sha512:' + hashlib.sha512(DATA[:size]).hexdigest()
    )


# What is refused before anything is done


@pytest.mark.parametrize(
    ('options', 'words'),
    [
        ({'hash_value': SHA512}, 'hash_algo'),
        ({'hash_algo': 'sha512', 'hash_value': 'ab'}, '128 hex digits'),
        ({'hash_algo': 'sha256', 'hash_value': SHA512}, '64 hex digits'),
        ({'hash_algo': 'sha512', 'hash_value': 'g' * 128}, 'hex'),
        ({'hash_algo': 'sha512', 'hash_value': ''}, 'hex'),
        ({'hash_algo': 'rot13'}, 'rot13'),
        ({'hash_algo': ''}, 'unknown'),
        ({'hash_algo': 'shake_128'}, 'no fixed length'),
        ({'expected_size': -1}, 'expected_size'),
        ({'rate_limit': 0}, 'rate_limit'),
        ({'rate_limit': -5}, 'rate_limit'),
        ({'accept': ['qcow2']}, 'accept'),
    ],
)
def test_argument_that_cannot_work(conf, src, dst, options, words):
    with pytest.raises(exceptions.ConfigurationError, match=words):
        oslo_transfer.copy(src, dst, conf=conf, **options)
    assert os.listdir(dst.parent) == []


@pytest.mark.parametrize(
    'value', [None, 5, b'/a', object(), '', 'http://', 'a\x00b', {}]
)
def test_end_that_is_none(conf, src, dst, value):
    with pytest.raises(exceptions.InvalidEndpoint):
        oslo_transfer.copy(value, dst, conf=conf)
    with pytest.raises(exceptions.InvalidEndpoint):
        oslo_transfer.copy(src, value, conf=conf)


def test_digest_in_capitals_is_as_good(conf, src, dst):
    result = oslo_transfer.copy(
        src,
        dst,
        conf=conf,
        hash_algo='sha512',
        hash_value=f' {SHA512.upper()}\n',
    )
    assert result.verified
    assert result.digest == f'sha512:{SHA512}'


# The destination


def test_destination_that_exists_is_not_replaced(conf, src, dst):
    dst.write_bytes(b'old')
    with pytest.raises(exceptions.AlreadyExists):
        oslo_transfer.copy(src, dst, conf=conf)
    assert dst.read_bytes() == b'old'


def test_destination_is_replaced_if_asked_for(conf, src, dst):
    dst.write_bytes(b'old')
    oslo_transfer.copy(src, dst, conf=conf, overwrite=True)
    assert dst.read_bytes() == DATA


def test_destination_that_matches_is_success(conf, server, dst):
    dst.write_bytes(DATA)
    before = dst.stat()
    result = oslo_transfer.copy(
        server.url('/never-asked'),
        dst,
        conf=conf,
        hash_algo='sha512',
        hash_value=SHA512,
    )
    assert result.reused
    assert result.verified
    assert result.digest == f'sha512:{SHA512}'
    assert result.size == len(DATA)
    assert result.bytes_by_origin == {'resumed': len(DATA)}
    assert result.bytes_written == 0
    assert dst.stat().st_ino == before.st_ino
    assert server.connections.total == 0


@pytest.mark.parametrize(
    'options',
    [
        {'hash_algo': 'sha512'},
        {'hash_algo': 'sha512', 'hash_value': '0' * 128},
        {
            'hash_algo': 'sha512',
            'hash_value': SHA512,
            'expected_size': len(DATA) + 1,
        },
    ],
)
def test_destination_that_is_not_known_to_match_is_in_the_way(
    conf, src, dst, options
):
    dst.write_bytes(DATA)
    with pytest.raises(exceptions.AlreadyExists):
        oslo_transfer.copy(src, dst, conf=conf, **options)


def test_mode_is_that_of_any_new_file(conf, src, dst):
    old = os.umask(0o027)
    try:
        oslo_transfer.copy(src, dst, conf=conf)
    finally:
        os.umask(old)
    assert stat.S_IMODE(dst.stat().st_mode) == 0o640


def test_mode_of_the_replaced_file_stays(conf, src, dst):
    dst.write_bytes(b'old')
    dst.chmod(0o604)
    oslo_transfer.copy(src, dst, conf=conf, overwrite=True)
    assert stat.S_IMODE(dst.stat().st_mode) == 0o604


@pytest.mark.skipif(os.geteuid() != 0, reason='only root gives files away')
def test_owner_of_the_replaced_file_stays(conf, src, dst):
    dst.write_bytes(b'old')
    os.chown(dst, 12345, 54321)
    oslo_transfer.copy(src, dst, conf=conf, overwrite=True)
    found = dst.stat()
    assert (found.st_uid, found.st_gid) == (12345, 54321)


@pytest.mark.parametrize('overwrite', [False, True])
def test_destination_that_is_no_file(conf, src, dst, overwrite):
    dst.mkdir()
    pipe = dst / 'pipe'
    os.mkfifo(pipe)
    link = dst / 'link'
    link.symlink_to(src)
    dangling = dst / 'dangling'
    dangling.symlink_to(dst / 'nothing')
    for path in (dst, f'{dst}/', f'{src}/', pipe, link, dangling):
        with pytest.raises(exceptions.InvalidEndpoint):
            oslo_transfer.copy(src, path, conf=conf, overwrite=overwrite)
    assert sorted(os.listdir(dst)) == ['dangling', 'link', 'pipe']
    assert link.is_symlink()
    assert src.read_bytes() == DATA


def test_destination_without_a_directory(conf, src, tmp_path):
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.copy(src, tmp_path / 'none' / 'image', conf=conf)
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.copy(src, src / 'image', conf=conf)


def test_source_that_is_not_there(conf, tmp_path, dst):
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.copy(tmp_path / 'none', dst, conf=conf)
    assert os.listdir(dst.parent) == []


def test_source_that_is_no_file(conf, tmp_path, dst):
    os.mkfifo(tmp_path / 'pipe')
    for path in (tmp_path, tmp_path / 'pipe', '/dev/zero'):
        with pytest.raises(oslo_transfer.TransferError):
            oslo_transfer.copy(path, dst, conf=conf)
    assert os.listdir(dst.parent) == []


def test_copy_onto_itself_changes_nothing(conf, src):
    with pytest.raises(exceptions.AlreadyExists):
        oslo_transfer.copy(src, src, conf=conf)
    oslo_transfer.copy(src, src, conf=conf, overwrite=True)
    assert src.read_bytes() == DATA


def test_nothing_shows_before_the_end(conf, server, dst):
    seen = []
    whole = resource.Resource(DATA, len(DATA))

    def answer(request, conn):
        seen.append(os.path.exists(dst))
        whole(request, conn)
        seen.append(os.path.exists(dst))

    class Observer:
        def update(self, data):
            seen.append(os.path.exists(dst))

    url = server.serve('/image', answer)
    oslo_transfer.copy(url, dst, conf=conf, observers=[Observer()])
    assert len(seen) > 2
    # The server may still be in its handler when all is done.
    assert not any(seen[:1] + seen[2:])
    assert dst.exists()


# What the caller's own functions raise


@pytest.fixture(params=['file', 'http'])
def url(request, server, src):
    if request.param == 'file':
        return str(src)
    return server.put('/image', DATA)


def test_observers_see_each_byte_once_and_in_order(conf, url, dst):
    seen = [hashlib.sha512(), hashlib.sha512()]
    oslo_transfer.copy(url, dst, conf=conf, observers=seen)
    assert [each.hexdigest() for each in seen] == [SHA512, SHA512]


def test_observers_of_a_destination_that_is_no_file(conf, url, server):
    seen = hashlib.sha512()
    oslo_transfer.copy(
        url, server.allow_put('/upload'), conf=conf, observers=[seen]
    )
    assert seen.hexdigest() == SHA512


def test_observers_never_see_two_attempts(conf, server):
    """Where bytes are shown as they are sent, nothing takes them back."""
    conf.set_override('max_retries', 0, group='oslo_transfer')
    whole = resource.Resource(DATA, len(DATA), ranges=False)

    def cut(request, conn):
        whole.answer(request, conn, 2 << 20)
        conn.reset()

    class Observer:
        def __init__(self):
            self.seen = bytearray()

        def update(self, data):
            self.seen += data

    observer = Observer()
    with pytest.raises(exceptions.AllSourcesFailed) as caught:
        oslo_transfer.copy(
            [server.serve('/bad', cut), server.put('/good', DATA)],
            io.BytesIO(),
            conf=conf,
            observers=[observer],
        )
    assert DATA.startswith(observer.seen)
    assert 'the connection broke' in str(caught.value)
    assert 'observers' in str(caught.value)


class Mine(Exception):
    """The caller's own."""


@pytest.mark.parametrize('error', [Mine(), KeyboardInterrupt(), OSError(5)])
def test_what_an_observer_raises_reaches_the_caller(conf, url, dst, error):
    class Observer:
        def update(self, data):
            raise error

    with pytest.raises(type(error)) as caught:
        oslo_transfer.copy(url, dst, conf=conf, observers=[Observer()])
    assert caught.value is error
    assert not dst.exists()


@pytest.mark.parametrize('error', [Mine(), KeyboardInterrupt(), OSError(5)])
def test_what_progress_raises_reaches_the_caller(conf, url, dst, error):
    def progress(chunk_bytes, total_bytes):
        raise error

    with pytest.raises(type(error)) as caught:
        oslo_transfer.copy(url, dst, conf=conf, progress=progress)
    assert caught.value is error
    assert not dst.exists()
    # Nothing but resume state, which the next copy takes up.
    assert {name[0] for name in os.listdir(dst.parent)} <= {'.'}
    oslo_transfer.copy(url, dst, conf=conf)
    assert dst.read_bytes() == DATA
    assert os.listdir(dst.parent) == ['image']


# Cancel, deadline, rate


@pytest.fixture
def silent():
    """A server that takes requests and says nothing."""
    with http.ScriptedHTTPServer() as running:
        running.serve('/image', lambda request, conn: conn.stall())
        yield running


def test_cancel_that_is_set_already(conf, url, dst):
    cancel = threading.Event()
    cancel.set()
    with pytest.raises(exceptions.TransferCancelled):
        oslo_transfer.copy(url, dst, conf=conf, cancel=cancel)
    assert not dst.exists()


@pytest.mark.parametrize('call', ['copy', 'open_source'])
def test_cancel_ends_a_wait_within_a_second(conf, silent, dst, call):
    conf.set_override('stall_timeout', 30.0, group='oslo_transfer')
    cancel = threading.Event()
    arguments = [dst] if call == 'copy' else []
    timer = threading.Timer(0.1, cancel.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(exceptions.TransferCancelled):
        getattr(oslo_transfer, call)(
            silent.url('/image'), *arguments, conf=conf, cancel=cancel
        )
    assert time.monotonic() - started < 1.1
    timer.join()


@pytest.mark.parametrize('deadline', [-1, 0, 0.2])
def test_deadline(conf, silent, dst, deadline):
    conf.set_override('stall_timeout', 30.0, group='oslo_transfer')
    started = time.monotonic()
    with pytest.raises(exceptions.DeadlineExceeded):
        oslo_transfer.copy(
            silent.url('/image'), dst, conf=conf, deadline=deadline
        )
    assert time.monotonic() - started < 1.2
    assert os.listdir(dst.parent) == []


def test_rate_limit_of_the_call(conf, url, dst):
    started = time.monotonic()
    oslo_transfer.copy(url, dst, 'full_copy', conf=conf, rate_limit=6 << 20)
    assert 0.3 < time.monotonic() - started < 5
    assert dst.read_bytes() == DATA


def test_rate_limit_of_the_deployer(conf, url, dst):
    conf.set_override(
        'rate_limit_bytes_per_second', 6 << 20, group='oslo_transfer'
    )
    started = time.monotonic()
    oslo_transfer.copy(url, dst, 'full_copy', conf=conf)
    assert time.monotonic() - started > 0.3


def test_source_without_an_end_is_limited(conf, server, dst):
    conf.set_override('max_size_bytes', 1 << 20, group='oslo_transfer')
    with pytest.raises(exceptions.SizeMismatch):
        oslo_transfer.copy(
            server.put('/image', DATA, chunked=True), dst, conf=conf
        )
    assert os.listdir(dst.parent) == []


# open_source()


def test_open_source_reads_at_any_offset(conf, url):
    with oslo_transfer.open_source(url, conf=conf) as source:
        assert source.size == len(DATA)
        for offset, length in ((0, None), (5, 10), (1 << 20, 1 << 20)):
            end = None if length is None else offset + length
            with source.stream(offset, length) as stream:
                assert stream.readall() == DATA[offset:end]


def test_open_source_streams_may_be_used_at_once(conf, url):
    with oslo_transfer.open_source(url, conf=conf) as source:
        streams = [source.stream(offset, 3) for offset in (0, 10, 20)]
        assert [each.readall() for each in streams] == [
            DATA[offset : offset + 3] for offset in (0, 10, 20)
        ]
        for each in streams:
            each.close()


def test_open_source_is_throttled(conf, url):
    started = time.monotonic()
    with oslo_transfer.open_source(
        url, conf=conf, rate_limit=6 << 20
    ) as source:
        with source.stream(0, None) as stream:
            assert stream.readall() == DATA
    assert time.monotonic() - started > 0.3


def test_open_source_does_not_go_on_without_a_strong_validator(conf, server):
    whole = resource.Resource(DATA, len(DATA), etag='W/"1"')

    def cut(request, conn):
        whole.answer(request, conn, 1 << 20)
        conn.reset()

    with oslo_transfer.open_source(
        server.serve('/image', cut), conf=conf
    ) as source:
        with source.stream(0, None) as stream:
            with pytest.raises(exceptions.Unavailable):
                stream.readall()
    assert len(server.seen('/image')) == 1


def test_open_source_that_is_cancelled(conf, server):
    cancel = threading.Event()
    url = server.put('/image', DATA, rate=1 << 20)
    with oslo_transfer.open_source(url, conf=conf, cancel=cancel) as source:
        with source.stream(0, None) as stream:
            assert stream.read(1)
            cancel.set()
            with pytest.raises(exceptions.TransferCancelled):
                stream.readall()


def test_open_source_of_nothing(conf, server, tmp_path):
    for missing in (server.url('/none'), tmp_path / 'none'):
        with pytest.raises(exceptions.NotFound):
            oslo_transfer.open_source(missing, conf=conf)


def test_source_may_be_closed_twice(conf, url):
    source = oslo_transfer.open_source(url, conf=conf)
    source.close()
    source.close()
