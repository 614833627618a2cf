# SPDX-License-Identifier: Apache-2.0
"""os-brick is set up by the configuration that the caller has."""

from __future__ import annotations

import pathlib
import re
import subprocess
import sys

import pytest

pytest.importorskip('os_brick')

# In a process of its own: os-brick and oslo.privsep look at cfg.CONF.
_PROGRAM = """
from oslo_config import cfg
import oslo_transfer
from oslo_transfer.drivers import brick
import sys
own, service = sys.argv[1:]
if service:
    cfg.CONF([], default_config_files=[service], default_config_dirs=[])
conf = cfg.ConfigOpts()
conf([], default_config_files=[own], default_config_dirs=[])
oslo_transfer.register_opts(conf)
brick.module('os_brick', conf)
print(cfg.CONF.privsep_osbrick.helper_command)
print(cfg.CONF.privsep_oslo_transfer.helper_command)
print(cfg.CONF.os_brick.lock_path)
"""


def _run(*arguments):
    return subprocess.run(
        [sys.executable, '-c', _PROGRAM, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    ).stdout.splitlines()


def _file(path, word):
    path.write_text(
        f'[privsep_osbrick]\nhelper_command = {word} one\n'
        f'[privsep_oslo_transfer]\nhelper_command = {word} two\n'
        f'[os_brick]\nlock_path = /{word}\n'
    )
    return path


def test_commands_become_root_as_their_file_says(tmp_path):
    """Nobody else has read a configuration in the process."""
    own = _file(tmp_path / 'own.conf', 'own')
    assert _run(own, '') == ['own one', 'own two', '/own']


def test_a_service_becomes_root_as_its_file_says(tmp_path):
    """It may give another configuration to the library."""
    own = _file(tmp_path / 'own.conf', 'own')
    service = _file(tmp_path / 'service.conf', 'service')
    assert _run(own, service) == ['service one', 'service two', '/service']


# The commands that start the daemons

_ETC = pathlib.Path(__file__).parents[2] / 'etc/oslo-transfer'
_COMMANDS = """
from oslo_config import cfg
import oslo_transfer
from oslo_transfer.drivers import brick
import sys
conf = cfg.ConfigOpts()
conf([], default_config_files=sys.argv[1:], default_config_dirs=[])
oslo_transfer.register_opts(conf)
for name in ('os_brick', 'oslo_transfer'):
    context = brick.module(f'{name}.privileged', conf).default
    print(*context.helper_command('/tmp/tmp0a_b/privsep.sock'))
"""


def _commands(*files):
    done = subprocess.run(
        [sys.executable, '-c', _COMMANDS, *map(str, files)],
        check=True,
        capture_output=True,
        text=True,
    )
    return done.stdout.splitlines()


def test_the_rule_for_sudo_fits_the_commands(tmp_path):
    """With the helper_command of the documentation."""
    conf = tmp_path / 'transfer.conf'
    conf.write_text(
        '[privsep_osbrick]\nhelper_command = sudo privsep-helper\n'
        '[privsep_oslo_transfer]\nhelper_command = sudo privsep-helper\n'
    )
    text = (_ETC / 'sudoers.d/oslo-transfer').read_text()
    (rule,) = re.findall(r'^ +\S+/privsep-helper (.*)$', text, re.MULTILINE)
    for line in _commands(conf):
        program, helper, arguments = line.split(' ', 2)
        assert (program, helper) == ('sudo', 'privsep-helper')
        assert re.search(rule, arguments)
        more = f'--config-file /tmp/x {arguments}'
        assert not re.search(rule, more)
