# SPDX-License-Identifier: Apache-2.0
"""A source that fills the part file by itself: the core does the rest."""

from __future__ import annotations

import hashlib
import os
import threading

import pytest

import oslo_transfer
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import flight
from oslo_transfer.testing import fixtures
from tests.servers import resource

pytestmark = pytest.mark.usefixtures('nothing_left')

STEP = 64 << 10
DATA = resource.pattern(16 * STEP, seed=44)
DIGEST = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
URL = 'filling://host/image'


class FillingSource(base.Source):
    """Writes steps of the data in an odd order; a script may interfere."""

    capabilities = (
        base.Capability.READ
        | base.Capability.RANDOM_READ
        | base.Capability.FILL
    )

    def __init__(self, script, ctx):
        self.script = script
        self.ctx = ctx
        self.size = len(DATA)
        self.validator = base.Validator('v1', strong=True)
        self.doubt = script.doubt

    def stream(self, offset, length):
        self.script.streamed = True
        raise exceptions.Unavailable('it would rather fill')

    def fill(self, target):
        script = self.script
        fd = os.open(target.path, os.O_RDWR)
        try:
            mine = set(range(len(DATA) // STEP))
            for start, end in target.held:
                for step in range(start // STEP, end // STEP):
                    if os.pread(fd, STEP, step * STEP) == content(step):
                        mine.discard(step)
                        target.arrived(step * STEP, STEP, 'resumed')
            target.checked()
            script.rates.append(target.rate)
            order = sorted(mine, key=lambda step: (step % 3, step))
            for number, step in enumerate(order):
                self.ctx.check()
                script.before(self, target, number)
                os.pwrite(fd, script.change(content(step)), step * STEP)
                target.arrived(step * STEP, STEP, 'peer')
                script.filled.append(step)
        finally:
            os.close(fd)

    def landed(self, path):
        self.script.landed.append((path, os.path.exists(path)))
        return self.script.seeding

    def close(self):
        self.script.closed += 1


def content(step):
    return DATA[step * STEP : (step + 1) * STEP]


class Script:
    """What happens when the source fills."""

    def __init__(self):
        self.doubt = None
        self.streamed = False
        self.seeding = None
        self.closed = 0
        self.filled = []
        self.landed = []
        self.rates = []

    def before(self, source, target, number):
        pass

    def change(self, data):
        return data


@pytest.fixture
def script():
    found = Script()

    class FillingDriver(base.Driver):
        name = 'filling'
        schemes = ('filling',)
        capabilities = FillingSource.capabilities

        def open_source(self, endpoint, ctx):
            return FillingSource(found, ctx)

    with fixtures.registered(FillingDriver):
        yield found


@pytest.fixture
def dst(tmp_path):
    return tmp_path / 'image'


def test_all_bytes_come_in_any_order(conf, script, dst):
    script.seeding = True
    seen = []
    result = oslo_transfer.copy(
        URL,
        dst,
        conf=conf,
        progress=lambda chunk, total: seen.append(total),
        **DIGEST,
    )
    assert dst.read_bytes() == DATA
    assert result.method == 'fill'
    assert result.verified
    assert result.seeding is True
    assert result.bytes_by_origin == {'peer': len(DATA)}
    assert result.bytes_by_location == {URL: len(DATA)}
    assert result.bytes_written == len(DATA)
    assert seen[-1] == len(DATA)
    # It was told when the file was there, and under its name.
    assert script.landed == [(str(dst), True)]
    assert script.closed == 1
    assert not script.streamed
    assert os.listdir(dst.parent) == [dst.name]


def test_nothing_shows_with_the_wrong_digest(conf, script, dst):
    script.change = lambda data: data[:-1] + bytes([data[-1] ^ 1])
    with pytest.raises(exceptions.DigestMismatch):
        oslo_transfer.copy(URL, dst, conf=conf, **DIGEST)
    assert os.listdir(dst.parent) == []
    assert script.landed == []


def fail_at(step, error):
    def before(source, target, number):
        if number == step:
            raise error

    return before


def test_a_later_copy_goes_on(conf, script, dst):
    script.before = fail_at(6, exceptions.Stalled('no peers'))
    with pytest.raises(exceptions.Stalled):
        oslo_transfer.copy(URL, dst, conf=conf, **DIGEST)
    assert os.listdir(dst.parent) != []
    first, script.filled = script.filled, []
    script.before = lambda *_args: None
    result = oslo_transfer.copy(URL, dst, conf=conf, **DIGEST)
    assert dst.read_bytes() == DATA
    assert not set(first) & set(script.filled)
    assert result.bytes_by_origin == {
        'resumed': 6 * STEP,
        'peer': 10 * STEP,
    }


def test_the_next_location_has_what_was_kept(conf, script, dst, server):
    """Under a digest, bytes of two protocols can be joined."""
    url = server.put('/image', DATA)
    script.before = fail_at(6, exceptions.Stalled('no peers'))
    result = oslo_transfer.copy([URL, url], dst, conf=conf, **DIGEST)
    assert dst.read_bytes() == DATA
    assert result.bytes_by_origin == {
        'resumed': 6 * STEP,
        'origin': 10 * STEP,
    }
    assert [(each.location, each.error) for each in result.attempts][-1] == (
        URL,
        'Stalled',
    )


def test_an_interrupted_fill_keeps_what_was_held(conf, script, dst):
    script.before = fail_at(6, exceptions.Stalled('no peers'))
    with pytest.raises(exceptions.Stalled):
        oslo_transfer.copy(URL, dst, conf=conf, **DIGEST)
    # This one is cancelled before it has looked at anything.
    cancel = threading.Event()

    def fill(self, target):
        cancel.set()
        while True:
            self.ctx.sleep(0.01)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FillingSource, 'fill', fill)
        with pytest.raises(exceptions.TransferCancelled):
            oslo_transfer.copy(URL, dst, conf=conf, cancel=cancel, **DIGEST)
    assert os.path.exists(flight.part_path(str(dst)))
    script.before = lambda *_args: None
    result = oslo_transfer.copy(URL, dst, conf=conf, **DIGEST)
    assert result.bytes_by_origin['resumed'] == 6 * STEP


def test_it_leads_whatever_its_place(conf, script, dst, server):
    """The others help it; it could not help them."""
    url = server.put('/image', DATA)
    result = oslo_transfer.copy([url, URL], dst, conf=conf)
    assert result.driver == 'filling'
    assert result.bytes_by_origin == {'peer': len(DATA)}


def test_helpers_are_the_other_locations(conf, script, dst, server):
    url = server.put('/image', DATA)

    def before(source, target, number):
        if number:
            return
        (helper,) = target.helpers
        script.name = helper.name
        with (
            helper.open(source.ctx, 0) as found,
            found.stream(0, STEP) as stream,
        ):
            script.read = stream.read(100)

    script.before = before
    oslo_transfer.copy([URL, url], dst, conf=conf, **DIGEST)
    assert script.name == url
    assert script.read == DATA[:100]


def test_a_helper_that_fails_is_told_of(conf, script, dst, server):
    url = server.serve('/bad', lambda request, conn: conn.reply(404))

    def before(source, target, number):
        if number:
            return
        (helper,) = target.helpers
        with pytest.raises(exceptions.NotFound) as caught:
            helper.open(source.ctx, 0)
        helper.failed(caught.value)

    script.before = before
    result = oslo_transfer.copy([URL, url], dst, conf=conf, **DIGEST)
    assert (url, 'NotFound') in [
        (each.location, each.error) for each in result.attempts
    ]


def test_bytes_that_are_missing_in_the_end_are_an_error(conf, script, dst):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            FillingSource, 'fill', lambda self, target: target.checked()
        )
        with pytest.raises(exceptions.Unavailable, match='are missing'):
            oslo_transfer.copy(URL, dst, conf=conf)
    assert not dst.exists()


def test_the_smallest_rate_counts(conf, script, dst):
    conf.set_override(
        'process_rate_limit_bytes_per_second', 10 << 20, 'oslo_transfer'
    )
    oslo_transfer.copy(URL, dst, conf=conf, rate_limit=20 << 20)
    assert script.rates == [10 << 20]


def test_doubtful_data_needs_a_digest(conf, script, dst):
    script.doubt = 'anybody could have made it'
    with pytest.raises(
        exceptions.IntegrityError, match='anybody .*; give a digest'
    ):
        oslo_transfer.copy(URL, dst, conf=conf)
    oslo_transfer.copy(URL, dst, conf=conf, **DIGEST)
    assert dst.read_bytes() == DATA


def test_figures_reach_a_callback_that_has_a_place_for_them(conf, script, dst):
    class Watcher:
        figures = None

        def __call__(self, chunk, total):
            pass

    script.before = lambda source, target, number: target.note(peers=3)
    watcher = Watcher()
    oslo_transfer.copy(URL, dst, conf=conf, progress=watcher)
    assert watcher.figures['peers'] == 3
    assert watcher.figures['peer_bytes'] == len(DATA) - STEP


def test_explain_says_who_fills(conf, script, dst, server):
    url = server.put('/image', DATA)
    found = oslo_transfer.explain([url, URL], dst, conf=conf)
    steps = found.strategies[-1].steps
    assert steps[0] == f'have filling fill {dst} from {URL}'
    assert steps[1].startswith('a part of it at once')
