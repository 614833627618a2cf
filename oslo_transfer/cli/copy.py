# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer copy``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import os
import typing

import oslo_transfer
from oslo_transfer.cli import base
from oslo_transfer.cli import columns
from oslo_transfer.cli import credentials
from oslo_transfer.cli import exit_codes
from oslo_transfer.cli import interrupt
from oslo_transfer.cli import progress
from oslo_transfer.cli import units
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer import flight
from oslo_transfer import journal

_COLUMNS = (
    'strategy',
    'driver',
    'source',
    'destination',
    'form',
    'verified',
    'attachment',
    'bytes_written',
    'bytes_by_origin',
    'bytes_by_location',
    'wasted',
    'digest',
    'seconds',
    'seeding',
    'attempts',
)

_EPILOG = """\
Copy an image and verify it; the digest is the image's os_hash_value::

  oslo-transfer copy --hash sha512:861a... \\
      --auth-file ~/.transfer-auth \\
      https://glance.example:9292/v2/images/ID/file /srv/ID.raw

Try a mirror first, then the origin, with at most 100 MiB per second::

  oslo-transfer copy --rate-limit 100M \\
      http://mirror.example/a.raw https://origin.example/a.raw /srv/a.raw

Get it from the other hosts that fetch it, too, see torrent create::

  oslo-transfer copy torrent+https://web.example/a.raw.torrent \\
      https://web.example/a.raw /srv/a.raw

Use the result in a script::

  oslo-transfer copy -f value -c digest --hash sha256 a.raw b.raw

The same command again goes on where a copy was stopped or killed, if the
source can tell that it did not change, or if --hash gives the digest.

Credentials: the file of --auth-file has one line for each server, and must
not be readable by others; "#" begins a comment::

  https://glance.example:9292 token:TOKEN
  https://mirror.example login:USER:PASSWORD

A token is sent as X-Auth-Token. It goes to the scheme, host and port that
stand before it and to no other, also not along a redirect. The file is read
again when a server refuses a token. Without a file, OSLO_TRANSFER_TOKEN is
the token for the server that OSLO_TRANSFER_TOKEN_URL names.
"""


class Copy(base.ShowOne):
    """Copy data from where it is to where it should be.

    SRC and DST are URLs, paths or block devices. Several SRC hold the same
    data: the next one is tried when one fails or has wrong bytes. A file
    appears at DST when it is complete and verified, not before.
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
            help='how to do it, see "oslo-transfer strategy list"; default: '
            'the first of the option strategy_order that can',
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
            help='the digest that the data must have, for example '
            'sha512:861a...; without HEX it is only computed',
        )
        parser.add_argument(
            '--rate-limit',
            metavar='BYTES_PER_S',
            type=units.byte_count,
            help='the most bytes per second; K, M, G, T as above',
        )
        parser.add_argument(
            '--deadline',
            metavar='SECONDS',
            type=units.seconds,
            help='give up after this time; also 30m, 12h, 7d',
        )
        parser.add_argument(
            '--overwrite',
            action='store_true',
            help='replace DST if it exists and is not the same',
        )
        parser.add_argument(
            '--auth-file',
            metavar='FILE',
            help='file with tokens and logins by server, see below',
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
    ) -> tuple[Sequence[str], Sequence[typing.Any]]:
        """Copy, and describe the result."""
        self.check_columns(parsed_args, _COLUMNS)
        conf = self.app.conf()
        urls = [*parsed_args.src, parsed_args.dst]
        credentials.warn_of_passwords(urls)
        keyring = credentials.Keyring(
            parsed_args.auth_file, os.environ, self.app.console
        )
        *sources, destination = map(keyring.location, urls)
        algorithm, _colon, value = (parsed_args.hash or '').partition(':')
        with interrupt.Interruption() as interruption:
            try:
                with progress.shown(
                    self.app,
                    lambda: _size(parsed_args),
                    not parsed_args.no_progress,
                ) as reporter:
                    result = oslo_transfer.copy(
                        sources,
                        destination,
                        parsed_args.strategy,
                        conf=conf,
                        expected_size=parsed_args.expected_size,
                        hash_algo=algorithm or None,
                        hash_value=value or None,
                        progress=reporter,
                        rate_limit=parsed_args.rate_limit,
                        cancel=interruption,
                        deadline=parsed_args.deadline,
                        overwrite=parsed_args.overwrite,
                    )
            except exceptions.TransferCancelled as exc:
                raise exit_codes.Interrupted(
                    interruption.status, _cancelled(parsed_args.dst)
                ) from exc
        return _COLUMNS, _values(result)


def _values(result: oslo_transfer.TransferResult) -> list[typing.Any]:
    attempts = [dataclasses.asdict(each) for each in result.attempts]
    return [
        columns.Text(result.strategy),
        columns.Text(result.driver),
        result.source,
        result.destination,
        result.form,
        columns.Flag(result.verified),
        columns.Attached(result.attachment),
        columns.Size(result.bytes_written),
        columns.Sizes(dict(result.bytes_by_origin)),
        columns.Sizes(dict(result.bytes_by_location)),
        columns.Size(result.wasted),
        columns.Text(result.digest),
        columns.Seconds(result.seconds),
        columns.Seeding(result.seeding),
        columns.Rows(attempts, [str(each) for each in result.attempts]),
    ]


def _local_path(url: str) -> str | None:
    try:
        found = endpoint.parse(url)
    except exceptions.InvalidEndpoint:
        return None
    return os.path.abspath(found.path) if found.scheme == 'file' else None


def _note(path: str, whole: bool) -> journal.Record | None:
    """What the journal beside the part file says.

    :param whole: only if it is right about all that the part file holds
    """
    part = flight.part_path(path)
    try:
        info = os.stat(part)
    except OSError:
        return None
    return journal.load(
        flight.journal_path(part),
        info.st_ino,
        info.st_size if whole else 1 << 62,
    )


def _size(parsed_args: argparse.Namespace) -> int | None:
    """The size of the data, found out without asking anybody."""
    if parsed_args.expected_size is not None:
        return typing.cast(int, parsed_args.expected_size)
    path = _local_path(parsed_args.dst)
    note = _note(path, whole=False) if path else None
    if note is not None and note.identity.size is not None:
        return note.identity.size
    path = _local_path(parsed_args.src[0])
    try:
        return (os.path.getsize(path) or None) if path else None
    except OSError:
        return None


def _cancelled(destination: str) -> str:
    path = _local_path(destination)
    note = _note(path, whole=True) if path else None
    kept = note.held.total if note is not None else 0
    if not kept:
        return 'cancelled; nothing is left of it'
    return f'cancelled; run the same command again to go on from byte {kept}'
