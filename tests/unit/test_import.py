# SPDX-License-Identifier: Apache-2.0
"""Importing the library costs a service nothing but the import."""

from __future__ import annotations

import json

import pytest

from tests.unit import plugins


@pytest.fixture(scope='module')
def seen():
    """What an import has changed in a process."""
    return json.loads(
        plugins.run(
            """
            import json, os, signal, sys, threading, warnings

            def descriptors():
                names = os.listdir('/proc/self/fd')
                return sorted(
                    os.readlink(f'/proc/self/fd/{name}')
                    for name in names
                    if os.path.exists(f'/proc/self/fd/{name}')
                )

            def handlers():
                return {
                    str(number): str(signal.getsignal(number))
                    for number in signal.valid_signals()
                }

            import logging, socket
            from oslo_config import cfg
            warnings.simplefilter('error')
            before = set(sys.modules)
            found = {'descriptors': [descriptors()], 'signals': [handlers()]}
            environment = dict(os.environ)
            import oslo_transfer
            found['descriptors'].append(descriptors())
            found['signals'].append(handlers())
            found['environment'] = os.environ == environment
            found['modules'] = sorted(set(sys.modules) - before)
            found['threads'] = threading.active_count()
            found['groups'] = sorted(cfg.CONF._groups)
            found['options'] = sorted(
                name for name in cfg.CONF._opts if 'transfer' in name
            )
            logger = logging.getLogger('oslo_transfer')
            found['handlers'] = len(logger.handlers)
            found['level'] = logger.level
            found['socket'] = socket.socket.__module__
            found['public'] = sorted(oslo_transfer.__all__)
            print(json.dumps(found))
            """
        )
    )


def test_what_is_needed_later_is_not_loaded(seen):
    for name in (
        'requests',
        'urllib3',
        'eventlet',
        'greenlet',
        'cliff',
        'os_brick',
        'oslo_privsep',
        'oslo_service',
        'libtorrent',
        'paramiko',
        'multiprocessing',
        'asyncio',
        'oslo_transfer.cli',
        'oslo_transfer.testing',
        'oslo_transfer.drivers.file',
        'oslo_transfer.drivers.http.driver',
        'oslo_transfer.strategies.full_copy',
        'oslo_transfer.strategies.clone',
    ):
        assert name not in seen['modules']


def test_no_thread_is_started(seen):
    assert seen['threads'] == 1


def test_no_descriptor_is_opened(seen):
    assert seen['descriptors'][0] == seen['descriptors'][1]


def test_no_option_is_registered(seen):
    assert seen['groups'] == []
    assert seen['options'] == []


def test_signals_logging_and_environment_stay_as_they_were(seen):
    assert seen['signals'][0] == seen['signals'][1]
    assert seen['handlers'] == seen['level'] == 0
    assert seen['environment']
    assert seen['socket'] == 'socket'


def test_public_names(seen):
    assert {
        'copy',
        'open_source',
        'attach',
        'attachments',
        'detach',
        'register_opts',
        'Location',
        'Credentials',
        'LoginCredentials',
        'TokenCredentials',
        'TransferError',
        'TransferResult',
        'Attempt',
        'Attachment',
    } <= set(seen['public'])
