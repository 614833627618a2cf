# SPDX-License-Identifier: Apache-2.0
"""What a copy would do is told without doing any of it."""

from __future__ import annotations

import builtins
import dataclasses
import os
import socket

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer import explanation
from oslo_transfer import flight
from oslo_transfer import shared
from oslo_transfer.strategies import base
from oslo_transfer.testing import fixtures
from tests.servers import http

pytestmark = pytest.mark.usefixtures('nothing_left')

DATA = b'data of the image' * 1000


@pytest.fixture
def conf(conf):
    def change(**options):
        for name, value in options.items():
            conf.set_override(name, value, group='oslo_transfer')

    conf.change = change
    return conf


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'source'
    path.write_bytes(DATA)
    return path


@pytest.fixture
def dst(tmp_path):
    return tmp_path / 'dst'


class Attaching(base.Strategy):
    """Attaches."""

    name = 'attaching'
    attaching = True
    forms = frozenset({'overlay'})

    def plan(self, request):
        return base.Plan(
            strategy=self.name, sources=request.sources, steps=('attach it',)
        )

    def run(self, plan, request, landing, ctx):
        raise AssertionError


def choices(found):
    return [(each.strategy, each.choice) for each in found.strategies]


def test_strategies_in_the_order_in_which_they_are_tried(conf, source, dst):
    found = oslo_transfer.explain(source, dst, conf=conf)
    assert found.destination == str(dst)
    assert found.strategy == 'clone'
    assert choices(found) == [
        ('clone', 'first'),
        ('full_copy', 'if that fails'),
    ]
    assert found.strategies[0].steps == (f'clone {source} to {dst}',)
    assert all(each.steps for each in found.strategies)
    assert found.strategies[0].reason == ''


def test_strategy_that_is_passed_over_has_a_reason(conf, server, dst):
    url = server.put('/image', DATA)
    with fixtures.registered(Attaching):
        conf.change(strategy_order=['clone', 'attaching', 'none', 'full_copy'])
        found = oslo_transfer.explain(url, dst, conf=conf)
    assert choices(found) == [
        ('clone', 'passed over'),
        ('attaching', 'passed over'),
        ('none', 'passed over'),
        ('full_copy', 'first'),
    ]
    reasons = [each.reason for each in found.strategies]
    assert 'no location is a file on this host' in reasons[0]
    assert 'the call accepts file' in reasons[1]
    assert 'no strategy is named "none"' in reasons[2]


def test_strategy_that_the_call_names_or_accepts(conf, server, dst):
    url = server.put('/image', DATA)
    with fixtures.registered(Attaching):
        named = oslo_transfer.explain(url, dst, 'attaching', conf=conf)
        conf.change(strategy_order=['attaching'])
        accepted = oslo_transfer.explain(
            url, dst, conf=conf, accept=['file', 'overlay']
        )
    for found in (named, accepted):
        assert choices(found) == [('attaching', 'first')]
    assert not any('strategy_order' in each for each in named.remarks)
    assert any('strategy_order' in each for each in accepted.remarks)


def test_no_strategy_can(conf, server, dst):
    conf.change(strategy_order=['clone'])
    found = oslo_transfer.explain(server.url('/'), dst, conf=conf)
    assert found.strategy is None
    conf.change(strategy_order=[])
    with pytest.raises(exceptions.ConfigurationError, match='strategy_order'):
        oslo_transfer.explain(server.url('/'), dst, conf=conf)


def test_locations_in_the_order_in_which_they_are_tried(conf, dst):
    conf.change(driver_order=['https', 'http'], location_selector='weight')
    heavy = oslo_transfer.Location('http://b.example/', weight=5)
    found = oslo_transfer.explain(
        [
            '/some/file',
            'http://a.example/',
            heavy,
            'gopher://c.example/',
            'https://d.example/',
        ],
        dst,
        conf=conf,
    )
    assert [
        (each.location, each.driver, each.usable) for each in found.locations
    ] == [
        ('https://d.example/', 'http', True),
        ('http://b.example/', 'http', True),
        ('http://a.example/', 'http', True),
        ('/some/file', 'file', True),
        ('gopher://c.example/', None, False),
    ]
    reasons = [each.reason for each in found.locations]
    assert reasons[1] == '"http" is number 2 of driver_order; weight 5'
    assert 'no driver serves' in reasons[-1]
    assert 'location_selector = weight' in found.remarks[0]
    assert 'driver_order = https, http' in found.remarks[0]
    (full_copy,) = [s for s in found.strategies if s.strategy == 'full_copy']
    text = ' '.join(full_copy.steps)
    order = [text.index(each.location) for each in found.locations[:4]]
    assert order == sorted(order)


@pytest.mark.parametrize(
    ('value', 'words'), [(None, 'if that fails'), ('0' * 64, 'beside it')]
)
def test_further_locations_are_used_together_under_a_digest(
    conf, dst, value, words
):
    found = oslo_transfer.explain(
        ['http://a/x', 'ftp://b/x'],
        dst,
        'full_copy',
        conf=conf,
        hash_algo='sha256',
        hash_value=value,
    )
    first, second = found.strategies[0].steps
    assert first.startswith('read http://a/x by http')
    assert second.startswith(words)


def test_driver_that_is_not_enabled_is_told_with_the_option(conf, dst):
    conf.change(enabled_drivers=['http'])
    found = oslo_transfer.explain(
        ['http://a.example/', '/some/file'], 'http://b.example/', conf=conf
    )
    assert not found.locations[1].usable
    assert 'enabled_drivers' in found.locations[1].reason
    with pytest.raises(exceptions.DriverNotFound, match='enabled_drivers'):
        oslo_transfer.explain('http://a.example/', dst, conf=conf)


def test_untrusted_url_that_is_refused(conf, dst):
    found = oslo_transfer.explain(
        [
            oslo_transfer.Location('http://a.example:22/', trusted=False),
            oslo_transfer.Location('/etc/shadow', trusted=False),
            oslo_transfer.Location('http://a.example/', trusted=False),
        ],
        dst,
        conf=conf,
    )
    assert [each.usable for each in found.locations] == [False, False, True]
    assert 'untrusted_ports' in found.locations[0].reason
    assert 'untrusted' in found.locations[1].reason


def test_location_that_failed_lately(conf, server, dst):
    conf.change(max_retries=0)
    bad = server.serve('/bad', lambda request, conn: conn.reply(503))
    oslo_transfer.copy([bad, server.put('/good', DATA)], dst, conf=conf)
    found = oslo_transfer.explain([bad, server.url('/good')], dst, conf=conf)
    assert found.locations[1].location == bad
    assert 'location_backoff' in found.locations[1].reason


def test_file_objects(conf, source, dst):
    with open(source, 'rb') as file, open(dst, 'wb') as target:
        found = oslo_transfer.explain(file, target, conf=conf)
        assert file.tell() == 0
    assert found.locations[0].usable
    assert found.strategy == 'full_copy'


@pytest.mark.parametrize(
    ('options', 'said'),
    [
        ({}, ['it is not replaced']),
        ({'overwrite': True}, []),
        (
            {'hash_algo': 'md5', 'hash_value': '0' * 32},
            ['nothing is copied', 'it is not replaced'],
        ),
    ],
)
def test_destination_that_exists(conf, source, dst, options, said):
    dst.write_bytes(b'other')
    found = oslo_transfer.explain(source, dst, conf=conf, **options)
    remarks = [each for each in found.remarks if 'destination' in each]
    assert len(remarks) == len(said)
    assert all(word in each for word, each in zip(said, remarks, strict=True))


def test_limits_are_told(conf, source, dst):
    conf.change(
        max_connections_per_host=0, host_rate_limit_bytes_per_second=77
    )
    remarks = '; '.join(oslo_transfer.explain(source, dst, conf=conf).remarks)
    assert '77 (host_rate_limit_bytes_per_second)' in remarks
    assert 'max_connections_per_host' not in remarks


@pytest.mark.parametrize(
    ('src', 'target', 'options'),
    [
        ([], 'dst', {}),
        ('http:/x', 'dst', {}),
        ('a', 'dst', {'accept': ['tape']}),
        ('a', 'dst', {'expected_size': -1}),
        ('a', 'dst', {'hash_algo': 'crc32'}),
        ('gopher://a/', 'dst', {}),
        ('a', 'gopher://b/', {}),
    ],
)
def test_what_copy_refuses_is_refused(conf, src, target, options):
    errors = []
    for function in (oslo_transfer.copy, oslo_transfer.explain):
        with pytest.raises(exceptions.TransferError) as caught:
            function(src, target, conf=conf, **options)
        errors.append((type(caught.value), str(caught.value)))
    assert errors[0] == errors[1]


def test_no_secret_is_shown(conf):
    found = oslo_transfer.explain(
        ['http://user:secret@a.example/x?secret=1', 'gopher://u:secret@b/'],
        'http://user:secret@c.example/x?secret=1',
        conf=conf,
    )
    assert 'secret' not in repr(found)


def test_explanation_is_frozen(conf, source, dst):
    found = oslo_transfer.explain(source, dst, conf=conf)
    assert isinstance(found, oslo_transfer.Explanation)
    assert isinstance(found, explanation.Explanation)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.destination = 'x'


@pytest.mark.parametrize('selector', ['order', 'weight'])
def test_nothing_is_touched(conf, server, source, dst, monkeypatch, selector):
    """No byte is read, no connection made, no lock taken, no file left."""
    conf.change(location_selector=selector)
    url = server.put('/image', DATA)
    oslo_transfer.explain([url, source], dst, conf=conf)  # Imports are over.
    touched = []
    real = builtins.open, os.open

    def spy(kind, function):
        def call(path, *args, **kwargs):
            touched.append((kind, path))
            return function(path, *args, **kwargs)

        return call

    monkeypatch.setattr(builtins, 'open', spy('open', real[0]))
    monkeypatch.setattr(os, 'open', spy('os.open', real[1]))
    monkeypatch.setattr(socket.socket, 'connect_ex', spy('connect', None))
    monkeypatch.setattr(socket, 'getaddrinfo', spy('resolve', None))
    monkeypatch.setattr(flight, 'Flight', spy('flight', None))
    before = sorted(os.listdir(dst.parent))
    with shared.current().copies._changed:
        oslo_transfer.explain([url, source], dst, conf=conf)
    monkeypatch.undo()
    assert touched == []
    assert sorted(os.listdir(dst.parent)) == before
    assert server.seen('/image') == []
    assert server.connections.total == 0


def test_nearest_connects_and_asks_nothing(conf, server, dst):
    conf.change(location_selector='nearest')
    with http.ScriptedHTTPServer() as second:
        found = oslo_transfer.explain(
            [server.put('/a', DATA), second.put('/a', DATA)], dst, conf=conf
        )
        assert all('answers in' in each.reason for each in found.locations)
        assert server.seen('/a') == second.seen('/a') == []
    assert not dst.exists()


def test_copy_does_what_is_explained(conf, server, source, tmp_path):
    conf.change(driver_order=['http'], strategy_order=['full_copy'])
    sources = [source, server.put('/image', DATA)]
    found = oslo_transfer.explain(sources, tmp_path / 'dst', conf=conf)
    result = oslo_transfer.copy(sources, tmp_path / 'dst', conf=conf)
    assert result.source == found.locations[0].location
    assert result.strategy == found.strategy
