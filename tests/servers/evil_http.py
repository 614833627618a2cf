# SPDX-License-Identifier: Apache-2.0
"""The catalogue of bad HTTP behaviours: BEHAVIOURS, by id."""

from tests.servers import evil_http_body
from tests.servers import evil_http_head
from tests.servers import evil_http_ranges
from tests.servers import evil_http_redirect
from tests.servers import evil_http_state
from tests.servers import evil_http_tls
from tests.servers import lab

THEMES = (
    evil_http_body,
    evil_http_head,
    evil_http_ranges,
    evil_http_redirect,
    evil_http_state,
    evil_http_tls,
)

BEHAVIOURS = lab.BEHAVIOURS
Behaviour = lab.Behaviour
Lab = lab.Lab
HELD = lab.HELD
SIZE = lab.SIZE
drop_at = evil_http_state.drop_at
sweep = evil_http_state.sweep
