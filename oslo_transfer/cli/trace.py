# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer trace record``, ``trace show`` and ``trace convert``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import io
import typing

import oslo_transfer
from oslo_transfer.cache import iolog
from oslo_transfer.cache import trace as _trace
from oslo_transfer.cli import base
from oslo_transfer.cli import columns
from oslo_transfer.cli import exit_codes
from oslo_transfer.cli import interrupt
from oslo_transfer.cli import units
from oslo_transfer.drivers import cache
from oslo_transfer import exceptions
from oslo_transfer.service import client

_SHOWN = ('touches', 'bytes', 'seconds', 'end', 'requests', 'ranges')
# What an image is called in a file that has no better name for it.
_NAME = '/image'
_MAX_BLOCK = 4 << 20

_RECORD_EPILOG = """\
Boot a guest from an image that is still far away, then keep what it read::

  oslo-transfer copy --strategy copy_on_read \\
      https://images.example/ID.raw /var/lib/images/guest.qcow2
  oslo-transfer trace record 4f6c0d2a9be84d0c8f3f2a1b5d7e9c10 ID.trace

Replay it at another time, against any file or device of the same layout::

  fio --name=boot --read_iolog=ID.trace --replay_redirect=/dev/sdb
"""

_SHOW_EPILOG = """\
How much of an image a boot needs::

  oslo-transfer trace show ID.trace

Each range with its time, for a program::

  oslo-transfer trace show ID.trace -f json
"""

_CONVERT_EPILOG = """\
For a fio before 3.31, which reads version 2 only::

  oslo-transfer trace convert --to 2 ID.trace ID.v2

As the cache would ask for it, each block of 256 KiB once::

  oslo-transfer trace convert --merge --block-size 256K ID.trace ID.merged
"""


class TraceRecord(base.Command):
    """Keep what the readers of an image have read so far, in their order.

    The image is one that the service of this host serves from its cache, as
    the strategy copy_on_read has it. The file is an iolog of fio, version 3,
    with one line for each range when it was read first. The service keeps
    one beside the image by itself, and has it brought for the next reader.
    """

    examples = _RECORD_EPILOG

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'id',
            metavar='ID',
            help='as "attachment list" shows it, or "cache list"',
        )
        _add_output(parser)
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Ask the service."""
        conf = self.app.conf()
        name = parsed_args.id
        for attachment in oslo_transfer.attachments(conf):
            if attachment.id == name:
                name = cache.export_of(attachment)
        data = client.Client(conf).trace(name)
        # What is no trace is refused here, and not by its reader.
        _trace.Trace.parse(data)
        _save(self, data, parsed_args)


class TraceShow(base.ShowOne):
    """Show what a trace says, after checking it.

    "bytes" counts each byte once, "end" is where the last range ends, and
    "requests" is in how many the cache would ask for them.
    """

    examples = _SHOW_EPILOG

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        _add_input(parser)
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[typing.Any]]:
        """Read it, and describe it."""
        self.check_columns(parsed_args, _SHOWN)
        found = _trace.Trace.load(parsed_args.trace, parsed_args.file)
        ranges = found.ranges()
        rows = [
            {
                'seconds': touch.time / 1e6,
                'offset': touch.offset,
                'length': touch.length,
            }
            for touch in found.touches
        ]
        return _SHOWN, (
            len(found.touches),
            columns.Size(ranges.total),
            columns.Seconds(found.seconds),
            columns.Size(max((end for _start, end in ranges), default=0)),
            len(found.merged().touches),
            columns.Rows(rows, list(map(_line, found.touches))),
        )


class TraceConvert(base.Command):
    """Write a trace in another version or form.

    Of what is not a read nothing is kept. Version 2 has the order alone:
    fio 3.33 takes the times of that version for others than its manual says.
    """

    examples = _CONVERT_EPILOG

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        _add_input(parser)
        _add_output(parser)
        parser.add_argument(
            '--to',
            metavar='VERSION',
            type=int,
            choices=iolog.VERSIONS,
            default=3,
            help='the version of the iolog, 2 or 3; default: 3',
        )
        parser.add_argument(
            '--name',
            metavar='NAME',
            help='what the image is called in it, as for replay_redirect of '
            f'fio; default: {_NAME}',
            default=_NAME,
        )
        parser.add_argument(
            '--size',
            metavar='BYTES',
            type=units.byte_count,
            help='of the image: leave out what is behind its end',
        )
        parser.add_argument(
            '--merge',
            action='store_true',
            help='join near ranges, and sort those that are needed at about '
            'the same time, as the cache does before it fetches them',
        )
        parser.add_argument(
            '--block-size',
            metavar='BYTES',
            type=_block_bytes,
            default=64 << 10,
            help='with --merge: what ranges are aligned to, a power of two '
            'from 512 to 4M; default: 64K',
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Read it, and write it."""
        made = _trace.Trace.load(parsed_args.trace, parsed_args.file)
        if parsed_args.size is not None:
            made = made.clipped(parsed_args.size)
        if parsed_args.merge:
            made = made.merged(parsed_args.size, parsed_args.block_size)
        try:
            data = made.dump(parsed_args.name, parsed_args.to)
        except ValueError as exc:
            raise exit_codes.UsageError(str(exc)) from exc
        _save(self, data, parsed_args)


def _add_input(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'trace',
        metavar='TRACE',
        help='path of an iolog of fio, version 2 or 3',
    )
    parser.add_argument(
        '--file',
        metavar='NAME',
        help='the file to look at, where the trace is of several',
    )


def _add_output(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        'output', metavar='FILE', help='where the trace goes; also a URL'
    )
    parser.add_argument(
        '--overwrite', action='store_true', help='replace FILE if it exists'
    )


def _block_bytes(text: str) -> int:
    value = units.byte_count(text)
    if value & (value - 1) or not 512 <= value <= _MAX_BLOCK:
        raise argparse.ArgumentTypeError(
            f'{text} is no power of two from 512 to 4M'
        )
    return value


def _save(
    command: base.Command, data: bytes, parsed_args: argparse.Namespace
) -> None:
    with interrupt.Interruption() as interruption:
        try:
            # By way of a copy it appears whole, wherever it goes.
            oslo_transfer.copy(
                io.BytesIO(data),
                parsed_args.output,
                conf=command.app.conf(),
                cancel=interruption,
                overwrite=parsed_args.overwrite,
            )
        except exceptions.TransferCancelled as exc:
            raise exit_codes.Interrupted(
                interruption.status, 'cancelled; nothing is left of it'
            ) from exc


def _line(touch: _trace.Touch) -> str:
    return f'{touch.time / 1e6:10.6f} s {touch.offset:>15} +{touch.length}'
