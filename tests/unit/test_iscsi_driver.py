# SPDX-License-Identifier: Apache-2.0
"""Which engine serves a URL."""

from __future__ import annotations

import pytest

from oslo_transfer import call
from oslo_transfer.drivers import base
from oslo_transfer.drivers.iscsi import driver
from oslo_transfer.drivers.iscsi import osbrick
from oslo_transfer.drivers.iscsi import source
from oslo_transfer.drivers.iscsi import userspace
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures

IQN = 'iqn.2010-10.org.openstack:volume-1'
URL = endpoint.parse(f'iscsi://192.0.2.1,192.0.2.2/{IQN.upper()}/1')


@pytest.fixture
def conf():
    made = fixtures.make_conf()
    made.register_opts(driver.ISCSIDriver.OPTIONS, group='oslo_transfer_iscsi')
    return made


@pytest.fixture
def ctx(conf):
    return call.Call(conf, None, None, None).ctx


@pytest.fixture
def engine(conf, monkeypatch):
    """Sets the option, and whether the kernel's initiator can run."""

    def choose(option, reason=None):
        conf.set_override('engine', option, 'oslo_transfer_iscsi')
        monkeypatch.setattr(osbrick, 'usable', lambda _conf: reason)
        monkeypatch.setattr(osbrick, 'open_source', lambda *_: 'kernel')
        monkeypatch.setattr(osbrick, 'open_sink', lambda *_: 'kernel')
        monkeypatch.setattr(source, 'ISCSISource', lambda *_: 'library')
        return driver.ISCSIDriver(conf)

    return choose


@pytest.mark.parametrize(
    ('option', 'reason', 'expected'),
    [
        ('auto', None, 'kernel'),
        ('auto', 'no iscsid', 'library'),
        ('os_brick', None, 'kernel'),
        ('libiscsi', None, 'library'),
    ],
)
def test_engines(engine, ctx, option, reason, expected):
    assert engine(option, reason).open_source(URL, ctx) == expected


def test_an_engine_that_cannot_run(engine, ctx):
    """Whoever asks for one does not get another."""
    made = engine('os_brick', 'no iscsid')
    for call_ in (
        lambda: made.open_source(URL, ctx),
        lambda: made.open_sink(URL, ctx, size=None),
        lambda: made.attach(URL, ctx, lambda _details: None),
    ):
        with pytest.raises(exceptions.CapabilityMissing, match='no iscsid'):
            call_()


def test_what_attachments_share(engine, ctx):
    """A device of the kernel is one, by whichever portal it is named."""
    other = endpoint.parse(f'iscsi://192.0.2.2/{IQN}/1')
    kernel = engine('os_brick')
    assert kernel.sharing(URL, ctx) == kernel.sharing(other, ctx)
    assert kernel.sharing(URL, ctx) != kernel.sharing(
        endpoint.parse(f'iscsi://192.0.2.2/{IQN}/2'), ctx
    )
    assert engine('libiscsi').sharing(URL, ctx) is None


@pytest.mark.parametrize('module', [osbrick, userspace])
def test_who_attached_detaches(conf, ctx, monkeypatch, module):
    """Whatever the option says by then, and after a crash."""
    noted = []
    for each in (osbrick, userspace):
        monkeypatch.setattr(
            each,
            'detach',
            lambda *_arguments, each=each: noted.append(each),
        )

    def attach(_lun, _ctx, record):
        record({'early': 1})
        return base.Attachment(
            id='',
            driver='iscsi',
            source='',
            form='device',
            path='/dev/x',
            size=1,
            details={'late': 1},
        )

    monkeypatch.setattr(module, 'attach', attach)
    monkeypatch.setattr(osbrick, 'usable', lambda _conf: None)
    name = 'os_brick' if module is osbrick else 'libiscsi'
    conf.set_override('engine', name, 'oslo_transfer_iscsi')
    made = driver.ISCSIDriver(conf)
    records = []
    attachment = made.attach(URL, ctx, records.append)
    assert records[0]['engine'] == attachment.details['engine']
    conf.set_override('engine', 'auto', 'oslo_transfer_iscsi')
    made.detach(attachment, ctx, False)
    assert noted == [module]


def test_detaching_what_nobody_knows(engine, ctx):
    attachment = base.Attachment(
        id='x',
        driver='iscsi',
        source='iscsi://h/iqn.x/1',
        form='device',
        path='/dev/sdx',
        size=1,
        details={'engine': 'of the future'},
    )
    with pytest.raises(exceptions.DetachError) as caught:
        engine('auto').detach(attachment, ctx, True)
    assert caught.value.leftovers == ('/dev/sdx',)
