# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer attach``, ``detach`` and ``attachment list``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import typing

import oslo_transfer
from oslo_transfer.cli import base
from oslo_transfer.cli import columns
from oslo_transfer.cli import credentials
from oslo_transfer.cli import exit_codes
from oslo_transfer.cli import interrupt
from oslo_transfer.cli import units
from oslo_transfer import exceptions


class Attach(base.ShowOne):
    """Make a remote object readable in place, without moving its data.

    What it becomes - a block device, a file or an NBD export - is shown
    with an ID. It stays when this command has ended, until "oslo-transfer
    detach ID"; "oslo-transfer attachment list" shows all. It is read-only.
    """

    examples = """\
Attach a LUN by two portals and read it::

  oslo-transfer attach \\
      iscsi://10.0.0.1,10.0.0.2/iqn.2010-10.org.openstack:volume-1/1
  dd if=/dev/sdb of=/dev/null bs=1M count=1

Attach one that asks for a CHAP login, and use the path in a script. The file
of --auth-file has a line "iscsi://10.0.0.1 login:USER:SECRET"::

  oslo-transfer attach -f value -c path --auth-file ~/.transfer-auth \\
      iscsi://10.0.0.1/iqn.2010-10.org.openstack:volume-1/1
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'src', metavar='SRC', help='URL or path of what is attached'
        )
        parser.add_argument(
            '--deadline',
            metavar='SECONDS',
            type=units.seconds,
            help='give up after this time; also 30m, 12h',
        )
        parser.add_argument(
            '--auth-file',
            metavar='FILE',
            help='file with logins by server, see "oslo-transfer copy --help"',
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[typing.Any]]:
        """Attach, and describe what was attached."""
        self.check_columns(parsed_args, columns.ATTACHMENT_FIELDS)
        conf = self.app.conf()
        credentials.warn_of_passwords([parsed_args.src])
        keyring = credentials.Keyring(
            parsed_args.auth_file, os.environ, self.app.console
        )
        with interrupt.Interruption() as interruption:
            try:
                made = oslo_transfer.attach(
                    keyring.location(parsed_args.src),
                    conf=conf,
                    cancel=interruption,
                    deadline=parsed_args.deadline,
                )
            except exceptions.TransferCancelled as exc:
                raise exit_codes.Interrupted(
                    interruption.status, 'cancelled; nothing is attached'
                ) from exc
        return columns.ATTACHMENT_FIELDS, _row(made)


class Detach(base.Command):
    """Take an attachment away.

    One that is in use - open, mounted, or part of something else - is
    refused, and who uses it is told. One that is gone already is no error.
    What others have made, such as a session that was there before, stays.
    """

    examples = """\
Example::

  oslo-transfer detach 4f6c0d2a9be84d0c8f3f2a1b5d7e9c10
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
        rows = list(map(_row, oslo_transfer.attachments(self.app.conf())))
        return columns.ATTACHMENT_FIELDS, rows


def _row(attachment: oslo_transfer.Attachment) -> Sequence[typing.Any]:
    fields = columns.attachment_fields(attachment)
    fields['size'] = columns.Size(attachment.size)
    fields['read_only'] = columns.Flag(attachment.read_only)
    return tuple(fields.values())
