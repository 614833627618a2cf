# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer cache list`` and ``cache scrub``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import typing

from oslo_transfer.cli import base
from oslo_transfer.cli import columns
from oslo_transfer.service import client


class CacheList(base.Lister):
    """List the images that the service of this host serves from its cache.

    States: "serving" is read through the cache, and still needs its origin;
    "complete" has all bytes, and they are verified; "damaged" has not the
    digest that it should have; "promoted" is a file of its own, and an overlay
    that is in use still leads to the cache; "released" needs neither the
    origin nor the cache, and can be detached.
    """

    examples = """\
Examples::

  oslo-transfer cache list

  oslo-transfer cache list -f json -c destination -c state -c problem
"""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], list[Sequence[typing.Any]]]:
        """Ask the service."""
        names = (
            'id',
            'source',
            'destination',
            'state',
            'here',
            'size',
            'problem',
            'urls',
        )
        return names, [
            (
                each.get('id'),
                each.get('source'),
                columns.Text(each.get('destination')),
                each.get('state'),
                columns.Size(each.get('here')),
                columns.Size(each.get('size')),
                columns.Text(each.get('problem') or None),
                columns.Lines(each.get('urls') or []),
            )
            for each in client.Client(self.app.conf()).cached()
        ]


class CacheScrub(base.Command):
    """Have the service compare all blocks that it keeps with their checksums.

    One that is damaged is fetched again when it is needed. It goes on in
    the background; the log of the service, and its status, say what it has
    found.
    """

    examples = """\
Example::

  oslo-transfer cache scrub && journalctl -f -u oslo-transfer
"""

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Ask the service."""
        client.Client(self.app.conf()).scrub()
