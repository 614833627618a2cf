# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer explain``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import textwrap
import typing

import oslo_transfer
from oslo_transfer.cli import base
from oslo_transfer.cli import columns
from oslo_transfer.cli import credentials
from oslo_transfer.cli import units
from oslo_transfer import explanation

_COLUMNS = (
    'destination',
    'strategy',
    'locations',
    'strategies',
    'remarks',
)
_WIDTH = 72

_EPILOG = """\
Which mirror comes first, and would the image be cloned::

  oslo-transfer explain https://near.example/ID https://far.example/ID \\
      /var/lib/nova/instances/_base/ID

Only the order of the locations::

  oslo-transfer explain -f json -c locations SRC SRC DST
"""


class Explain(base.ShowOne):
    """Say what a copy would do and why, without moving a byte.

    SRC and DST are as for "copy". Shown are the locations in the order in
    which they are tried and the strategies in the order in which they are,
    each with its reason. Nothing is opened, and no server is asked; what
    servers will say shows in the copy alone. With location_selector =
    nearest it connects to hosts for a moment to see how near they are.
    """

    examples = _EPILOG

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'src', metavar='SRC', nargs='+', help='where the data is'
        )
        parser.add_argument('dst', metavar='DST', help='where it goes')
        parser.add_argument(
            '--strategy',
            metavar='NAME',
            help='what it would do with this strategy; default: those of '
            'the option strategy_order',
        )
        parser.add_argument(
            '--expected-size',
            metavar='BYTES',
            type=units.byte_count,
            help='the size that the data must have; K, M, G, T are powers of '
            '1024',
        )
        parser.add_argument(
            '--hash',
            metavar='ALGO[:HEX]',
            help='the digest that the data must have; with it, several '
            'locations can be used at once',
        )
        parser.add_argument(
            '--overwrite',
            action='store_true',
            help='DST would be replaced if it exists and is not the same',
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[typing.Any]]:
        """Ask the library, and describe its answer."""
        self.check_columns(parsed_args, _COLUMNS)
        credentials.warn_of_passwords([*parsed_args.src, parsed_args.dst])
        algorithm, _colon, value = (parsed_args.hash or '').partition(':')
        found = oslo_transfer.explain(
            parsed_args.src,
            parsed_args.dst,
            parsed_args.strategy,
            conf=self.app.conf(),
            expected_size=parsed_args.expected_size,
            hash_algo=algorithm or None,
            hash_value=value or None,
            overwrite=parsed_args.overwrite,
        )
        return _COLUMNS, (
            found.destination,
            columns.Text(found.strategy),
            columns.Rows(
                [dataclasses.asdict(each) for each in found.locations],
                _numbered(map(_location, found.locations)),
            ),
            columns.Rows(
                [dataclasses.asdict(each) for each in found.strategies],
                _numbered(map(_strategy, found.strategies)),
            ),
            columns.Lines(found.remarks),
        )


def _location(choice: explanation.LocationChoice) -> list[str]:
    if not choice.usable:
        return [choice.location, f'not used: {choice.reason}']
    return [f'{choice.location} ({choice.driver})', choice.reason]


def _strategy(choice: explanation.StrategyChoice) -> list[str]:
    head = f'{choice.strategy}: {choice.choice}'
    if choice.reason:
        return [head, choice.reason]
    return [
        head,
        *choice.steps,
        *(
            f'without {each.location}: {each.reason}'
            for each in choice.passed_over
        ),
    ]


def _numbered(items: typing.Iterable[list[str]]) -> list[str]:
    """Lines for people: a number before each item, its details below."""
    lines = []
    for number, (head, *details) in enumerate(items, 1):
        mark = f'{number}. '
        lines.append(f'{mark}{head}')
        for detail in details:
            lines += textwrap.wrap(
                detail,
                _WIDTH,
                initial_indent=' ' * len(mark),
                subsequent_indent=' ' * (len(mark) + 2),
                break_long_words=False,
                break_on_hyphens=False,
            )
    return lines
