# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer prefetch`` and ``oslo-transfer prefetch list``."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from collections.abc import Sequence
import dataclasses
import typing

from oslo_transfer.cache import trace as _trace
from oslo_transfer import call as _call
from oslo_transfer.cli import base
from oslo_transfer.cli import columns
from oslo_transfer.cli import credentials
from oslo_transfer.cli import exit_codes
from oslo_transfer.cli import interrupt
from oslo_transfer.cli import places as _places
from oslo_transfer.cli import prefetching
from oslo_transfer.cli import progress
from oslo_transfer.cli import units
from oslo_transfer import datacenters
from oslo_transfer import exceptions

_COLUMNS = (
    'source',
    'datacenter',
    'proxy',
    'kind',
    'state',
    'wanted',
    'here',
    'seconds',
    'id',
    'problem',
)
_LISTED = (
    'datacenter',
    'proxy',
    'source',
    'kind',
    'state',
    'wanted',
    'here',
    'seconds',
    'id',
    'problem',
)
# What a proxy takes as a body, less what is around an iolog in it.
_MOST_IOLOG = 3 << 20
# Seconds for telling proxies that nobody wants it any more.
_FAREWELL = 5.0

_EPILOG = """\
An image for two datacenters, before anybody asks for it there::

  oslo-transfer prefetch --datacenter paris --datacenter tokyo \\
      https://images.example/debian.raw

Only what a boot reads, as the readers in another datacenter have shown::

  oslo-transfer prefetch --datacenter tokyo --trace-from paris \\
      https://images.example/debian.raw

In the night, with half of the link::

  oslo-transfer prefetch --datacenter tokyo --rate-limit 60M --no-wait \\
      https://images.example/debian.raw https://images.example/fedora.raw

Without --datacenter it is the proxy of this host; that needs no token. Else
each datacenter's first proxy that answers is asked; it is the one that hosts
there ask, too. It goes on by itself, also after a restart and when the link
was cut, until it is done. Ctrl-C ends what this command has begun; what has
arrived stays, and the same command goes on from there.

Credentials are those of "copy --auth-file". A line for a proxy has one of its
admin tokens; those for SRC are given to the proxy, which shows them to the
origin, or to the proxies that lead there.
"""

_LIST_EPILOG = """\
What is where::

  oslo-transfer prefetch list --datacenter tokyo -c source -c state -c here
"""


class Prefetch(base.Lister):
    """Have images brought to datacenters before anybody asks for them there.

    SRC are URLs as the hosts there use them. The proxies of a datacenter are
    in the configuration. Without --hot, --trace or --trace-from it is all of
    each image. A plain HTTP cache is read through from here.
    """

    examples = _EPILOG

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'src', metavar='SRC', nargs='+', help='where an image is'
        )
        _places.add_arguments(parser)
        kinds = parser.add_mutually_exclusive_group()
        kinds.add_argument(
            '--full', action='store_true', help='all of it; this is usual'
        )
        kinds.add_argument(
            '--hot',
            action='store_true',
            help='what readers in that datacenter have read first of it',
        )
        kinds.add_argument(
            '--trace',
            metavar='FILE',
            help='what an iolog of fio reads, as "trace record" makes it',
        )
        kinds.add_argument(
            '--trace-from',
            metavar='NAME',
            help='what readers in another datacenter have read first of it',
        )
        parser.add_argument(
            '--rate-limit',
            metavar='BYTES_PER_S',
            type=units.byte_count,
            help='the most bytes per second to each datacenter; K, M, G, T '
            'are powers of 1024; default: its link_bytes_per_second',
        )
        parser.add_argument(
            '--every-proxy',
            action='store_true',
            help='have each proxy of a datacenter bring it, where hosts '
            'there have them in different orders',
        )
        parser.add_argument(
            '--no-wait',
            action='store_true',
            help='end when the proxies have taken it, and let them go on',
        )
        parser.add_argument(
            '--no-progress',
            action='store_true',
            help='no progress line; there is none anyway if stderr is not a '
            'terminal',
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], list[Sequence[typing.Any]]]:
        """Ask the proxies, and wait."""
        self._error: exceptions.TransferError | None = None
        conf = self.app.conf()
        credentials.warn_of_passwords(parsed_args.src)
        places = _places.Places(self, parsed_args, conf)
        with interrupt.Interruption() as interruption:
            call = _call.Call(conf, interruption, None, None)
            try:
                centers = self._centers(parsed_args, places, call)
                tasks = [task for center in centers for task in center.tasks]
                self._run(parsed_args, centers, tasks)
                if interruption.is_set():
                    farewell = _call.Call(conf, None, _FAREWELL, None)
                    prefetching.cancel(tasks, farewell, places.ask)
                call.ctx.check()
            except exceptions.TransferCancelled as exc:
                raise exit_codes.Interrupted(
                    interruption.status,
                    'cancelled; the same command goes on from here',
                ) from exc
        self._error = _failure(tasks)
        return _COLUMNS, [_row(task) for task in tasks]

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Sequence[typing.Any]],
    ) -> int:
        """Print the table; what failed is told behind it."""
        status = super().produce_output(parsed_args, column_names, data)
        if self._error is not None:
            raise self._error
        return status

    def _wanted(
        self,
        parsed_args: argparse.Namespace,
        places: _places.Places,
        call: _call.Call,
    ) -> list[prefetching.Wanted]:
        kind, known = 'full', None
        if parsed_args.hot:
            kind = 'hot'
        if parsed_args.trace:
            kind, known = 'trace', _trace.Trace.load(parsed_args.trace)
        found = []
        for url in dict.fromkeys(parsed_args.src):
            location = places.keyring.location(url)
            trace = known
            if parsed_args.trace_from:
                kind = 'trace'
                trace = prefetching.trace_from(
                    places.get(parsed_args.trace_from),
                    location,
                    call,
                    places.ask,
                )
            found.append(prefetching.Wanted(location, kind, _small(trace)))
        return found

    def _centers(
        self,
        parsed_args: argparse.Namespace,
        places: _places.Places,
        call: _call.Call,
    ) -> list[prefetching.Center]:
        wanted = self._wanted(parsed_args, places, call)
        found: list[prefetching.Center] = []
        for center in places.centers:
            parts = [center]
            if parsed_args.every_proxy:
                parts = [
                    dataclasses.replace(center, proxies=(proxy,))
                    for proxy in center.proxies
                ]
            rate = parsed_args.rate_limit or center.link_rate
            found.extend(
                prefetching.Center(
                    part,
                    wanted,
                    # Each has limits of its own.
                    _call.Call(call.conf, call.ctx.cancel, None, None),
                    places.ask,
                    rate=max(1, rate // len(parts)) if rate else None,
                    wait=not parsed_args.no_wait,
                )
                for part in parts
            )
        return found

    def _run(
        self,
        parsed_args: argparse.Namespace,
        centers: Sequence[prefetching.Center],
        tasks: Sequence[prefetching.Task],
    ) -> None:
        with progress.shown(
            self.app, lambda: _size(tasks), not parsed_args.no_progress
        ) as reporter:
            for center in centers:
                center.start()
            for center in centers:
                center.join(lambda: _show(reporter, tasks))


class PrefetchList(base.Lister):
    """List what was prefetched to datacenters, and what is under way.

    Proxies remember the last thousand. "Here" is how much was there in the
    end; what was not read for long may have been let go of since.
    """

    examples = _LIST_EPILOG

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        _places.add_arguments(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], list[Sequence[typing.Any]]]:
        """Ask all proxies."""
        conf = self.app.conf()
        places = _places.Places(self, parsed_args, conf)
        call = _call.Call(conf, None, None, None)
        rows: list[Sequence[typing.Any]] = []
        for center in places.centers:
            for proxy in center.proxies:
                if not proxy.plain:
                    rows.extend(
                        _listed(center, proxy, each)
                        for each in places.ask(proxy, call).prefetches()
                    )
        return _LISTED, rows


def _small(trace: _trace.Trace | None) -> _trace.Trace | None:
    if trace is not None and len(trace.dump('image')) > _MOST_IOLOG:
        return trace.merged()
    return trace


def _size(tasks: Sequence[prefetching.Task]) -> int | None:
    """The bytes of all; None while one is not known."""
    if any(task.wanted is None and not task.error for task in tasks):
        return None
    return sum(task.wanted or 0 for task in tasks)


def _show(
    reporter: progress.Reporter | None, tasks: Sequence[prefetching.Task]
) -> None:
    if reporter is not None:
        reporter(0, sum(task.here or 0 for task in tasks))


def _failure(
    tasks: Sequence[prefetching.Task],
) -> exceptions.TransferError | None:
    """What the command ends with, if anything went wrong."""
    failed = [each for each in tasks if each.state in ('failed', 'cancelled')]
    if not failed:
        return None
    first = failed[0]
    if len(failed) == 1 and first.error is not None:
        return first.error
    return exceptions.AllSourcesFailed(
        f'{len(failed)} of {len(tasks)} were not prefetched; '
        f'{first.what.location} in {first.datacenter or "this host"}: '
        f'{first.problem or first.state}'
    )


def _row(task: prefetching.Task) -> Sequence[typing.Any]:
    return (
        str(task.what.location),
        columns.Text(task.datacenter or None),
        columns.Text(str(task.proxy) if task.proxy else None),
        task.what.kind,
        task.state,
        columns.Size(task.wanted),
        columns.Size(task.here),
        columns.Seconds(task.seconds),
        columns.Text(task.id),
        columns.Text(task.problem),
    )


def _listed(
    center: datacenters.Datacenter,
    proxy: datacenters.Proxy,
    fields: typing.Mapping[str, typing.Any],
) -> Sequence[typing.Any]:
    return (
        columns.Text(center.name or None),
        str(proxy),
        fields.get('origin'),
        fields.get('kind'),
        fields.get('state'),
        columns.Size(fields.get('bytes_wanted')),
        columns.Size(fields.get('bytes_here')),
        columns.Seconds(float(fields.get('seconds') or 0)),
        fields.get('id'),
        columns.Text(fields.get('problem')),
    )
