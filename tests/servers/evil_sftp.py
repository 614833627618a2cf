# SPDX-License-Identifier: Apache-2.0
"""The catalogue of bad SSH and SFTP servers: ROWS and UPLOADS, by id.

The first two parts of an id are the row of the notes that it is a case of.
"""

from tests.servers import evil_sftp_drops
from tests.servers import evil_sftp_lab
from tests.servers import evil_sftp_order
from tests.servers import evil_sftp_packets
from tests.servers import evil_sftp_size
from tests.servers import evil_sftp_write
from tests.servers import evil_ssh

THEMES = (
    evil_ssh,
    evil_sftp_order,
    evil_sftp_packets,
    evil_sftp_size,
    evil_sftp_drops,
)

ROWS = evil_sftp_lab.ROWS
UPLOADS = evil_sftp_write.UPLOADS
TARGET = evil_sftp_write.TARGET
SIZE = evil_sftp_lab.SIZE
PASSWORD = evil_sftp_lab.PASSWORD
serve = evil_sftp_lab.serve
