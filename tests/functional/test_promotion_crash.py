# SPDX-License-Identifier: Apache-2.0
"""The service is killed while an image becomes a file of its own.

The next one goes on: in the end the destination is what it should be, once,
whatever step was the last.
"""

from __future__ import annotations

import contextlib
import os
import pathlib
import shutil
import signal
import subprocess
import time

import pytest

import oslo_transfer
from oslo_transfer.cache import store
from oslo_transfer.drivers import localfs
from oslo_transfer import qcow2
from oslo_transfer.service import cache
from oslo_transfer.service import client
from oslo_transfer.service import completing
from oslo_transfer.service import daemon
from oslo_transfer.service import promoting
from oslo_transfer.service import serving
from oslo_transfer.testing import harness
from tests.functional import forkserver
from tests import groups
from tests.servers import dd_lab

DATA = harness.pattern(3 << 20, 'image') + bytes(1 << 20)

pytestmark = groups.marks(
    'cache', all(map(shutil.which, ('qemu-img', 'nbdfuse')))
)


@pytest.fixture
def here():
    with dd_lab.short_directory() as path:
        yield path


def configure(conf, here):
    for name, value, group in (
        ('state_path', str(here / 'state'), 'oslo_transfer'),
        ('control_socket', str(here / 'sock'), 'oslo_transfer_service'),
        ('hydrate_delay', 0.0, 'oslo_transfer_cache'),
    ):
        conf.set_override(name, value, group=group)
    return conf


def die(*_args, **_rest):
    os.kill(os.getpid(), signal.SIGKILL)


def before(where, name):
    """Die when a function is about to be called."""
    setattr(where, name, die)


def after(where, name):
    """Die when a function has returned."""
    function = getattr(where, name)

    def call(*args, **rest):
        function(*args, **rest)
        die()

    setattr(where, name, call)


STAGES = {
    'complete': lambda: before(completing.Way, '_leave_cache'),
    'noted': lambda: after(serving.Served, 'note'),
    'taken': lambda: after(store.Store, 'take'),
    'left': lambda: after(completing.Way, '_leave_cache'),
    'flushed': lambda: before(localfs, 'rename'),
    'renamed': lambda: after(localfs, 'rename'),
    'placed': lambda: after(promoting, 'place'),
    'about to be changed': lambda: before(promoting, 'repoint'),
    'changed': lambda: after(promoting, 'repoint'),
}
# Where it cannot be renamed, because others use the image, too.
COPIES = {
    'copied': lambda: after(promoting, 'copied'),
    'noted': lambda: after(serving.Served, 'note'),
    'placed': lambda: after(promoting, 'place'),
}


def serve(here, stage, stages):
    """The job of a child."""
    (STAGES if stages == 'moving' else COPIES)[stage]()
    conf = configure(forkserver.make_conf({}), pathlib.Path(here))
    with daemon.Service(conf, [cache.CacheRole(conf)]) as service:
        while True:
            service.tick()
            time.sleep(0.01)


@contextlib.contextmanager
def running(here, conf):
    """The service that goes on."""
    with daemon.Service(conf, [cache.CacheRole(conf)]) as service:
        asks = client.Client(conf)

        def released():
            service.tick()
            states = [each['state'] for each in asks.cached()]
            return set(states) <= {'released'}

        assert harness.wait_for(released, 20), asks.cached()
        yield


def check(here, form, name='disk'):
    """The destination is what it should be, once."""
    disk = here / name
    base = here / f'{name}.base' if form == 'overlay' else disk
    assert base.read_bytes() == DATA
    assert base.stat().st_nlink == 1
    assert not base.is_symlink()
    if form == 'overlay':
        assert qcow2.backing(str(disk)) == (str(base), 'raw')
    subprocess.run(
        ['qemu-img', 'compare', '-q', disk, here / 'origin'],
        check=True,
        stdin=subprocess.DEVNULL,
    )


def copy(here, conf, form, name='disk'):
    return oslo_transfer.copy(
        here / 'origin',
        here / name,
        'copy_on_read',
        conf=conf,
        accept=('file', form),
    )


@pytest.mark.parametrize(
    ('form', 'stage'),
    [
        (form, stage)
        for form in ('overlay', 'path')
        for stage in STAGES
        if form == 'overlay' or 'change' not in stage
    ],
)
def test_while_it_is_renamed(form, stage, here, conf, children):
    configure(conf, here)
    (here / 'origin').write_bytes(DATA)
    with daemon.Service(conf, [cache.CacheRole(conf)]):
        copy(here, conf, form)
    child = children.start(serve, str(here), stage, 'moving')
    assert child.wait(20)
    with running(here, conf):
        for each in oslo_transfer.attachments(conf):
            each.detach()
    check(here, form)


@pytest.mark.parametrize('stage', COPIES)
@pytest.mark.parametrize('form', ['overlay', 'path'])
def test_while_it_is_copied(form, stage, here, conf, children):
    """For two destinations of one image, one of them is a copy."""
    configure(conf, here)
    (here / 'origin').write_bytes(DATA)
    with daemon.Service(conf, [cache.CacheRole(conf)]):
        for name in ('one', 'two'):
            copy(here, conf, form, name)
    child = children.start(serve, str(here), stage, 'copying')
    assert child.wait(20)
    with running(here, conf):
        for each in oslo_transfer.attachments(conf):
            each.detach()
    check(here, form, 'one')
    check(here, form, 'two')
