# SPDX-License-Identifier: Apache-2.0
"""What bad SFTP servers can do to a copy: nothing but fail it."""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import pickle
import time
import traceback

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.servers import evil_sftp
from tests.servers import evil_sftp_read  # noqa: F401  registers rows
from tests.servers import evil_sftp_write
from tests.servers import evil_ssh  # noqa: F401  registers rows
from tests.servers import resource
from tests.servers import sftp_session

DATA = resource.pattern(evil_sftp.SIZE)
FACTS = {
    'none': {},
    'size': {'expected_size': len(DATA)},
    'digest': {
        'hash_algo': 'sha256',
        'hash_value': hashlib.sha256(DATA).hexdigest(),
    },
}
STALL = 0.4


@pytest.fixture(autouse=True)
def limits(conf):
    """Be done with a bad server soon."""
    for name, value in {
        'max_size_bytes': 16 << 20,
        'max_retries': 1,
        'stall_timeout': STALL,
        'connect_timeout': 0.8,
    }.items():
        conf.set_override(name, value, group='oslo_transfer')


def know(conf, directory, *servers):
    """Let the driver know host keys."""
    path = directory / 'known_hosts'
    path.write_text(''.join(server.known_hosts for server in servers))
    conf.set_override(
        'known_hosts_file', str(path), group='oslo_transfer_sftp'
    )


@pytest.mark.parametrize(
    ('key', 'facts'),
    [
        (row.id, facts)
        for row in evil_sftp.ROWS.values()
        for facts in row.facts
    ],
)
def test_server_cannot_corrupt(
    key, facts, conf, tmp_path, caplog, nothing_left
):
    """Right bytes or a typed error; nothing visible, told or left."""
    caplog.set_level(logging.DEBUG)
    row = evil_sftp.ROWS[key]
    there = tmp_path / 'there'
    there.mkdir()
    dst = there / 'image'
    with contextlib.ExitStack() as stack:
        server = row.start(stack, DATA)
        know(conf, tmp_path, server)
        started = time.monotonic()
        error = None
        try:
            result = oslo_transfer.copy(
                server.url(row.path), dst, conf=conf, **FACTS[facts]
            )
        except exceptions.TransferError as exc:
            error = exc
        elapsed = time.monotonic() - started
    out = dst.read_bytes() if error is None else None
    want = row.expects(facts)
    detail = f'{row.title}: {error!r}'
    if out is not None and want != 'undetectable':
        assert out in row.right(DATA, facts), detail
    if want == 'ok':
        assert error is None, detail
    if want == 'fail':
        assert error is not None, detail
        kind = type(error).__name__
        assert not row.errors or kind in row.errors, detail
    assert elapsed < row.seconds, detail
    if error is None:
        assert result.size == len(out)
        assert result.verified == (facts == 'digest')
        assert os.listdir(there) == ['image']
    else:
        assert not dst.exists()
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        assert len(str(error)) < 5000
        assert str(error).isprintable()
        told = ''.join(traceback.format_exception(error))
        assert evil_sftp.PASSWORD not in told
    assert evil_sftp.PASSWORD not in caplog.text


@pytest.mark.parametrize('key', evil_sftp_write.UPLOADS)
def test_server_cannot_fake_an_upload(
    key, conf, tmp_path, caplog, nothing_left
):
    """All of it is there, or an error; never a part under the name."""
    caplog.set_level(logging.DEBUG)
    row = evil_sftp_write.UPLOADS[key]
    src = tmp_path / 'image'
    # More than may be on its way.
    data = resource.pattern(evil_sftp.SIZE)
    src.write_bytes(data)
    store = sftp_session.Store()
    if row.old is not None:
        store.files[evil_sftp_write.TARGET] = sftp_session.File(row.old)
    error = None
    with contextlib.ExitStack() as stack:
        server = evil_sftp.serve(stack, store, row.session)
        know(conf, tmp_path, server)
        started = time.monotonic()
        try:
            oslo_transfer.copy(
                src,
                server.url(evil_sftp_write.TARGET),
                conf=conf,
                overwrite=row.old is not None,
            )
        except exceptions.TransferError as exc:
            error = exc
        elapsed = time.monotonic() - started
    detail = f'{row.title}: {error!r}'
    found = store.files.pop(evil_sftp_write.TARGET, None)
    if row.expect != 'ok_or_fail':
        assert (error is None) == (row.expect == 'ok'), detail
    if error is None:
        assert bytes(found.data) == data
    else:
        assert (found and found.data) == row.old, detail
        kind = type(error).__name__
        assert not row.errors or kind in row.errors, detail
        assert str(error).isprintable()
        told = ''.join(traceback.format_exception(error))
        assert evil_sftp.PASSWORD not in told
    assert elapsed < 8, detail
    assert evil_sftp.PASSWORD not in caplog.text
    if row.reachable:
        assert set(store.files) == {'/image'}, 'something is left'
