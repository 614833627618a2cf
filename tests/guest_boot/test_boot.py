# SPDX-License-Identifier: Apache-2.0
"""A guest boots from an image that is far away, and outlives its origin."""

from __future__ import annotations

import hashlib
import shutil
import signal

import pytest

import oslo_transfer
from oslo_transfer.cache import trace as _trace
from tests import groups
from tests.guest_boot import disk as _disk
from tests.guest_boot import machine
from tests.servers import cache_service
from tests.servers import dd_lab
from tests.servers import farline
from tests.servers import nginx
from tests import waiting

pytestmark = [
    *groups.marks(
        'guest',
        _disk.missing() is None and nginx.Nginx.found() is not None,
    ),
    pytest.mark.timeout(400),
]

MIB = 1 << 20
# Of the line, in bits per second and seconds.
RATE, ROUND_TRIP = 400_000_000, 0.02
# Emulated, and beside other tests, all takes its time.
BOOT_SECONDS = 120.0
READ_SECONDS = 120.0
# What is read while the service is restarted: no boot needs it.
START, LENGTH = 100 * MIB, 48 * MIB
HASH = 'busybox sha256sum'


@pytest.fixture(scope='module')
def disk():
    return _disk.ensure()


@pytest.fixture
def line(disk):
    with (
        nginx.Nginx(disk.path.parent) as origin,
        farline.FarLine(origin.port, rate=RATE, round_trip=ROUND_TRIP) as line,
    ):
        yield line


class Host(cache_service.CacheService):
    """A host that serves an overlay of its own."""

    def __init__(self, path):
        super().__init__(path)
        self.overlay = path / 'guest.qcow2'

    def configure(self, **options):
        lines = [f'{name} = {value}' for name, value in options.items()]
        text = self.config.read_text()
        self.config.write_text(
            '\n'.join([text, '[oslo_transfer_cache]', *lines])
        )

    def boot(self, disk):
        return machine.Machine(disk, f'format=qcow2,file={self.overlay}')

    def wait_for(self, state):
        """Wait until the image is as far as that."""
        waiting.until(
            lambda: self.export(self.overlay)['state'] == state, READ_SECONDS
        )

    @property
    def statistics(self):
        return self.export(self.overlay)['statistics']


@pytest.fixture
def host():
    with dd_lab.short_directory() as path:
        host = Host(path)
        host.configure(hydrate=False)
        with host:
            yield host


def digest(path, start=0, length=-1):
    with open(path, 'rb') as file:
        file.seek(start)
        return hashlib.sha256(file.read(length)).hexdigest()


def test_a_guest_boots_from_far_away(disk, line, host, tmp_path):
    result = oslo_transfer.copy(
        line.url(f'/{disk.path.name}'),
        host.overlay,
        'copy_on_read',
        conf=host.conf(),
        hash_algo='sha256',
        hash_value=digest(disk.path),
    )
    assert result.form == 'overlay'
    with host.boot(disk) as guest:
        guest.wait(BOOT_SECONDS)
        # While most of it is still far away.
        assert line.sent < disk.size // 3
        cold = host.statistics
        recorded = tmp_path / 'trace'
        ran = host.run('trace', 'record', result.attachment.id, str(recorded))
        assert (ran.returncode, ran.stderr) == (0, '')
        read_on_through_a_restart(guest, host, line, disk)
    trace = _trace.Trace.load(str(recorded))
    touched = trace.ranges().total
    assert 16 * MIB < touched <= cold['bytes_fetched'] * 1.01

    # Another boot, with nothing but the trace.
    host.stop()
    shutil.rmtree(host.state / 'cache')
    (kept,) = (host.state / 'traces').iterdir()
    # The service that came later has not replaced it.
    found = _trace.Trace.load(str(kept)).touches
    assert found[: len(trace.touches)] == trace.touches
    host.configure(hydrate=True)
    host.start()
    with host.boot(disk) as guest:
        guest.wait(BOOT_SECONDS)
        assert host.statistics['waits'] < cold['waits'] / 3
        host.wait_for('promoted')
        line.cut()
        read_on_without_the_origin(guest, disk)
    host.wait_for('released')
    result.attachment.detach()
    assert digest(f'{host.overlay}.base') == digest(disk.path)


def read_on_through_a_restart(guest, host, line, disk):
    """Kill the service while the guest reads, and start it again."""
    before = line.sent
    guest.tell(
        f'dd if=/dev/vda bs=1M skip={START // MIB} count={LENGTH // MIB} '
        f'iflag=direct 2>/dev/null | {HASH}'
    )
    waiting.until(lambda: line.sent >= before + LENGTH // 4, READ_SECONDS)
    host.stop(signal.SIGKILL)
    # Nobody has it all yet.
    assert line.sent < before + LENGTH
    host.start()
    found = guest.wait(READ_SECONDS)
    assert found.split()[0] == digest(disk.path, START, LENGTH)


def read_on_without_the_origin(guest, disk):
    """Read all of the disk, and write to it."""
    guest.run('echo 3 >/proc/sys/vm/drop_caches')
    found = guest.run(f'{HASH} /dev/vda', READ_SECONDS)
    assert found.split()[0] == digest(disk.path)
    guest.run('mount -o remount,rw / && echo written >/etc/motd && sync')
    guest.run('echo 3 >/proc/sys/vm/drop_caches')
    assert guest.run('cat /etc/motd').strip() == 'written'
