# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer torrent create`` and ``torrent show``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import dataclasses
import io
import os
import re
import typing
import urllib.parse

import oslo_transfer
from oslo_transfer.cli import base
from oslo_transfer.cli import columns
from oslo_transfer.cli import credentials
from oslo_transfer.cli import exit_codes
from oslo_transfer.cli import interrupt
from oslo_transfer.cli import progress
from oslo_transfer.cli import units
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer.drivers.bittorrent import create
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer import endpoint
from oslo_transfer import exceptions

_CREATED = (
    'torrent',
    'name',
    'size',
    'piece_length',
    'pieces',
    'info_hash_v1',
    'info_hash_v2',
    'location',
)
_SHOWN = (
    'name',
    'size',
    'zero_bytes',
    'piece_length',
    'pieces',
    'info_hash_v1',
    'info_hash_v2',
    'private',
    'trackers',
    'web_seeds',
    'comment',
    'created_by',
    'location',
    'warnings',
)
_LOCATION = re.compile(r'torrent\+(?=[a-z][a-z0-9.-]*://)', re.IGNORECASE)

_CREATE_EPILOG = """\
Publish an image that a web server has already; it is the first seed::

  oslo-transfer torrent create /srv/www/ID.raw -o /srv/www/ID.torrent \\
      --web-seed https://images.example/ID.raw \\
      --tracker http://tracker.example:6969/announce

Then each host copies it by the location that this prints, or, where the file
is served by a web server, by the same with its URL and info-hash::

  oslo-transfer copy torrent+https://images.example/ID.torrent#HEX \\
      https://images.example/ID.raw /var/lib/images/ID.raw

The location alone, for a script::

  oslo-transfer torrent create ID.raw -o ID.torrent -f value -c location

SRC is read once, from its start to its end, and may be a URL. The same data
and options give the same torrent file, byte by byte. A tracker knows all who
ask it, so take one of your own, and --private where no other may be asked.
"""

_SHOW_EPILOG = """\
What is in a torrent file, wherever it is::

  oslo-transfer torrent show https://images.example/ID.torrent

Check that a location names the torrent that its info-hash pins::

  oslo-transfer torrent show torrent+https://images.example/ID.torrent#HEX

For a program::

  oslo-transfer torrent show ID.torrent -f json
"""


class TorrentCreate(base.ShowOne):
    """Make the torrent file of an image, to publish it to many hosts.

    Shown are the info-hashes and the location to copy from. With the
    info-hash in it, a location is worth as much as a digest of the data: a
    host accepts no other bytes.
    """

    examples = _CREATE_EPILOG

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'src', metavar='SRC', help='a URL, a path or a block device'
        )
        parser.add_argument(
            '-o',
            '--output',
            metavar='FILE',
            required=True,
            help='where the torrent file goes; also a URL',
        )
        parser.add_argument(
            '--web-seed',
            metavar='URL',
            action='append',
            default=[],
            help='where the same data is too: what no peer has is read from '
            'there; may be repeated',
        )
        parser.add_argument(
            '--tracker',
            metavar='URL',
            action='append',
            default=[],
            help='the announce URL of a tracker, http or udp; may be '
            'repeated, the first is asked first',
        )
        parser.add_argument(
            '--piece-size',
            metavar='BYTES',
            type=units.byte_count,
            help='a power of two from 16K to 64M; default: from 64K to 16M, '
            'so that there are about 4096 to 8192',
        )
        parser.add_argument(
            '--name',
            metavar='NAME',
            help='what other clients call the file; default: the last part '
            'of SRC',
        )
        parser.add_argument(
            '--private',
            action='store_true',
            help='forbid clients to look for peers but by the trackers',
        )
        parser.add_argument(
            '--torrent-version',
            choices=create.VERSIONS,
            default='hybrid',
            help='v2 has SHA-256, v1 has SHA-1, hybrid is both; only v1 is '
            'read by Transmission before 4.0 and aria2 before 1.37; default: '
            'hybrid',
        )
        parser.add_argument(
            '--overwrite',
            action='store_true',
            help='replace FILE if it exists',
        )
        parser.add_argument(
            '--auth-file',
            metavar='FILE',
            help='file with tokens and logins by server, see "copy --help"',
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
        """Read the data, write the torrent file, and describe it."""
        self.check_columns(parsed_args, _CREATED)
        credentials.warn_of_passwords([parsed_args.src, parsed_args.output])
        _check_output(parsed_args)
        conf = self.app.conf()
        keyring = credentials.Keyring(
            parsed_args.auth_file, os.environ, self.app.console
        )
        with interrupt.Interruption() as interruption:
            try:
                with oslo_transfer.open_source(
                    keyring.location(parsed_args.src),
                    conf=conf,
                    cancel=interruption,
                ) as source:
                    made = self._make(source, parsed_args, interruption)
                # By way of a copy it appears whole, wherever it goes.
                oslo_transfer.copy(
                    io.BytesIO(made),
                    keyring.location(parsed_args.output),
                    conf=conf,
                    cancel=interruption,
                    overwrite=parsed_args.overwrite,
                )
            except exceptions.TransferCancelled as exc:
                raise exit_codes.Interrupted(
                    interruption.status, 'cancelled; nothing is left of it'
                ) from exc
        found = metainfo.parse(made)
        return _CREATED, (
            str(endpoint.parse(parsed_args.output)),
            found.name,
            columns.Size(found.size),
            columns.Size(found.piece_length),
            found.piece_count,
            columns.Text(found.info_hash_v1),
            columns.Text(found.info_hash_v2),
            _location(parsed_args.output, found),
        )

    def _make(
        self,
        source: drivers_base.Source,
        parsed_args: argparse.Namespace,
        interruption: interrupt.Interruption,
    ) -> bytes:
        with progress.shown(
            self.app, lambda: source.size, not parsed_args.no_progress
        ) as reporter:
            return create.create(
                source,
                name=parsed_args.name or _name(parsed_args.src),
                piece_length=parsed_args.piece_size,
                trackers=parsed_args.tracker,
                web_seeds=parsed_args.web_seed,
                private=parsed_args.private,
                version=parsed_args.torrent_version,
                progress=reporter,
                cancel=interruption,
            )


class TorrentShow(base.ShowOne):
    """Show what a torrent file says, after checking it.

    It is refused for the same reasons for which a copy would refuse it.
    Logins and queries of URLs are not shown.
    """

    examples = _SHOW_EPILOG

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'torrent',
            metavar='FILE',
            help='the path or URL of a torrent file, or a location of the '
            'bittorrent driver',
        )
        parser.add_argument(
            '--auth-file',
            metavar='FILE',
            help='file with tokens and logins by server, see "copy --help"',
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[typing.Any]]:
        """Read the torrent file, and describe it."""
        self.check_columns(parsed_args, _SHOWN)
        url, pinned = _split(parsed_args.torrent)
        credentials.warn_of_passwords([url])
        keyring = credentials.Keyring(
            parsed_args.auth_file, os.environ, self.app.console
        )
        with interrupt.Interruption() as interruption:
            try:
                with oslo_transfer.open_source(
                    keyring.location(url),
                    conf=self.app.conf(),
                    cancel=interruption,
                ) as source:
                    data = metainfo.read(source)
            except exceptions.TransferCancelled as exc:
                raise exit_codes.Interrupted(
                    interruption.status, 'cancelled'
                ) from exc
        found = metainfo.parse(data, pinned=pinned)
        redact = self.app.console.redact
        trackers = [
            {'tier': number, 'url': redact(url)}
            for number, tier in enumerate(found.trackers, 1)
            for url in tier
        ]
        zeros = sum(found.piece_span(i)[1] for i in found.zero_pieces())
        return _SHOWN, (
            found.name,
            columns.Size(found.size),
            columns.Size(zeros),
            columns.Size(found.piece_length),
            found.piece_count,
            columns.Text(found.info_hash_v1),
            columns.Text(found.info_hash_v2),
            columns.Flag(found.private),
            columns.Rows(trackers, [str(each['url']) for each in trackers]),
            columns.Lines([redact(each) for each in found.web_seeds]),
            columns.Text(found.comment),
            columns.Text(found.created_by),
            _location(url, found),
            columns.Lines(_warnings(found)),
        )


def _check_output(parsed_args: argparse.Namespace) -> None:
    """See beforehand what would be in vain after reading it all."""
    found = endpoint.parse(parsed_args.output)
    if found.scheme != 'file' or not os.path.lexists(found.path):
        return
    source = endpoint.parse(parsed_args.src)
    if (
        source.scheme == 'file'
        and os.path.exists(source.path)
        and os.path.exists(found.path)
        and os.path.samefile(source.path, found.path)
    ):
        raise exit_codes.UsageError('SRC and the torrent file are the same')
    if not parsed_args.overwrite:
        raise exceptions.AlreadyExists(f'{found.path} exists')


def _name(url: str) -> str:
    """The name of the file that a URL or path is of."""
    found = endpoint.parse(url)
    name = found.path.rstrip('/').rpartition('/')[2]
    return name if found.scheme == 'file' else urllib.parse.unquote(name)


def _split(url: str) -> tuple[str, str | None]:
    """Where the torrent file is, and the info-hash that pins it."""
    inner = _LOCATION.sub('', url, count=1)
    if inner == url:
        return url, None
    inner, mark, pinned = inner.partition('#')
    return inner, pinned if mark else None


def _location(url: str, found: metainfo.Metainfo) -> str:
    """What to copy from; without logins and queries."""
    where = endpoint.parse(url)
    if where.scheme == 'file':
        path = urllib.parse.quote(os.fsencode(os.path.abspath(where.path)))
        text = f'file://{path}'
    else:
        text = dataclasses.replace(where.without_userinfo(), query=None).url()
    return f'torrent+{text}#{found.info_hash}'


def _warnings(found: metainfo.Metainfo) -> list[str]:
    texts = []
    if found.info_hash_v2 is None:
        texts.append(
            'SHA-1 only: whoever made it can have other data that fits as '
            'well; give the copy a --hash'
        )
    if not found.trackers and not found.web_seeds:
        texts.append('no trackers and no web seeds: peers have to be given')
    return texts
