# SPDX-License-Identifier: Apache-2.0
"""Bytes of two versions are never joined, though nothing tells them apart."""

from __future__ import annotations

import hashlib

import pytest

import oslo_transfer
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from tests.servers import resource

pytestmark = pytest.mark.usefixtures('nothing_left')

MIB = 1 << 20
HOLE = bytes(MIB)
OLD, NEW = (
    resource.pattern(MIB, seed) + HOLE + resource.pattern(MIB, seed + 1)
    for seed in (1, 3)
)
URL = 'disk://host/x'


class Stream(base.Stream):
    def __init__(self, host, offset, end):
        super().__init__()
        self._host, self._position, self._end = host, offset, end

    def readinto(self, buffer):
        count = min(len(buffer), self._end - self._position)
        if count:
            self._host.reach(self._position)
        end = self._position + count
        memoryview(buffer)[:count] = self._host.data[self._position : end]
        self._position = end
        return count


class Source(base.Source):
    """Of one size in all versions, as with disks; has nothing else."""

    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.EXTENTS
    )
    size = len(OLD)

    def __init__(self, host):
        self._host = host

    def stream(self, offset, length):
        end = self.size if length is None else offset + length
        return Stream(self._host, offset, end)

    def extents(self, offset, length):
        end = offset + length
        for start, stop, data in (
            (0, MIB, True),
            (MIB, 2 * MIB, False),
            (2 * MIB, 3 * MIB, True),
        ):
            start, stop = max(start, offset), min(stop, end)
            if start < stop:
                yield base.Extent(start, stop - start, data)

    def close(self):
        pass


class Host:
    """Is started again with another version once a byte is asked for."""

    def __init__(self, at):
        self.data = OLD
        self._at = at

    def reach(self, position):
        if self._at is not None and position >= self._at:
            self.data, self._at = NEW, None
            raise exceptions.Unavailable('the connection broke')


class Driver(base.Driver):
    name = 'disk'
    schemes = ('disk',)
    capabilities = Source.capabilities
    host: Host

    def open_source(self, endpoint, ctx):
        return Source(self.host)


@pytest.fixture
def host(monkeypatch):
    """A function that says where the connection breaks."""
    with fixtures.registered(Driver):
        yield lambda at: monkeypatch.setattr(
            Driver, 'host', Host(at), raising=False
        )


@pytest.mark.parametrize('at', [0, 4096, 2 * MIB, 2 * MIB + 4096])
@pytest.mark.parametrize('streams', [1, 4])
def test_a_copy_is_of_one_version(at, streams, host, conf, tmp_path):
    """Also where it breaks between two runs of data."""
    conf.set_override('max_streams', streams, group='oslo_transfer')
    conf.set_override('buffer_bytes', 65536, group='oslo_transfer')
    host(at)
    oslo_transfer.copy(URL, tmp_path / 'copy', conf=conf)
    assert (tmp_path / 'copy').read_bytes() == NEW


@pytest.mark.parametrize('at', [4096, 2 * MIB, 2 * MIB + 4096])
def test_a_digest_decides(at, host, conf, tmp_path):
    """With one, bytes are joined, and read once more if they do not fit."""
    conf.set_override('buffer_bytes', 65536, group='oslo_transfer')
    host(at)
    oslo_transfer.copy(
        URL,
        tmp_path / 'copy',
        conf=conf,
        hash_algo='sha256',
        hash_value=hashlib.sha256(NEW).hexdigest(),
    )
    assert (tmp_path / 'copy').read_bytes() == NEW


def test_what_is_read_is_of_one_version(host, conf):
    """A source that is read in parts says so instead."""
    host(2 * MIB)
    with oslo_transfer.open_source(URL, conf=conf) as source:
        with source.stream(0, MIB) as stream:
            assert stream.read(MIB)
        with source.stream(2 * MIB, MIB) as stream:
            with pytest.raises(exceptions.Unavailable, match='validator'):
                stream.read(MIB)
