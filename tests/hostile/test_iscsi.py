# SPDX-License-Identifier: Apache-2.0
"""Targets, portals and LUNs that are not what they should be.

After each test no session, thread or descriptor is left.
"""

from __future__ import annotations

import ctypes.util
import hashlib
import json
import os
import random
import socket
import struct
import subprocess
import sys
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import call
from oslo_transfer import credentials
from oslo_transfer.drivers.iscsi import abi
from oslo_transfer.drivers.iscsi import driver
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from oslo_transfer.testing import harness
from tests import groups
from tests.servers import child
from tests.servers import relay
from tests.servers import tgt

pytestmark = [
    *groups.marks('iscsi', tgt.Tgt.found() is not None),
    pytest.mark.usefixtures('nothing_left'),
]

MIB = 1 << 20
SIZE = 8 * MIB
PATIENCE = 5.0
DATA = harness.pattern(SIZE)
OLD = b'SECRET of the old tenant! ' * 40
USER, SECRET = 'chap-user', 'chap-secret-123'
THEIRS, PROOF = 'chap-target', 'target-secret-456'


@pytest.fixture(scope='module')
def server():
    with tgt.Tgt() as running:
        yield running


@pytest.fixture
def nothing_left(server):
    threads = set(threading.enumerate())
    descriptors = set(os.listdir('/proc/self/fd'))
    yield
    assert harness.wait_for(
        lambda: (
            set(threading.enumerate()) <= threads
            and set(os.listdir('/proc/self/fd')) <= descriptors
        ),
        PATIENCE,
    )
    assert harness.wait_for(lambda: not server.sessions(), PATIENCE), (
        'a session is left'
    )


@pytest.fixture
def conf():
    made = fixtures.make_conf()
    made.register_opts(driver.ISCSIDriver.OPTIONS, group='oslo_transfer_iscsi')
    made.set_override('engine', 'libiscsi', 'oslo_transfer_iscsi')
    made.set_override('retry_delay', 0.05, 'oslo_transfer')
    made.set_override('max_retries', 2, 'oslo_transfer')
    return made


@pytest.fixture
def lab(server, tmp_path, conf):
    return Lab(server, tmp_path, conf)


class Lab:
    """Disks of a target, and what is done with them."""

    def __init__(self, server, root, conf):
        self.server = server
        self.root = root
        self.conf = conf
        self.driver = driver.ISCSIDriver(conf)

    def disk(self, data=DATA, target=None, lun=1, **params):
        """A disk with this content: its file and its target."""
        path = self.root / f'disk{len(os.listdir(self.root))}'
        path.write_bytes(data)
        target = target or self.server.target(
            f'{tgt.IQN}-{hashlib.sha256(bytes(path)).hexdigest()[:16]}'
        )
        self.server.disk(target, path, lun, **params)
        return path, target

    def url(self, target, *ports, lun=1):
        return self.server.url(target, lun, *ports)

    def set(self, name, value, group='oslo_transfer_iscsi'):
        self.conf.set_override(name, value, group)

    def context(self, **changes):
        return call.Call(self.conf, None, None, None).ctx.replace(**changes)

    def source(self, url, **changes):
        return self.driver.open_source(
            endpoint.parse(url), self.context(**changes)
        )

    def sink(self, url, size=None, **changes):
        return self.driver.open_sink(
            endpoint.parse(url), self.context(**changes), size=size
        )

    def read(self, url, **changes):
        with self.source(url, **changes) as source:
            return read(source)

    def copy(self, src, dst, **options):
        return oslo_transfer.copy(
            src, dst, 'full_copy', conf=self.conf, **options
        )


def read(source, offset=0, length=None):
    found = bytearray()
    buffer = memoryview(bytearray(MIB))
    with source.stream(offset, length) as stream:
        while count := stream.readinto(buffer):
            found += buffer[:count]
    return bytes(found)


def info(**data):
    return {'connection_info': {'driver_volume_type': 'iscsi', 'data': data}}


def login(user=USER, secret=SECRET):
    return {'credentials': credentials.LoginCredentials(user, secret)}


# Names and logins


def test_no_such_lun(lab):
    _path, target = lab.disk()
    with pytest.raises(exceptions.NotFound, match='LUN'):
        lab.source(lab.url(target, lun=7))


def test_no_disk(lab):
    """LUN 0 of tgt is a controller."""
    _path, target = lab.disk()
    with pytest.raises(exceptions.InvalidEndpoint, match='no disk'):
        lab.source(lab.url(target, lun=0))


def test_a_lun_that_the_library_cannot_name(lab):
    with pytest.raises(exceptions.InvalidEndpoint, match='16383'):
        lab.source(f'iscsi://127.0.0.1/{tgt.IQN}/16384')


def test_who_is_not_allowed(lab):
    path = lab.root / 'disk'
    path.write_bytes(DATA)
    target = lab.server.target(f'{tgt.IQN}-closed', initiators='192.0.2.1')
    lab.server.disk(target, path)
    with pytest.raises((exceptions.AccessDenied, exceptions.NotFound)):
        lab.source(lab.url(target))


@pytest.fixture
def guarded(lab):
    """The URL of a disk behind CHAP."""
    _path, target = lab.disk()
    user = f'{USER}-{target[-16:]}'
    lab.server.chap(target, user, SECRET)
    return lab.url(target), user


def test_chap(lab, guarded):
    url, user = guarded
    assert lab.read(url, **login(user)) == DATA
    assert lab.read(url.replace('://', f'://{user}:{SECRET}@')) == DATA
    cinder = info(auth_method='CHAP', auth_username=user, auth_password=SECRET)
    assert lab.read(url, **cinder) == DATA


@pytest.mark.parametrize(
    ('user', 'secret'),
    [
        (None, SECRET[:-1]),
        (None, 'x'),
        (None, 'x' * 255),
        ('another', SECRET),
    ],
)
def test_wrong_chap(lab, guarded, user, secret):
    url, right = guarded
    with pytest.raises(exceptions.AccessDenied) as caught:
        lab.source(url, **login(user or right, secret))
    assert secret not in str(caught.value).replace('iscsi', '')


def test_missing_chap(lab, guarded):
    with pytest.raises(exceptions.AccessDenied):
        lab.source(guarded[0])


def test_mutual_chap(lab, guarded):
    """The target proves who it is, or is left."""
    url, user = guarded
    theirs = f'{THEIRS}-{user[-16:]}'
    lab.set('mutual_chap_username', theirs)
    lab.set('mutual_chap_password', PROOF)
    with pytest.raises(exceptions.AccessDenied):
        lab.source(url, **login(user))  # It has nothing to prove it by.
    lab.server.chap(url.split('/')[3], theirs, PROOF, mutual=True)
    assert lab.read(url, **login(user)) == DATA
    for name, value in (
        ('mutual_chap_password', PROOF[:-1]),
        ('mutual_chap_username', 'another'),
    ):
        lab.set(name, value)
        with pytest.raises(exceptions.AccessDenied) as caught:
            lab.source(url, **login(user))
        assert PROOF[:-1] not in str(caught.value)


def test_mutual_chap_with_a_target_that_asks_for_nothing(lab):
    """Not to ask us who we are is no way around the proof."""
    _path, target = lab.disk()
    lab.set('mutual_chap_username', THEIRS)
    lab.set('mutual_chap_password', PROOF)
    with pytest.raises(exceptions.AccessDenied):
        lab.source(lab.url(target), **login())


@pytest.mark.parametrize('secret', [None, '', 'x' * 256])
def test_mutual_chap_without_a_secret(lab, secret):
    lab.set('mutual_chap_username', THEIRS)
    lab.set('mutual_chap_password', secret)
    with pytest.raises(exceptions.ConfigurationError):
        lab.source(f'iscsi://127.0.0.1/{tgt.IQN}/1', **login())


def test_bad_name_of_this_host(lab):
    lab.set('initiator_name', 'host1')
    with pytest.raises(exceptions.ConfigurationError, match='host1'):
        lab.source(f'iscsi://127.0.0.1/{tgt.IQN}/1')


def test_no_library(lab, monkeypatch):
    """Whoever reads the error knows what to install."""
    monkeypatch.setattr(abi, '_SONAMES', ())
    monkeypatch.setattr(ctypes.util, 'find_library', lambda _name: None)
    abi.load.cache_clear()
    try:
        _path, target = lab.disk()
        with pytest.raises(exceptions.DriverLoadError, match='libiscsi7'):
            lab.source(lab.url(target))
    finally:
        abi.load.cache_clear()


# Another device than the one that was asked for


@pytest.mark.parametrize(
    ('wrong', 'kind'),
    [
        ({'scsi_serial': 'S2'}, exceptions.IntegrityError),
        ({'scsi_wwn': '0x6001405000000000'}, exceptions.IntegrityError),
        ({'scsi_size': SIZE + 512}, exceptions.SizeMismatch),
    ],
)
def test_wrong_device(lab, wrong, kind):
    """It is refused before a byte is read or written."""
    path, target = lab.disk(scsi_sn='S1')
    url = lab.url(target)
    before = path.stat()
    with pytest.raises(kind):
        lab.source(url, **info(**wrong))
    with pytest.raises(kind):
        lab.sink(url, 1000, **info(**wrong))
    src = lab.root / 'image'
    src.write_bytes(b'new')
    with pytest.raises(kind):
        lab.copy(
            str(src),
            oslo_transfer.Location(url, **info(**wrong)),
        )
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.read_bytes() == DATA


def test_right_device(lab):
    path, target = lab.disk(scsi_sn='S1', scsi_id='6001')
    with lab.source(lab.url(target), **info(scsi_serial='S1')) as source:
        assert source.size == SIZE
        (name,) = [n for n in source._unit.disk.names if n.endswith('6001')]
    right = info(scsi_serial='S1', scsi_wwn=f'0x{name}', scsi_size=SIZE)
    assert lab.read(lab.url(target), **right) == DATA


def test_portals_with_different_luns(lab):
    """Paths that lead to two disks are a mistake of somebody."""
    _path, first = lab.disk()
    _path, second = lab.disk(harness.pattern(SIZE, 'another'))
    portal = lab.server.portal
    both = info(
        target_portals=[portal, portal],
        target_iqns=[first, second],
        target_luns=[1, 1],
    )
    with lab.source(lab.url(first), **both) as source:
        with source.stream(0, None) as stream:
            # One session reads, the next one reads ahead.
            with pytest.raises(exceptions.IntegrityError, match='different'):
                for _ in range(8):
                    stream.readinto(bytearray(MIB))


# Portals that fail


def test_dead_portals_are_skipped(lab):
    _path, target = lab.disk()
    dead = child.free_port()
    with relay.Relay(lab.server.port, stall_after=0) as silent:
        lab.set('connect_timeout', 1, 'oslo_transfer')
        url = lab.url(target, dead, silent.port, lab.server.port)
        with lab.source(url) as source:
            assert read(source) == DATA
            tried = silent.accepted
            # Those that failed come last from now on.
            assert read(source) == DATA
            assert silent.accepted == tried


def test_all_portals_are_dead(lab):
    _path, target = lab.disk()
    ports = [child.free_port() for _ in range(2)]
    with pytest.raises(exceptions.Unavailable) as caught:
        lab.source(lab.url(target, *ports))
    for port in ports:
        assert f'port {port}' in str(caught.value)


@pytest.mark.parametrize('reason', ['Temporary', 'Permanent'])
def test_a_target_that_sends_us_on(lab, reason):
    """Arrays do so to spread their load."""
    _path, target = lab.disk()

    def send_on(port):
        # tgt sends on whoever does not come from there.
        for name, value in (
            ('RedirectAddress', '127.0.0.2'),
            ('RedirectPort', port),
            ('RedirectReason', reason),
        ):
            lab.server.admin(
                f'--op update --mode target --tid {lab.server.tid(target)} '
                f'--name {name} --value {value}'
            )

    with relay.Relay(lab.server.port, host='127.0.0.2') as other:
        send_on(other.port)
        assert lab.read(lab.url(target)) == DATA
        assert other.sent > SIZE
    with relay.Relay(lab.server.port, host='127.0.0.2') as circle:
        send_on(circle.port)
        circle.host = '127.0.0.1'
        with pytest.raises(exceptions.Unavailable, match='portal to portal'):
            lab.source(lab.url(target))


@pytest.fixture
def two_ways(lab):
    """A disk, and two relays to it."""
    path, target = lab.disk(harness.pattern(48 * MIB))
    with (
        relay.Relay(lab.server.port) as first,
        relay.Relay(lab.server.port) as second,
    ):
        yield path, lab.url(target, first.port, second.port), first, second


@pytest.mark.parametrize('sessions', [1, 2, 4])
def test_a_path_that_dies_in_mid_copy(lab, two_ways, sessions):
    """The copy goes on at the other portal, also without a digest."""
    path, url, first, _second = two_ways
    lab.set('sessions', sessions)
    first.cut_after = 5 * MIB
    dst = lab.root / 'copy'
    result = lab.copy(url, str(dst))
    assert first.sent >= 5 * MIB
    assert dst.read_bytes() == path.read_bytes()
    assert result.bytes_by_origin == {'origin': 48 * MIB}


def test_a_path_that_stalls_in_mid_copy(lab, two_ways):
    path, url, first, _second = two_ways
    lab.set('command_timeout', 1)
    first.stall_after = 5 * MIB
    dst = lab.root / 'copy'
    started = time.monotonic()
    lab.copy(url, str(dst))
    assert time.monotonic() - started < 8
    assert dst.read_bytes() == path.read_bytes()


def test_a_path_that_dies_while_writing(lab, two_ways):
    path, url, first, _second = two_ways
    first.cut_taken = 5 * MIB
    src = lab.root / 'image'
    src.write_bytes(harness.pattern(24 * MIB, 'new'))
    lab.copy(str(src), url)
    found = path.read_bytes()
    assert found[: 24 * MIB] == src.read_bytes()
    assert not any(found[24 * MIB :])


def test_all_paths_die_and_come_back(lab, two_ways):
    """What was copied is kept, and gone on with."""
    path, url, first, second = two_ways
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    first.cut_after = second.cut_after = 20 * MIB
    dst = lab.root / 'copy'
    check = {'hash_algo': 'sha256', 'hash_value': digest}
    lab.set('segment_bytes', 4 * MIB, 'oslo_transfer')
    with pytest.raises(exceptions.TransferError) as caught:
        lab.copy(url, str(dst), **check)
    assert caught.value.retryable
    assert not dst.exists()
    target = url.split('/')[3]
    with (
        relay.Relay(lab.server.port, listen=first.port),
        relay.Relay(lab.server.port, listen=second.port),
    ):
        result = lab.copy(
            lab.url(target, first.port, second.port), str(dst), **check
        )
    assert dst.read_bytes() == path.read_bytes()
    assert result.verified
    assert result.bytes_by_origin['resumed'] >= 4 * MIB


def test_garbage_instead_of_an_answer(lab):
    """Neither crashes the process, nor goes on for long."""
    with socket.create_server(('127.0.0.1', 0)) as listener:
        port = listener.getsockname()[1]
        answers = [
            b'HTTP/1.1 400 Bad Request\r\n\r\n' * 10,
            bytes(48),
            b'\xff' * 100,
            struct.pack('>B3xI40x', 0x23, 0xFFFFFF) + bytes(1000),
            struct.pack('>BB2xI40x', 0x23, 0x87, 4) + b'abcd',
        ]

        def answer():
            while answers:
                sock, _address = listener.accept()
                with sock:
                    # The first connection only looks whether one is there.
                    if sock.recv(48):
                        sock.sendall(answers.pop())

        thread = threading.Thread(target=answer)
        thread.start()
        while answers:
            with pytest.raises(exceptions.Unavailable):
                lab.source(f'iscsi://127.0.0.1:{port}/{tgt.IQN}/1')
        thread.join()


# Disks that change


def replace(lab, target, data):
    """Put another disk in the place of the first one."""
    lab.server.take_away(target)
    path = lab.root / 'other'
    path.write_bytes(data)
    lab.server.disk(target, path)


@pytest.mark.parametrize('size', [SIZE // 2, 2 * SIZE])
def test_resized(lab, size):
    _path, target = lab.disk(scsi_sn='S', scsi_id='1')
    with lab.source(lab.url(target)) as source:
        assert read(source, 0, 1000) == DATA[:1000]
        lab.server.take_away(target)
        path = lab.root / 'other'
        path.write_bytes(bytes(size))
        lab.server.disk(target, path, scsi_sn='S', scsi_id='1')
        with pytest.raises(exceptions.SourceChanged):
            read(source)


def test_shrunk_while_it_is_read(lab):
    _path, target = lab.disk(scsi_sn='S', scsi_id='1')
    with lab.source(lab.url(target)) as source:
        buffer = bytearray(64 * 1024)
        with source.stream(0, None) as stream:
            stream.readinto(buffer)
            lab.server.take_away(target)
            path = lab.root / 'other'
            path.write_bytes(bytes(SIZE // 2))
            lab.server.disk(target, path, scsi_sn='S', scsi_id='1')
            with pytest.raises(exceptions.SourceChanged):
                while stream.readinto(buffer):
                    pass


def test_replaced_while_it_is_read(lab):
    """Another volume under the same name is noticed (CVE-2023-2088)."""
    _path, target = lab.disk()
    other = lab.root / 'other'
    other.write_bytes(harness.pattern(SIZE, 'another'))
    with lab.source(lab.url(target)) as source:
        buffer = bytearray(64 * 1024)
        with source.stream(0, None) as stream:
            stream.readinto(buffer)
            lab.server.take_away(target)
            lab.server.disk(target, other)
            with pytest.raises(exceptions.IntegrityError, match='different'):
                while stream.readinto(buffer):
                    pass


def test_replaced_while_it_is_written(lab):
    """tgt says nothing; the copy fails, and at the end at the latest."""
    _path, target = lab.disk()
    other = lab.root / 'other'
    other.write_bytes(DATA)
    sink = lab.sink(lab.url(target))
    sink.pwrite(memoryview(bytes(4096)), 0)
    lab.server.take_away(target)
    lab.server.disk(target, other)
    with pytest.raises(exceptions.IntegrityError, match='different'):
        sink.commit(4096)
    sink.abort(False)


def test_vanished_while_it_is_read(lab):
    """It is an error, and never zeros or the end."""
    _path, target = lab.disk()
    with lab.source(lab.url(target)) as source:
        buffer = bytearray(64 * 1024)
        with source.stream(0, None) as stream:
            stream.readinto(buffer)
            lab.server.take_away(target)
            with pytest.raises(exceptions.TransferError):
                while stream.readinto(buffer):
                    pass


def test_a_block_that_cannot_be_read(lab):
    """It is named, and nothing is skipped."""
    path, target = lab.disk(thin=False)
    # What is gone from the file tgt cannot read.
    os.truncate(path, 5 * MIB)
    dst = lab.root / 'copy'
    with pytest.raises(exceptions.StorageError) as caught:
        lab.copy(lab.url(target), str(dst))
    offset = int(str(caught.value).split('at byte ')[1].split()[0])
    assert offset <= 5 * MIB < offset + MIB
    assert not dst.exists()


def test_a_block_that_cannot_be_written(lab):
    path, target = lab.disk()
    src = lab.root / 'image'
    src.write_bytes(harness.pattern(SIZE, 'new'))
    lab.server.configure(target, 1, 'readonly=1')
    with pytest.raises(exceptions.AccessDenied, match='write-protected'):
        lab.copy(str(src), lab.url(target))
    assert path.read_bytes() == DATA
    with pytest.raises(exceptions.AccessDenied, match='access_mode'):
        lab.sink(lab.url(target), **info(access_mode='ro'))


def test_write_protected_in_mid_copy(lab):
    _path, target = lab.disk()
    sink = lab.sink(lab.url(target))
    sink.pwrite(memoryview(bytes(512)), 0)
    lab.server.configure(target, 1, 'readonly=1')
    with pytest.raises(exceptions.AccessDenied, match='at byte 4096'):
        sink.pwrite(memoryview(bytes(512)), 4096)
    sink.abort(False)


def test_too_small(lab):
    path, target = lab.disk()
    src = lab.root / 'image'
    src.write_bytes(harness.pattern(SIZE + 1))
    with pytest.raises(exceptions.NoSpace):
        lab.copy(str(src), lab.url(target))
    assert path.read_bytes() == DATA


# The old tenant


@pytest.mark.parametrize('thin', [True, False])
@pytest.mark.parametrize('block', [512, 4096])
def test_old_data_never_shows(lab, thin, block):
    """Zeros are deallocated and looked at, or written; never skipped."""
    path, target = lab.disk(
        (OLD * (SIZE // len(OLD) + 1))[:SIZE], thin=thin, block=block
    )
    data = harness.spread(
        3 * MIB + 777, {0: DATA[:1000], 2 * MIB + 5: DATA[:100_000]}
    )
    src = lab.root / 'image'
    with open(src, 'wb') as file:
        for offset in (0, 2 * MIB + 5):
            file.seek(offset)
            file.write(data[offset : offset + 100_000].rstrip(b'\0'))
        file.truncate(len(data))
    lab.copy(str(src), lab.url(target))
    found = path.read_bytes()
    assert found[: len(data)] == data
    assert not any(found[len(data) :])
    if thin:
        # The first MiB is written as it is.
        assert path.stat().st_blocks * 512 < 3 * MIB // 2


def test_a_copy_that_fails_does_not_boot(lab):
    path, target = lab.disk((OLD * (SIZE // len(OLD) + 1))[:SIZE])
    src = lab.root / 'image'
    src.write_bytes(DATA)
    with pytest.raises(exceptions.DigestMismatch):
        lab.copy(
            str(src),
            lab.url(target),
            hash_algo='sha256',
            hash_value='0' * 64,
        )
    assert not any(path.read_bytes()[:MIB])


def test_sparse_copies_move_what_is_allocated(lab):
    runs = {MIB: DATA[:MIB], 30 * MIB: DATA[:MIB]}
    path, target = lab.disk(b'')
    with open(path, 'r+b') as file:
        file.truncate(48 * MIB)
        for offset, run in runs.items():
            file.seek(offset)
            file.write(run)
    lab.server.take_away(target)
    lab.server.disk(target, path)
    dst = lab.root / 'copy'
    with relay.Relay(lab.server.port) as way:
        result = lab.copy(lab.url(target, way.port), str(dst))
        assert way.sent < 3 * MIB
    assert result.bytes_written == 2 * MIB
    assert dst.read_bytes() == harness.spread(48 * MIB, runs)
    assert dst.stat().st_blocks * 512 < 4 * MIB


@pytest.mark.parametrize('sessions', [1, 4])
@pytest.mark.parametrize('seed', range(4))
def test_buffers_of_all_sizes_in_turn(lab, sessions, seed):
    """What was read ahead is not lost, and not given twice."""
    choose = random.Random(seed)  # noqa: S311
    lab.set('sessions', sessions)
    _path, target = lab.disk(harness.pattern(12 * MIB))
    data = harness.pattern(12 * MIB)
    sizes = (1, 100, 4096, 65536, 300_000, MIB, 3 * MIB)
    buffer = memoryview(bytearray(max(sizes)))
    with lab.source(lab.url(target)) as source:
        start = choose.randrange(MIB)
        found = bytearray()
        with source.stream(start, None) as stream:
            size = choose.choice(sizes)
            while count := stream.readinto(buffer[:size]):
                found += buffer[:count]
                if choose.random() < 0.3:
                    size = choose.choice(sizes[2:])
        assert found == data[start:]
        # Nothing was thrown away and made anew on the way.
        assert lab.server.sessions() <= sessions


@pytest.mark.parametrize('digest', [True, False])
def test_from_lun_to_lun(lab, digest):
    """By several sessions on either side where a digest allows it."""
    data = harness.pattern(40 * MIB)
    _path, first = lab.disk(data)
    path, second = lab.disk(bytes(len(data)))
    check = {
        'hash_algo': 'sha256',
        'hash_value': hashlib.sha256(data).hexdigest(),
    }
    result = lab.copy(
        lab.url(first), lab.url(second), **(check if digest else {})
    )
    assert path.read_bytes() == data
    assert result.form == 'device'
    assert result.verified is digest


def test_the_next_location(lab):
    """A LUN that is not there, then one that has other bytes."""
    _path, wrong = lab.disk(harness.pattern(SIZE, 'wrong'))
    _path, right = lab.disk()
    dst = lab.root / 'copy'
    result = lab.copy(
        [
            lab.url(f'{tgt.IQN}-missing'),
            lab.url(wrong),
            lab.url(right),
        ],
        str(dst),
        hash_algo='sha256',
        hash_value=hashlib.sha256(DATA).hexdigest(),
    )
    assert dst.read_bytes() == DATA
    assert right in result.source
    assert {'NotFound', 'IntegrityError'} <= {
        attempt.error for attempt in result.attempts
    }


_GREEN = """
import eventlet
eventlet.monkey_patch()
import json, sys, time
from oslo_config import cfg
import oslo_transfer

conf = cfg.ConfigOpts()
conf([], default_config_files=[], default_config_dirs=[])
oslo_transfer.register_opts(conf)
conf.set_override('engine', 'libiscsi', 'oslo_transfer_iscsi')
gaps, last = [], time.monotonic()

def tick():
    global last
    while True:
        eventlet.sleep(0.005)
        gaps.append(time.monotonic() - last)
        last = time.monotonic()

eventlet.spawn(tick)
url, path = sys.argv[1:]
for ends in ((url, path), (path, url)):
    oslo_transfer.copy(*ends, 'full_copy', conf=conf)
print(json.dumps(gaps))
"""


def test_under_eventlet(lab):
    """As cinder-volume runs: other green threads go on meanwhile."""
    path, target = lab.disk(harness.pattern(32 * MIB))
    data = path.read_bytes()
    copied = lab.root / 'copied'
    done = subprocess.run(
        [
            *(sys.executable, '-W', 'ignore', '-c', _GREEN),
            *(lab.url(target), str(copied)),
        ],
        check=True,
        capture_output=True,
        timeout=30,
    )
    assert copied.read_bytes() == path.read_bytes() == data
    gaps = json.loads(done.stdout)
    assert len(gaps) > 10
    # The first one is that of the imports.
    assert max(gaps[1:]) < 1
