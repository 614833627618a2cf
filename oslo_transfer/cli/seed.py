# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer seed list``, ``seed add`` and ``seed remove``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import os
import typing

from oslo_transfer.cli import base
from oslo_transfer.cli import columns
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer import oserrors
from oslo_transfer.service import client


class SeedList(base.Lister):
    """List the files that the service of this host seeds.

    The ratio says how many times over a file was sent. Left is the time
    until seeding ends by itself, empty if it does not.
    """

    examples = """\
Example::

  oslo-transfer seed list -f json
"""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], list[Sequence[typing.Any]]]:
        """Ask the service."""
        names = ('info_hash', 'name', 'size', 'ratio', 'peers', 'left', 'path')
        return names, [
            (
                each.get('info_hash'),
                each.get('name'),
                columns.Size(each.get('size')),
                each.get('ratio'),
                each.get('peers'),
                columns.Left(each.get('seconds_left')),
                each.get('path'),
            )
            for each in client.Client(self.app.conf()).seeds()
        ]


class SeedAdd(base.Command):
    """Have the service of this host seed a finished file.

    The file is read from where it is, and nothing writes to it. Bytes that
    have not the hashes of the torrent are sent to nobody. Adding it again
    starts the time anew.
    """

    examples = """\
Example::

  oslo-transfer seed add debian.torrent /srv/images/debian.raw
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument('torrent', metavar='FILE', help='torrent file')
        parser.add_argument('path', metavar='PATH', help='the finished file')
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Hand it to the service."""
        with oserrors.os_errors(f'reading {parsed_args.torrent}'):
            with open(parsed_args.torrent, 'rb') as file:
                # What is too large is refused with the right words.
                torrent = file.read(metainfo.MAX_BYTES + 1)
        metainfo.parse(torrent)
        path = os.path.abspath(parsed_args.path)
        client.Client(self.app.conf()).add_seed(torrent, path)


class SeedRemove(base.Command):
    """End the seeding of a file; the file stays."""

    examples = """\
Example::

  oslo-transfer seed remove 0b41a4ed7d5c3de8a6f1a0a3c91fb3d0b0b8d4f2
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'info_hash', metavar='INFOHASH', help='as "seed list" shows it'
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Ask the service."""
        client.Client(self.app.conf()).remove_seed(parsed_args.info_hash)
