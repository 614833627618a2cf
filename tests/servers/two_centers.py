# SPDX-License-Identifier: Apache-2.0
"""Two datacenters with hosts, and a WAN between them: needs root, ip, tc.

All of it are network namespaces, see :mod:`tests.servers.netns`. The
addresses are those for documentation (RFC 5737): a configuration of the
manual can be run here as it is.
"""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import pathlib
import subprocess
import sys
import typing

from tests.servers import netns

_NEAR, _FAR, _BETWEEN = '198.51.100', '203.0.113', '192.0.2'
_DEVICE = 'wan'
# Of large packets, so that headers are a small part of what is counted.
_MTU = 9000
_ROOT = pathlib.Path(__file__).parents[2]


class Center:
    """A datacenter: a switch that is a router, too, and hosts.

    :ivar hosts: in order; each sees all the others, here and there
    :ivar network: of its hosts
    """

    def __init__(
        self, subnet: str, count: int, stack: contextlib.ExitStack
    ) -> None:
        self.router = stack.enter_context(
            contextlib.closing(netns.Switch(subnet, forward=True))
        )
        self.network = f'{subnet}.0/24'
        self.hosts: list[netns.Host] = []
        for number in range(1, count + 1):
            host = stack.enter_context(
                contextlib.closing(netns.Host(number, self.router, subnet))
            )
            host.large_packets(_MTU)
            self.hosts.append(host)


class Wan:
    """The line between the two; both ways have the same rate.

    :param rate: in bits per second, None for no limit
    :param round_trip: in seconds
    """

    def __init__(
        self,
        centers: Sequence[Center],
        rate: int | None,
        round_trip: float,
        stack: contextlib.ExitStack,
    ) -> None:
        self._near, self._far = (center.router for center in centers)
        self._rate = rate
        self._passes = False
        if round_trip:
            self._lead(round_trip, stack)
        else:
            _join(self._near, _DEVICE, self._far, _DEVICE)
        for number, (here, there) in enumerate(
            (tuple(centers), tuple(reversed(centers))), 1
        ):
            here.router.run(
                *('ip', 'address', 'add', f'{_BETWEEN}.{number}/24'),
                *('dev', _DEVICE),
            )
            here.router.run('ip', 'link', 'set', _DEVICE, 'up')
            here.router.run(
                *('ip', 'route', 'add', there.network),
                *('via', f'{_BETWEEN}.{3 - number}'),
            )
        self.mend()

    def _lead(self, round_trip: float, stack: contextlib.ExitStack) -> None:
        """Have packets on the way for half of the round trip, each way."""
        middle = stack.enter_context(contextlib.closing(netns.Namespace()))
        for router, device in ((self._near, 'near'), (self._far, 'far')):
            _join(router, _DEVICE, middle, device)
            middle.run('ip', 'link', 'set', device, 'up')
        line = middle.popen(
            *(sys.executable, '-m', 'tests.servers.delayline'),
            *('near', 'far', f'{round_trip / 2}'),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            cwd=_ROOT,
        )
        assert line.stdin and line.stdout
        stack.enter_context(contextlib.closing(line.stdin))
        stack.enter_context(contextlib.closing(line.stdout))
        if line.stdout.readline() != b'ready\n':
            raise RuntimeError('there is no line')

    def to_far(self) -> int:
        """Bytes that left the near datacenter so far, with all headers.

        Headers count once for all that the kernel segments later on.
        """
        return self._near.counter(_DEVICE, 'tx_bytes')

    def to_near(self) -> int:
        """Bytes that left the far one."""
        return self._far.counter(_DEVICE, 'tx_bytes')

    def cut(self) -> None:
        """Lose all packets from now on: no error tells anybody."""
        self._passes = False
        for router in (self._near, self._far):
            router.run(
                *('tc', 'qdisc', 'replace', 'dev', _DEVICE, 'root'),
                *('bfifo', 'limit', '1'),
            )

    def mend(self) -> None:
        """Have packets pass, at the rate; idempotent."""
        if self._passes:
            return
        self._passes = True
        for router in (self._near, self._far):
            if self._rate is not None:
                netns.shape(router, _DEVICE, self._rate)
            else:
                router.run(
                    *('tc', 'qdisc', 'replace', 'dev', _DEVICE, 'root'),
                    *('pfifo', 'limit', '1000'),
                )


class TwoCenters:
    """Two datacenters; a context manager.

    :param near: hosts of the one
    :param far: hosts of the other
    :param rate: of the WAN, in bits per second each way; None for no limit
    :param round_trip: of the WAN, in seconds
    """

    near: Center
    far: Center
    wan: Wan

    def __init__(
        self,
        near: int,
        far: int,
        *,
        rate: int | None = None,
        round_trip: float = 0.0,
    ) -> None:
        self._counts = near, far
        self._rate = rate
        self._round_trip = round_trip
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> typing.Self:
        with contextlib.ExitStack() as stack:
            self.near, self.far = (
                Center(subnet, count, stack)
                for subnet, count in zip(
                    (_NEAR, _FAR), self._counts, strict=True
                )
            )
            self.wan = Wan(
                (self.near, self.far), self._rate, self._round_trip, stack
            )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()


def _join(
    one: netns.Namespace, device: str, other: netns.Namespace, peer: str
) -> None:
    one.run(
        *('ip', 'link', 'add', 'name', device, 'type', 'veth'),
        *('peer', 'name', peer, 'netns', other.path),
    )
    for end, name in ((one, device), (other, peer)):
        end.run('ip', 'link', 'set', name, 'mtu', str(_MTU))
