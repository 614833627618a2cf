# SPDX-License-Identifier: Apache-2.0
"""A copy that is killed anywhere can be repeated, and goes on.

Whenever the process dies: the destination is either as it was or complete,
the next copy is right, fetches again no more than the configuration says,
and leaves nothing else behind.
"""

from __future__ import annotations

import collections
import hashlib
import os
import random
import re
import signal

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer import flight
from oslo_transfer import journal as journals
from tests.functional import forkserver
from tests.servers import resource
from tests import waiting

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group'),
]

MIB = 1 << 20
KIB = 1 << 10
SIZE = 6 * MIB
# Half of it looks like an image: zeros in between and at the end.
DATA = b''.join(
    [
        resource.pattern(2 * MIB),
        bytes(MIB),
        resource.pattern(2 * MIB, seed=1),
        bytes(MIB),
    ]
)
OLD = b'what was there before'
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
SEGMENT = MIB
OVERLAP = 16 * KIB
CONF = {
    'segment_bytes': SEGMENT,
    'sync_bytes': 2 * MIB,
    'buffer_bytes': 256 * KIB,
}
PIECE = 32 * KIB
POINTS = 6  # Of each test in CI; all of them in a campaign.

ONE = {**CONF, 'max_streams': 1}
# Options of copy(). Several streams leave gaps when they are killed.
SCENARIOS = {
    'http': {'conf': ONE},
    'http-digest': {'conf': ONE, **SHA256},
    'http-overwrite': {'conf': ONE, 'overwrite': True},
    'http-streams': {'conf': CONF, 'eager': True, **SHA256},
    'file-digest': {'conf': ONE, **SHA256},
}


class Place:
    """A destination, and the source of a scenario."""

    def __init__(self, scenario, directory, server):
        self.options = SCENARIOS[scenario]
        self.directory = directory / 'there'
        self.directory.mkdir()
        self.dst = self.directory / 'image'
        self.server = server
        self.http = scenario.startswith('http')
        if self.http:
            self.src = server.put('/image', DATA)
        else:
            self.src = str(directory / 'src')
            with open(self.src, 'wb') as file:
                file.write(DATA)
        if self.options.get('eager'):
            server.put('/image', DATA, rate=10 * MIB)
        self.renew()

    def renew(self):
        """As it was before a copy."""
        for name in os.listdir(self.directory):
            os.unlink(self.directory / name)
        if self.options.get('overwrite'):
            self.dst.write_bytes(OLD)

    @property
    def paths(self):
        """What a copy touches at its destination."""
        part = flight.part_path(str(self.dst))
        journal = flight.journal_path(part)
        return [self.dst, part, journal, self.directory]

    def assert_old_or_complete(self):
        """Returns whether it is complete."""
        found = self.dst.read_bytes() if self.dst.exists() else None
        if found == DATA:
            return True
        before = OLD if self.options.get('overwrite') else None
        assert found == before
        return False

    def slack(self):
        """Bytes that may be on their way when a request is given up.

        The first request asks for all the rest, also if some of it is
        there: parallel streams leave gaps.
        """
        _dst, part, journal, _directory = self.paths
        try:
            inode = os.stat(part).st_ino
        except FileNotFoundError:
            return 0
        found = journals.load(journal, inode, SIZE)
        gaps = found.held.gaps(SIZE) if found else []
        return MIB // 2 if any(end != SIZE for _start, end in gaps) else 0

    def copy_again(self, conf):
        """Repeat the copy in this process; returns the result."""
        complete = self.assert_old_or_complete()
        slack = self.slack()
        # What is on its way to the one that died still counts.
        waiting.until(lambda: not self.server.connections.open)
        sent = self.server.bytes_sent()
        requests = len(self.server.requests)
        # A stream that ends early for another one would count, too.
        for name, value in {**CONF, 'max_streams': 1}.items():
            conf.set_override(name, value, group='oslo_transfer')
        options = {
            name: value
            for name, value in self.options.items()
            if name not in ('eager', 'conf')
        }
        result = None
        try:
            result = oslo_transfer.copy(
                self.src, self.dst, conf=conf, **options
            )
        except exceptions.AlreadyExists:
            # Without a digest nothing tells that it is what we want.
            assert complete
            assert 'hash_value' not in options
        assert self.dst.read_bytes() == DATA
        assert os.listdir(self.directory) == ['image']
        if result is not None and self.http and not result.reused:
            fetched = self.server.bytes_sent() - sent
            resumed = result.bytes_by_origin.get('resumed', 0)
            requests = len(self.server.requests) - requests
            assert fetched <= SIZE - resumed + requests * OVERLAP + slack
        return result


def written(calls):
    """How many bytes of data reached the part file."""
    count = 0
    for call in calls:
        match = re.search(r', (\d+), (\d+)\)? += (\d+)$', call.rest)
        if call.name == 'pwrite64' and 'OSLOXFR' not in call.rest and match:
            count += int(match[3])
    return count


def points_of(calls):
    """Each call that can be interrupted: its name, and a number.

    strace counts them for each thread.
    """
    seen = collections.Counter((call.thread, call.name) for call in calls)
    most = collections.Counter()
    for (_thread, name), count in seen.items():
        most[name] = max(most[name], count)
    # What only looks makes no difference.
    for name in ('newfstatat', 'lseek', 'ioctl', 'fstatfs', 'read'):
        most.pop(name, None)
    return [
        (name, number)
        for name in sorted(most)
        for number in range(1, most[name] + 1)
    ]


def kill_and_repeat(place, strace, conf, name, number):
    """Kill a copy at one call, and repeat it."""
    place.renew()
    outcome, calls = strace.run(
        f'{name}:signal=KILL:when={number}',
        place.paths,
        forkserver.copy,
        place.src,
        str(place.dst),
        **place.options,
    )
    if not isinstance(outcome, forkserver.Died):
        # Threads share the work anew each time: it was not reached.
        assert outcome.size == SIZE
        assert os.listdir(place.directory) == ['image']
        return False
    complete = place.assert_old_or_complete()
    result = place.copy_again(conf)
    if not complete:
        streams = 4 if place.options.get('eager') else 1
        resumed = result.bytes_by_origin.get('resumed', 0)
        assert resumed >= written(calls) - streams * SEGMENT
    return True


def run_points(scenario, strace, conf, server, tmp_path, choose):
    place = Place(scenario, tmp_path, server)
    outcome, calls = strace.run(
        None,
        place.paths,
        forkserver.copy,
        place.src,
        str(place.dst),
        **place.options,
    )
    assert outcome.size == SIZE
    points = points_of(calls)
    assert len(points) > 25
    killed = 0
    for name, number in choose(points):
        try:
            killed += kill_and_repeat(place, strace, conf, name, number)
        except AssertionError as exc:
            raise AssertionError(f'killed at {name} {number}') from exc
    return killed


@pytest.mark.parametrize('seed', [1, 2])
@pytest.mark.parametrize('scenario', SCENARIOS)
def test_killed_at_a_system_call(
    scenario, seed, strace, conf, server, tmp_path
):
    killed = run_points(
        scenario,
        strace,
        conf,
        server,
        tmp_path,
        lambda points: random.Random(f'{scenario}{seed}').sample(
            points, POINTS
        ),
    )
    assert killed > POINTS / 2


@pytest.mark.campaign
@pytest.mark.timeout(600)
@pytest.mark.parametrize('scenario', SCENARIOS)
def test_killed_at_every_system_call(scenario, strace, conf, server, tmp_path):
    assert run_points(
        scenario, strace, conf, server, tmp_path, lambda points: points
    )


class Trap:
    """Serves data well, and does something when so much of it is sent."""

    def __init__(self, server, path, at, act, **options):
        self._server = server
        self._path = path
        self._at = at
        self._act = act
        self._resource = resource.Resource(DATA, SIZE, **options)
        self._plain = self._resource.pieces
        self._resource.pieces = self._pieces
        self.sent = 0

    def __call__(self, request, conn):
        self._resource(request, conn)

    def _pieces(self, start, stop):
        for begin in range(start, stop, PIECE):
            sent = self._server.bytes_sent(self._path)
            if self._act and sent >= self._at:
                act, self._act = self._act, None
                self.sent = sent
                act()
            yield from self._plain(begin, min(begin + PIECE, stop))


def interrupted(server, place, children, fraction, number):
    """Stop a copy by a signal at a part of its bytes."""
    child = children.start(
        forkserver.copy,
        server.url('/trap'),
        str(place.dst),
        wait=True,
        **place.options,
    )
    trap = Trap(
        server,
        '/trap',
        int(fraction * SIZE),
        lambda: child.kill(number),
        rate=8 * MIB,
    )
    server.serve('/trap', trap)
    place.src = server.url('/trap')
    child.go()
    return child, trap


@pytest.mark.parametrize('streams', [1, 4])
@pytest.mark.parametrize('digest', [False, True])
@pytest.mark.parametrize('fraction', [0.0, 0.02, 0.35, 0.7, 0.96])
def test_process_group_killed_in_mid_copy(
    fraction, digest, streams, children, conf, server, tmp_path
):
    place = Place('http-digest' if digest else 'http', tmp_path, server)
    if streams > 1:
        place.options = {**place.options, 'conf': CONF, 'eager': True}
    child, trap = interrupted(
        server, place, children, fraction, signal.SIGKILL
    )
    with pytest.raises(forkserver.Died):
        child.result()
    result = place.copy_again(conf)
    resumed = result.bytes_by_origin.get('resumed', 0)
    # A buffer of each stream was not full, and the kernel has some.
    on_the_way = streams * (SEGMENT + 2 * CONF['buffer_bytes'] + MIB)
    assert resumed >= trap.sent - on_the_way


def test_killed_twice(children, conf, server, tmp_path):
    """Also what has been resumed once can be resumed."""
    place = Place('http', tmp_path, server)
    for fraction in (0.4, 0.8):
        child, trap = interrupted(
            server, place, children, fraction, signal.SIGKILL
        )
        with pytest.raises(forkserver.Died):
            child.result()
    # So many bytes left in all, and the most of them count.
    result = place.copy_again(conf)
    assert result.bytes_by_origin['resumed'] >= trap.sent - 4 * MIB


def test_interrupted_by_the_keyboard(children, conf, server, tmp_path):
    """What has arrived is kept, and the interrupt is told."""
    place = Place('http', tmp_path, server)
    child, trap = interrupted(server, place, children, 0.6, signal.SIGINT)
    with pytest.raises(KeyboardInterrupt):
        child.result()
    place.assert_old_or_complete()
    result = place.copy_again(conf)
    # Nothing but what was on the way is lost.
    assert result.bytes_by_origin['resumed'] >= trap.sent - 2 * MIB


def test_changed_source_is_not_joined(children, conf, server, tmp_path):
    """What a killed copy left of another version is of no use."""
    place = Place('http', tmp_path, server)
    child, _trap = interrupted(server, place, children, 0.6, signal.SIGKILL)
    with pytest.raises(forkserver.Died):
        child.result()
    new = resource.pattern(SIZE, seed=9)
    src = server.put('/trap', new, etag='"v2"')
    result = oslo_transfer.copy(src, place.dst, conf=conf)
    assert place.dst.read_bytes() == new
    assert 'resumed' not in result.bytes_by_origin
    assert os.listdir(place.directory) == ['image']
