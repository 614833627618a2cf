# SPDX-License-Identifier: Apache-2.0
"""Rows of two datacenters with a proxy in each, and a WAN between them.

The WAN is a line with a rate and a round trip, from the far proxy to the
near one: it counts what it carries.
"""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import socket

from demo import daemon
from demo import images
from demo import line
from demo import scene

# Of the WAN, in bits per second and seconds.
_RATE, _ROUND_TRIP = 400_000_000, 0.02
_HOSTS = 3
_ADMIN = 'admin-of-the-demonstration'
# It is more if what is there is fetched again.
_MOST = 1.05


@scene.act('two datacenters')
def centers(here: scene.Scene) -> Iterator[scene.Row]:
    """Hosts of the far one read what is in the near one."""
    near = _Proxy(here, 'near', ())
    wan = line.Line(near.port, _RATE, _ROUND_TRIP)
    here.undo(wan.close)
    far = _Proxy(here, 'far', (f'http://127.0.0.1:{wan.port}',))
    here.page = f'{far.url}/status'
    conf = _host(here, far.url)
    admin = here.root / 'admin'
    admin.touch(0o600)
    admin.write_text(f'{far.url} token:{_ADMIN}\n')
    rows = [
        _copy(here, here.raw, f'far host {number}', conf)
        for number in range(1, _HOSTS + 1)
    ]
    note = _check(wan.sent, here.raw, rows, 'for all of them')
    yield from rows[:-1]
    yield dataclasses.replace(rows[-1], notes=(note,))

    before = wan.sent
    here.command(
        *('--config-file', conf, 'prefetch', f'{here.http}/disk.qcow2'),
        *('--datacenter', 'far', '--auth-file', admin),
    )
    sent = wan.sent - before
    row = _copy(here, here.qcow2, 'far, sent ahead', conf)
    note = _check(wan.sent - before, here.qcow2, [row], 'before it was asked')
    if wan.sent - before > _MOST * sent:
        raise scene.Broken('what was sent ahead is fetched again')
    yield dataclasses.replace(row, notes=(note,))


class _Proxy:
    """A service with the role ``proxy``.

    :param upstreams: whom it asks before the origin
    """

    def __init__(
        self, here: scene.Scene, name: str, upstreams: Sequence[str]
    ) -> None:
        tokens = here.root / f'admins-{name}'
        tokens.write_text(f'{_ADMIN}\n')
        self.port = scene.free_port()
        self.url = f'http://127.0.0.1:{self.port}'
        daemon.Service(
            here,
            f'proxy-{name}',
            'proxy',
            f'[oslo_transfer_proxy]\n'
            f'http_port = {self.port}\n'
            f'origins = {here.http}/\n'
            f'upstreams = {", ".join(upstreams)}\n'
            f'admin_tokens_file = {tokens}\n',
        )


def _host(here: scene.Scene, proxy: str) -> str:
    """The configuration of hosts in the far datacenter."""
    path = here.root / 'far-host.conf'
    path.write_text(
        f'[oslo_transfer]\n'
        f'datacenters = near, far\n'
        f'datacenter = far\n'
        f'state_path = {here.root}/far-host\n'
        f'[oslo_transfer_datacenter_near]\n'
        f'hosts = localhost\n'
        f'[oslo_transfer_datacenter_far]\n'
        f'hosts = {socket.gethostname()}\n'
        f'proxies = {proxy}\n'
        f'[oslo_transfer_service]\n'
        f'control_socket = {here.root}/nobody.sock\n'
    )
    return str(path)


def _copy(
    here: scene.Scene, image: images.Image, what: str, conf: str
) -> scene.Row:
    row = here.copy(
        'http',
        what,
        f'{here.http}/{image.path.name}',
        here.target(image),
        image,
        strategy='proxy_cache',
        conf=scene.configuration(conf),
    )
    if set(row.result.bytes_by_origin) - {'proxy', 'zeros'}:
        raise scene.Broken(f'{what}: it did not come by the proxy')
    return row


def _check(
    sent: int, image: images.Image, rows: Sequence[scene.Row], why: str
) -> str:
    """What to say of the WAN.

    :raises Broken: it has carried the image more than once
    """
    if sent > _MOST * image.size:
        raise scene.Broken(f'the WAN carried {sent:,} bytes')
    seconds = ', '.join(f'{row.result.seconds:.1f} s' for row in rows)
    return (
        f'the WAN of {_RATE / 1e6:.0f} Mbit/s carried {sent / 1e6:.0f} MB, '
        f'{sent / image.size:.2f} of the image, {why} ({seconds})'
    )
