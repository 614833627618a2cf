# SPDX-License-Identifier: Apache-2.0
"""What bad HTTP servers can do to a copy: nothing but fail it."""

from __future__ import annotations

import hashlib
import logging
import os
import pickle
import time
import traceback

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests.servers import evil_http
from tests.servers import resource

DATA = resource.pattern(evil_http.SIZE)
FACTS = {
    'none': {},
    'size': {'expected_size': len(DATA)},
    'digest': {
        'hash_algo': 'sha256',
        'hash_value': hashlib.sha256(DATA).hexdigest(),
    },
}


class LabCredentials(oslo_transfer.Credentials):
    """The credentials that the lab looks for where they must not be."""

    def __init__(self, lab, extra):
        self._lab = lab
        self._extra = extra

    def headers(self):
        return {
            **self._lab.credentials,
            'X-Auth-Token': self._lab.token,
            **self._extra,
        }

    def refresh(self):
        return True


def configure(conf, lab, row):
    """Let redirects reach the lab: loopback, on the ports it got."""
    ports = [server.port for server in lab.servers]
    for name, value in {
        'untrusted_ports': ports,
        'untrusted_networks': ['127.0.0.0/8'],
        'max_size_bytes': 16 << 20,
        'max_retries': 3,
        'max_retry_delay': 3.0,
        'stall_timeout': 0.7,
        'connect_timeout': 1.0,
    }.items():
        conf.set_override(name, value, group='oslo_transfer')
    conf.set_override(
        'ca_file', str(lab.certs.ca_file), group='oslo_transfer_http'
    )


@pytest.mark.parametrize('facts', FACTS)
@pytest.mark.parametrize('key', evil_http.BEHAVIOURS)
def test_server_cannot_corrupt(
    key, facts, conf, certs, tmp_path, caplog, monkeypatch, nothing_left
):
    """Right bytes or a typed error; nothing visible, told or left."""
    caplog.set_level(logging.DEBUG)
    row = evil_http.BEHAVIOURS[key]
    dst = tmp_path / 'image'
    with evil_http.Lab(certs) as lab:
        url = row.install(lab, '/image', DATA)
        for name, value in (row.environ(lab) if row.environ else {}).items():
            monkeypatch.setenv(name, value)
        configure(conf, lab, row)
        urls = url if isinstance(url, list) else [url]
        sources = [
            oslo_transfer.Location(
                each, credentials=LabCredentials(lab, row.headers)
            )
            for each in urls
        ]
        started = time.monotonic()
        error = None
        try:
            result = oslo_transfer.copy(
                sources, dst, conf=conf, **FACTS[facts]
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
        assert elapsed < row.elapsed_limit, detail
        assert not row.violations(lab), row.violations(lab)
        secrets = lab.secrets
    if error is None:
        assert result.size == len(out)
        assert result.verified == (facts == 'digest')
        assert os.listdir(tmp_path) == ['image']
    else:
        assert not dst.exists()
        assert str(pickle.loads(pickle.dumps(error))) == str(error)
        told = ''.join(traceback.format_exception(error))
        for secret in secrets:
            assert secret not in told
    for secret in secrets:
        assert secret not in caplog.text
