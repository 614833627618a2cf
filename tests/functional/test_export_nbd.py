# SPDX-License-Identifier: Apache-2.0
"""Everybody who speaks NBD finds in the export what the origin has."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import shutil
import subprocess
import threading

import pytest

import oslo_transfer
from oslo_transfer.cache import blocks as _blocks
from oslo_transfer.cache import image as _image
from oslo_transfer.cache import plainfile
from oslo_transfer.export import listening
from oslo_transfer.export import nbd
from oslo_transfer import tls
from tests import groups
from tests.servers import dd_lab
from tests.servers import nbd_client
from tests.servers import nginx
from tests.servers import resource
from tests.unit import fakes
from tests import waiting

_NEEDED = (
    *('nbdcopy', 'nbdinfo', 'nbdfuse', 'fio', 'fusermount3'),
    *('qemu-img', 'qemu-io', 'qemu-storage-daemon'),
)
pytestmark = [
    *groups.marks(
        'cache',
        nginx.Nginx.found() is not None and all(map(shutil.which, _NEEDED)),
    ),
    pytest.mark.usefixtures('nothing_left'),
]

MIB = 1 << 20
BLOCK = 64 * 1024
# Holes at the beginning, in the middle and at the end.
DATA = b''.join(
    (
        bytes(2 * MIB),
        resource.pattern(2 * MIB + 4096),
        bytes(3 * MIB),
        resource.pattern(777_216, 1),
        bytes(MIB),
    )
)
DATA += bytes(-len(DATA) % 4096)


def run(*command, **options):
    """Run a program that has to work; returns what it says."""
    options = {'check': True, 'timeout': 30, **options}
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **options
    ).stdout


@pytest.fixture
def original(tmp_path):
    """The image as a sparse file."""
    path = tmp_path / 'original'
    resource.write_sparse(path, DATA)
    return path


@contextlib.contextmanager
def plain(path, directory=None, conf=None):
    """It is here."""
    with contextlib.closing(plainfile.PlainFile(str(path))) as image:
        yield image


@contextlib.contextmanager
def cached(path, directory, conf):
    """It is far away: it comes through nginx."""
    with nginx.Nginx(path.parent) as origin:
        url = origin.url(f'/{path.name}')
        blocks = _blocks.Blocks(
            str(directory), os.path.getsize(path), BLOCK, bytes(32)
        )
        with (
            contextlib.closing(blocks),
            _image.CachedImage(
                blocks,
                lambda _ctx: oslo_transfer.open_source(url, conf=conf),
                fakes.make_ctx(conf),
                streams=4,
            ) as image,
        ):
            yield image


@pytest.fixture(params=[plain, cached])
def make(request, tmp_path, conf):
    """Make an image of a file."""
    return functools.partial(
        request.param, directory=tmp_path / 'blocks', conf=conf
    )


@pytest.fixture
def socket_path():
    """A name that is short enough for a unix socket."""
    with dd_lab.short_directory() as path:
        yield str(path / 'sock')


class Way:
    """How an image is exported, and what clients have to say for it."""

    def __init__(self, server, trust):
        self.server = server
        self.uri = server.uri
        self.trust = trust
        if trust is not None:
            self.port = self.uri.split(':')[2].rstrip('/')
            self.uri = (
                f'nbds://localhost:{self.port}/?tls-certificates={trust}'
            )

    def qemu_img(self, command, *arguments):
        """Call qemu-img with the export as its first image."""
        image = ['-f', 'raw', self.uri]
        if self.trust is not None:
            image = [
                '--object',
                f'tls-creds-x509,id=creds,endpoint=client,dir={self.trust}',
                '--image-opts',
                'driver=raw,file.driver=nbd,file.server.type=inet,'
                'file.tls-creds=creds,file.server.host=localhost,'
                f'file.server.port={self.port}',
            ]
        return run('qemu-img', command, *image, *arguments)


@pytest.fixture(
    params=[
        (plain, 'unix'),
        (plain, 'tcp'),
        (plain, 'tls'),
        (cached, 'unix'),
    ],
    ids=lambda param: f'{param[0].__name__}-{param[1]}',
)
def way(request, original, socket_path, tmp_path, conf, certs):
    """The image, exported in one way."""
    kind, how = request.param
    address = listening.Address(path=socket_path if how == 'unix' else None)
    context = trust = None
    if how == 'tls':
        context = tls.ServerContext('group', *certs.pair())
        trust = tmp_path / 'trust'
        trust.mkdir()
        for name in ('ca-cert.pem', 'cacert.pem'):
            shutil.copy(certs.ca_file, trust / name)
    with (
        kind(original, tmp_path / 'blocks', conf) as image,
        nbd.NbdServer({'': image}, address, tls=context) as server,
    ):
        yield Way(server, trust)
        assert server.statistics()['failed'] == 0


def test_nbdcopy(way, tmp_path):
    """With several connections, and without a look for holes."""
    for option in ('--connections=4', '--no-extents'):
        run('nbdcopy', option, way.uri, tmp_path / 'copied')
        assert (tmp_path / 'copied').read_bytes() == DATA


def test_nbdinfo(way, tmp_path):
    """The map is right, before and after all was read."""
    assert int(run('nbdinfo', '--size', way.uri)) == len(DATA)
    run('nbdinfo', '--is', 'read-only', way.uri)
    for name in ('multi-conn', 'cache', 'df'):
        run('nbdinfo', '--can', name, way.uri)
    zeros = check_map(way)
    run('nbdcopy', way.uri, tmp_path / 'copied')
    assert zeros <= check_map(way) > 5 * MIB


def check_map(way):
    """What is a hole is zero; returns how much that is."""
    end = zeros = 0
    for extent in json.loads(run('nbdinfo', '--map', '--json', way.uri)):
        assert extent['offset'] == end
        end += extent['length']
        if extent['type']:
            assert extent['type'] == 3
            assert not any(DATA[extent['offset'] : end])
            zeros += extent['length']
    assert end == len(DATA)
    return zeros


def test_qemu_img(way, original, tmp_path):
    """convert, compare and map."""
    converted = tmp_path / 'converted.qcow2'
    way.qemu_img('convert', '-W', '-m', '8', '-O', 'qcow2', converted)
    run('qemu-img', 'compare', '-f', 'qcow2', '-F', 'raw', converted, original)
    if way.trust is None:
        run('qemu-img', 'compare', '-f', 'raw', '-F', 'raw', way.uri, original)
    zeros = 0
    for each in json.loads(way.qemu_img('map', '--output=json')):
        if each['zero']:
            zeros += each['length']
            assert not any(DATA[each['start'] :][: each['length']])
    assert zeros > 5 * MIB


def test_copy(way, conf, certs, tmp_path):
    """Our own driver, which does not fetch holes either."""
    conf.set_override('ca_file', certs.ca_file, group='oslo_transfer_nbd')
    uri = way.uri.partition('?tls')[0]
    result = oslo_transfer.copy(uri, tmp_path / 'copied', conf=conf)
    assert (tmp_path / 'copied').read_bytes() == DATA
    assert result.bytes_written < 4 * MIB


def test_list(original, socket_path, tmp_path):
    """Several exports, each with its own bytes."""
    other = tmp_path / 'other'
    other.write_bytes(resource.pattern(MIB, 3))
    with contextlib.ExitStack() as stack:
        images = {
            name: stack.enter_context(plain(path))
            for name, path in (('', original), ('the öther', other))
        }
        server = stack.enter_context(
            nbd.NbdServer(images, listening.Address(path=socket_path))
        )
        listed = json.loads(run('nbdinfo', '--list', '--json', server.uri))
        found = {
            each['export-name']: each['export-size']
            for each in listed['exports']
        }
        assert found == {'': len(DATA), 'the öther': MIB}
        uri = server.uri_of('the öther')
        run('nbdcopy', uri, tmp_path / 'copied')
    assert (tmp_path / 'copied').read_bytes() == other.read_bytes()


def test_fio(make, socket_path, tmp_path):
    """What fio has written it finds again, and it sees where it does not."""
    written = tmp_path / 'written'
    job = [
        *('fio', '--name=job', '--rw=randwrite', '--bs=4k', '--size=8m'),
        *('--verify=crc32c', '--iodepth=16', '--randseed=7'),
        # fio leaves a file with its state where it is started.
        '--verify_state_save=0',
    ]
    run(*job, f'--filename={written}', '--do_verify=0')
    address = listening.Address(path=socket_path)
    with make(written) as image, nbd.NbdServer({'': image}, address) as server:
        verify = (*job, '--ioengine=nbd', f'--uri={server.uri}')
        run(*verify, '--verify_only')
    damaged = bytearray(written.read_bytes())
    damaged[5 * MIB + 77] ^= 1
    written.write_bytes(damaged)
    with (
        plain(written) as image,
        nbd.NbdServer({'': image}, address) as server,
        pytest.raises(subprocess.CalledProcessError),
    ):
        run(*verify, '--verify_only', stderr=subprocess.DEVNULL)


def test_fuse(make, original, socket_path, tmp_path):
    """dd and cmp, of the export as a file."""
    mounted = tmp_path / 'mounted'
    mounted.touch()
    address = listening.Address(path=socket_path)
    with (
        make(original) as image,
        nbd.NbdServer({'': image}, address) as server,
    ):
        fuse = subprocess.Popen(
            ['nbdfuse', '--readonly', mounted, server.uri],
            stdin=subprocess.DEVNULL,
        )
        try:
            waiting.until(lambda: os.path.getsize(mounted) or fuse.poll())
            run('cmp', mounted, original)
            copied = f'of={tmp_path / "copied"}'
            run(
                *('dd', f'if={mounted}', copied, 'bs=4096', 'skip=517'),
                *('count=300', 'status=none'),
            )
        finally:
            run('fusermount3', '-u', mounted)
            assert fuse.wait(10) == 0
    start = 517 * 4096
    expected = DATA[start : start + 300 * 4096]
    assert (tmp_path / 'copied').read_bytes() == expected


def test_qemu_io(make, original, socket_path):
    """Many requests at once, of all sizes, and at odd offsets."""
    address = listening.Address(path=socket_path)
    commands = [
        *('-c', f'read -P 0 0 {2 * MIB}'),
        *('-c', f'read -P 0 {4 * MIB + 4096} {3 * MIB}'),
    ]
    for number in range(40):
        start = number * 131_071 % (len(DATA) - 300_000)
        commands += ['-c', f'aio_read -q {start} {1 + number * 6007}']
    commands += ['-c', 'aio_flush']
    with (
        make(original) as image,
        nbd.NbdServer({'': image}, address) as server,
    ):
        said = run('qemu-io', '-r', '-f', 'raw', server.uri, *commands)
        assert server.statistics()['failed'] == 0
    assert b'verification failed' not in said
    assert said.count(b'ops;') == 2


def test_storage_daemon(make, original, socket_path, tmp_path):
    """QEMU's own server, whose backing it is."""
    further = f'{socket_path}-2'
    ready = tmp_path / 'ready'
    with (
        make(original) as image,
        nbd.NbdServer({'': image}, listening.Address(path=socket_path)),
    ):
        daemon = subprocess.Popen(
            [
                'qemu-storage-daemon',
                '--blockdev',
                'driver=nbd,node-name=n,read-only=on,server.type=unix,'
                f'server.path={socket_path}',
                '--nbd-server',
                f'addr.type=unix,addr.path={further}',
                '--export',
                'nbd,id=e,node-name=n,name=x',
                '--pidfile',
                ready,
            ],
            stdin=subprocess.DEVNULL,
        )
        try:
            waiting.until(lambda: ready.exists() or daemon.poll())
            uri = f'nbd+unix:///x?socket={further}'
            run('nbdcopy', uri, tmp_path / 'copied')
        finally:
            daemon.terminate()
            daemon.wait(10)
    assert (tmp_path / 'copied').read_bytes() == DATA


def test_many_readers_of_what_is_far(original, socket_path, tmp_path, conf):
    """Two hundred clients, no error, and each block was fetched once."""
    failures = []

    def read(number):
        try:
            with nbd_client.Client(socket_path, 30.0) as client:
                client.go()
                for turn in range(4):
                    start = (number * 7919 + turn * 104_729) * 512
                    start %= len(DATA) - 2 * BLOCK
                    length = 2 * BLOCK if turn == 3 else 4096
                    found = client.read(start, length)
                    assert found == DATA[start : start + length]
        except Exception as exc:
            failures.append(exc)

    threads = [
        threading.Thread(target=read, args=(number,)) for number in range(200)
    ]
    with (
        cached(original, tmp_path / 'blocks', conf) as image,
        nbd.NbdServer({'': image}, listening.Address(path=socket_path)),
    ):
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        fetched = image.statistics()['bytes_fetched']
    assert failures == []
    assert fetched <= len(DATA)


def test_origin_is_gone(original, socket_path, tmp_path, conf):
    """What is there is served on; the rest is an error, and says why."""
    with contextlib.ExitStack() as stack:
        image = stack.enter_context(
            cached(original, tmp_path / 'blocks', conf)
        )
        stack.enter_context(
            nbd.NbdServer({'': image}, listening.Address(path=socket_path))
        )
        client = stack.enter_context(nbd_client.Client(socket_path, 20.0))
        client.go()
        first = client.read(3 * MIB, BLOCK)
        original.unlink()
        failed = client.call(len(DATA) - 2 * MIB, 4096)
        assert failed.error == 5
        assert failed.text
        assert client.read(3 * MIB, BLOCK) == first
    assert first == DATA[3 * MIB :][:BLOCK]
