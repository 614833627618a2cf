# SPDX-License-Identifier: Apache-2.0
"""Several locations at once: more speed, and nothing lost by a bad one."""

from __future__ import annotations

import hashlib
import itertools
import socket
import threading
import time

from hypothesis import given
from hypothesis import settings
from hypothesis import strategies as st
import pytest

import oslo_transfer
from oslo_transfer.drivers import base
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import growth
from oslo_transfer import shared
from oslo_transfer.testing import faults
from oslo_transfer.testing import fixtures
from oslo_transfer.testing import harness
from oslo_transfer.wrappers import ledger
from oslo_transfer.wrappers import mirror
from oslo_transfer.wrappers import referee
from oslo_transfer.wrappers import retry

pytestmark = pytest.mark.usefixtures('nothing_left')

MIB = 1 << 20
DATA = harness.pattern(8 * MIB)
OTHER = harness.pattern(8 * MIB, 'other')
DIGEST = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
# 64 KiB in 4 ms: 16 MB/s, mostly waiting.
STEP = 64 << 10
STEADY = {'most': STEP, 'delay': 0.004}
# A hundredth of it.
SLOW = {'most': STEP // 100, 'delay': 0.004}


@pytest.fixture
def transfer():
    with fixtures.Transfer(max_retries=1) as transfer:
        yield transfer


@pytest.fixture
def put(transfer):
    """Store a location; the keywords say how it behaves."""
    names = itertools.count()

    def put(data=DATA, name='', **behaviour):
        options = {
            key: behaviour.pop(key)
            for key in ('ranges', 'sized', 'piece_bytes')
            if key in behaviour
        }
        return transfer.store.put(
            f'memory://mirrors/{name or next(names)}',
            data,
            faults=faults.Faults(**behaviour) if behaviour else None,
            **options,
        )

    return put


@pytest.fixture
def copy(transfer, tmp_path):
    """Copy to a file under the digest; the file is right, or not there."""
    dst = tmp_path / 'image'

    def copy(sources, **arguments):
        facts = DIGEST | arguments
        try:
            result = oslo_transfer.copy(
                sources, dst, conf=transfer.conf, **facts
            )
        except oslo_transfer.TransferError:
            assert not dst.exists()
            raise
        assert dst.read_bytes() == DATA
        assert result.size == len(DATA)
        assert sum(result.bytes_by_location.values()) <= len(DATA)
        return result

    return copy


@pytest.fixture
def eager(monkeypatch):
    """Streams are added as if each of them paid, however busy the host."""
    monkeypatch.setattr(growth, '_QUICK', 0.0)
    monkeypatch.setattr(growth, '_MOSTLY', -1.0)
    monkeypatch.setattr(growth, '_PAYS', -100.0)


def given_up(result):
    return {
        each.location: each.error for each in result.attempts if each.location
    }


def test_locations_that_wait_share_the_work(copy, put, eager):
    urls = [put(**STEADY) for _ in range(3)]
    result = copy(urls)
    assert set(result.bytes_by_location) == set(urls)
    assert given_up(result) == {}
    assert result.wasted == 0


def test_fast_location_is_enough(copy, put):
    urls = [put(), put()]
    assert copy(urls).bytes_by_location == {urls[0]: len(DATA)}


@pytest.mark.parametrize('facts', [{}, {'expected_size': len(DATA)}])
def test_without_a_digest_there_is_one_at_a_time(copy, put, facts):
    urls = [put(**STEADY) for _ in range(3)]
    result = copy(urls, hash_algo=None, hash_value=None, **facts)
    assert result.bytes_by_location == {urls[0]: len(DATA)}


def test_no_more_locations_than_allowed(transfer, copy, put, eager):
    transfer.conf.set_override('max_locations', 2, group='oslo_transfer')
    urls = [put(**STEADY) for _ in range(4)]
    assert len(copy(urls).bytes_by_location) == 2


def test_one_location_at_a_time_if_so_configured(transfer, copy, put):
    transfer.conf.set_override('max_locations', 1, group='oslo_transfer')
    urls = [put(**STEADY), put(**STEADY)]
    assert copy(urls).bytes_by_location == {urls[0]: len(DATA)}


@pytest.mark.parametrize('place', range(4))
def test_slow_location_holds_nobody_up(copy, put, place):
    """Alone it would take a hundred times as long."""
    urls = [put(**STEADY) for _ in range(3)]
    urls.insert(place, put(**SLOW))
    started = time.monotonic()
    result = copy(urls)
    assert time.monotonic() - started < 5
    assert result.bytes_by_location.get(urls[place], 0) < MIB


@pytest.mark.parametrize('place', range(3))
def test_location_that_falls_silent_holds_nobody_up(
    transfer, copy, put, place
):
    transfer.conf.set_override('stall_timeout', 60.0, group='oslo_transfer')
    urls = [put(**STEADY) for _ in range(2)]
    urls.insert(place, put(**STEADY, stall_at=2 * MIB + 5))
    started = time.monotonic()
    copy(urls)
    assert time.monotonic() - started < 15


@pytest.fixture
def hole():
    """A port that takes connections and never answers."""
    with socket.create_server(('127.0.0.1', 0)) as listening:
        yield f'http://127.0.0.1:{listening.getsockname()[1]}/image'


@pytest.mark.parametrize('place', range(3))
def test_location_that_never_answers(
    transfer, copy, put, hole, monkeypatch, place
):
    """Also the first one is left for another, long before it times out."""
    monkeypatch.setattr(referee, '_SILENCE', 0.5)
    transfer.conf.set_override('stall_timeout', 60.0, group='oslo_transfer')
    urls = [put(**STEADY) for _ in range(2)]
    urls.insert(place, hole)
    started = time.monotonic()
    result = copy(urls)
    assert time.monotonic() - started < 15
    assert set(given_up(result)) <= {hole}
    assert place or given_up(result) == {hole: 'Stalled'}


def test_silent_location_where_one_stream_has_to_do(
    transfer, put, monkeypatch
):
    monkeypatch.setattr(referee, '_SILENCE', 0.5)
    transfer.conf.set_override('stall_timeout', 60.0, group='oslo_transfer')
    dst = 'memory://mirrors/copy'
    urls = [put(stall_at=MIB), put()]
    started = time.monotonic()
    result = oslo_transfer.copy(urls, dst, conf=transfer.conf, **DIGEST)
    assert time.monotonic() - started < 15
    assert transfer.store.get(dst) == DATA
    assert result.bytes_by_location[urls[0]] == MIB


def test_location_comes_back_after_its_rest(transfer, put, copy, monkeypatch):
    """One failure does not leave a copy with a slow location for good."""
    monkeypatch.setattr(mirror, '_REST', 0.2)
    urls = [put(fail_at=MIB, times=1, **STEADY), put(**SLOW)]
    started = time.monotonic()
    result = copy(urls)
    assert time.monotonic() - started < 10
    assert result.bytes_by_location[urls[0]] > 6 * MIB


@pytest.mark.parametrize('place', range(3))
def test_location_that_breaks_is_replaced_at_once(transfer, copy, put, place):
    """Nobody waits for a retry as long as there is another location."""
    transfer.conf.set_override('retry_delay', 30.0, group='oslo_transfer')
    transfer.conf.set_override('max_retry_delay', 30.0, group='oslo_transfer')
    urls = [put(**STEADY) for _ in range(2)]
    urls.insert(place, put(**STEADY, fail_at=MIB))
    started = time.monotonic()
    result = copy(urls)
    assert time.monotonic() - started < 15
    assert set(given_up(result)) <= {urls[place]}


def test_locations_that_all_break_now_and_then(transfer, copy, put):
    transfer.conf.set_override('max_retries', 3, group='oslo_transfer')
    copy([put(fail_every=7), put(fail_every=5), put(fail_every=11)])


def test_missing_locations_are_passed_over(copy, put):
    good = put(**STEADY)
    result = copy(['memory://mirrors/none', good, 'memory://mirrors/no'])
    assert result.bytes_by_location == {good: len(DATA)}
    # The last one may never have been asked.
    found = given_up(result)
    assert found.pop('memory://mirrors/none') == 'NotFound'
    assert found in ({}, {'memory://mirrors/no': 'NotFound'})


def test_location_of_another_size_is_passed_over(copy, put, eager):
    good, longer = put(**STEADY), put(DATA + b'x', **STEADY)
    result = copy([good, longer])
    assert result.bytes_by_location == {good: len(DATA)}
    assert given_up(result) == {longer: 'SizeMismatch'}


def test_first_location_of_another_size(copy, put):
    """It sets the size that others are measured by, and is wrong."""
    longer, good = put(DATA + b'x', **STEADY), put(**STEADY)
    result = copy([longer, good])
    assert result.source == good


@pytest.mark.parametrize('place', range(3))
@pytest.mark.parametrize('what', ['all', 'some', 'a byte'])
def test_corrupt_location_is_found_and_dropped(copy, put, eager, place, what):
    wrong = bytearray(DATA)
    if what == 'all':
        wrong = OTHER
    elif what == 'some':
        for start in range(0, len(DATA), MIB):
            wrong[start : start + 100] = OTHER[start : start + 100]
    else:
        # Where the stream of each place gets to.
        wrong[0] ^= 1
        wrong[len(DATA) * 5 // 8] ^= 1
        wrong[-1] ^= 1
    urls = [put(**STEADY) for _ in range(2)]
    urls.insert(place, put(bytes(wrong), **STEADY))
    result = copy(urls)
    assert result.verified
    assert set(given_up(result)) <= {urls[place]}
    if what == 'all':
        assert given_up(result) == {urls[place]: 'IntegrityError'}
        assert urls[place] not in result.bytes_by_location
        # At worst all of it was fetched once to compare it, and once more.
        assert 0 < result.wasted < 2 * len(DATA)


def test_two_corrupt_locations_of_three(copy, put):
    urls = [put(OTHER, **STEADY), put(OTHER[::-1], **STEADY), put(**STEADY)]
    result = copy(urls)
    assert result.source == urls[2]
    assert given_up(result).keys() <= {*urls[:2]}


def test_all_are_corrupt(copy, put):
    urls = [put(OTHER), put(OTHER)]
    with pytest.raises(exceptions.IntegrityError) as caught:
        copy(urls)
    assert set(given_up(caught.value)) == set(urls)


def test_wrong_pieces_are_fetched_elsewhere(transfer, copy, put):
    """Digests of pieces tell where to look, and who is to blame."""
    transfer.conf.set_override('max_streams', 1, group='oslo_transfer')
    wrong = DATA[: 5 * MIB] + OTHER[5 * MIB : 6 * MIB] + DATA[6 * MIB :]
    good = put(piece_bytes=MIB, fail_at=3 * MIB + 7, times=1)
    bad = put(wrong)
    result = copy([good, bad])
    assert given_up(result) == {
        good: 'Unavailable',
        bad: 'IntegrityError',
    }
    # The one piece, and nothing else.
    assert result.wasted == MIB
    assert result.bytes_by_location == {
        good: 4 * MIB + 7,
        bad: 4 * MIB - 7,
    }


def test_bytes_that_are_only_compared_are_nobodys(transfer, tmp_path, put):
    """What was there before is compared, too, and counts as resumed."""
    transfer.conf.set_override('max_streams', 1, group='oslo_transfer')
    transfer.conf.set_override('segment_bytes', MIB, group='oslo_transfer')
    dst = tmp_path / 'image'
    kept = put(name='kept', fail_at=2 * MIB)
    with pytest.raises(exceptions.Unavailable):
        oslo_transfer.copy(kept, dst, conf=transfer.conf, **DIGEST)
    wrong = DATA[: 5 * MIB] + OTHER[5 * MIB : 6 * MIB] + DATA[6 * MIB :]
    bad, good = put(wrong), put()
    result = oslo_transfer.copy([bad, good], dst, conf=transfer.conf, **DIGEST)
    assert dst.read_bytes() == DATA
    assert given_up(result) == {bad: 'IntegrityError'}
    # The overlap was fetched again.
    resumed = 2 * MIB - retry.OVERLAP
    assert result.bytes_by_origin['resumed'] == resumed
    assert sum(result.bytes_by_location.values()) == len(DATA) - resumed
    assert result.bytes_by_location[good] <= 2 * MIB


def test_wrong_pieces_of_a_single_location(transfer, put, copy, monkeypatch):
    url = put(piece_bytes=MIB)
    found = transfer.store.find('mirrors/0')
    digests = list(found.pieces.digests)
    digests[3] = bytes(len(digests[3]))
    monkeypatch.setattr(
        base.Pieces, 'digests', property(lambda pieces: digests), raising=False
    )
    with pytest.raises(exceptions.IntegrityError, match='1 of 8 pieces'):
        copy(url, hash_algo=None, hash_value=None)


@pytest.mark.parametrize('place', range(3))
def test_location_without_ranges_beside_others(copy, put, eager, place):
    whole = put(ranges=False, **STEADY)
    urls = [put(**STEADY), put(**STEADY)]
    urls.insert(place, whole)
    result = copy(urls)
    assert given_up(result).get(whole) in (None, 'CapabilityMissing')


def test_location_without_a_size_beside_others(copy, put):
    good, unknown = put(**STEADY), put(sized=False, **STEADY)
    assert copy([good, unknown]).source == good


def test_first_location_without_a_size(copy, put):
    unknown, good = put(sized=False, **STEADY), put(**STEADY)
    assert copy([unknown, good]).source == unknown


def test_first_location_without_a_size_that_breaks(copy, put):
    unknown, good = put(sized=False, fail_at=MIB), put(**STEADY)
    assert copy([unknown, good]).source == good


def test_location_that_asked_for_rest_is_not_used_beside_others(
    transfer, put, copy, eager
):
    urls = [put(**STEADY), put(**STEADY), put(**STEADY)]
    end = ends.end_of(urls[1], lambda scheme: transfer.store.driver_class())
    shared.current().locations.failed(end, exceptions.Unavailable('busy'))
    assert set(copy(urls).bytes_by_location) == {urls[0], urls[2]}


def test_cancel_ends_all_streams(transfer, put, tmp_path):
    cancel = threading.Event()
    dst = tmp_path / 'image'
    urls = [put(**STEADY, stall_at=MIB) for _ in range(3)]
    timer = threading.Timer(0.5, cancel.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(exceptions.TransferCancelled):
        oslo_transfer.copy(
            urls, dst, conf=transfer.conf, cancel=cancel, **DIGEST
        )
    timer.join()
    assert time.monotonic() - started < 1.5
    assert not dst.exists()


def test_errors_of_the_destination_blame_no_location(transfer, put, tmp_path):
    urls = [put(**STEADY), put(**STEADY)]
    with pytest.raises(exceptions.NotFound) as caught:
        oslo_transfer.copy(
            urls, tmp_path / 'none' / 'image', conf=transfer.conf, **DIGEST
        )
    assert given_up(caught.value) == {}


def test_destination_that_takes_one_stream_only(transfer, put):
    """Locations then follow each other, with no byte asked for twice."""
    dst = 'memory://mirrors/copy'
    urls = [put(fail_at=3 * MIB), put()]
    result = oslo_transfer.copy(urls, dst, conf=transfer.conf, **DIGEST)
    assert transfer.store.get(dst) == DATA
    assert result.bytes_by_location == {
        urls[0]: 3 * MIB,
        urls[1]: len(DATA) - 3 * MIB,
    }


# Any mix of locations

SMALL = 1 * MIB
KINDS = (
    exceptions.Unavailable,
    exceptions.Stalled,
    exceptions.ProtocolError,
    exceptions.SourceChanged,
    exceptions.AccessDenied,
    exceptions.CapabilityMissing,
)
GOOD: dict = {
    'plan': {},
    'wrong': None,
    'ranges': True,
    'sized': True,
    'longer': 0,
    'piece_bytes': None,
}


def error_maker(kind):
    return lambda: kind('failed on purpose')


PLANS = st.one_of(
    st.just({}),
    st.builds(lambda every: {'fail_every': every}, st.integers(2, 40)),
    st.fixed_dictionaries(
        {
            'fail_at': st.integers(0, SMALL - 1),
            'times': st.sampled_from([1, 2, None]),
            'error': st.sampled_from(KINDS).map(error_maker),
        }
    ),
)
LOCATIONS = st.fixed_dictionaries(
    {
        'plan': PLANS,
        'wrong': st.one_of(
            st.none(),
            st.tuples(st.integers(0, SMALL - 1), st.integers(1, SMALL)),
        ),
        'ranges': st.sampled_from([True, True, True, False]),
        'sized': st.sampled_from([True, True, True, False]),
        'longer': st.sampled_from([0, 0, 0, 0, 1]),
        'piece_bytes': st.sampled_from([None, None, 256 << 10]),
    }
)


def store_mixed(store, name, kind):
    """Store a location of some kind."""
    data = bytearray(DATA[:SMALL])
    if kind['wrong']:
        start, length = kind['wrong']
        data[start : start + length] = OTHER[
            start : min(start + length, SMALL)
        ]
    return store.put(
        f'memory://mirrors/{name}',
        bytes(data) + b'x' * kind['longer'],
        ranges=kind['ranges'],
        sized=kind['sized'],
        piece_bytes=kind['piece_bytes'],
        faults=faults.Faults(most=STEP, delay=0.001, **kind['plan']),
    )


def check_mix(kinds, directory):
    """The data is right or not there; with a good location it is there."""
    data = DATA[:SMALL]
    dst = directory / 'image'
    dst.unlink(missing_ok=True)
    with fixtures.Transfer(max_retries=1, retry_delay=0.001) as transfer:
        urls = [
            store_mixed(transfer.store, number, kind)
            for number, kind in enumerate(kinds)
        ]
        shared.forget()
        try:
            result = oslo_transfer.copy(
                urls,
                dst,
                conf=transfer.conf,
                hash_algo='sha256',
                hash_value=hashlib.sha256(data).hexdigest(),
                deadline=30.0,
            )
        except oslo_transfer.TransferError as exc:
            assert not isinstance(exc, exceptions.DeadlineExceeded)
            assert GOOD not in kinds
            assert not dst.exists()
            assert {each.location for each in exc.attempts} >= set(urls)
        else:
            assert dst.read_bytes() == data
            assert sum(result.bytes_by_origin.values()) == SMALL
            assert result.verified


MIXES = st.lists(LOCATIONS, min_size=1, max_size=4)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(MIXES, st.integers(0, 4))
def test_any_mix_with_a_good_location(tmp_path_factory, kinds, place):
    kinds.insert(place, GOOD)
    check_mix(kinds, tmp_path_factory.getbasetemp())


@settings(max_examples=15, deadline=None, derandomize=True)
@given(MIXES)
def test_any_mix(tmp_path_factory, kinds):
    check_mix(kinds, tmp_path_factory.getbasetemp())


@pytest.mark.campaign
@pytest.mark.timeout(1800)
@settings(max_examples=1000, deadline=None)
@given(MIXES, st.integers(0, 4))
def test_very_many_mixes(tmp_path_factory, kinds, place):
    kinds.insert(place, GOOD)
    check_mix(kinds, tmp_path_factory.getbasetemp())


# The ledger

ENTRIES = st.lists(
    st.tuples(
        st.integers(0, 40), st.integers(0, 40), st.sampled_from('abc')
    ).map(lambda e: (min(e[:2]), max(e[:2]), e[2])),
    max_size=12,
)


@settings(deadline=None)
@given(ENTRIES)
def test_ledger_is_like_a_list_of_bytes(entries):
    """The last one to give a byte counts."""
    model = [None] * 40
    noted = ledger.Ledger()
    for start, end, who in entries:
        noted.note(start, end, who)
        model[start:end] = [who] * (end - start)
    found = [None] * 40
    for who, ranges in noted.given().items():
        for start, end in ranges:
            assert found[start:end] == [None] * (end - start)
            found[start:end] = [who] * (end - start)
    assert found == model
    assert noted.known().total == sum(each is not None for each in model)
