# SPDX-License-Identifier: Apache-2.0
"""In a process of one's own: a source that keeps what it has read."""

from __future__ import annotations

import shutil
import subprocess
import threading

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests import groups
from tests.servers import dd_lab
from tests.servers import nginx
from tests.servers import resource

MIB = 1 << 20
DATA = resource.pattern(5 * MIB + 100)

pytestmark = groups.marks(
    'cache', all(map(shutil.which, ('nginx', 'nbdcopy')))
)


@pytest.fixture
def origin(tmp_path):
    (tmp_path / 'image').write_bytes(DATA)
    with nginx.Nginx(tmp_path) as server:
        yield server


@pytest.fixture
def here():
    with dd_lab.short_directory() as path:
        yield path


def test_it_is_a_source(origin, here, conf):
    with oslo_transfer.open_cached(
        origin.url('/image'), here / 'blocks', conf=conf
    ) as image:
        assert image.size == len(DATA)
        with image.stream(MIB - 5, 10) as stream:
            assert stream.read() == DATA[MIB - 5 :][:10]
        with image.stream(0, None) as stream:
            assert stream.read() == DATA
        fetched = image.statistics()['bytes_fetched']
        assert fetched == len(DATA)
        with pytest.raises(exceptions.SourceChanged):
            image.stream(len(DATA), 1)
        with image.stream(len(DATA), 0) as stream:
            assert stream.read() == b''


def test_what_was_read_is_found_again(origin, here, conf):
    """Also once the origin is gone."""
    url = origin.url('/image')
    with oslo_transfer.open_cached(url, here / 'blocks', conf=conf) as image:
        with image.stream(0, None) as stream:
            assert stream.read() == DATA
    with oslo_transfer.open_cached(url, here / 'blocks', conf=conf) as image:
        origin.stop()
        with image.stream(0, None) as stream:
            assert stream.read() == DATA
        assert image.statistics()['bytes_fetched'] == 0


def test_others_read_its_export(origin, here, conf):
    with oslo_transfer.open_cached(
        origin.url('/image'), here / 'blocks', conf=conf
    ) as image:
        with image.export(str(here / 'sock')) as uri:
            copied = subprocess.run(
                ['nbdcopy', uri, '-'],
                check=True,
                capture_output=True,
                stdin=subprocess.DEVNULL,
            )
        assert copied.stdout == DATA
        assert not (here / 'sock').exists()


def test_one_process_has_the_directory(origin, here, conf):
    url = origin.url('/image')
    with oslo_transfer.open_cached(url, here / 'blocks', conf=conf):
        with pytest.raises(exceptions.Unavailable, match='another process'):
            oslo_transfer.open_cached(url, here / 'blocks', conf=conf)


def test_cancel_ends_reads(origin, here, conf):
    cancel = threading.Event()
    with oslo_transfer.open_cached(
        origin.url('/image'), here / 'blocks', conf=conf, cancel=cancel
    ) as image:
        with image.stream(0, None) as stream:
            stream.readinto(bytearray(10))
            cancel.set()
            with pytest.raises(exceptions.TransferCancelled):
                stream.read()


def test_what_cannot_be_cached(tmp_path, here, conf):
    (tmp_path / 'image').write_bytes(DATA)
    with nginx.Nginx(tmp_path, ranges=False) as server:
        with pytest.raises(exceptions.CapabilityMissing, match='any place'):
            oslo_transfer.open_cached(
                server.url('/image'), here / 'blocks', conf=conf
            )
