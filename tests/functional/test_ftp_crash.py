# SPDX-License-Identifier: Apache-2.0
"""A copy by FTP that is killed in the middle can be repeated.

From vsftpd it goes on where it was; to vsftpd nothing has the name until
it is complete.
"""

from __future__ import annotations

import hashlib
import os
import re
import signal

import pytest

import oslo_transfer
from oslo_transfer import flight
from oslo_transfer.wrappers import retry
from tests.functional import conftest
from tests.functional import forkserver
from tests.servers import certs as servers_certs
from tests.servers import resource
from tests.servers import scripted_ftp
from tests.servers import vsftpd
from tests import waiting

pytestmark = pytest.mark.functional

MIB = 1 << 20
SIZE = 6 * MIB
DATA = resource.pattern(SIZE)
OLD = b'what was there before'
SHA256 = {
    'hash_algo': 'sha256',
    'hash_value': hashlib.sha256(DATA).hexdigest(),
}
SEGMENT = MIB
BUFFER = MIB // 4
CONF = {
    'segment_bytes': SEGMENT,
    'sync_bytes': 2 * MIB,
    'buffer_bytes': BUFFER,
    'max_streams': 1,
}


@pytest.fixture(scope='module', autouse=True)
def ftp_group():
    """Leave the tests out where their group is left out."""
    groups = os.environ.get('OSLO_TRANSFER_TEST_GROUPS')
    if groups is not None and 'ftp' not in groups.split():
        pytest.skip('the group "ftp" is left out')
    if vsftpd.Vsftpd.found() is None:
        conftest.lacks('vsftpd is missing')


@pytest.fixture(scope='module', params=['ftp', 'ftps'])
def server(request, tmp_path_factory):
    """A vsftpd with an image, without TLS and with it."""
    pair = None
    if request.param == 'ftps':
        made = servers_certs.Certs(tmp_path_factory.mktemp('certs'))
        pair = made.pair()
    root = tmp_path_factory.mktemp('root')
    with vsftpd.Vsftpd(root, certificate=pair) as server:
        server.ca_file = made.ca_file if pair else None
        (root / 'image').write_bytes(DATA)
        yield server


def copy(src, dst, ca_file, die_at=None, **options):
    """The job of the children.

    :param die_at: get killed when so many bytes have moved
    """
    conf = forkserver.make_conf(CONF)
    if ca_file:
        conf.set_override('ca_file', ca_file, group='oslo_transfer_ftp')

    def progress(_count, total):
        if die_at is not None and total >= die_at:
            os.kill(os.getpid(), signal.SIGKILL)

    return oslo_transfer.copy(
        src, dst, conf=conf, progress=progress, **options
    )


def size_of(path):
    """The bytes of a file that are not holes."""
    try:
        return os.stat(path).st_blocks * 512
    except FileNotFoundError:
        return 0


def downloaded(server):
    """The bytes that vsftpd sent in each download so far."""
    found = re.findall(r' DOWNLOAD: .*", (\d+) bytes', server.log())
    return [int(count) for count in found]


def die(children, job, die_at, **options):
    """Have a child killed in the middle of a copy."""
    with pytest.raises(forkserver.Died):
        children.start(copy, *job, die_at=die_at, **options).result()


@pytest.mark.parametrize('fraction', [0.0, 0.2, 0.8])
def test_download_goes_on(fraction, server, children, tmp_path):
    """It fetches the rest, and at most one segment again."""
    dst = tmp_path / 'there' / 'image'
    dst.parent.mkdir()
    job = (server.url('image'), str(dst), server.ca_file)
    before = len(downloaded(server))
    die(children, job, fraction * SIZE, **SHA256)
    assert not dst.exists()
    held = size_of(flight.part_path(str(dst)))
    assert held >= fraction * SIZE
    # vsftpd writes down what it sent to the one that died.
    waiting.until(lambda: len(downloaded(server)) > before)
    before = len(downloaded(server))
    result = copy(*job, **SHA256)
    assert dst.read_bytes() == DATA
    assert os.listdir(dst.parent) == ['image']
    assert result.verified
    most = SIZE - held + SEGMENT + BUFFER + retry.OVERLAP
    assert SIZE - result.bytes_by_origin.get('resumed', 0) <= most
    waiting.until(lambda: len(downloaded(server)) > before)
    assert sum(downloaded(server)[before:]) <= most


def test_killed_twice(server, children, tmp_path):
    """Also what has been resumed once can be resumed."""
    dst = tmp_path / 'image'
    job = (server.url('image'), str(dst), server.ca_file)
    for fraction in (0.4, 0.8):
        die(children, job, fraction * SIZE, **SHA256)
    held = size_of(flight.part_path(str(dst)))
    result = copy(*job, **SHA256)
    assert dst.read_bytes() == DATA
    least = held - SEGMENT - BUFFER - retry.OVERLAP
    assert result.bytes_by_origin['resumed'] >= least > SEGMENT


def test_changed_source_is_not_joined(server, children, tmp_path):
    """What a killed copy left of another version is of no use."""
    dst = tmp_path / 'image'
    path = server.root / 'changing'
    path.write_bytes(DATA)
    job = (server.url('changing'), str(dst), server.ca_file)
    die(children, job, 0.5 * SIZE)
    # As long as before, and of the same second.
    new = resource.pattern(SIZE, seed=9)
    before = path.stat()
    path.write_bytes(new)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    result = copy(*job)
    assert dst.read_bytes() == new
    assert 'resumed' not in result.bytes_by_origin


def parts(server):
    """The temporary files of uploads."""
    return [p for p in server.root.iterdir() if '.oslo-part-' in p.name]


@pytest.mark.parametrize('overwrite', [False, True])
@pytest.mark.parametrize('fraction', [0.0, 0.5, 0.8])
def test_upload_is_not_seen(fraction, overwrite, server, children, tmp_path):
    """The name stays as it was; what is left is not in the way."""
    file, target = tmp_path / 'image', server.root / 'up'
    file.write_bytes(DATA)
    for path in [target, *parts(server)]:
        path.unlink(missing_ok=True)
    if overwrite:
        target.write_bytes(OLD)
    job = (str(file), server.url('up'), server.ca_file)
    die(children, job, fraction * SIZE, overwrite=overwrite)
    found = target.read_bytes() if target.exists() else None
    assert found == (OLD if overwrite else None)
    assert len(parts(server)) == 1
    copy(*job, overwrite=overwrite)
    assert target.read_bytes() == DATA
    assert len(parts(server)) == 1, 'the second one left something'


@pytest.mark.parametrize('verb', ['STOR', 'SIZE', 'RNFR', 'RNTO'])
def test_upload_killed_at_a_step(verb, children, tmp_path):
    """Nothing or all of it has the name, whichever step was the last."""
    file = tmp_path / 'image'
    file.write_bytes(DATA)
    with scripted_ftp.ScriptedFTPServer() as server:
        job = (str(file), server.url('up'), None)
        child = children.start(copy, *job, wait=True)

        def act(session, argument):
            if child is not None and (verb != 'SIZE' or server.files):
                child.kill(signal.SIGKILL)
            session.default(verb, argument)

        server.on(verb, act)
        child.go()
        with pytest.raises(forkserver.Died):
            child.result()
        waiting.until(lambda: not server.open)
        assert server.files.get('up') in (None, DATA)
        assert ('up' in server.files) == (verb == 'RNTO')
        child = None
        copy(*job, overwrite=True)
        assert server.files['up'] == DATA
