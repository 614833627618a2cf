# SPDX-License-Identifier: Apache-2.0
"""Under eventlet's patching all works, and nobody else has to wait."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

import oslo_transfer
from oslo_transfer.drivers.bittorrent import create
from oslo_transfer.testing import fixtures
from tests.consumers import shapes
from tests.servers import http
from tests.servers import resource

DATA = resource.pattern(16 << 20, seed=3)
#: The longest that the hub may be kept from the rest of the service.
GAP = 1.0
COPIES = (
    'digest',
    'by_name',
    'splice',
    'parallel',
    'local',
    'observed',
    'reused',
    'upload',
    'proxied_file',
    'proxied_name',
    'memory',
    'torrent',
    'dd',
)
CANCELS = ('cancelled', 'cancelled_busy')
ALL = (*COPIES, 'read', *CANCELS)


def environment():
    """The environment of a child that finds this package and the tests."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    path = os.pathsep.join([root, os.environ.get('PYTHONPATH', '')])
    return {**os.environ, 'PYTHONPATH': path.rstrip(os.pathsep)}


def published(file):
    """The path of a torrent file of a file."""
    path = f'{file}.torrent'
    with oslo_transfer.open_source(file, conf=fixtures.make_conf()) as source:
        data = create.create(source, name='image')
    with open(path, 'xb') as torrent:
        torrent.write(data)
    return path


@pytest.fixture
def outcome(tmp_path):
    """What came of each scenario, in one process."""
    file = tmp_path / 'image'
    file.write_bytes(DATA)
    with http.ScriptedHTTPServer() as server:

        def stalled(request, conn):
            conn.send_head(200, {'Content-Length': '1000000000'})
            conn.send(DATA[:100_000])
            conn.stall()

        job = {
            'url': server.put('/image', DATA),
            'slow_url': server.put('/slow', DATA, rate=8 << 20),
            'stalled_url': server.serve('/stalled', stalled),
            'put_url': server.allow_put('/upload'),
            'file': str(file),
            'torrent': 'torrent+file://' + published(file),
            'directory': str(tmp_path),
            'sha256': hashlib.sha256(DATA).hexdigest(),
            'options': {
                'stall_timeout': 5.0,
                'state_path': str(tmp_path / 'state'),
            },
            'scenarios': ALL,
        }
        child = subprocess.run(
            [sys.executable, '-m', 'tests.consumers.under_eventlet'],
            input=json.dumps(job),
            stdout=subprocess.PIPE,
            text=True,
            env=environment(),
            timeout=60,
            check=True,
        )
        found = json.loads(child.stdout)['found']
        assert server.uploads['/upload'] == DATA
        # The slow one is read by several streams.
        assert len(server.seen('/slow')) > 2
    return found


def test_service_under_eventlet(outcome):
    """One test, as one process runs it all."""
    for name in COPIES:
        found = outcome[name]
        assert 'error' not in found, (name, found)
        assert found['size'] == len(DATA), name
        assert found.get('right', True), name
        unhashed = ('splice', 'local', 'observed')
        assert found['verified'] == (name not in unhashed), name
        assert found['reused'] == (name == 'reused'), name
    assert outcome['splice']['method'] == 'splice'
    assert outcome['torrent']['method'] == 'fill'
    assert outcome['proxied_file']['name']
    assert outcome['read']['right']
    for name in CANCELS:
        assert outcome[name]['error'] == 'TransferCancelled', name
        assert outcome[name]['after'] < 1.0, name
    for name in ALL:
        # The other green threads went on all the time.
        assert outcome[name]['gap'] < GAP, name
    # One that is over at once has none.
    assert sum(outcome[name]['ticks'] for name in ALL) > len(ALL)


def test_nova_refuses_to_start_if_a_library_imports_eventlet(server, tmp_path):
    """The finder of nova/monkey_patch.py; here it guards both protocols."""
    script = """
import importlib.abc, sys

class Poison(importlib.abc.MetaPathFinder):
    def find_spec(self, fullname, path, target=None):
        if fullname == 'eventlet' or fullname.startswith('eventlet.'):
            raise ImportError(
                'The service started in native threading mode so it should '
                'not import eventlet'
            )

sys.meta_path.insert(0, Poison())
from oslo_config import cfg
import oslo_transfer
file, url, put, directory = sys.argv[1:]
oslo_transfer.register_opts(cfg.CONF)
cfg.CONF.set_override('state_path', directory + '/state', 'oslo_transfer')
digest = oslo_transfer.copy(file, directory + '/1', hash_algo='sha512').digest
algorithm, value = digest.split(':')
known = {'hash_algo': algorithm, 'hash_value': value}
assert oslo_transfer.copy(url, directory + '/2', **known).verified
assert oslo_transfer.copy(directory + '/2', put, **known).verified
assert oslo_transfer.copy(url, directory + '/2', **known).reused
with oslo_transfer.open_source(url) as source:
    assert len(source.stream(0, None).readall()) == source.size
with oslo_transfer.attach(file) as attachment:
    assert attachment.path == file
assert not oslo_transfer.attachments()
assert not any(name.startswith('eventlet') for name in sys.modules)
"""
    file = tmp_path / 'image'
    file.write_bytes(shapes.IMAGE)
    subprocess.run(
        [
            sys.executable,
            '-c',
            script,
            str(file),
            server.put('/image', shapes.IMAGE),
            server.allow_put('/upload'),
            str(tmp_path),
        ],
        env={**environment(), 'HOME': str(tmp_path)},
        timeout=60,
        check=True,
    )
    assert (tmp_path / '1').read_bytes() == shapes.IMAGE
    assert (tmp_path / '2').read_bytes() == shapes.IMAGE
    assert server.uploads['/upload'] == shapes.IMAGE
