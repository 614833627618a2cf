# SPDX-License-Identifier: Apache-2.0
"""The catalogue of bad NBD servers: ROWS to read from, and UPLOADS."""

from tests.servers import evil_nbd_extents
from tests.servers import evil_nbd_lab
from tests.servers import evil_nbd_read
from tests.servers import evil_nbd_start
from tests.servers import evil_nbd_write

THEMES = (evil_nbd_start, evil_nbd_read, evil_nbd_extents)

ROWS = evil_nbd_lab.ROWS
UPLOADS = evil_nbd_write.UPLOADS
SIZE = evil_nbd_lab.SIZE
