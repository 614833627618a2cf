# SPDX-License-Identifier: Apache-2.0
"""Of several ways to one version the first that works is used."""

from __future__ import annotations

import io
import random
import threading
import types

import pytest

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.wrappers import retry
from oslo_transfer.wrappers import ways
from tests.servers import resource
from tests.unit import fakes
from tests import waiting

DATA = resource.pattern(300_000)
VERSION = base.Validator('"v1"', True)


class Way(fakes.MemorySource):
    """One way; it can be told to fail."""

    def __init__(self, data=DATA, validator=VERSION):
        super().__init__(data, step=10_000)
        self.validator = validator
        self.opened = 0
        self.closed = 0
        self.broken = False
        self.before_read = self.fail_if_broken

    def fail_if_broken(self, *_read):
        if self.broken:
            fakes.unavailable()

    def open(self):
        self.fail_if_broken()
        self.opened += 1
        return self

    def close(self):
        self.closed += 1


def end(name):
    """As much of an end as ways need."""
    return types.SimpleNamespace(identity=name, address=None, name=name)


def source_of(*given, version=None):
    return ways.WaysSource(
        [end(str(number)) for number in range(len(given))],
        lambda each: given[int(each.name)].open(),
        version,
        0.0,
    )


def retrying(conf, *given, version=None):
    conf.set_override('max_retries', 2, group='oslo_transfer')
    conf.set_override('retry_delay', 0.001, group='oslo_transfer')
    source = source_of(*given, version=version)
    return retry.RetryingSource(source, fakes.make_ctx(conf), 'it', True)


def read(source, offset=0, length=None):
    with source.stream(offset, length) as stream:
        return io.BufferedReader(stream).read()


def test_the_first_alone_is_opened(conf):
    first, second = Way(), Way()
    source = retrying(conf, first, second)
    assert read(source) == DATA
    source.close()
    assert (first.opened, first.closed) == (1, 1)
    assert (second.opened, second.closed) == (0, 0)


def test_the_next_one_is_opened(conf):
    first, second, third = Way(), Way(), Way()
    first.broken = True
    second.validator = base.Validator('"v2"', True)
    source = retrying(conf, first, second, third, version=VERSION)
    assert read(source, 5, 10) == DATA[5:15]
    source.close()
    assert (second.opened, second.closed) == (1, 1)
    assert (third.opened, third.closed) == (1, 1)


def test_none_works():
    """The last one says why."""
    first, last = Way(), Way(validator=None)
    first.broken = True
    with pytest.raises(exceptions.SourceChanged):
        source_of(first, last, version=VERSION)
    assert last.closed == 1


def test_a_stream_goes_on_by_the_next_one(conf):
    first, second = Way(), Way()
    source = retrying(conf, first, second)
    with source.stream(1000, 100_000) as stream:
        buffer = bytearray(100_000)
        count = stream.readinto(buffer)
        first.broken = True
        while count < len(buffer):
            count += stream.readinto(memoryview(buffer)[count:])
    assert buffer == DATA[1000:101_000]
    # It is closed when nobody reads by it any more.
    assert (first.opened, first.closed, second.opened) == (1, 1, 1)
    assert read(source, 0, 10) == DATA[:10]
    assert first.opened == 1
    source.close()


def test_others_still_read_by_the_one_that_failed(conf):
    first, second = Way(), Way()
    source = retrying(conf, first, second)
    kept, failing = source.stream(0, None), source.stream(0, None)
    first.broken = True
    assert failing.readinto(bytearray(10)) == 10
    first.broken = False
    assert first.closed == 0
    assert kept.readinto(bytearray(10)) == 10
    kept.close()
    assert first.closed == 1
    failing.close()
    source.close()
    assert second.closed == 1


def test_the_first_is_used_again(conf, monkeypatch):
    """A proxy that was restarted serves those again who went elsewhere."""
    first, second = Way(), Way()
    source = retrying(conf, first, second)
    first.broken = True
    assert read(source, 0, 10) == DATA[:10]
    first.broken = False
    kept = source.stream(0, None)
    assert first.opened == 1
    monkeypatch.setattr(ways, '_AGAIN', 0.0)
    assert read(source, 0, 10) == DATA[:10]

    def by_the_first():
        before = len(second.streams)
        assert read(source, 0, 10) == DATA[:10]
        return len(second.streams) == before

    waiting.until(by_the_first)
    assert (first.opened, second.opened) == (2, 1)
    # Who reads by the other one reads on.
    assert second.closed == 0
    assert kept.readinto(bytearray(10)) == 10
    kept.close()
    assert second.closed == 1
    source.close()


@pytest.mark.parametrize('another', [True, False])
def test_nobody_waits_for_the_first(conf, monkeypatch, another):
    """It may take connections and say nothing."""
    first, second = Way(), Way()
    source = retrying(conf, first, second)
    first.broken = True
    assert read(source, 0, 10) == DATA[:10]
    asked, answers = threading.Event(), threading.Event()

    def open_first():
        asked.set()
        assert answers.wait(20)
        first.opened += 1
        return first

    first.open = open_first
    first.broken = False
    monkeypatch.setattr(ways, '_AGAIN', 0.0)
    assert read(source, 0, 10) == DATA[:10]
    assert asked.wait(20)
    # One tries it at a time.
    monkeypatch.setattr(ways, '_AGAIN', 60.0)
    assert read(source) == DATA
    if another:
        first.validator = base.Validator('"v2"', True)
    else:
        source.close()
    answers.set()
    # Neither another version is used, nor what comes too late.
    waiting.until(lambda: first.closed == 2)
    if another:
        assert read(source, 5, 10) == DATA[5:15]
        source.close()
    assert second.opened == second.closed == 1


def test_all_fail_for_a_while(conf):
    """It is counted for the last one only, and begins with the first."""
    first, last = Way(), Way()
    source = retrying(conf, first, last)
    stream = source.stream(0, None)
    first.broken = last.broken = True
    with pytest.raises(exceptions.Unavailable):
        stream.readinto(bytearray(10))
    stream.close()
    first.broken = False
    assert read(source, 0, 10) == DATA[:10]
    assert first.opened == 2
    source.close()


def test_another_version_in_the_end(conf):
    """Its bytes are given to nobody."""
    first, last = Way(), Way(bytes(len(DATA)))
    last.validator = base.Validator('"v2"', True)
    source = retrying(conf, first, last)
    stream = source.stream(0, None)
    first.broken = True
    with pytest.raises(exceptions.SourceChanged):
        stream.readinto(bytearray(10))
    stream.close()
    source.close()
    assert last.closed == last.opened == 1


def test_closed_in_the_midst(conf):
    source = retrying(conf, Way(), Way())
    source.close()
    with pytest.raises(exceptions.TransferCancelled):
        source.stream(0, None)


@pytest.mark.parametrize('seed', range(30))
def test_whatever_fails_the_bytes_are_right(conf, seed):
    rng = random.Random(seed)
    given = [Way() for _ in range(3)]
    source = retrying(conf, *given)
    conf.set_override('max_retries', 50, group='oslo_transfer')

    def fail(*_read):
        if rng.random() < 0.1:
            fakes.unavailable()

    for each in given:
        each.before_read = fail
    for _ in range(5):
        start = rng.randrange(len(DATA))
        length = rng.randrange(len(DATA) - start)
        assert read(source, start, length) == DATA[start : start + length]
    source.close()
    assert all(each.opened == each.closed for each in given)
