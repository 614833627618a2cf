# SPDX-License-Identifier: Apache-2.0
"""The command ``oslo-transfer``."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from collections.abc import Iterator
from collections.abc import Sequence
import contextlib
import importlib.metadata
import logging
import os
import re
import sys
import traceback
import typing

from cliff import app
from cliff import commandmanager
from oslo_config import cfg

from oslo_transfer.cli import console
from oslo_transfer.cli import exit_codes
from oslo_transfer import datacenters
from oslo_transfer import exceptions
from oslo_transfer import opts

DEFAULT_CONFIG = '/etc/oslo-transfer/oslo-transfer.conf'

_DESCRIPTION = """\
Move bulk data - images, volumes, backups - between URLs, by the protocol
and the strategy that the deployer configured.
"""

_EPILOG = f"""\
Examples:
  oslo-transfer copy https://images.example/debian.raw /srv/debian.raw
  oslo-transfer copy --help
  oslo-transfer driver list

These options may stand anywhere on the command line, up to a "--".

Configuration: the files of --config-file, later ones win; without any,
{DEFAULT_CONFIG} if it exists. The environment
variable OS_OSLO_TRANSFER__NAME sets the option NAME of [oslo_transfer].

Exit status:
{exit_codes.table()}
"""


class TransferApp(app.App):
    """Parses the command line, runs a command, reports its errors."""

    NAME = 'oslo-transfer'
    DEFAULT_VERBOSE_LEVEL = 0

    #: The global options.
    options: argparse.Namespace

    def __init__(self) -> None:
        super().__init__(
            description=_DESCRIPTION,
            version=importlib.metadata.version('oslo.transfer'),
            command_manager=commandmanager.CommandManager('oslo_transfer.cli'),
            # Whose help is asked for is known after the command is.
            deferred_help=True,
        )
        self.console = console.Console(self.stderr)

    def build_option_parser(
        self,
        description: str | None,
        version: str | None,
        argparse_kwargs: dict[str, typing.Any] | None = None,
    ) -> argparse.ArgumentParser:
        """Make the parser of the options that all commands have."""
        parser = argparse.ArgumentParser(
            prog=self.NAME,
            usage='%(prog)s [option ...] COMMAND [argument ...]',
            description=description,
            epilog=_EPILOG,
            formatter_class=argparse.RawDescriptionHelpFormatter,
            add_help=False,
            allow_abbrev=False,
            **(argparse_kwargs or {}),
        )
        refuse(parser, self.NAME)
        parser.add_argument(
            '-h',
            '--help',
            dest='deferred_help',
            action='store_true',
            help='show this help, or that of the command, and exit',
        )
        parser.add_argument(
            '--version', action='version', version=f'{self.NAME} {version}'
        )
        parser.add_argument(
            '--config-file',
            action='append',
            default=[],
            metavar='FILE',
            help='configuration file; may be repeated',
        )
        volume = parser.add_mutually_exclusive_group()
        volume.add_argument(
            '-v',
            '--verbose',
            action='count',
            dest='verbose_level',
            default=self.DEFAULT_VERBOSE_LEVEL,
            help='tell what is done; twice for details',
        )
        volume.add_argument(
            '-q',
            '--quiet',
            action='store_true',
            help='on stderr nothing but warnings and errors',
        )
        parser.add_argument(
            '--debug',
            action='store_true',
            help='show the traceback of an error',
        )
        return parser

    def run(self, argv: list[str]) -> int:
        """Run one command line.

        :returns: the exit status
        """
        self.options = argparse.Namespace(debug='--debug' in argv)
        for argument in argv:
            self.console.hide(console.secrets_in(argument))
        with self._logging():
            try:
                status = self._run(argv)
                self.stdout.flush()
                return status
            except SystemExit as exc:
                return exc.code if isinstance(exc.code, int) else 0
            except BrokenPipeError:
                _forget_stdout()
                return exit_codes.BROKEN_PIPE
            except exit_codes.Interrupted as exc:
                self.console.line(f'{self.NAME}: {exc}')
                return exc.status
            except KeyboardInterrupt:
                return exit_codes.INTERRUPTED
            except Exception as exc:
                return self.report(exc)

    def _run(self, argv: list[str]) -> int:
        # What stands behind "--" is no option of anybody.
        end = argv.index('--') if '--' in argv else len(argv)
        self.options, remainder = self.parser.parse_known_args(argv[:end])
        self.configure_logging()
        if not remainder:
            self.print_help_if_requested()
            raise exit_codes.UsageError(
                f'a command is missing; see {self.NAME} --help'
            )
        return self.run_subcommand(remainder + argv[end:])

    def run_subcommand(self, argv: list[str]) -> int:
        """Find a command, parse its arguments, and run it."""
        try:
            found = self.command_manager.find_command(argv)
            if argv[0] == 'help' and argv[1:]:
                self.command_manager.find_command(argv[1:])
        except ValueError:
            raise exit_codes.UsageError(
                f'there is no such command; see {self.NAME} --help (similar: '
                f'{", ".join(self.get_fuzzy_matches(argv[0])[:3])})'
            ) from None
        factory, name, arguments = found
        command = factory(self, self.options, cmd_name=name)
        parser = command.get_parser(f'{self.NAME} {name}')
        refuse(parser, f'{self.NAME} {name}')
        if self.options.deferred_help:
            arguments = ['--help', *arguments]
        parse: Callable[[list[str]], argparse.Namespace]
        # The first takes options between two SRC, the second takes "--".
        parse = parser.parse_intermixed_args
        if '--' in arguments:
            parse = parser.parse_args
        return command.run(parse(arguments))

    # What goes wrong

    def report(self, error: Exception) -> int:
        """Tell about an error.

        :returns: the exit status
        """
        if self.options.debug:
            for part in traceback.format_exception(error):
                for line in part.splitlines():
                    self.console.line(line)
        group = exit_codes.group_of(error)
        attempts = _telling(error, self.options)
        text = _text(error, group, self.options.debug)
        if attempts and isinstance(error, exceptions.AllSourcesFailed):
            text = text.partition(':')[0]  # The rest comes line by line.
        self.console.line(f'{self.NAME}: error: {text}')
        for attempt in attempts:
            self.console.line(f'  {attempt}')
        return group.status

    @contextlib.contextmanager
    def _logging(self) -> Iterator[None]:
        """Have log lines written to the console for a while."""
        root = logging.getLogger()
        before = root.level
        handler = _Handler(self.console)
        root.addHandler(handler)
        try:
            yield
        finally:
            root.removeHandler(handler)
            root.setLevel(before)

    def configure_logging(self) -> None:
        """Say how much is logged."""
        level = (logging.WARNING, logging.INFO, logging.DEBUG)
        logging.getLogger().setLevel(level[min(2, self.verbosity)])

    @property
    def verbosity(self) -> int:
        """How often -v was given."""
        return typing.cast(int, self.options.verbose_level)

    # What commands use

    def conf(self) -> cfg.ConfigOpts:
        """Read the configuration files.

        :raises ConfigurationError: one cannot be used
        """
        files = self.options.config_file
        if not files and os.path.exists(DEFAULT_CONFIG):
            files = [DEFAULT_CONFIG]
        conf = cfg.ConfigOpts()
        try:
            conf(
                [],
                project=self.NAME,
                default_config_files=files,
                default_config_dirs=[],
            )
            opts.register_opts(conf)
            # An option is checked when it is read, and the one with the
            # mistake may be read much later.
            for group, options in opts.list_opts():
                for option in options:
                    if group != opts.DATACENTER_SAMPLE:
                        conf[group][option.dest]
            datacenters.from_conf(conf)
        except (cfg.Error, OSError, ValueError) as exc:
            raise exceptions.ConfigurationError(
                f'the configuration ({", ".join(files)}) cannot be used: '
                f'{_config_text(exc)}'
            ) from exc
        return conf


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command.

    :param argv: its arguments; None for those of the process
    :returns: the exit status
    """
    # Names of files need not be text; they go out as they came in.
    with contextlib.suppress(AttributeError, ValueError):
        typing.cast(typing.Any, sys.stdout).reconfigure(
            errors='surrogateescape'
        )
    return TransferApp().run(list(sys.argv[1:] if argv is None else argv))


def refuse(parser: argparse.ArgumentParser, name: str) -> None:
    """Have a parser raise UsageError, with one line and no usage."""

    def error(message: str) -> typing.NoReturn:
        raise exit_codes.UsageError(f'{message}; see {name} --help')

    # cliff makes the parsers of commands, so there is no class to derive.
    typing.cast(typing.Any, parser).error = error


class _Handler(logging.Handler):
    """Writes log records to the console."""

    def __init__(self, output: console.Console) -> None:
        super().__init__()
        self._output = output

    def filter(self, record: logging.LogRecord) -> bool:
        """Keep what is ours; of others' only what is a warning."""
        return record.name.startswith('oslo_transfer') or (
            record.levelno >= logging.WARNING
        )

    def emit(self, record: logging.LogRecord) -> None:
        """Write one record."""
        level = ''
        if record.levelno >= logging.WARNING:
            level = f'{record.levelname.lower()}: '
        for line in self.format(record).splitlines():
            self._output.line(f'{TransferApp.NAME}: {level}{line}')


def _text(error: Exception, group: exit_codes.Group, debug: bool) -> str:
    """An error in one line, with what can be done about it."""
    text = str(error)
    if isinstance(error, cfg.Error):
        text = _config_text(error)
    if group.status == exit_codes.UNEXPECTED:
        text = f'{type(error).__name__}: {text}'
        advice = 'this is a bug, please report it'
        if not debug:
            advice += ' with the traceback that --debug shows'
        return f'{text} ({advice})'
    if group.advice:
        return f'{text} ({group.advice})'
    if isinstance(error, exceptions.TransferError) and error.retryable:
        return f'{text} (the same command may work later)'
    return text


def _config_text(error: Exception) -> str:
    text = str(error)
    if isinstance(error, cfg.ConfigFileParseError):
        # It ends with the offending line, which may hold a secret.
        text = re.sub(r": '.*\Z", '', text, flags=re.DOTALL)
    return re.sub(r"LocationInfo\(.*?detail='(.*?)'\)", r'\1', text)


def _telling(
    error: Exception, options: argparse.Namespace
) -> list[typing.Any]:
    """The attempts that say more than the error itself."""
    attempts = list(getattr(error, 'attempts', ()))
    passed_over = [each for each in attempts if not each.location]
    # That the first strategy was not made for this is no news, unless
    # there was no other, or somebody wants to know it all.
    if passed_over != attempts and not options.verbose_level:
        attempts = [each for each in attempts if each.location]
    return attempts if len(attempts) > 1 else []


def _forget_stdout() -> None:
    """Keep the interpreter from writing to a closed pipe at its end."""
    with contextlib.suppress(OSError, ValueError):
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, sys.stdout.fileno())
        os.close(null)
