# SPDX-License-Identifier: Apache-2.0
"""Copies to one destination at the same time are one transfer."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer import flight
from oslo_transfer import journal
from oslo_transfer import ranges
from tests.functional import forkserver
from tests.servers import resource
from tests.unit import fakes
from tests import waiting

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group'),
]

MIB = 1 << 20
SIZE = 6 * MIB
DATA = resource.pattern(SIZE)
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
CONF = {'segment_bytes': MIB, 'max_streams': 1}
TAKEOVER = 2.0


@pytest.fixture
def dst(tmp_path):
    (tmp_path / 'there').mkdir()
    return tmp_path / 'there' / 'image'


@pytest.fixture
def url(server):
    """Slow enough that others come while it is copied."""
    return server.put('/image', DATA, rate=16 * MIB)


def copy(children, src, dst, **options):
    return children.start(forkserver.copy, src, str(dst), conf=CONF, **options)


def wait_for_bytes(server, count):
    waiting.until(lambda: server.bytes_sent() >= count)


def is_waiting(child):
    """Whether it has the part file open, and sleeps."""
    for name in os.listdir(f'/proc/{child.pid}/fd'):
        try:
            target = os.readlink(f'/proc/{child.pid}/fd/{name}')
        except FileNotFoundError:
            continue
        if flight.SUFFIX in target:
            return True
    return False


def wait_for_followers(followers):
    for child in followers:
        waiting.until(lambda child=child: is_waiting(child))


def only_image(dst):
    assert dst.read_bytes() == DATA
    assert os.listdir(dst.parent) == ['image']


@pytest.mark.parametrize(
    ('count', 'digest', 'overwrite'),
    [
        (2, True, False),
        (16, True, False),
        (16, False, False),
        (5, False, True),
        (5, True, True),
    ],
)
def test_herd_is_one_transfer(
    count, digest, overwrite, children, server, url, dst
):
    """All succeed, and the origin serves it once."""
    if overwrite:
        dst.write_bytes(b'old')
    options = SHA256 if digest else {}
    herd = [
        copy(children, url, dst, wait=True, overwrite=overwrite, **options)
        for _ in range(count)
    ]
    for child in herd:
        child.go()
    results = [child.result() for child in herd]
    only_image(dst)
    (first,) = [each for each in results if not each.reused]
    assert first.bytes_by_origin == {'origin': SIZE}
    assert server.bytes_sent() <= 1.02 * SIZE
    assert len(server.seen('/image')) <= 2
    for each in results:
        assert each.size == SIZE
        assert each.verified is digest


def test_herd_of_threads_is_one_transfer(server, conf, url, dst):
    results = []
    conf.set_override('max_streams', 1, group='oslo_transfer')

    def work():
        results.append(oslo_transfer.copy(url, dst, conf=conf, **SHA256))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert [each.reused for each in results].count(False) == 1
    assert len(results) == 8
    only_image(dst)
    assert server.bytes_sent() <= 1.02 * SIZE


def test_herd_of_small_copies(children, server, dst):
    """Also what takes milliseconds is waited for, and known again."""
    data = b'x' * 100
    for number in range(5):
        target = dst.parent / str(number)
        url = server.put(f'/{number}', data)
        herd = [copy(children, url, target, wait=True) for _ in range(4)]
        for child in herd:
            child.go()
        for child in herd:
            try:
                assert child.result().size == 100
            except exceptions.AlreadyExists:
                # It came when all was over, as any later call would.
                pass
        assert target.read_bytes() == data
        # Nobody fetches it twice.
        assert len(server.seen(f'/{number}')) <= 2
    assert len(os.listdir(dst.parent)) == 5


def test_file_to_file_is_one_transfer(children, dst, tmp_path):
    """The strategy that is tried first does not let the others in."""
    src = tmp_path / 'src'
    src.write_bytes(DATA)
    herd = [
        copy(
            children,
            str(src),
            dst,
            wait=True,
            rate_limit=16 * MIB,
            **SHA256,
        )
        for _ in range(4)
    ]
    for child in herd:
        child.go()
    results = [child.result() for child in herd]
    only_image(dst)
    assert [each.reused for each in results].count(False) == 1


@pytest.mark.parametrize('digest', [True, False])
def test_killed_leader_is_followed(digest, children, server, url, dst):
    """One takes over at once, and goes on where the leader died."""
    options = SHA256 if digest else {}
    leader = copy(children, url, dst, **options)
    wait_for_bytes(server, 1)
    followers = [copy(children, url, dst, **options) for _ in range(3)]
    wait_for_followers(followers)
    wait_for_bytes(server, SIZE // 2)
    requests = len(server.requests)
    leader.kill()
    killed = time.monotonic()
    waiting.until(lambda: len(server.requests) > requests, TAKEOVER)
    assert time.monotonic() < killed + TAKEOVER
    results = [child.result() for child in followers]
    only_image(dst)
    (second,) = [each for each in results if not each.reused]
    assert second.bytes_by_origin['resumed'] >= SIZE // 2 - 2 * MIB
    assert server.bytes_sent() <= SIZE + 2 * MIB


def test_leaders_that_are_killed_one_after_the_other(
    children, server, url, dst
):
    left = [copy(children, url, dst, **SHA256) for _ in range(4)]
    for number in range(1, 4):
        wait_for_bytes(server, number * SIZE // 4)
        part = flight.part_path(str(dst))
        # What was sent may have been for the one before.
        waiting.until(lambda: any(holds_lock(each, part) for each in left))
        leader = next(each for each in left if holds_lock(each, part))
        left.remove(leader)
        leader.kill()
    (last,) = left
    assert last.result().bytes_by_origin['resumed'] > 0
    only_image(dst)


def holds_lock(child, path):
    """Whether a process has the lock, see proc_locks(5)."""
    inode = str(os.stat(path).st_ino)
    with open('/proc/locks') as locks:
        for line in locks:
            fields = line.split()
            if '->' not in fields and fields[1] == 'FLOCK':
                if fields[4] == str(child.pid):
                    return fields[5].split(':')[2] == inode
    return False


def test_followers_of_a_stopped_leader_keep_their_deadline(
    children, server, url, dst
):
    leader = copy(children, url, dst, **SHA256)
    wait_for_bytes(server, MIB)
    leader.kill(signal.SIGSTOP)
    follower = copy(children, url, dst, deadline=0.5, **SHA256)
    started = time.monotonic()
    with pytest.raises(exceptions.DeadlineExceeded):
        follower.result()
    assert time.monotonic() < started + 1.5
    assert not dst.exists()
    # When it is woken up it goes on as if nothing had been.
    leader.kill(signal.SIGCONT)
    assert leader.result().verified
    only_image(dst)


def test_follower_can_be_cancelled(conf, children, server, url, dst):
    leader = copy(children, url, dst, **SHA256)
    wait_for_bytes(server, MIB)
    cancel = threading.Event()
    threading.Timer(0.2, cancel.set).start()
    started = time.monotonic()
    with pytest.raises(exceptions.TransferCancelled):
        oslo_transfer.copy(url, dst, conf=conf, cancel=cancel)
    assert time.monotonic() < started + 1.2
    assert leader.result().verified
    only_image(dst)


@pytest.mark.parametrize('keeps', [True, False])
def test_followers_try_when_the_leader_fails(keeps, children, server, dst):
    """They do not have to share its misfortune."""
    url = server.put(
        '/image', DATA, rate=16 * MIB, etag='"v1"' if keeps else None
    )
    options = SHA256 if keeps else {}
    leader = copy(children, url, dst, deadline=0.25, **options)
    wait_for_bytes(server, 1)
    followers = [copy(children, url, dst, **options) for _ in range(3)]
    with pytest.raises(exceptions.DeadlineExceeded):
        leader.result()
    results = [child.result() for child in followers]
    only_image(dst)
    (second,) = [each for each in results if not each.reused]
    assert ('resumed' in second.bytes_by_origin) is keeps


def test_what_fails_for_all_fails_for_each(children, server, dst):
    def refuse(request, conn):
        conn.wait(0.1)
        conn.reply(404)

    url = server.serve('/none', refuse)
    herd = [copy(children, url, dst) for _ in range(4)]
    for child in herd:
        with pytest.raises(exceptions.NotFound):
            child.result()
    assert os.listdir(dst.parent) == []


@pytest.mark.parametrize('digest', [True, False])
def test_copy_of_something_else_is_not_taken_for_ours(
    digest, children, server, url, dst
):
    """Another source, or another digest, for the same name."""
    other = resource.pattern(SIZE, seed=5)
    options = SHA256 if digest else {}
    leader = copy(children, url, dst, **options)
    wait_for_bytes(server, 1)
    if digest:
        options = {
            'hash_algo': 'sha256',
            'hash_value': hashlib.sha256(other).hexdigest(),
        }
    second = server.put('/other', other)
    follower = copy(children, second, dst, **options)
    assert leader.result().size == SIZE
    with pytest.raises(exceptions.AlreadyExists):
        follower.result()
    only_image(dst)
    # Unless it may be replaced.
    again = copy(children, second, dst, overwrite=True, **options)
    assert again.result().size == SIZE
    assert dst.read_bytes() == other


def test_what_a_dead_leader_copied_is_not_taken_for_ours(
    conf, children, server, dst
):
    """Its note is still there when somebody else copies something else.

    Who waits meanwhile wants what the dead one wanted. He must not be
    told that it has arrived.
    """
    wanted = server.put('/wanted', DATA, rate=16 * MIB)
    other = server.put(
        '/other', resource.pattern(4 * MIB, seed=5), rate=8 * MIB
    )
    dead = copy(children, wanted, dst)
    wait_for_bytes(server, 3 * MIB)
    dead.kill()
    with pytest.raises(forkserver.Died):
        dead.result()
    leader = copy(children, other, dst)
    waiting.until(lambda: server.seen('/other'))
    follower = copy(children, wanted, dst)
    assert leader.result().size == 4 * MIB
    with pytest.raises(exceptions.AlreadyExists):
        follower.result()


def test_size_that_a_follower_expects_is_checked(children, server, url, dst):
    leader = copy(children, url, dst)
    wait_for_bytes(server, 1)
    follower = copy(children, url, dst, expected_size=SIZE + 1)
    assert leader.result().size == SIZE
    with pytest.raises(exceptions.AlreadyExists):
        follower.result()


def test_digest_that_a_follower_asks_for_is_computed(
    children, server, url, dst
):
    leader = copy(children, url, dst)
    wait_for_bytes(server, 1)
    follower = copy(children, url, dst, hash_algo='sha256')
    wait_for_followers([follower])
    leader.result()
    result = follower.result()
    assert result.reused
    assert result.digest == f'sha256:{SHA256["hash_value"]}'
    assert not result.verified, 'there was nothing to compare it with'


def test_one_name_by_two_ways(children, server, url, dst):
    """It is the directory that counts, not how it is reached."""
    way = dst.parent.parent / 'way'
    way.symlink_to(dst.parent)
    herd = [
        copy(children, url, path, **SHA256)
        for path in (dst, way / 'image', dst.parent / '..' / 'there/image')
    ]
    results = [child.result() for child in herd]
    assert [each.reused for each in results].count(False) == 1
    only_image(dst)


def test_child_of_the_leader_keeps_the_lock(tmp_path, conf):
    """A helper that still writes is not overtaken when its parent dies."""
    path = str(tmp_path / 'image')
    held = flight.Flight(path, context(conf))
    pid = os.fork()
    if pid == 0:
        signal.pause()
        os._exit(0)
    try:
        os.close(held._fd)
        held._fd = -1
        with pytest.raises(exceptions.Unavailable):
            flight.Flight(path, context(conf), wait=False)
    finally:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    flight.Flight(path, context(conf), wait=False).release(remove=True)
    assert os.listdir(tmp_path) == []


def context(conf):
    return fakes.make_ctx(conf)


def test_server_that_is_down_does_not_cost_what_is_there(
    children, server, url, dst, conf
):
    """A call that cannot even begin keeps what an earlier one left."""
    dead = copy(children, url, dst)
    wait_for_bytes(server, SIZE // 2)
    dead.kill()
    with pytest.raises(forkserver.Died):
        dead.result()
    server.delete('/image')
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.copy(url, dst, conf=conf)
    server.put('/image', DATA)
    result = oslo_transfer.copy(url, dst, conf=conf)
    assert result.bytes_by_origin['resumed'] >= SIZE // 2 - 2 * MIB
    only_image(dst)


def test_who_waited_learns_what_has_landed(tmp_path, conf):
    """The last word counts: what was read before may be of a dead one."""
    path = str(tmp_path / 'image')
    leader = flight.Flight(path, context(conf))
    note_path = flight.journal_path(leader.part_path)

    def note(source):
        identity = journal.Identity(source, None, None, None)
        writer = journal.Journal(note_path, leader.inode, identity, None)
        writer.save(ranges.RangeSet(), ranges.RangeSet())
        writer.close()
        return identity

    found = []

    def follow():
        follower = flight.Flight(path, context(conf))
        found.append(follower.landed)
        follower.release(remove=True)

    note('of a leader that has died')
    threads = [threading.Thread(target=follow) for _ in range(5)]
    for thread in threads:
        thread.start()
    # All have it open, and wait.
    waiting.until(lambda: open_count(note_path) == 5)
    identity = note('of the one that lives')
    os.rename(leader.part_path, path)
    os.unlink(note_path)
    leader.release(remove=True)
    for thread in threads:
        thread.join(10)
    assert found == [identity] * 5
    assert os.listdir(tmp_path) == ['image']


def test_what_was_replaced_at_once_has_not_landed(tmp_path, conf):
    """Somebody else was quicker than the one who waited."""
    path = str(tmp_path / 'image')
    leader = flight.Flight(path, context(conf))
    note_path = flight.journal_path(leader.part_path)
    writer = journal.Journal(
        note_path,
        leader.inode,
        journal.Identity('what we want', None, None, None),
        None,
    )
    writer.save(ranges.RangeSet(), ranges.RangeSet())
    writer.close()
    found = []

    def follow():
        follower = flight.Flight(path, context(conf))
        found.append(follower.landed)
        follower.release(remove=True)

    thread = threading.Thread(target=follow)
    thread.start()
    waiting.until(lambda: open_count(note_path) == 1)
    os.rename(leader.part_path, path)
    os.unlink(note_path)
    second = flight.Flight(path, context(conf))
    leader.release(remove=True)
    # It knows by now what has landed, and waits for the second one.
    waiting.until(lambda: open_count(second.part_path) == 2)
    (tmp_path / 'other').touch()
    os.rename(tmp_path / 'other', path)
    second.release(remove=True)
    thread.join(10)
    assert found == [None]
    assert os.listdir(tmp_path) == ['image']


def open_count(path):
    count = 0
    for name in os.listdir('/proc/self/fd'):
        try:
            count += os.readlink(f'/proc/self/fd/{name}') == path
        except FileNotFoundError:
            pass
    return count


@pytest.mark.campaign
@pytest.mark.timeout(1200)
def test_many_rounds(children, server, tmp_path):
    """Herds with leaders that are killed: never a mixed file."""
    for number in range(100):
        target = tmp_path / str(number)
        path = f'/{number}'
        url = server.put(path, DATA, rate=40 * MIB)
        herd = [
            copy(children, url, target, wait=True, **SHA256)
            for _ in range(2 + number % 15)
        ]
        for child in herd:
            child.go()
        if number % 2:
            waiting.until(lambda: server.bytes_sent(path) > SIZE // 3)
            part = flight.part_path(str(target))
            for child in herd:
                if os.path.exists(part) and holds_lock(child, part):
                    child.kill()
        for child in herd:
            try:
                assert child.result().verified
            except forkserver.Died:
                pass
        assert target.read_bytes() == DATA
        assert server.bytes_sent(path) <= 1.02 * SIZE + (
            2 * MIB if number % 2 else 0
        )
        target.unlink()
    assert os.listdir(tmp_path) == []
