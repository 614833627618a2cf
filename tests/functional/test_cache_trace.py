# SPDX-License-Identifier: Apache-2.0
"""fio replays our traces, and the service takes them for hints."""

from __future__ import annotations

import shutil
import subprocess

import pytest

import oslo_transfer
from oslo_transfer.cache import iolog
from oslo_transfer.cache import trace as _trace
from oslo_transfer import exceptions
from tests import groups
from tests.servers import cache_service
from tests.servers import dd_lab
from tests.servers import nginx
from tests.servers import resource
from tests import waiting

pytestmark = groups.marks(
    'cache',
    all(map(shutil.which, ('fio', 'nginx', 'qemu-img', 'qemu-io'))),
)

KIB, MIB = 1 << 10, 1 << 20
MADE = _trace.Trace(
    _trace.Touch(*each)
    for each in [
        (0, 0, 64 * KIB),
        (50_000, 2 * MIB, 64 * KIB),
        (300_000, MIB, 4096),
    ]
)


@pytest.mark.parametrize('version', iolog.VERSIONS)
def test_fio_replays_it(tmp_path, version):
    image, log = tmp_path / 'image', tmp_path / 'trace'
    image.write_bytes(bytes(4 * MIB))
    log.write_bytes(MADE.dump('/image', version))
    ran = subprocess.run(
        [
            *('fio', '--name=replay', '--ioengine=psync'),
            *(f'--read_iolog={log}', f'--replay_redirect={image}'),
            *(f'--write_lat_log={tmp_path}/told', '--log_offset=1'),
        ],
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, '')
    told = (tmp_path / 'told_clat.1.log').read_text().splitlines()
    # Milliseconds, latency, direction, length, offset, priority.
    fields = [list(map(int, line.split(','))) for line in told]
    assert [(each[4], each[3]) for each in fields] == [
        each[1:] for each in MADE.touches
    ]
    if version == 3:
        assert fields[-1][0] >= 250


# The service

BLOCK = 64 * KIB
DATA = resource.pattern(6 * MIB + 512)


@pytest.fixture
def service(tmp_path):
    (tmp_path / 'image').write_bytes(DATA)
    with (
        nginx.Nginx(tmp_path) as origin,
        dd_lab.short_directory() as path,
        cache_service.CacheService(
            path, {'oslo_transfer_cache': {'hydrate': False}}
        ) as service,
    ):
        made = oslo_transfer.copy(
            origin.url('/image'),
            path / 'disk',
            'copy_on_read',
            conf=service.conf(),
        )
        yield service
        made.attachment.detach()


def fetched(service):
    return service.export(service.path / 'disk')['statistics']['bytes_fetched']


def touch(service, offset, length):
    """Have QEMU read."""
    subprocess.run(
        [
            *('qemu-io', '-r', '-f', 'qcow2', '-c', f'read {offset} {length}'),
            service.path / 'disk',
        ],
        check=True,
        stdout=subprocess.DEVNULL,
    )


def restart(service, data=None):
    """Start it without blocks, and with another trace; returns the trace."""
    service.stop()
    shutil.rmtree(service.state / 'cache')
    (kept,) = (service.state / 'traces').iterdir()
    if data is not None:
        kept.write_bytes(data)
    service.start()
    return kept


def test_what_was_read_is_brought_before_it_is_asked_for(service):
    touch(service, 30 * BLOCK + 512, BLOCK)
    touch(service, 50 * BLOCK, 4096)
    kept = restart(service)
    found = _trace.Trace.load(str(kept)).ranges()
    # The copy, and QEMU, look at the start.
    assert list(found)[1:] == [
        (30 * BLOCK, 32 * BLOCK),
        (50 * BLOCK, 51 * BLOCK),
    ]
    waiting.until(lambda: fetched(service) == found.total)
    # It can still be had, whatever was read since.
    touch(service, 80 * BLOCK, 4096)
    name = service.export(service.path / 'disk')['id']
    assert service.client.trace(name) == kept.read_bytes()
    assert _trace.Trace.load(str(kept)).ranges() == found


def test_nobody_has_read_yet(service):
    service.stop()
    (kept,) = (service.state / 'traces').iterdir()
    kept.unlink()
    service.start()
    name = service.export(service.path / 'disk')['id']
    with pytest.raises(exceptions.NotFound, match='nobody has noted'):
        service.client.trace(name)


LINE = b'1 /image read %d %d\n'
START = b'fio version 3 iolog\n0 /image add\n0 /image open\n'
HOSTILE = {
    'no iolog': bytes(5000),
    'behind the end': START
    + LINE % (len(DATA) - 1, 4096)
    + LINE % (1 << 62, 4096),
    'all of it, often': START + (LINE % (0, (1 << 32) - 1)) * 20_000,
}


@pytest.mark.parametrize('kind', HOSTILE)
def test_a_trace_is_only_a_hint(service, kind):
    touch(service, 0, 4096)
    restart(service, HOSTILE[kind])
    copied = service.path / 'copied'
    subprocess.run(
        [
            *('qemu-img', 'convert', '-O', 'raw'),
            *(service.path / 'disk', copied),
        ],
        check=True,
    )
    assert copied.read_bytes() == DATA
    # Each block once, whatever it says.
    assert fetched(service) == len(DATA)
