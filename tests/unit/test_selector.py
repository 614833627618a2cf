# SPDX-License-Identifier: Apache-2.0
"""Locations are tried in the deployer's order, and it is told why."""

from __future__ import annotations

import math
import socket
import threading
import time

import hypothesis
from hypothesis import strategies as st
from oslo_config import cfg
import pytest

import oslo_transfer
from oslo_transfer import call as _call
from oslo_transfer import datacenters
from oslo_transfer import exceptions
from oslo_transfer import health
from oslo_transfer import selector
from oslo_transfer import shared
from tests.servers import http

pytestmark = pytest.mark.usefixtures('nothing_left')

DATA = b'data of the image' * 1000
LATELY = health.Failure(count=1, at=0.0, until=0.0, reason='it was down')
ASKED = health.Failure(count=1, at=0.0, until=1.0, reason='it was busy')


def facts(**changes):
    return selector.Facts(**{'scheme': 'http', **changes})


def order(found, **options):
    """The names of what is found, in order."""
    return [place.end for place in selector.order(found.items(), **options)]


def reason(given, **options):
    (place,) = selector.order([('end', given)], **options)
    return place.reason


# The order; pure

some_facts = st.builds(
    selector.Facts,
    scheme=st.sampled_from([None, 'file', 'ftp', 'http', 'https']),
    weight=st.integers(-2, 2),
    local=st.booleans(),
    datacenter=st.sampled_from([None, 'ams', 'fra']),
    distance=st.sampled_from([0.0, 1.0, 2.0, math.inf]),
    seconds=st.none() | st.floats(0, 2),
    failure=st.sampled_from([None, LATELY, ASKED]),
)
some_options = st.fixed_dictionaries(
    {
        'selector': st.sampled_from(['order', 'weight', 'nearest']),
        'driver_order': st.lists(
            st.sampled_from(['file', 'ftp', 'http', 'gopher']), unique=True
        ),
    }
)


@hypothesis.given(st.lists(some_facts, max_size=8), some_options)
def test_never_loses_a_location(found, options):
    places = selector.order(enumerate(found), **options)
    assert sorted(place.end for place in places) == list(range(len(found)))
    assert all(place.reason for place in places)


@hypothesis.given(some_facts, st.integers(0, 8), some_options)
def test_what_is_equal_stays_as_given(each, count, options):
    places = selector.order(enumerate([each] * count), **options)
    assert [place.end for place in places] == list(range(count))


@hypothesis.given(st.lists(some_facts, max_size=8), some_options)
def test_ordering_again_changes_nothing(found, options):
    once = [p.end for p in selector.order(enumerate(found), **options)]
    again = [
        p.end for p in selector.order([(i, found[i]) for i in once], **options)
    ]
    assert again == once


@hypothesis.given(st.lists(some_facts, max_size=8), some_options)
def test_what_failed_is_behind_what_did_not(found, options):
    places = selector.order(enumerate(found), **options)
    failed = [found[place.end].failure is not None for place in places]
    assert failed == sorted(failed)


def test_as_given():
    found = {'a': facts(weight=1), 'b': facts(weight=2, local=True)}
    assert order(found) == ['a', 'b']
    assert reason(facts()) == 'as given'


def test_weight():
    found = {
        'light': facts(weight=-1),
        'none': facts(),
        'heavy': facts(weight=7),
    }
    assert order(found, selector='weight') == ['heavy', 'none', 'light']
    assert reason(facts(weight=7), selector='weight') == 'weight 7'


def test_nearest():
    found = {
        'nowhere': facts(),
        'far': facts(datacenter='fra', distance=2.0, seconds=0.001),
        'slow': facts(datacenter='ams', distance=0.0, seconds=0.2),
        'quick': facts(datacenter='ams', distance=0.0, seconds=0.1),
        'file': facts(scheme='file', local=True),
    }
    assert order(found, selector='nearest') == [
        'file',
        'quick',
        'slow',
        'far',
        'nowhere',
    ]


def test_driver_order_comes_before_the_selector():
    found = {
        'ftp': facts(scheme='ftp', weight=100),
        'http': facts(weight=1),
        'https': facts(scheme='https'),
        'heavy': facts(weight=2),
    }
    assert order(found, selector='weight', driver_order=['https', 'http']) == [
        'https',
        'heavy',
        'http',
        'ftp',
    ]


def test_who_asked_for_peace_is_last_of_all():
    found = {
        'busy': facts(failure=ASKED, weight=9),
        'failed': facts(failure=LATELY, weight=9),
        'well': facts(),
    }
    assert order(found, selector='weight') == ['well', 'failed', 'busy']


def test_file_object_comes_behind_what_can_be_read_again():
    found = {'object': selector.Facts(), 'url': facts()}
    for each in ('order', 'weight', 'nearest'):
        assert order(found, selector=each) == ['url', 'object']


@pytest.mark.parametrize(
    ('given', 'said'),
    [
        (facts(local=True), 'on this host'),
        (facts(), 'in no known datacenter'),
        (
            facts(datacenter='ams', distance=0.0, seconds=0.0123),
            'in this datacenter, ams, answers in 12.3 ms',
        ),
        (
            facts(datacenter='fra', distance=2.0),
            'in datacenter fra, distance 2',
        ),
        (
            facts(datacenter='fra', seconds=1.0),
            'in datacenter fra, at no known distance, no answer in 1 s',
        ),
    ],
)
def test_nearness_in_words(given, said):
    assert reason(given, selector='nearest') == said


def test_driver_order_in_words():
    options = {'driver_order': ['https', 'http']}
    assert reason(facts(), **options) == (
        '"http" is number 2 of driver_order; as given'
    )
    assert '"ftp" is not in driver_order' in reason(
        facts(scheme='ftp'), **options
    )


def test_failure_in_words():
    assert reason(facts(failure=LATELY, rest=41.7)) == (
        'behind the others for 42 s more (location_backoff), for it failed '
        'once lately: it was down; as given'
    )
    assert '(Retry-After)' in reason(facts(failure=ASKED, rest=1))


# Datacenters


@pytest.fixture
def configured(tmp_path):
    """Configurations from the text of a file."""

    def read(text):
        file = tmp_path / 'conf'
        file.write_text(text)
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[str(file)], default_config_dirs=[])
        oslo_transfer.register_opts(conf)
        return conf

    return read


MAP = """
[oslo_transfer]
datacenter = ams
datacenters = ams, fra-2, nyc
[oslo_transfer_datacenter_ams]
hosts = .ams.example, 10.1.0.0/16, fd00:1::/32, Mirror
distances = fra-2:1.5
[oslo_transfer_datacenter_fra-2]
hosts = .fra.example, 10.2.0.7, two.ams.example
distances = nyc:1
"""


@pytest.mark.parametrize(
    ('host', 'name', 'distance'),
    [
        ('a.ams.example', 'ams', 0.0),
        ('a.b.ams.example', 'ams', 0.0),
        ('mirror', 'ams', 0.0),
        ('10.1.255.1', 'ams', 0.0),
        ('fd00:1::7', 'ams', 0.0),
        ('a.fra.example', 'fra-2', 1.5),
        ('10.2.0.7', 'fra-2', 1.5),
        # The first datacenter that has a host counts.
        ('two.ams.example', 'ams', 0.0),
        ('ams.example', None, math.inf),
        ('xams.example', None, math.inf),
        ('10.2.0.8', None, math.inf),
        ('10.1', None, math.inf),
        ('', None, math.inf),
    ],
)
def test_where_a_host_is(configured, host, name, distance):
    where = datacenters.from_conf(configured(MAP))
    assert where.find(host) == name
    assert where.distance(name) == distance


def test_datacenter_at_no_known_distance(configured):
    where = datacenters.from_conf(configured(MAP))
    assert where.distance('nyc') == math.inf


def test_host_that_is_in_no_datacenter(configured):
    where = datacenters.from_conf(
        configured(MAP.replace('datacenter = ams', ''))
    )
    assert where.find('a.ams.example') == 'ams'
    assert where.distance('ams') == math.inf


@pytest.mark.parametrize(
    ('old', 'new', 'said'),
    [
        ('10.1.0.0/16', '10.1.0.1/16', 'datacenter_ams. hosts: .*host bits'),
        ('10.1.0.0/16', '10.1/x', 'datacenter_ams. hosts'),
        ('datacenter = ams', 'datacenter = nowhere', '"nowhere" is not in'),
        ('fra-2:1.5', 'paris:1', 'distances: "paris" is not in'),
    ],
)
def test_mistakes_in_the_map_are_told(configured, old, new, said):
    with pytest.raises(exceptions.ConfigurationError, match=said):
        datacenters.from_conf(configured(MAP.replace(old, new)))


@pytest.mark.parametrize('wrong', ['fra-2:near', 'fra-2:-1', 'fra-2'])
def test_distance_that_is_no_number(configured, wrong):
    conf = configured(MAP.replace('fra-2:1.5', wrong))
    with pytest.raises((cfg.Error, ValueError)):
        datacenters.from_conf(conf)


# In a copy


@pytest.fixture
def conf(conf):
    def change(**options):
        for name, value in options.items():
            conf.set_override(name, value, group='oslo_transfer')

    conf.change = change
    conf.change(max_retries=0, max_streams=1)
    return conf


@pytest.fixture
def second():
    with http.ScriptedHTTPServer() as running:
        yield running


def choose(conf, *locations):
    call = _call.Call(conf, None, None, None)
    ends, _unusable = call._sources(list(locations))
    return [
        (str(place.end), place.reason)
        for place in selector.choose(ends, call.ctx)
    ]


def test_heaviest_is_copied_from(conf, server, tmp_path):
    conf.change(location_selector='weight')
    light, heavy = (
        oslo_transfer.Location(server.put(path, DATA), weight=weight)
        for path, weight in (('/light', 1), ('/heavy', 2))
    )
    result = oslo_transfer.copy([light, heavy], tmp_path / 'dst', conf=conf)
    assert result.source == heavy.url
    assert server.seen('/light') == []


def test_driver_order_decides_before_any_strategy_plans(
    conf, server, tmp_path
):
    (tmp_path / 'src').write_bytes(DATA)
    sources = [tmp_path / 'src', server.put('/image', DATA)]
    conf.change(driver_order=['http', 'file'], strategy_order=['full_copy'])
    result = oslo_transfer.copy(sources, tmp_path / 'dst', conf=conf)
    assert result.driver == 'http'


def test_location_that_failed_is_asked_last_next_time(conf, server, tmp_path):
    bad = server.serve('/bad', lambda request, conn: conn.reply(503))
    good = server.put('/good', DATA)
    for number in range(2):
        result = oslo_transfer.copy(
            [bad, good], tmp_path / str(number), conf=conf
        )
        assert result.source == good
    assert len(server.seen('/bad')) == 1
    ((first, _), (last, why)) = choose(conf, bad, good)
    assert (first, last) == (good, bad)
    assert '503' in why
    assert 'location_backoff' in why


def test_location_that_failed_is_used_if_there_is_no_other(
    conf, server, tmp_path
):
    state = ['bad']

    def answer(request, conn):
        conn.reply(503) if state else conn.reply(200, body=DATA)

    url = server.serve('/image', answer)
    with pytest.raises(exceptions.Unavailable):
        oslo_transfer.copy(url, tmp_path / 'dst', conf=conf)
    state.clear()
    oslo_transfer.copy(url, tmp_path / 'dst', conf=conf)
    assert 'behind' not in choose(conf, url)[0][1], 'success makes it forget'


def test_location_with_wrong_bytes_is_asked_last_next_time(
    conf, server, tmp_path
):
    bad, good = server.put('/bad', b'x' * 1000), server.put('/good', DATA)
    with pytest.raises(exceptions.IntegrityError):
        oslo_transfer.copy(
            bad,
            tmp_path / 'dst',
            conf=conf,
            hash_algo='md5',
            hash_value='0' * 32,
        )
    assert [url for url, _why in choose(conf, bad, good)] == [good, bad]


def test_what_is_not_there_is_no_failure_of_the_server(conf, server, tmp_path):
    missing, good = server.url('/none'), server.put('/good', DATA)
    oslo_transfer.copy([missing, good], tmp_path / 'dst', conf=conf)
    assert choose(conf, missing, good)[0] == (missing, 'as given')


def test_host_that_refuses_connections_is_last_with_all_its_paths(
    conf, server, tmp_path
):
    with http.ScriptedHTTPServer() as gone:
        urls = gone.url('/one'), gone.url('/two')
    good = server.put('/good', DATA)
    oslo_transfer.copy([urls[0], good], tmp_path / 'dst', conf=conf)
    ((first, _), (last, why)) = choose(conf, urls[1], good)
    assert (first, last) == (good, urls[1])
    assert 'refused' in why


def test_back_off_can_be_turned_off(conf, server, tmp_path):
    conf.change(location_backoff=0)
    bad = server.serve('/bad', lambda request, conn: conn.reply(503))
    good = server.put('/good', DATA)
    oslo_transfer.copy([bad, good], tmp_path / 'dst', conf=conf)
    assert choose(conf, bad, good)[0][0] == bad


def test_retry_after_counts_for_all_paths_of_the_host(
    conf, server, second, tmp_path
):
    conf.change(location_backoff=0)
    busy = server.serve(
        '/busy',
        lambda request, conn: conn.reply(503, headers=[('Retry-After', '60')]),
    )
    other = server.put('/other', DATA)
    good = second.put('/good', DATA)
    oslo_transfer.copy([busy, good], tmp_path / 'a', conf=conf)
    result = oslo_transfer.copy([other, good], tmp_path / 'b', conf=conf)
    assert result.source == good
    assert server.seen('/other') == []
    result = oslo_transfer.copy(other, tmp_path / 'c', conf=conf)
    assert result.source == other, 'there is no other'


# Measuring


def test_hosts_that_are_not_known_are_measured_once(
    conf, server, second, tmp_path
):
    conf.change(location_selector='nearest')
    urls = [server.put('/a', DATA), second.put('/a', DATA)]
    for _ in range(2):
        found = choose(conf, *urls)
        assert all('answers in' in why for _url, why in found)
    assert [each.seen('/a') for each in (server, second)] == [[], []]


def test_quicker_host_comes_first(conf, server, second):
    conf.change(location_selector='nearest')
    urls = [server.put('/a', DATA), second.put('/a', DATA)]
    times = shared.current().connect_times
    ports = [int(url.split(':')[2].split('/')[0]) for url in urls]
    times.add(('127.0.0.1', ports[0]), 0.5)
    times.add(('127.0.0.1', ports[1]), 0.001)
    assert [url for url, _why in choose(conf, *urls)] == urls[::-1]


def test_one_location_is_not_measured(conf, tmp_path):
    conf.change(location_selector='nearest')
    with http.ScriptedHTTPServer() as gone:
        url = gone.url('/image')
    ((_url, why),) = choose(conf, url)
    assert why == 'in no known datacenter'
    near = tmp_path / 'file'
    assert choose(conf, url, near)[0] == (str(near), 'on this host')


@pytest.fixture
def silent():
    """An address where connections are not taken: the backlog is full."""
    with socket.socket() as listener:
        listener.bind(('127.0.0.1', 0))
        listener.listen(0)
        with socket.create_connection(listener.getsockname()):
            yield listener.getsockname()[1]


def test_measuring_is_bounded(conf, server, silent, monkeypatch):
    monkeypatch.setattr(selector, 'PROBE_TIMEOUT', 0.3)
    conf.change(location_selector='nearest')
    good = server.put('/a', DATA)
    dead = [f'http://127.0.0.1:{silent}/', f'http://127.0.0.2:{silent}/']
    started = time.monotonic()
    found = choose(conf, *dead, good)
    assert time.monotonic() - started < 1.5
    assert found[0][0] == good
    started = time.monotonic()
    choose(conf, *dead, good)
    assert time.monotonic() - started < 0.25, 'not measured again'


def test_measuring_is_cancelled(conf, silent, monkeypatch):
    monkeypatch.setattr(selector, 'PROBE_TIMEOUT', 3.0)
    conf.change(location_selector='nearest', connect_timeout=0.5)
    cancel = threading.Event()
    call = _call.Call(conf, cancel, None, None)
    ends, _unusable = call._sources(
        [f'http://127.0.0.1:{silent}/', 'http://127.0.0.1:1/']
    )
    timer = threading.Timer(0.2, cancel.set)
    timer.start()
    started = time.monotonic()
    with pytest.raises(exceptions.TransferCancelled):
        selector.choose(ends, call.ctx)
    timer.join()
    assert time.monotonic() - started < 1.2


def test_untrusted_host_is_not_connected_to(conf, server, second):
    conf.change(location_selector='nearest')
    found = choose(
        conf,
        *(
            oslo_transfer.Location(each.url('/image'), trusted=False)
            for each in (server, second)
        ),
    )
    assert all('no answer' in why for _url, why in found)
