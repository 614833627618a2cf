# SPDX-License-Identifier: Apache-2.0
"""Under eventlet's patching all works, and nobody else has to wait."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys

import pytest

from tests.consumers import shapes
from tests.servers import http
from tests.servers import resource

# One process runs all scenarios, and so has to be run by one worker.
pytestmark = pytest.mark.xdist_group('eventlet')

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
)
CANCELS = ('cancelled', 'cancelled_busy')
ALL = (*COPIES, 'read', *CANCELS)


def environment():
    """The environment of a child that finds this package and the tests."""
    root = os.path.dirname(os.path.dirname(os.path.dirname(__file__)))
    path = os.pathsep.join([root, os.environ.get('PYTHONPATH', '')])
    return {**os.environ, 'PYTHONPATH': path.rstrip(os.pathsep)}


@pytest.fixture(scope='module')
def outcome(tmp_path_factory):
    directory = tmp_path_factory.mktemp('eventlet')
    file = directory / 'image'
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
            'directory': str(directory),
            'sha256': hashlib.sha256(DATA).hexdigest(),
            'options': {'stall_timeout': 5.0},
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
        found = json.loads(child.stdout)
        found['peak'] = server.connections.peak
        found['uploaded'] = server.uploads.get('/upload')
    return found


@pytest.mark.parametrize('name', ALL)
def test_other_green_threads_go_on(outcome, name):
    assert outcome['found'][name]['gap'] < GAP
    assert outcome['found'][name]['ticks'] > 0


@pytest.mark.parametrize('name', COPIES)
def test_copy_is_right(outcome, name):
    found = outcome['found'][name]
    assert 'error' not in found
    assert found['size'] == len(DATA)
    assert found.get('right', True)
    unhashed = ('splice', 'local', 'observed')
    assert found['verified'] == (name not in unhashed)
    assert found['reused'] == (name == 'reused')


def test_kernel_moves_bytes_from_green_sockets(outcome):
    assert outcome['found']['splice']['method'] == 'splice'


def test_streams_are_parallel(outcome):
    assert outcome['peak'] > 1


def test_upload_arrives(outcome):
    assert outcome['uploaded'] == DATA


def test_proxied_file_has_its_name(outcome):
    assert outcome['found']['proxied_file']['name']


def test_source_is_read(outcome):
    assert outcome['found']['read']['right']


@pytest.mark.parametrize('name', CANCELS)
def test_cancel_from_another_green_thread(outcome, name):
    found = outcome['found'][name]
    assert found['error'] == 'TransferCancelled'
    assert found['after'] < 1.0


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
import oslo_transfer
file, url, put, directory = sys.argv[1:]
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
        env={
            **environment(),
            'HOME': str(tmp_path),
            'XDG_STATE_HOME': str(tmp_path / 'state'),
        },
        timeout=60,
        check=True,
    )
    assert (tmp_path / '1').read_bytes() == shapes.IMAGE
    assert (tmp_path / '2').read_bytes() == shapes.IMAGE
    assert server.uploads['/upload'] == shapes.IMAGE
