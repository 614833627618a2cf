# SPDX-License-Identifier: Apache-2.0
"""fio replays our traces."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from oslo_transfer.cache import iolog
from oslo_transfer.cache import trace as _trace
from tests import groups

pytestmark = groups.marks('cache', shutil.which('fio') is not None)

KIB, MIB = 1 << 10, 1 << 20
MADE = _trace.Trace(
    _trace.Touch(*each)
    for each in [
        (0, 0, 64 * KIB),
        (50_000, 2 * MIB, 64 * KIB),
        (300_000, MIB, 4096),
    ]
)


@pytest.mark.parametrize('version', iolog.VERSIONS)
def test_fio_replays_it(tmp_path, version):
    image, log = tmp_path / 'image', tmp_path / 'trace'
    image.write_bytes(bytes(4 * MIB))
    log.write_bytes(MADE.dump('/image', version))
    ran = subprocess.run(
        [
            *('fio', '--name=replay', '--ioengine=psync'),
            *(f'--read_iolog={log}', f'--replay_redirect={image}'),
            *(f'--write_lat_log={tmp_path}/told', '--log_offset=1'),
        ],
        capture_output=True,
        text=True,
    )
    assert (ran.returncode, ran.stderr) == (0, '')
    told = (tmp_path / 'told_clat.1.log').read_text().splitlines()
    # Milliseconds, latency, direction, length, offset, priority.
    fields = [list(map(int, line.split(','))) for line in told]
    assert [(each[4], each[3]) for each in fields] == [
        each[1:] for each in MADE.touches
    ]
    if version == 3:
        assert fields[-1][0] >= 250
