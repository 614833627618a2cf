# SPDX-License-Identifier: Apache-2.0
"""The result says what was done, and cannot be changed."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

import oslo_transfer
from oslo_transfer import result


def make(**changes):
    fields = {
        'strategy': 'full_copy',
        'driver': 'http',
        'source': 'http://host/image',
        'destination': '/image',
        'form': 'file',
        'verified': True,
        'attachment': None,
        'bytes_written': 90,
        'bytes_by_origin': {'origin': 60, 'resumed': 40},
        'wasted': 5,
        'digest': 'sha256:00',
        'seconds': 1.5,
        'attempts': (),
        **changes,
    }
    return result.TransferResult(**fields)


def test_result_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        make().verified = False


def test_size_is_the_sum_over_the_origins():
    assert make().size == 100
    assert make(bytes_by_origin={}).size == 0


def test_reused_is_what_no_strategy_did():
    assert not make().reused
    assert make(strategy=None).reused


def test_pickle():
    found = make(attempts=(attempt(),))
    assert pickle.loads(pickle.dumps(found)) == found


def attempt(**changes):
    fields = {
        'strategy': 'clone',
        'location': '/image',
        'reason': 'no reflinks',
        'error': 'CapabilityMissing',
        **changes,
    }
    return result.Attempt(**fields)


def test_attempt_reads_well():
    assert str(attempt()) == 'clone /image: no reflinks'
    assert str(attempt(location='')) == 'clone: no reflinks'
    assert not attempt().retryable


def test_classes_are_public():
    assert oslo_transfer.TransferResult is result.TransferResult
    assert oslo_transfer.Attempt is result.Attempt


@pytest.mark.parametrize('hash_algo', [None, 'sha256', 'sha512', 'md5'])
def test_result_of_a_copy(conf, server, tmp_path, hash_algo):
    url = server.put('/image', b'data' * 1000)
    found = oslo_transfer.copy(
        f'http://user:s3cr3t@127.0.0.1:{server.port}/image?s3cr3t',
        tmp_path / 'image',
        conf=conf,
        hash_algo=hash_algo,
    )
    assert found.strategy == 'full_copy'
    assert found.driver == 'http'
    assert found.source == url.replace('//', '//***@') + '?***'
    assert found.destination == str(tmp_path / 'image')
    assert found.form == 'file'
    assert not found.verified
    assert found.attachment is None
    assert found.bytes_written == found.size == 4000
    assert found.bytes_by_origin == {'origin': 4000}
    assert set(found.bytes_by_origin) <= set(result.ORIGINS)
    assert found.wasted == 0
    assert found.seconds > 0
    assert (found.digest or '').partition(':')[0] == (hash_algo or '')
    assert 's3cr3t' not in repr(found)
    # Why the strategies before it were passed over.
    (passed_over,) = found.attempts
    assert passed_over.strategy == 'clone'
    assert passed_over.error == 'CapabilityMissing'
    assert passed_over.reason
