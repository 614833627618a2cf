# SPDX-License-Identifier: Apache-2.0
"""Drivers and strategies of anybody are found, or missed with a reason."""

from __future__ import annotations

import pytest

import oslo_transfer
from oslo_transfer import _loader
from oslo_transfer import exceptions
from oslo_transfer.strategies import base as strategies_base
from tests.unit import plugins

CONF = """
import sys
from oslo_config import cfg
import oslo_transfer
conf = cfg.ConfigOpts()
conf([], default_config_files=[], default_config_dirs=[])
oslo_transfer.register_opts(conf)

def error(call, *arguments, **options):
    try:
        call(*arguments, **options)
    except oslo_transfer.TransferError as exc:
        print(type(exc).__name__)
        print(exc)
    else:
        print('no error')
"""

TOY = """
    from oslo_config import cfg
    from oslo_transfer.drivers import base

    class ToyDriver(base.Driver):
        name = 'toy'
        schemes = ('toy', 'toys')
        capabilities = base.Capability.READ
        OPTIONS = (
            cfg.IntOpt('count', default=3, min=1, max=9, help='Bytes.'),
        )

        def open_source(self, endpoint, ctx):
            count = self.conf.oslo_transfer_toy.count
            return ToySource(count * endpoint.host[0].encode())

    class ToySource(base.Source):
        capabilities = base.Capability.READ

        def __init__(self, data):
            self.data = data
            self.size = len(data)

        def stream(self, offset, length):
            return ToyStream(self.data[offset:])

        def close(self):
            pass

    class ToyStream(base.Stream):
        def __init__(self, data):
            super().__init__()
            self.data = data

        def readinto(self, buffer):
            count = min(len(buffer), len(self.data))
            buffer[:count] = self.data[:count]
            self.data = self.data[count:]
            return count
"""
TOY_POINTS = {
    _loader.DRIVERS: [
        'toy = toy_plugin:ToyDriver',
        'toys = toy_plugin:ToyDriver',
    ]
}


def test_drivers_in_the_tree_are_registered_like_all_others():
    assert {'file', 'http', 'https'} <= set(_loader.names(_loader.DRIVERS))
    for scheme in ('file', 'http', 'https'):
        assert scheme in _loader.driver_class(scheme).schemes


def test_strategies_in_the_tree_are_registered_like_all_others():
    assert {'clone', 'full_copy'} <= set(_loader.names(_loader.STRATEGIES))
    for name in ('clone', 'full_copy'):
        cls = _loader.strategy_class(name)
        assert issubclass(cls, strategies_base.Strategy)
        assert cls.name == name


def test_unknown_scheme_is_told_with_the_known_ones(conf):
    with pytest.raises(exceptions.DriverNotFound) as caught:
        oslo_transfer.copy('gopher://host/', '/nowhere', conf=conf)
    assert '"gopher"' in str(caught.value)
    known = 'file, ftp, ftps, http, https, iscsi, nbd, nbds, nfs, proxy, sftp'
    assert known in str(caught.value)


def test_unknown_strategy_is_told_with_the_known_ones(conf, tmp_path):
    (tmp_path / 'a').touch()
    with pytest.raises(exceptions.StrategyNotFound) as caught:
        oslo_transfer.copy(
            tmp_path / 'a', tmp_path / 'b', 'nothing', conf=conf
        )
    assert '"nothing"' in str(caught.value)
    assert 'full_copy' in str(caught.value)


def test_scheme_that_is_not_enabled(conf, server, tmp_path):
    conf.set_override('enabled_drivers', ['file'], group='oslo_transfer')
    url = server.put('/image', b'data')
    with pytest.raises(exceptions.DriverNotFound, match='enabled_drivers'):
        oslo_transfer.copy(url, tmp_path / 'image', conf=conf)
    assert server.connections.total == 0


def test_path_counts_as_the_scheme_file(conf, server, tmp_path):
    conf.set_override('enabled_drivers', ['http'], group='oslo_transfer')
    url = server.put('/image', b'data')
    with pytest.raises(exceptions.DriverNotFound, match='"file"'):
        oslo_transfer.copy(url, tmp_path / 'image', conf=conf)


def test_location_whose_driver_is_missing_is_passed_over(
    conf, server, tmp_path
):
    url = server.put('/image', b'data')
    result = oslo_transfer.copy(
        ['rbd://pool/image', url], tmp_path / 'image', conf=conf
    )
    assert result.source == url
    assert result.attempts[0].location == 'rbd://pool/image'
    assert result.attempts[0].error == 'DriverNotFound'


def test_plugin_serves_its_scheme_with_its_options(tmp_path):
    plugins.install(tmp_path, 'toy_plugin', TOY_POINTS, TOY)
    told = plugins.run(
        CONF
        + """
assert 'toy_plugin' not in sys.modules
assert 'oslo_transfer_toy' not in conf
result = oslo_transfer.copy('toys://abc', sys.argv[1], conf=conf)
print(result.driver, open(sys.argv[1]).read())
conf.set_override('count', 5, group='oslo_transfer_toy')
with oslo_transfer.open_source('toy://abc', conf=conf) as source:
    print(source.size)
""",
        tmp_path / 'image',
        path=tmp_path,
    )
    assert told.split() == ['toy', 'aaa', '5']


def test_missing_extra_is_named(tmp_path):
    told = plugins.run(
        """
import importlib.abc, sys

class Without(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name.partition('.')[0] == 'requests':
            raise ModuleNotFoundError(f"No module named '{name}'")

sys.meta_path.insert(0, Without())
"""
        + CONF
        + """
error(oslo_transfer.copy, 'http://127.0.0.1/', '/nowhere', conf=conf)
# All else works on.
result = oslo_transfer.copy(
    ['http://127.0.0.1/', sys.argv[1]], sys.argv[2], conf=conf
)
print(result.attempts[0].error)
""",
        __file__,
        tmp_path / 'copy',
    )
    kind, message, passed_over = told.splitlines()
    assert kind == passed_over == 'DriverLoadError'
    assert "pip install 'oslo.transfer[http]'" in message
    assert "No module named 'requests'" in message


def test_broken_plugin_names_its_package(tmp_path):
    plugins.install(
        tmp_path,
        'broken_plugin',
        {
            _loader.DRIVERS: [
                'fails = broken_plugin:Driver',
                'lacks = broken_plugin_2:Driver [fast]',
            ],
            _loader.STRATEGIES: ['breaks = broken_plugin:Strategy'],
        },
        "raise RuntimeError('out of luck')",
    )
    told = plugins.run(
        CONF
        + """
error(oslo_transfer.copy, 'fails://a', '/nowhere', conf=conf)
error(oslo_transfer.copy, 'lacks://a', '/nowhere', conf=conf)
error(oslo_transfer.copy, '/etc/hostname', sys.argv[1], 'breaks', conf=conf)
""",
        tmp_path / 'copy',
        path=tmp_path,
    ).splitlines()
    assert told[::2] == ['DriverLoadError'] * 3
    assert 'out of luck' in told[1]
    assert 'reinstall broken_plugin' in told[1]
    assert "pip install 'broken_plugin[fast]'" in told[3]
    assert 'out of luck' in told[5]


def test_name_that_two_packages_offer_is_nobodys(tmp_path):
    for name in ('toy_plugin', 'toy_rival'):
        plugins.install(
            tmp_path,
            name,
            {_loader.DRIVERS: [f'toy = {name}:ToyDriver']},
            TOY,
        )
    told = plugins.run(
        CONF
        + """
error(oslo_transfer.copy, 'toy://a', '/nowhere', conf=conf)
""",
        path=tmp_path,
    )
    kind, message = told.splitlines()
    assert kind == 'DriverLoadError'
    assert 'more than one installed package offers "toy"' in message


def test_error_of_a_constructor_is_not_taken_for_a_failed_load(
    conf, monkeypatch
):
    class Driver:
        OPTIONS = ()

        def __init__(self, conf):
            raise LookupError('my own')

    monkeypatch.setattr(_loader, '_load', lambda *names: Driver)
    with pytest.raises(LookupError, match='my own'):
        oslo_transfer.open_source('toy://a', conf=conf)


def test_driver_is_made_once_for_a_call(conf, tmp_path, monkeypatch):
    made = []
    load = _loader.driver

    def count(scheme, conf):
        made.append(scheme)
        return load(scheme, conf)

    monkeypatch.setattr(_loader, 'driver', count)
    (tmp_path / 'a').write_bytes(b'data')
    oslo_transfer.copy(
        [tmp_path / 'none', tmp_path / 'a'], tmp_path / 'b', conf=conf
    )
    assert made == ['file']
