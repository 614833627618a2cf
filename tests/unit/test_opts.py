# SPDX-License-Identifier: Apache-2.0
"""Options say what they mean, and are registered where they are asked for."""

from __future__ import annotations

import configparser
import importlib.metadata
import pathlib
import re

from oslo_config import cfg
from oslo_config import generator
from oslo_config import types
import pytest

import oslo_transfer
from oslo_transfer import datacenters
from oslo_transfer import exceptions
from oslo_transfer import opts
from oslo_transfer import urlpolicy
from tests.unit import plugins

OPTIONS = [
    (group, option)
    for group, options in opts.list_opts()
    for option in options
]
each_option = pytest.mark.parametrize(
    ('group', 'option'),
    OPTIONS,
    ids=[f'{group}-{option.name}' for group, option in OPTIONS],
)
NUMBERS = [
    (group, option)
    for group, option in OPTIONS
    if isinstance(option.type, types.Number)
]


def numbers(option):
    """The number types of an option, also of the items of a list."""
    kind = option.type
    if isinstance(kind, types.List):
        kind = kind.item_type
    return [kind] if isinstance(kind, types.Number) else []


def test_entry_point_leads_here():
    (point,) = importlib.metadata.entry_points(
        group='oslo.config.opts', name='oslo.transfer'
    )
    assert point.load() is opts.list_opts


def test_groups():
    groups = {group for group, _option in OPTIONS}
    assert groups >= {'oslo_transfer', 'oslo_transfer_http'}
    assert all(re.fullmatch(r'oslo_transfer(_[a-z]+)*', g) for g in groups)


def test_no_name_is_used_twice():
    names = [(group, option.dest) for group, option in OPTIONS]
    assert len(names) == len(set(names))


@each_option
def test_help_is_a_sentence(group, option):
    assert option.help
    assert option.help == option.help.strip()
    assert option.help.endswith('.')
    assert option.help[0].isupper()
    assert '  ' not in option.help


@each_option
def test_numbers_are_bounded(group, option):
    for kind in numbers(option):
        assert kind.min is not None
        assert kind.max is not None
        assert kind.min <= kind.max


@each_option
def test_unit_of_a_size_or_time_is_named(group, option):
    words = set(re.findall(r'[a-z]+', option.help.lower()))
    if re.search('timeout|delay|interval|age$', option.name):
        assert 'seconds' in words
    if 'bytes' in option.name or re.search('size$|_size_', option.name):
        assert 'bytes' in words
    if 'per_second' in option.name:
        assert words & {'second', 'seconds'}


@each_option
def test_default_is_valid(group, option):
    for value in (
        option.default
        if isinstance(option.default, list)
        else [option.default]
    ):
        for kind in numbers(option):
            kind(value)


def test_defaults_are_safe():
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    oslo_transfer.register_opts(conf)
    policy = urlpolicy.from_conf(conf)
    assert policy.schemes == {'http', 'https'}
    assert policy.ports == {80, 443}
    assert policy.networks == ()
    http = conf.oslo_transfer_http
    assert http.netrc_file is None
    assert http.http_proxy is http.https_proxy is None
    assert http.max_redirects <= 10


def test_what_may_hold_a_password_is_secret():
    for _group, option in OPTIONS:
        if re.search('proxy$|password|token|secret', option.name):
            # What is in a file is not in the configuration.
            if option.name != 'no_proxy' and not option.name.endswith('_file'):
                assert option.secret, option.name


def test_listed_options_are_copies():
    for (_, first), (_, second) in zip(
        opts.list_opts(), opts.list_opts(), strict=True
    ):
        assert len(first) == len(second)
        for one, other in zip(first, second, strict=True):
            assert one is not other
            assert one == other
    group, options = opts.list_opts()[0]
    options[0].default = 'changed'
    options.clear()
    assert opts.list_opts()[0][1][0].default != 'changed'
    conf = cfg.ConfigOpts()
    oslo_transfer.register_opts(conf)
    assert conf.oslo_transfer.enabled_drivers == []


def test_registering_twice_changes_nothing(conf):
    conf.set_override('max_streams', 7, group='oslo_transfer')
    oslo_transfer.register_opts(conf)
    assert conf.oslo_transfer.max_streams == 7


@pytest.mark.parametrize(('group', 'option'), NUMBERS)
def test_value_out_of_bounds_is_refused(conf, group, option):
    conf.register_opts(opts.DATACENTER_OPTIONS, group=opts.DATACENTER_SAMPLE)
    for value in (option.type.min - 1, option.type.max + 1):
        with pytest.raises(ValueError):
            conf.set_override(option.dest, value, group=group)


def test_values_come_from_a_file(tmp_path):
    file = tmp_path / 'nova.conf'
    file.write_text(
        '[oslo_transfer]\n'
        'max_streams = 3\n'
        'strategy_order = full_copy\n'
        'untrusted_ports = 80,8080\n'
        '[oslo_transfer_http]\n'
        'no_proxy = .example.com,10.0.0.0/8\n'
    )
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    oslo_transfer.register_opts(conf)
    assert conf.oslo_transfer.max_streams == 3
    assert conf.oslo_transfer.strategy_order == ['full_copy']
    assert conf.oslo_transfer.untrusted_ports == [80, 8080]
    assert conf.oslo_transfer_http.no_proxy == ['.example.com', '10.0.0.0/8']


@pytest.mark.parametrize('port', ['0', '65536', 'http'])
def test_ports_that_are_none_are_refused(conf, port):
    with pytest.raises(ValueError):
        conf.set_override('untrusted_ports', [port], group='oslo_transfer')


@pytest.mark.parametrize(
    'name', ['untrusted_networks', 'untrusted_refused_networks']
)
@pytest.mark.parametrize('network', ['10.0.0.1/8', 'ten', '10.0.0.0/33'])
def test_malformed_network_is_told_with_its_option(conf, name, network):
    conf.set_override(name, [network], group='oslo_transfer')
    with pytest.raises(exceptions.ConfigurationError, match=name):
        oslo_transfer.open_source('/nowhere', conf=conf)


def test_sample_configuration(tmp_path):
    sample = tmp_path / 'sample.conf'
    conf = cfg.ConfigOpts()
    generator.register_cli_opts(conf)
    conf(
        ['--namespace', 'oslo.transfer', '--output-file', str(sample)],
        default_config_files=[],
        default_config_dirs=[],
    )
    generator.generate(conf)
    text = sample.read_text()
    for group, option in OPTIONS:
        assert f'[{group}]\n' in text
        assert re.search(f'^#?{option.dest} =', text, re.MULTILINE)


@pytest.mark.parametrize(
    'name',
    [
        *('attach.conf', 'choosing.conf', 'sample.conf', 'swarm.conf'),
        'zero-copy.conf',
    ],
)
def test_configurations_in_the_documentation(name):
    """Every option in them exists, and every value can be used."""
    file = pathlib.Path(__file__).parents[2] / 'doc/source/admin' / name
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    oslo_transfer.register_opts(conf)
    datacenters.from_conf(conf)
    parsed = configparser.ConfigParser(strict=True)
    parsed.read(file)
    for group in parsed.sections():
        for option in parsed[group]:
            assert conf[group][option] not in (None, [], {}), option
    assert set(parsed.sections()) <= set(conf)


# Whose configuration it is


def test_foreign_configuration_needs_no_call_before(tmp_path):
    """A service passes its own; nothing was registered on it before."""
    conf = cfg.ConfigOpts()
    conf.register_opts([cfg.StrOpt('state_path', default='/service')])
    conf([], default_config_files=[], default_config_dirs=[])
    (tmp_path / 'a').write_bytes(b'data')
    oslo_transfer.copy(tmp_path / 'a', tmp_path / 'b', conf=conf)
    assert (tmp_path / 'b').read_bytes() == b'data'
    assert conf.state_path == '/service'


def test_two_configurations_live_side_by_side(server, tmp_path):
    url = server.put('/image', b'data')
    confs = []
    for order in (['clone'], ['full_copy']):
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
        oslo_transfer.register_opts(conf)
        conf.set_override('strategy_order', order, group='oslo_transfer')
        confs.append(conf)
    with pytest.raises(exceptions.CapabilityMissing):
        oslo_transfer.copy(url, tmp_path / 'a', conf=confs[0])
    assert oslo_transfer.copy(url, tmp_path / 'b', conf=confs[1]).size == 4


def test_global_configuration_is_used_if_none_is_given(tmp_path):
    (tmp_path / 'a').write_bytes(b'data')
    plugins.run(
        """
        from oslo_config import cfg
        import oslo_transfer
        import sys
        assert 'oslo_transfer' not in cfg.CONF
        oslo_transfer.copy(sys.argv[1], sys.argv[2])
        assert cfg.CONF.oslo_transfer.max_streams
        cfg.CONF.set_override(
            'enabled_drivers', ['http'], group='oslo_transfer'
        )
        try:
            oslo_transfer.copy(sys.argv[1], sys.argv[3])
        except oslo_transfer.TransferError:
            print('refused')
        """,
        tmp_path / 'a',
        tmp_path / 'b',
        tmp_path / 'c',
    )
    assert (tmp_path / 'b').read_bytes() == b'data'
    assert not (tmp_path / 'c').exists()


def test_reload_is_seen_by_the_next_call(server, tmp_path):
    file = tmp_path / 'service.conf'
    file.write_text('[oslo_transfer]\nenabled_drivers = file\n')
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(file)], default_config_dirs=[])
    url = server.put('/image', b'data')
    with pytest.raises(exceptions.DriverNotFound):
        oslo_transfer.copy(url, tmp_path / 'a', conf=conf)
    file.write_text('[oslo_transfer]\nenabled_drivers =\n')
    conf.reload_config_files()
    assert oslo_transfer.copy(url, tmp_path / 'a', conf=conf).size == 4


@pytest.mark.parametrize(
    ('home', 'state'),
    [
        ({'XDG_STATE_HOME': '/x'}, '/x/oslo-transfer'),
        (
            {'XDG_STATE_HOME': '', 'HOME': '/h'},
            '/h/.local/state/oslo-transfer',
        ),
    ],
)
def test_state_of_a_user_is_in_the_users_home(monkeypatch, home, state):
    monkeypatch.setattr('os.geteuid', lambda: 1000)
    for name, value in home.items():
        monkeypatch.setenv(name, value)
    assert opts.default_state_path() == state


def test_state_of_root_is_in_the_systems_place(monkeypatch):
    monkeypatch.setattr('os.geteuid', lambda: 0)
    monkeypatch.setenv('XDG_STATE_HOME', '/x')
    assert opts.default_state_path() == '/var/lib/oslo-transfer'


@pytest.mark.parametrize('value', ['4096', '65536', '4194304'])
def test_blocks_of_the_cache(value, conf):
    conf.set_override('block_bytes', value, 'oslo_transfer_cache')
    assert conf.oslo_transfer_cache.block_bytes == int(value)


@pytest.mark.parametrize('value', ['5001', '4097', '2048', '8388608', 'x'])
def test_no_blocks_of_the_cache(value, conf):
    with pytest.raises(ValueError):
        conf.set_override('block_bytes', value, 'oslo_transfer_cache')
