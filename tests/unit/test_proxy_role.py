# SPDX-License-Identifier: Apache-2.0
"""How the options of a proxy fit together."""

from __future__ import annotations

import pytest

from oslo_transfer import exceptions
from oslo_transfer.service.proxy import opts
from oslo_transfer.service.proxy import role as _role
from tests.servers import child

pytestmark = pytest.mark.usefixtures('nothing_left')


@pytest.fixture
def start(conf, tmp_path):
    """Starts the role with options, and ends it."""
    conf.set_override('state_path', str(tmp_path / 's'), 'oslo_transfer')

    def start(**options):
        for name, value in options.items():
            conf.set_override(name, value, group=opts.GROUP)
        made = _role.ProxyRole(conf)
        try:
            made.start()
            return made.status()
        finally:
            made.stop()

    return start


def test_what_is_careful_is_not_complained_of(start, caplog):
    found = start(origins=['http://far.example/'], http_port=child.free_port())
    assert found['totals']['connections'] == 0 and not found['problem']
    assert caplog.text == ''


def test_what_cannot_be_meant_is_told(start, caplog):
    start()
    assert 'origins and names are empty' in caplog.text
    assert 'nobody can read from it' in caplog.text
    caplog.clear()
    start(
        origins=['http://far.example/'],
        listen_address='::',
        http_port=child.free_port('::'),
    )
    assert 'whoever can connect to :: may read' in caplog.text


@pytest.mark.parametrize(
    'options',
    [
        {'ca_file': '/nonexistent'},
        {'key_file': '/nonexistent'},
        {'cert_file': '/nonexistent'},
        {'origins': ['far.example']},
        {'tokens_file': '/nonexistent'},
    ],
)
def test_what_cannot_be_used(start, options):
    """It leaves nothing running."""
    with pytest.raises(exceptions.ConfigurationError):
        start(**options)


def test_nobody_is_taken_for_who_runs_it(start, conf):
    """A netrc file of the host is for everybody, or for nobody."""
    conf.set_override('netrc_file', '/etc/netrc', group='oslo_transfer_http')
    with pytest.raises(exceptions.ConfigurationError, match='netrc_file'):
        start()


def test_a_port_that_somebody_has(start):
    with pytest.raises(exceptions.Unavailable, match='cannot listen'):
        start(
            names={'a': 'http://far.example/a'},
            listen_address='192.0.2.1',
            http_port=1,
        )
