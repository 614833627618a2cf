# SPDX-License-Identifier: Apache-2.0
"""What QEMU is told of an NBD export."""

from __future__ import annotations

import json
import os

import pytest

from oslo_transfer import exceptions
from oslo_transfer import qemu_img
from tests.servers import dd_lab


@pytest.mark.parametrize(
    ('uri', 'server', 'export'),
    [
        (
            'nbd+unix:///?socket=/run/a%20b/s',
            {'type': 'unix', 'path': '/run/a b/s'},
            '',
        ),
        (
            'nbd://store/disk%2F1%20x',
            {'type': 'inet', 'host': 'store', 'port': '10809'},
            'disk/1 x',
        ),
        (
            'nbd://[2001:db8::1]:99/%C3%A4',
            {'type': 'inet', 'host': '2001:db8::1', 'port': '99'},
            'ä',
        ),
    ],
)
def test_an_export(uri, server, export):
    kind, _, text = qemu_img.nbd_backing(uri, 7).partition(':')
    assert kind == 'json'
    assert json.loads(text) == {
        'file': {
            'driver': 'nbd',
            'server': server,
            'export': export,
            'reconnect-delay': 7,
        }
    }


@pytest.mark.parametrize(
    ('uri', 'why'),
    [
        ('nbds://store/disk', 'credentials of TLS'),
        ('nbds+unix:///disk?socket=/s', 'credentials of TLS'),
        ('nbd://store/%FF', 'UTF-8'),
        ('nbd+unix:///?socket=/%FF', 'UTF-8'),
    ],
)
def test_what_qemu_could_not_read(uri, why):
    """It is said now, and not when the guest is started."""
    with pytest.raises(exceptions.CapabilityMissing, match=why):
        qemu_img.nbd_backing(uri, 7)


def test_limits(tmp_path, conf, monkeypatch):
    """Whatever has qemu-img use up a host does not (CVE-2015-5162)."""
    program, told = tmp_path / 'qemu-img', tmp_path / 'told'
    program.write_text(f'#!/bin/sh\n(ulimit -v; ulimit -t) > {told}\n')
    program.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    qemu_img.create_overlay(
        *(str(tmp_path / 'disk'), '/base', 'raw', 1 << 20),
        dd_lab.context(conf),
    )
    assert told.read_text().split() == [str(1 << 20), '30']
