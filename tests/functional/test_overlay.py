# SPDX-License-Identifier: Apache-2.0
"""An overlay over an NBD export that goes away, and comes back."""

from __future__ import annotations

import os

import pytest

import oslo_transfer
from tests.functional import test_nbd
from tests.servers import nbdkit
from tests.servers import qemu_io
from tests.servers import resource

pytestmark = [
    *test_nbd.pytestmark,
    pytest.mark.usefixtures('nothing_left'),
]

MIB = 1 << 20
DATA = resource.pattern(4 * MIB)
GOOD, BAD = 'read 512/512 bytes', 'Input/output error'


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    return path


@pytest.fixture
def overlay(conf, tmp_path):
    """A function that makes one over a URL."""
    state = str(tmp_path / 'state')
    conf.set_override('state_path', state, group='oslo_transfer')
    made = []

    def make(url, delay):
        conf.set_override(
            'zero_copy_nbd_reconnect_delay', delay, group='oslo_transfer'
        )
        disk = tmp_path / f'disk{len(made)}'
        made.append(oslo_transfer.copy(url, disk, 'zero_copy', conf=conf))
        return disk

    yield make
    for each in made:
        each.attachment.detach()


@pytest.mark.parametrize('unix', [False, True], ids=['tcp', 'unix'])
def test_a_guest_waits_for_what_comes_back(unix, image, overlay):
    with nbdkit.Nbdkit('file', image, unix=unix) as server:
        disk = overlay(server.url(), 60)
        with qemu_io.QemuIo(disk) as guest:
            guest.ask('read 0 512')
            assert GOOD in guest.answer(10)
            server.end()
            guest.ask('read 1M 512')
            assert guest.answer(0.5) is None
            server.begin_again()
            assert GOOD in guest.answer(20)


def test_it_does_not_wait_for_ever(image, overlay):
    """And it goes on when the export is there at last."""
    with nbdkit.Nbdkit('file', image, unix=True) as server:
        disk = overlay(server.url(), 1)
        with qemu_io.QemuIo(disk) as guest:
            server.end()
            guest.ask('read 0 512')
            assert BAD in guest.answer(10)
            server.begin_again()
            for _ in range(100):
                guest.ask('read 0 512')
                if GOOD in guest.answer(10):
                    break
                guest.ask('sleep 100')
                assert guest.answer(10) is not None
            else:
                pytest.fail('it does not go on')


def test_what_a_guest_writes_is_not_kept_waiting(image, overlay):
    """That goes to the overlay: whole clusters need nothing from below."""
    with nbdkit.Nbdkit('file', image, unix=True) as server:
        disk = overlay(server.url(), 60)
        with qemu_io.QemuIo(disk) as guest:
            server.end()
            guest.ask('write -P 7 64k 64k')
            assert 'wrote' in guest.answer(10)
    assert image.read_bytes() == DATA
    assert os.path.getsize(disk) > 64 << 10
