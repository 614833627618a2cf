# SPDX-License-Identifier: Apache-2.0
"""What all commands have in common."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import typing

from cliff import command
from cliff import lister
from cliff import show

from oslo_transfer.cli import exit_codes

if typing.TYPE_CHECKING:
    from oslo_transfer.cli import main


class Command(command.Command):
    """A command that prints nothing of its own accord."""

    app: main.TransferApp
    #: What stands below the options in the help, as reStructuredText.
    examples = ''

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        return _teach(super().get_parser(prog_name), self.examples)


class ShowOne(show.ShowOne):
    """A command that shows one object."""

    app: main.TransferApp
    #: What stands below the options in the help, as reStructuredText.
    examples = ''

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        return _teach(super().get_parser(prog_name), self.examples)

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Sequence[typing.Any],
    ) -> int:
        """Print the object."""
        with _wrong_columns():
            return super().produce_output(parsed_args, column_names, data)

    def check_columns(
        self, parsed_args: argparse.Namespace, names: Sequence[str]
    ) -> None:
        """Check -c before anything is done."""
        with _wrong_columns():
            self._generate_columns_and_selector(parsed_args, names)


class Lister(lister.Lister):
    """A command that shows a list."""

    app: main.TransferApp
    #: What stands below the options in the help, as reStructuredText.
    examples = ''

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        return _teach(super().get_parser(prog_name), self.examples)

    def produce_output(
        self,
        parsed_args: argparse.Namespace,
        column_names: Sequence[str],
        data: Iterable[Sequence[typing.Any]],
    ) -> int:
        """Print the list."""
        with _wrong_columns():
            return super().produce_output(parsed_args, column_names, data)


def _teach(
    parser: argparse.ArgumentParser, examples: str
) -> argparse.ArgumentParser:
    # The usual formatter would fill the examples into one paragraph.
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.epilog = f'{examples}\n{parser.epilog or ""}'.strip() or None
    return parser


@contextlib.contextmanager
def _wrong_columns() -> Iterator[None]:
    try:
        yield
    except ValueError as exc:
        raise exit_codes.UsageError(str(exc)) from exc
