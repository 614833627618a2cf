# SPDX-License-Identifier: Apache-2.0
"""A driver and a strategy of other packages are used like our own."""

from __future__ import annotations

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import zipfile

import pytest

import oslo_transfer
from oslo_transfer.testing import conformance

ROOT = pathlib.Path(oslo_transfer.__file__).parents[1]
EXAMPLE = ROOT / 'examples' / 'oslo-transfer-example'
DATA = conformance.pattern(300_000)

# Attaches, and lets the destination be a link to what was attached.
STRATEGY = '''
import os
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import exceptions
from oslo_transfer.strategies import base

class Link(base.Strategy):
    """Links to what was attached."""

    name = 'toy_link'
    attaching = True
    forms = frozenset({'path'})

    def plan(self, request):
        usable = tuple(
            end for end in request.sources
            if drivers_base.Capability.ATTACH in end.capabilities
        )
        if not usable:
            raise exceptions.CapabilityMissing('nothing can be attached')
        return base.Plan(strategy=self.name, sources=usable)

    def run(self, plan, request, landing, ctx):
        made = plan.sources[0].attach(ctx.replace(lasting=True))
        os.symlink(made.path, request.destination.local_path)
        return base.Outcome(
            driver=made.driver, source=made.source, form='path',
            verified=False, bytes_written=0, bytes_by_origin={}, wasted=0,
            digest=None, method='attach', attachment=made,
        )
'''

# Copies in a process of its own, and tells what came of it.
COPY = '''
import json, sys
from oslo_config import cfg
import oslo_transfer

src, dst, options = json.loads(sys.argv[1])
conf = cfg.ConfigOpts()
conf(['--config-file', sys.argv[2]], default_config_dirs=[])
try:
    result = oslo_transfer.copy(src, dst, conf=conf, **options)
except oslo_transfer.TransferError as exc:
    print(json.dumps({'error': type(exc).__name__, 'text': str(exc)}))
else:
    attachment = result.attachment
    print(json.dumps({
        'strategy': result.strategy,
        'driver': result.driver,
        'form': result.form,
        'verified': result.verified,
        'attached': attachment and attachment.path,
        'attempts': [
            [each.strategy, each.error, each.reason]
            for each in result.attempts
        ],
    }))
    if attachment:
        attachment.detach()
'''


def run(*command, cwd, path):
    """Run Python in a process that finds some more packages."""
    return subprocess.run(
        [sys.executable, *command],
        cwd=cwd,
        env={
            **os.environ,
            'PYTHONPATH': os.pathsep.join([str(path), str(ROOT)]),
            # Where stevedore remembers what is installed.
            'XDG_CACHE_HOME': str(path.parent / 'cache'),
        },
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.fixture(scope='module')
def site(tmp_path_factory):
    """A directory with the example, installed as anybody would."""
    directory = tmp_path_factory.mktemp('example')
    # A build leaves files in the directory that it builds.
    source = shutil.copytree(EXAMPLE, directory / 'source')
    target = directory / 'site'
    subprocess.run(
        [
            *(sys.executable, '-m', 'pip', 'install', '--quiet'),
            *('--no-deps', '--no-build-isolation', '--no-index'),
            *('--disable-pip-version-check', '--target', target, source),
        ],
        check=True,
        capture_output=True,
        timeout=100,
    )
    return target


@pytest.fixture
def copy(site, tmp_path):
    """Copies in another process, with a configuration file of its own."""
    archives = tmp_path / 'archives'
    archives.mkdir()
    with zipfile.ZipFile(archives / 'backups.zip', 'w') as archive:
        archive.writestr('disks/root disk.raw', DATA)
    config = tmp_path / 'config'
    state = tmp_path / 'state'

    def call(src, dst, order='clone,full_copy', **options):
        config.write_text(
            f'[oslo_transfer]\n'
            f'strategy_order = {order}\n'
            f'state_path = {state}\n'
            f'[oslo_transfer_zip]\n'
            f'directory = {archives}\n'
        )
        arguments = json.dumps([str(src), str(dst), options])
        done = run(
            *('-c', COPY, arguments, str(config)), cwd=tmp_path, path=site
        )
        assert not done.stderr
        return json.loads(done.stdout)

    return call


def test_copy_by_the_example(copy, tmp_path):
    target = tmp_path / 'disk'
    result = copy('zip://backups/disks/root%20disk.raw', target)
    assert result['driver'] == 'zip'
    assert result['strategy'] == 'full_copy'
    assert target.read_bytes() == DATA


def test_errors_of_the_example(copy, tmp_path):
    target = tmp_path / 'disk'
    for url, error in (
        ('zip://backups/other', 'NotFound'),
        ('zip://nothing/other', 'NotFound'),
        ('zip:///backups/other', 'InvalidEndpoint'),
    ):
        assert copy(url, target)['error'] == error
    result = copy(target, 'zip://backups/disks/new')
    assert result['error'] == 'CapabilityMissing'
    assert 'zip' in result['text']
    assert not target.exists()


def test_it_is_not_there_if_it_is_not_installed(tmp_path):
    with pytest.raises(oslo_transfer.TransferError) as caught:
        oslo_transfer.copy('zip://backups/disk', tmp_path / 'disk')
    assert type(caught.value).__name__ == 'DriverNotFound'


def test_example_keeps_the_contract(site, tmp_path):
    done = run(
        *('-m', 'unittest', 'discover', EXAMPLE / 'tests'),
        cwd=tmp_path,
        path=site,
    )
    assert not done.returncode, done.stderr
    match = re.search(r'Ran (\d+) tests', done.stderr)
    assert match and int(match.group(1)) > 60
    assert done.stderr.endswith('\nOK\n')


def test_sample_configuration_has_its_option(site, tmp_path):
    done = run(
        *('-m', 'oslo_config.generator', '--namespace', 'oslo.transfer.zip'),
        cwd=tmp_path,
        path=site,
    )
    assert '[oslo_transfer_zip]' in done.stdout
    assert '#directory = <None>' in done.stdout


# An attaching strategy


@pytest.fixture
def strategy(site):
    """One more package there, with a strategy."""
    module = site / 'toy_strategy.py'
    module.write_text(STRATEGY)
    info = site / 'toy_strategy-1.dist-info'
    info.mkdir()
    (info / 'METADATA').write_text(
        'Metadata-Version: 2.1\nName: toy-strategy\nVersion: 1\n'
    )
    (info / 'entry_points.txt').write_text(
        '[oslo.transfer.strategies]\ntoy_link = toy_strategy:Link\n'
    )
    yield
    shutil.rmtree(info)
    module.unlink()


ORDER = 'toy_link,full_copy'


@pytest.fixture
def image(tmp_path):
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    return path


def test_attaching_is_passed_over(strategy, copy, image, tmp_path):
    """By default a caller gets a file, and is told why it took so long."""
    target = tmp_path / 'disk'
    result = copy(image, target, ORDER)
    assert result['strategy'] == 'full_copy'
    assert result['form'] == 'file'
    assert result['attached'] is None
    name, error, reason = result['attempts'][0]
    assert (name, error) == ('toy_link', 'CapabilityMissing')
    assert 'path' in reason and 'accepts file' in reason
    assert not target.is_symlink()
    assert target.read_bytes() == DATA


def test_attaching_is_passed_over_for_another_form(
    strategy, copy, image, tmp_path
):
    result = copy(image, tmp_path / 'disk', ORDER, accept=['file', 'overlay'])
    assert result['strategy'] == 'full_copy'
    assert 'accepts file, overlay' in result['attempts'][0][2]


def test_attaching_is_accepted(strategy, copy, image, tmp_path):
    target = tmp_path / 'disk'
    result = copy(image, target, ORDER, accept=['file', 'path'])
    assert result['strategy'] == 'toy_link'
    assert result['form'] == 'path'
    assert not result['verified']
    assert result['attached'] == str(image)
    assert result['attempts'] == []
    assert target.is_symlink()
    assert os.listdir(tmp_path / 'state' / 'attachments') == []


def test_attaching_is_named(strategy, copy, image, tmp_path):
    """Who names a strategy knows what it gives."""
    result = copy(image, tmp_path / 'disk', strategy='toy_link')
    assert result['strategy'] == 'toy_link'
    assert result['attached'] == str(image)


def test_attaching_cannot_serve(strategy, copy, tmp_path):
    """It is passed over with its own reason where it does not fit."""
    result = copy(
        'zip://backups/disks/root%20disk.raw',
        tmp_path / 'disk',
        ORDER,
        accept=['file', 'path'],
    )
    assert result['strategy'] == 'full_copy'
    assert result['attempts'][0][2] == 'nothing can be attached'


def test_only_attaching_is_left(strategy, copy, image, tmp_path):
    """Then that is the answer."""
    target = tmp_path / 'disk'
    result = copy(image, target, 'toy_link')
    assert result['error'] == 'CapabilityMissing'
    assert 'accepts file' in result['text']
    assert not target.exists()
