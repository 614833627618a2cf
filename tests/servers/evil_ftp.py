# SPDX-License-Identifier: Apache-2.0
"""The catalogue of bad FTP behaviours: BEHAVIOURS, by id."""

from tests.servers import evil_ftp_control
from tests.servers import evil_ftp_data
from tests.servers import evil_ftp_lab
from tests.servers import evil_ftp_passive
from tests.servers import evil_ftp_resume
from tests.servers import evil_ftp_tls

THEMES = (
    evil_ftp_control,
    evil_ftp_data,
    evil_ftp_passive,
    evil_ftp_resume,
    evil_ftp_tls,
)

BEHAVIOURS = evil_ftp_lab.BEHAVIOURS
Behaviour = evil_ftp_lab.Behaviour
Lab = evil_ftp_lab.Lab
HELD = evil_ftp_lab.HELD
LOGIN = evil_ftp_lab.LOGIN
NAME = evil_ftp_lab.NAME
SIZE = evil_ftp_lab.SIZE
