# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer attachment list`` and ``attachment detach``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import typing

import oslo_transfer
from oslo_transfer.cli import base
from oslo_transfer.cli import columns


class AttachmentList(base.Lister):
    """List what is attached on this host, by any process.

    Attachments are recorded under the option state_path; those of another
    state_path, or of another user, are not listed.
    """

    examples = """\
Example::

  oslo-transfer attachment list -f json
"""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], list[Sequence[typing.Any]]]:
        """Read the records."""
        rows: list[Sequence[typing.Any]] = []
        for each in oslo_transfer.attachments(self.app.conf()):
            fields = columns.attachment_fields(each)
            fields['size'] = columns.Size(each.size)
            fields['read_only'] = columns.Flag(each.read_only)
            rows.append(tuple(fields.values()))
        return columns.ATTACHMENT_FIELDS, rows


class AttachmentDetach(base.Command):
    """Take an attachment away.

    Nothing may use it any more: whatever reads it gets errors.
    """

    examples = """\
Example::

  oslo-transfer attachment detach 4f6c0d2a9be84d0c8f3f2a1b5d7e9c10
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'id', metavar='ID', help='as "attachment list" shows it'
        )
        parser.add_argument(
            '--force',
            action='store_true',
            help='go on where a step fails, and report at the end',
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Detach."""
        oslo_transfer.detach(
            parsed_args.id, conf=self.app.conf(), force=parsed_args.force
        )
