# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer cleanup``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import typing

from oslo_transfer import cleanup
from oslo_transfer.cli import base
from oslo_transfer.cli import columns
from oslo_transfer.cli import units
from oslo_transfer import exceptions
from oslo_transfer import opts


class Cleanup(base.Lister):
    """Remove what killed copies have left behind.

    Stale are part files (.NAME.oslo-part) with their journals that nothing
    was written to for a while, and that no process has locked. A copy that
    was stopped cannot go on from there afterwards. Records of attachments
    that were never completed go too; those are under the option state_path.
    """

    examples = """\
See what would be removed::

  oslo-transfer cleanup --dry-run --recursive /var/lib/nova/instances

Remove what was not touched for a day::

  oslo-transfer cleanup --older-than 1d /var/lib/nova/instances/_base
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'directories', metavar='DIR', nargs='+', help='where to look'
        )
        parser.add_argument(
            '--older-than',
            metavar='AGE',
            type=units.seconds,
            default='7d',
            help='how long nothing was written, for example 45s, 30m, 12h, '
            '7d, 2w; default: 7d',
        )
        parser.add_argument(
            '--recursive',
            action='store_true',
            help='look into subdirectories too; links are not followed',
        )
        parser.add_argument(
            '--dry-run',
            action='store_true',
            help='remove nothing, and tell what would be removed',
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], list[Sequence[typing.Any]]]:
        """Clean up, and list what was found."""
        self._found = cleanup.clean(
            [*parsed_args.directories, *self._records()],
            older_than=parsed_args.older_than,
            recursive=parsed_args.recursive,
            dry_run=parsed_args.dry_run,
        )
        names = ('path', 'kind', 'size', 'age', 'outcome', 'reason')
        return names, [
            (
                each.path,
                each.kind,
                columns.Size(each.size),
                columns.Age(each.age),
                each.outcome,
                columns.Text(each.reason),
            )
            for each in self._found
        ]

    def _records(self) -> list[str]:
        conf = self.app.conf()
        state = conf.oslo_transfer.state_path or opts.default_state_path()
        path = os.path.join(state, 'attachments')
        return [path] if os.path.isdir(path) else []

    def run(self, parsed_args: argparse.Namespace) -> int:
        """Run, and tell the sum.

        :raises StorageError: something could not be removed
        """
        status = super().run(parsed_args)
        outcome = cleanup.REMOVED
        if parsed_args.dry_run:
            outcome = cleanup.WOULD_REMOVE
        done = [each for each in self._found if each.outcome == outcome]
        if not self.app.options.quiet:
            size = units.human_size(sum(each.size for each in done))
            self.app.console.line(
                f'{self.app.NAME}: {len(done)} files {outcome}, {size}'
            )
        failed = [
            each for each in self._found if each.outcome == cleanup.FAILED
        ]
        if failed:
            raise exceptions.StorageError(
                f'{len(failed)} could not be removed, the first is '
                f'{failed[0].path}: {failed[0].reason}'
            )
        return status
