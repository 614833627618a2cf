# SPDX-License-Identifier: Apache-2.0
"""Clients that others wrote, and our own, read what the export serves."""

from __future__ import annotations

from concurrent import futures
import contextlib
import hashlib
import json
import random
import re
import shutil
import subprocess
import time

import pytest
import requests

import oslo_transfer
from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import image as _image
from oslo_transfer.cache import plainfile
from oslo_transfer.cache import store as _store
from oslo_transfer import exceptions
from oslo_transfer.export import http_server
from oslo_transfer.export import listening
from tests import groups
from tests.servers import resource
from tests.unit import fakes

_CLIENTS = ('curl', 'wget', 'aria2c', 'qemu-img', 'qemu-io')
pytestmark = [
    *groups.marks('cache', all(map(shutil.which, _CLIENTS))),
    pytest.mark.usefixtures('nothing_left'),
]

MIB = 1 << 20
BLOCK = 64 * 1024
# Not of whole blocks; qemu counts in sectors.
DATA = resource.pattern(9 * MIB + 512)


@contextlib.contextmanager
def cached(directory, conf):
    """An image of which nothing is there at first."""
    blocks = _blocks.Blocks(str(directory), len(DATA), BLOCK, bytes(32))
    source = fakes.MemorySource(DATA, step=BLOCK)
    with (
        contextlib.closing(blocks),
        _image.CachedImage(
            blocks, lambda _ctx: source, fakes.make_ctx(conf), streams=4
        ) as image,
    ):
        yield image


@pytest.fixture(params=['plain', 'cached'])
def image(request, tmp_path, conf):
    """What is exported: a file, or what is fetched on the way."""
    if request.param == 'plain':
        path = tmp_path / 'plain'
        path.write_bytes(DATA)
        with contextlib.closing(plainfile.PlainFile(str(path))) as made:
            yield made
    else:
        with cached(tmp_path / 'object', conf) as made:
            yield made


@pytest.fixture
def server(image):
    with http_server.HttpServer(
        {'image': image}, listening.Address()
    ) as running:
        yield running


@pytest.fixture
def url(server):
    return server.url_of('image')


def run(*command, **options):
    """Run a program that has to work; returns what it says."""
    options = {'check': True, 'timeout': 30, **options}
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, **options
    ).stdout


def curl(*arguments, **options):
    return run('curl', '-q', '-sS', '--fail', *arguments, **options)


def test_curl(url, server):
    assert curl(url) == DATA
    assert curl('--http1.0', url) == DATA
    assert curl(url, url, '-r', '0-9') == DATA[:10] * 2
    assert curl('-r', '-7', url) == DATA[-7:]
    assert curl('-r', f'{len(DATA) - 5}-{len(DATA) + 5}', url) == DATA[-5:]
    many = curl('-r', '0-9,100-109', url)
    assert DATA[:10] in many and DATA[100:110] in many
    assert server.statistics()['broken'] == 0


def test_curl_head(url, image):
    head = curl('-I', url).decode()
    assert f'Content-Length: {len(DATA)}\r\n' in head
    assert f'ETag: "{image.etag}"\r\n' in head
    assert 'Accept-Ranges: bytes\r\n' in head


def test_curl_resumes(url, tmp_path):
    part = tmp_path / 'part'
    part.write_bytes(DATA[: 3 * MIB + 5])
    curl('-C', '-', '-o', part, url)
    assert part.read_bytes() == DATA


def test_curl_conditions(url, image, tmp_path):
    same, other = f'If-Range: "{image.etag}"', 'If-Range: "other"'
    assert curl('-r', '5-9', '-H', same, url) == DATA[5:10]
    assert curl('-r', '5-9', '-H', other, url) == DATA
    tag, kept = tmp_path / 'tag', tmp_path / 'kept'
    curl('--etag-save', tag, '-o', kept, url)
    assert kept.read_bytes() == DATA
    told = curl(
        *('--etag-compare', tag, '-o', kept, '-w', '%{http_code}', url)
    )
    assert told == b'304'


def test_curl_in_parallel(url, tmp_path):
    """Twenty ranges on connections of their own."""
    step = len(DATA) // 20 + 1
    arguments = []
    for number in range(20):
        start = number * step
        arguments += ['--next'] if number else []
        arguments += ['-q', '-sS', '--fail', '-o', tmp_path / str(number)]
        arguments += ['-r', f'{start}-{start + step - 1}', url]
    run('curl', '-Z', '--parallel-immediate', *arguments)
    found = [(tmp_path / str(number)).read_bytes() for number in range(20)]
    assert b''.join(found) == DATA


@pytest.mark.parametrize(
    'options', [('-X', 'POST'), ('-d', 'body'), ('-T', __file__)]
)
def test_curl_writes_nothing(options, url):
    code = run(
        'curl',
        '-q',
        '-s',
        '-o',
        '/dev/null',
        '-w',
        '%{http_code}',
        *options,
        url,
    )
    assert code in (b'405', b'413', b'400')


def test_curl_over_a_unix_socket(image, tmp_path):
    path = str(tmp_path / 'socket')
    with http_server.HttpServer({'a b': image}, listening.Address(path=path)):
        found = curl('--unix-socket', path, 'http://here/a%20b')
    assert found == DATA


def test_curl_with_tls(image, certs):
    with http_server.HttpServer(
        {'image': image}, listening.Address(), tls=certs.server_context()
    ) as server:
        url = server.url_of('image')
        assert curl('--cacert', certs.ca_file, url) == DATA
        assert curl('--cacert', certs.ca_file, '-r', '-9', url) == DATA[-9:]


def test_wget(url, tmp_path):
    part = tmp_path / 'image'
    run('wget', '--no-config', '-q', '-P', tmp_path, url)
    assert part.read_bytes() == DATA
    part.write_bytes(DATA[:MIB])
    run('wget', '--no-config', '-q', '-c', '-P', tmp_path, url)
    assert part.read_bytes() == DATA


def test_aria2(url, tmp_path):
    run(
        *('aria2c', '--no-conf', '-q', '-x', '4', '-s', '4', '-k', '1M'),
        *('-d', tmp_path, '-o', 'found', url),
    )
    assert (tmp_path / 'found').read_bytes() == DATA


# With several requests at once QEMU 7.2 waits for ever, for nginx as well.
CONVERT = ('qemu-img', 'convert', '-m', '1', '-O', 'raw')


def test_qemu(url, tmp_path):
    there = tmp_path / 'there'
    there.write_bytes(DATA)
    run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', there, url)
    run(*CONVERT, '-f', 'raw', url, tmp_path / 'got')
    assert (tmp_path / 'got').read_bytes() == DATA
    read = run('qemu-io', '-r', '-f', 'raw', '-c', 'read -v 65024 512', url)
    lines = re.findall(rb'^[0-9a-f]{8}:  ((?:[0-9a-f]{2} ){16})', read, re.M)
    found = bytes.fromhex(b''.join(lines).decode())
    assert found == DATA[65024:65536]


def test_qemu_overlay(url, tmp_path):
    """As a guest would have it."""
    disk = tmp_path / 'disk'
    backing = json.dumps(
        {'driver': 'raw', 'file': {'driver': 'http', 'url': url}}
    )
    run(
        *('qemu-img', 'create', '-q', '-f', 'qcow2', '-F', 'raw'),
        *('-b', f'json:{backing}', disk),
    )
    told = run('qemu-img', 'map', '--output=json', disk)
    assert sum(each['length'] for each in json.loads(told)) == len(DATA)
    run('qemu-io', '-f', 'qcow2', '-c', 'write -P 7 0 4k', disk)
    run(*CONVERT, '-f', 'qcow2', disk, tmp_path / 'a')
    assert (tmp_path / 'a').read_bytes() == b'\7' * 4096 + DATA[4096:]


def test_requests(url, image):
    with requests.Session() as session:
        for start in range(0, len(DATA), 1_234_567):
            end = min(start + 100_000, len(DATA))
            answer = session.get(
                url, headers={'Range': f'bytes={start}-{end - 1}'}, timeout=5
            )
            assert answer.status_code == 206
            assert answer.content == DATA[start:end]
        assert session.head(url, timeout=5).headers['ETag'] == (
            f'"{image.etag}"'
        )
        unchanged = session.get(
            url, headers={'If-None-Match': f'"{image.etag}"'}, timeout=5
        )
        assert (unchanged.status_code, unchanged.content) == (304, b'')


DIGEST = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}


@pytest.mark.parametrize('streams', [1, 4])
def test_copy(streams, url, conf, tmp_path):
    conf.set_override('max_streams', streams, group='oslo_transfer')
    result = oslo_transfer.copy(url, tmp_path / 'got', conf=conf, **DIGEST)
    assert result.verified
    assert (tmp_path / 'got').read_bytes() == DATA


class Failing(plainfile.PlainFile):
    """What is read of it breaks off at some places, once at each."""

    def __init__(self, path, places):
        super().__init__(path)
        self.places = places

    def reader(self):
        return FailingReader(self)


class FailingReader(plainfile.PlainReader):
    def claim(self, offset, length):
        ahead = [each for each in self._image.places if each >= offset]
        return super().claim(
            offset, min([length, *(each - offset for each in ahead)])
        )

    def bring(self, offset, length):
        self._image.places.remove(offset)
        raise exceptions.Unavailable('the origin is gone for a moment')


@pytest.fixture
def failing(tmp_path):
    path = tmp_path / 'plain'
    path.write_bytes(DATA)
    places = [MIB, 3 * MIB + 7, 8 * MIB]
    with contextlib.closing(Failing(str(path), places)) as image:
        with http_server.HttpServer(
            {'image': image}, listening.Address()
        ) as server:
            yield server


def test_clients_see_that_it_broke_off(failing, tmp_path):
    """Never a short file that looks whole; and they can go on."""
    url, got = failing.url_of('image'), tmp_path / 'got'
    for _ in range(3):
        with pytest.raises(subprocess.CalledProcessError) as caught:
            curl('-C', '-', '-o', got, url)
        # "Partial file": fewer bytes than were promised.
        assert caught.value.returncode == 18
    curl('-C', '-', '-o', got, url)
    assert got.read_bytes() == DATA
    assert failing.statistics()['broken'] == 3


def test_copy_goes_on_where_it_broke_off(failing, conf, tmp_path):
    got = tmp_path / 'got'
    result = oslo_transfer.copy(
        failing.url_of('image'), got, conf=conf, **DIGEST
    )
    assert result.verified
    assert got.read_bytes() == DATA


def test_two_exports_in_a_row(tmp_path, conf):
    """An export is an origin as good as any."""
    path = tmp_path / 'plain'
    path.write_bytes(DATA)
    opened = []

    def open_source(ctx):
        opened.append(oslo_transfer.open_source(first.url_of('a'), conf=conf))
        return opened[-1]

    with contextlib.ExitStack() as stack:
        file = stack.enter_context(
            contextlib.closing(plainfile.PlainFile(str(path)))
        )
        first = stack.enter_context(
            http_server.HttpServer({'a': file}, listening.Address())
        )
        blocks = stack.enter_context(
            contextlib.closing(
                _blocks.Blocks(
                    str(tmp_path / 'object'), len(DATA), BLOCK, bytes(32)
                )
            )
        )
        image = stack.enter_context(
            _image.CachedImage(
                blocks, open_source, fakes.make_ctx(conf), streams=2
            )
        )
        second = stack.enter_context(
            http_server.HttpServer({'b': image}, listening.Address())
        )
        for _ in range(2):
            assert curl(second.url_of('b')) == DATA
        assert image.statistics()['bytes_fetched'] == len(DATA)
    assert len(opened) == 1


def read_at_random(url, seed, turns):
    """Ranges of any length, some of them taken slowly."""
    chance = random.Random(seed)
    with requests.Session() as session:
        for _ in range(turns):
            start = chance.randrange(len(DATA))
            end = min(len(DATA), start + chance.randrange(1, 8 * BLOCK))
            with session.get(
                url,
                headers={'Range': f'bytes={start}-{end - 1}'},
                stream=True,
                timeout=10,
            ) as answer:
                found = answer.raw.read(1000)
                if chance.random() < 0.2:
                    time.sleep(0.01)
                assert found + answer.raw.read() == DATA[start:end]


def evict_under_load(conf, tmp_path, turns):
    """What is claimed stays, though room is for a sixth of the image."""
    store = _store.Store(
        str(tmp_path / 'store'), quota_bytes=24 * BLOCK, block_bytes=BLOCK
    )
    source = fakes.MemorySource(DATA, step=BLOCK)
    with contextlib.closing(store):
        blocks = store.open('image', len(DATA), bytes(32))
        with (
            contextlib.closing(blocks),
            _image.CachedImage(
                blocks, lambda _ctx: source, fakes.make_ctx(conf), streams=4
            ) as image,
            http_server.HttpServer(
                {'image': image}, listening.Address()
            ) as server,
            futures.ThreadPoolExecutor(8) as pool,
        ):
            url = server.url_of('image')
            done = [
                pool.submit(read_at_random, url, seed, turns)
                for seed in range(8)
            ]
            for each in done:
                each.result()
            assert server.statistics()['broken'] == 0
        assert store.statistics()['blocks_evicted']


def test_what_is_sent_is_not_evicted(conf, tmp_path):
    evict_under_load(conf, tmp_path, 40)


@pytest.mark.campaign
def test_much_is_evicted(conf, tmp_path):
    evict_under_load(conf, tmp_path, 2000)
