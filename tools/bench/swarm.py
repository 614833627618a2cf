# SPDX-License-Identifier: Apache-2.0
"""Hosts that fetch one image at once, each with a line of 100 Mbit/s."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
import functools
import pathlib
import time

from bench import lab
from bench import measure
from bench import registry
from bench import swarm_lab
from oslo_transfer.drivers.bittorrent import bound

_HOSTS = 8
_BYTES = swarm_lab.RATE // 8
_LOOK = 0.05
# Copies that the origin may send.
_MOST_SENT = 1.45


def _image(here: lab.Lab, size: int) -> tuple[swarm_lab.Image, pathlib.Path]:
    directory = here.directory(str(here.memory))
    served = directory / 'served'
    served.mkdir()
    return swarm_lab.Image(served / 'image', size), directory


def _bound(size: int) -> float:
    """Print and return the lower bound for the last host, in seconds."""
    least = bound.lower_bound(size, _BYTES, _BYTES, _HOSTS)
    print(
        f'  {size // lab.MIB} MiB to {_HOSTS} hosts at '
        f'{swarm_lab.RATE // 1_000_000} Mbit/s: lower bound {least:.1f} s, '
        f'from the web server alone {_HOSTS * least:.1f} s'
    )
    return least


def _measure(
    here: lab.Lab, name: str, target: float, seed: bool
) -> Iterator[registry.Row]:
    image, directory = _image(here, here.size // 4)
    least = _bound(image.size)
    seconds, sent = [], []
    for _run in range(here.runs):
        # All anew, as peers remember each other.
        with swarm_lab.Swarm(image, directory, _HOSTS, seed=seed) as swarm:
            seconds.append(swarm.fetch())
            sent.append(swarm.sent / lab.MIB)
    yield registry.Row(
        name,
        measure.report('the last host', seconds),
        least,
        'lower bound',
        target,
    )
    yield registry.Row(
        name,
        measure.report('sent by the origin', sent, 'MiB'),
        image.size / lab.MIB,
        'one copy',
        _MOST_SENT,
        'MiB',
    )


@registry.benchmark('swarm')
def swarm(here: lab.Lab) -> Iterator[registry.Row]:
    """One seed, which is the service."""
    swarm_lab.need()
    yield from _measure(here, 'swarm', 1.5, seed=True)


@registry.benchmark('swarm-webseed')
def webseed(here: lab.Lab) -> Iterator[registry.Row]:
    """A web server as the only origin."""
    swarm_lab.need('nginx')
    yield from _measure(here, 'swarm-webseed', 1.5, seed=False)


@registry.benchmark('swarm-alone')
def alone(here: lab.Lab) -> Iterator[registry.Row]:
    """One host: there is nothing to gain, and nothing to lose."""
    swarm_lab.need('nginx')
    image, directory = _image(here, here.size // 8)
    with (
        swarm_lab.Swarm(image, directory, 1) as one,
        swarm_lab.Swarm(image, directory, 1, peers=swarm_lab.DEAD) as other,
    ):

        def contestant(
            name: str, swarm: swarm_lab.Swarm, src: Sequence[str]
        ) -> measure.Contestant:
            host = swarm.hosts[0]
            run = functools.partial(host.copy, src)
            return measure.Contestant(
                name, run, host.result, image.path, ours=True
            )

        found = measure.alternate(
            [
                contestant('direct HTTP', one, one.src[1:]),
                contestant('torrent and HTTP', one, one.src),
                contestant('with three dead peers', other, other.src),
            ],
            here.runs,
        )
    yield registry.Row(
        'swarm-alone',
        found['torrent and HTTP'],
        found['direct HTTP'],
        'direct HTTP',
        1.05,
    )
    yield registry.Row(
        'swarm-alone',
        max(0.0, found['with three dead peers'] - found['torrent and HTTP']),
        1.0,
        'a second, for three dead peers',
        1.0,
    )


@registry.benchmark('swarm-churn')
def churn(here: lab.Lab) -> Iterator[registry.Row]:
    """At half of the image a host dies, and so does the tracker."""
    swarm_lab.need('nginx', 'opentracker')
    image, directory = _image(here, here.size // 4)
    least = _bound(image.size)
    seconds = []
    for _run in range(here.runs):
        with swarm_lab.Swarm(image, directory, _HOSTS, tracked=True) as swarm:
            victim = swarm.hosts[0].namespace
            half = victim.received() + image.size / 2
            with swarm.fetching() as (killed, *others):
                while victim.received() < half and not killed.done():
                    time.sleep(_LOOK)
                swarm.hosts[0].kill()
                assert swarm.tracker is not None
                swarm.tracker.stop()
                seconds.append(max(each.result() for each in others))
    yield registry.Row(
        'swarm-churn',
        measure.report('the last of those that are left', seconds),
        least,
        'lower bound',
        1.6,
    )
