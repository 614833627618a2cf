# SPDX-License-Identifier: Apache-2.0
"""What nfs URLs and Cinder's dictionaries name, and what mount gets."""

from __future__ import annotations

import subprocess
import types

import hypothesis
from hypothesis import strategies
import pytest

from oslo_transfer.drivers.nfs import driver
from oslo_transfer.drivers.nfs import mount
from oslo_transfer.drivers.nfs import share as _share
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures

URL = 'nfs://192.0.2.1/srv/volumes/volume-1'
DATA = {'export': '192.0.2.1:/srv/volumes', 'name': 'volume-1'}


def share(url=URL, info=None):
    ctx = types.SimpleNamespace(connection_info=info)
    return _share.from_endpoint(endpoint.parse(url), ctx)


def test_url():
    assert share() == _share.Share(
        URL, '192.0.2.1:/srv/volumes', 'volume-1', ''
    )


@pytest.mark.parametrize(
    ('url', 'export', 'name', 'options'),
    [
        ('nfs://HOST/image', 'host:/', 'image', ''),
        ('nfs://host:2050/a/image', 'host:/a', 'image', 'port=2050'),
        ('nfs://[2001:db8::1]/a/b/c', '[2001:db8::1]:/a/b', 'c', ''),
        ('nfs://host/a%20b/%2do%25', 'host:/a b', '-o%', ''),
    ],
)
def test_forms_of_urls(url, export, name, options):
    found = share(url)
    assert (found.export, found.name, found.options) == (
        export,
        name,
        options,
    )


@pytest.mark.parametrize(
    'path',
    [
        '/',
        '',
        '/export/',
        '/export/..',
        '/export/.',
        '/../etc/passwd',
        '/export/../etc/passwd',
        '/export//image',
        '/export/%2e%2e/image',
        '/export/image%00',
        '/export/image%0a',
        '/ex%0aport/image',
    ],
)
def test_what_is_no_file_of_an_export(path):
    with pytest.raises(exceptions.InvalidEndpoint):
        share(f'nfs://192.0.2.1{path}')


@pytest.mark.parametrize('url', ['nfs://me@host/a/b', 'nfs://host/a/b?c=d'])
def test_there_is_no_login_and_no_query(url):
    with pytest.raises(exceptions.InvalidEndpoint, match='no query and no'):
        share(url)


@pytest.mark.parametrize(
    'info',
    [
        {'driver_volume_type': 'nfs', 'data': DATA},
        DATA,
        {**DATA, 'options': None},
        {**DATA, 'format': 'qcow2', 'mount_point_base': '/mnt'},
    ],
)
def test_dictionaries_that_agree(info):
    assert share(info=info) == share()


@pytest.mark.parametrize(
    ('options', 'found'),
    [
        ('-o vers=4.1,sec=krb5', 'vers=4.1,sec=krb5'),
        ('-overs=3', 'vers=3'),
        ('-o vers=3 -o lookupcache=pos', 'vers=3,lookupcache=pos'),
        ('nolock', 'nolock'),
        ('', ''),
    ],
)
def test_options_of_cinder(options, found):
    assert share(info={**DATA, 'options': options}).options == found


@pytest.mark.parametrize(
    'info',
    [
        'nfs',
        {'driver_volume_type': 'iscsi', 'data': DATA},
        {'driver_volume_type': 'nfs', 'data': 'x'},
        {**DATA, 'name': 'volume-2'},
        {**DATA, 'name': '../volume-1'},
        {**DATA, 'export': '192.0.2.2:/srv/volumes'},
        {**DATA, 'export': '192.0.2.1:/srv'},
        {**DATA, 'options': ['-o']},
        {**DATA, 'options': '-t ext4'},
        {**DATA, 'options': '-o'},
        {**DATA, 'options': '-o a="b"'},
    ],
)
def test_dictionaries_that_do_not(info):
    with pytest.raises(exceptions.InvalidEndpoint) as caught:
        share(info=info)
    assert URL in str(caught.value)


@hypothesis.given(strategies.text(max_size=40))
def test_any_options(text):
    """What mount gets is one word, and no option of mount's own."""
    try:
        found = share(info={**DATA, 'options': text}).options
    except exceptions.InvalidEndpoint:
        return
    assert found.isascii()
    assert not found.startswith('-')
    assert not set(found) & set(' \t\n\'"\\')


@pytest.fixture
def ctx(tmp_path, monkeypatch):
    """A context, and the commands that os-brick would run."""
    conf = fixtures.make_conf(state_path=str(tmp_path))
    conf.register_opts(driver.NFSDriver.OPTIONS, group='oslo_transfer_nfs')
    return types.SimpleNamespace(
        conf=conf, check=lambda: None, connection_info=None
    )


@pytest.fixture
def commands(monkeypatch, ctx):
    """What os-brick has run, none of it for root, and how it ends."""
    ran = []
    module = mount.brick.module(mount._ROOTWRAP, ctx.conf)

    def execute(*command, **how):
        assert 0 < how['timeout'] <= 30
        if not how.get('run_as_root'):
            subprocess.run(command, check=True)
            return '', ''
        ran.append(command)
        if execute.fails:
            raise module.putils.ProcessExecutionError(stderr=execute.fails)
        if execute.mounts:
            monkeypatch.setattr(mount, '_mounted', lambda _: [command[-1]])
        return '', ''

    execute.fails = ''
    execute.mounts = True
    monkeypatch.setattr(module, 'execute', execute)
    return types.SimpleNamespace(ran=ran, execute=execute)


@pytest.mark.parametrize('writing', [False, True])
def test_the_command(ctx, commands, writing):
    found = share(info={**DATA, 'options': '-o vers=4.1,suid,rw'})
    directory = mount.new_directory(ctx.conf)
    point = mount.mount(found, directory, writing, ctx)
    (command,) = commands.ran
    assert command[:4] == ('mount', '-t', 'nfs', '-o')
    assert command[5:] == (found.export, point)
    options = command[4].split(',')
    # The last one of a kind counts.
    assert options[-4:] == [
        'nosuid',
        'nodev',
        'noexec',
        'rw' if writing else 'ro',
    ]
    assert options.index('softerr') < options.index('vers=4.1')
    assert 'retry=0' in options


@pytest.mark.parametrize(
    ('said', 'kind'),
    [
        (
            'mount.nfs: access denied by server while mounting srv:/x',
            exceptions.AccessDenied,
        ),
        (
            'mount.nfs: mounting srv:/x failed, reason given by server: No '
            'such file or directory',
            exceptions.NotFound,
        ),
        ('mount.nfs: Connection refused', exceptions.Unavailable),
        ('mount.nfs: Connection timed out', exceptions.Unavailable),
        (
            'mount.nfs: Failed to resolve server srv: Name or service not '
            'known',
            exceptions.Unavailable,
        ),
        ('mount.nfs: an incorrect option', exceptions.AttachError),
    ],
)
def test_why_there_is_no_mount(ctx, commands, said, kind):
    commands.execute.fails = said
    with pytest.raises(exceptions.TransferError) as caught:
        mount.mount(share(), mount.new_directory(ctx.conf), False, ctx)
    assert type(caught.value) is kind
    assert URL in str(caught.value)


def test_a_command_that_was_ended(ctx, commands):
    """os-brick says that all is well then."""
    commands.execute.mounts = False
    with pytest.raises(exceptions.Unavailable, match='is not mounted after'):
        mount.mount(share(), mount.new_directory(ctx.conf), False, ctx)


def test_time_is_bounded(ctx, commands, monkeypatch):
    """Further versions of the protocol are not tried when it is up."""
    ctx.conf.set_override('mount_timeout', 1, group='oslo_transfer_nfs')
    now = [0.0]
    monkeypatch.setattr(mount.time, 'monotonic', lambda: now[0])
    commands.execute.fails = 'no'

    def check():
        now[0] += 0.6

    ctx.check = check
    with pytest.raises(exceptions.Unavailable, match='more than 1 seconds'):
        mount.mount(share(), mount.new_directory(ctx.conf), False, ctx)
    assert not commands.ran
