# SPDX-License-Identifier: Apache-2.0
"""A guest boots in the far datacenter by what the near one has recorded."""

from __future__ import annotations

import contextlib
import hashlib

import pytest

from oslo_transfer.cache import trace as _trace
from tests import groups
from tests.guest_boot import disk as _disk
from tests.guest_boot import machine
from tests.servers import dd_lab
from tests.servers import netns
from tests.servers import nginx
from tests.servers import sites as _sites
from tests import waiting

pytestmark = [
    *groups.marks(
        'guest',
        _disk.missing() is None
        and netns.missing() is None
        and nginx.Nginx.found() is not None,
    ),
    pytest.mark.timeout(400),
]

MIB = 1 << 20
# Of the WAN, in bits per second and seconds.
RATE, ROUND_TRIP = 200_000_000, 0.03
# Emulated, and beside other tests, all takes its time.
BOOT_SECONDS = 120.0
READ_SECONDS = 60.0
# What is read while the WAN is cut: no boot needs it.
START, LENGTH = 100 * MIB, 16 * MIB


@pytest.fixture(scope='module')
def disk():
    return _disk.ensure()


@pytest.fixture
def sites(disk):
    with (
        dd_lab.short_directory() as path,
        _sites.Sites(
            path, disk.path.parent, rate=RATE, round_trip=ROUND_TRIP
        ) as running,
    ):
        yield running


@contextlib.contextmanager
def boot(disk, host, proxy, url):
    """A guest whose disk is that of a proxy, by NBD; writes go nowhere."""
    drive = (
        f'format=raw,snapshot=on,file.driver=nbd,'
        f'file.server.type=inet,file.server.host={proxy.namespace.address},'
        f'file.server.port={_sites.NBD_PORT},file.export={url},'
        f'file.reconnect-delay=60'
    )
    with contextlib.ExitStack() as stack:
        with host.namespace.inside():
            guest = stack.enter_context(machine.Machine(disk, drive))
        yield guest


def test_a_guest_boots_by_a_trace_of_another_datacenter(disk, sites, tmp_path):
    url = sites.origin.url(f'/{disk.path.name}')
    (near,), (far,) = sites.near_proxies, sites.far_proxies
    with boot(disk, sites.near_hosts[0], near, url) as guest:
        guest.wait(BOOT_SECONDS)
    touched = hot_bytes(near, url)
    assert touched > 16 * MIB
    # Nobody there has asked yet.
    assert sites.wan.to_far() < MIB

    ran = sites.far_hosts[0].run(
        *('prefetch', url, '--datacenter', 'far', '--trace-from', 'near'),
        *('--auth-file', sites.admin_file()),
    )
    assert ran.returncode == 0, ran.stderr
    brought = sites.wan.to_far()
    assert touched < brought < 1.3 * touched

    with boot(disk, sites.far_hosts[0], far, url) as guest:
        guest.wait(BOOT_SECONDS)
        # What another boot reads differs a little, and more is read ahead.
        assert sites.wan.to_far() - brought < touched / 3
        assert far.image(url)['misses'] < near.image(url)['misses'] / 3
        read_on_while_the_wan_is_cut(guest, sites, disk)


def hot_bytes(proxy, url):
    """How much a proxy has seen to be read first of an image."""
    found = proxy.ask('GET', f'/v1/proxy/traces/{proxy.image(url)["id"]}')
    return _trace.Trace.parse(found['iolog'].encode()).ranges().total


def read_on_while_the_wan_is_cut(guest, sites, disk):
    """What is missing comes when there is a WAN again."""
    before = sites.wan.to_far()
    guest.tell(
        f'dd if=/dev/vda bs=1M skip={START // MIB} count={LENGTH // MIB} '
        f'iflag=direct 2>/dev/null | busybox sha256sum'
    )
    waiting.until(lambda: sites.wan.to_far() > before + MIB, READ_SECONDS)
    sites.wan.cut()
    with pytest.raises(machine.machine.GuestDied):
        guest.wait(2.0)
    sites.wan.mend()
    with open(disk.path, 'rb') as file:
        file.seek(START)
        right = hashlib.sha256(file.read(LENGTH)).hexdigest()
    assert guest.wait(READ_SECONDS).split()[0] == right
