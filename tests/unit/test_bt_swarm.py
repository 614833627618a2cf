# SPDX-License-Identifier: Apache-2.0
"""What a copy of a torrent says when nobody brings anything, and after."""

from __future__ import annotations

import logging
import re
import time

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer.testing import harness
from tests.servers import torrents

pytestmark = pytest.mark.usefixtures('nothing_left')

PIECE = 64 << 10
DATA = harness.pattern(8 * PIECE)
# Well below the stall time of the configuration.
SOON = 10.0


def set_options(conf, **options):
    for name, value in options.items():
        conf.set_override(name, value, 'oslo_transfer_bittorrent')


def publish(tmp_path, data=DATA, **options):
    made = torrents.make(data, piece_bytes=PIECE, **options)
    return f'torrent+file://{made.write(tmp_path / "it.torrent")}'


def fails(kind, src, tmp_path, conf):
    """Return what it says, at once."""
    started = time.monotonic()
    with pytest.raises(kind) as caught:
        oslo_transfer.copy(src, tmp_path / 'copy', conf=conf)
    assert time.monotonic() - started < SOON
    return str(caught.value)


@pytest.mark.parametrize(
    'options',
    [
        {},
        {'peers': ['127.0.4.1:6881']},
        {'peers': ['127.0.4.1:6881'], 'peer_networks': ['127.0.5.0/24']},
        {'trackers': ['http://127.0.4.1:6969/announce']},
    ],
)
def test_nobody_to_ask(tmp_path, conf, options):
    """It does not wait for those that it may not ask."""
    set_options(conf, **options)
    found = fails(exceptions.Unavailable, publish(tmp_path), tmp_path, conf)
    assert 'nobody has the data' in found


def test_the_only_web_seed_may_not_be_asked(tmp_path, conf):
    src = publish(tmp_path, web_seeds=['http://127.0.0.1:1/image'])
    found = fails(exceptions.PolicyRefused, src, tmp_path, conf)
    assert 'untrusted_ports' in found


def test_a_stall_tells_of_the_web_seed_too(tmp_path, conf):
    """A peer that might come does not hide what is wrong."""
    set_options(conf, peers=['127.0.4.1:1'], peer_networks=['127.0.4.0/24'])
    conf.set_override('stall_timeout', 1.0, 'oslo_transfer')
    src = publish(tmp_path, web_seeds=['http://127.0.0.1:1/image'])
    found = fails(exceptions.Stalled, src, tmp_path, conf)
    assert 'untrusted_ports' in found


def test_zeros_have_no_part_in_the_lower_bound(tmp_path, conf, caplog):
    """Nobody sends them."""
    set_options(
        conf,
        origin_rate_bytes_per_second=len(DATA),
        host_rate_bytes_per_second=len(DATA),
        swarm_hosts=1,
    )
    data = DATA + bytes(9 * len(DATA))
    src = publish(tmp_path, data)
    caplog.set_level(logging.INFO, 'oslo_transfer')
    (tmp_path / 'image').write_bytes(data)
    oslo_transfer.copy(
        [src, tmp_path / 'image'],
        tmp_path / 'copy',
        strategy='full_copy',
        conf=conf,
    )
    assert re.search('lower bound of 1.00 s for 1 hosts', caplog.text)
