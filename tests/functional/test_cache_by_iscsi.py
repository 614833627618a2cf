# SPDX-License-Identifier: Apache-2.0
"""The recipe of the administrator guide: an image of the cache as a LUN."""

from __future__ import annotations

import shutil

import oslo_transfer
from oslo_transfer.testing import harness
from tests import groups
from tests.servers import cache_service
from tests.servers import dd_lab
from tests.servers import nginx
from tests.servers import tgt

DATA = harness.pattern(6 << 20)

pytestmark = groups.marks(
    'iscsi', all(map(shutil.which, ('nginx', 'nbdfuse', 'tgtd')))
)


def test_an_initiator_reads_what_is_still_far_away(conf, tmp_path):
    (tmp_path / 'image').write_bytes(DATA)
    conf.set_override('engine', 'libiscsi', 'oslo_transfer_iscsi')
    options = {'oslo_transfer_cache': {'hydrate': 'false'}}
    with (
        dd_lab.short_directory() as here,
        nginx.Nginx(tmp_path) as origin,
        cache_service.CacheService(here, options) as service,
    ):
        made = oslo_transfer.copy(
            origin.url('/image'),
            here / 'image',
            'copy_on_read',
            conf=service.conf(),
            accept=('path',),
        )
        with tgt.Tgt() as target:
            name = target.target()
            target.disk(name, here / 'image', readonly=1)
            oslo_transfer.copy(target.url(name), here / 'copied', conf=conf)
        assert (here / 'copied').read_bytes() == DATA
        made.attachment.detach()
