# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer driver list``, ``driver show``, ``strategy list``."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
import inspect
import typing

from oslo_config import cfg

from oslo_transfer import _loader
from oslo_transfer.cli import base
from oslo_transfer.cli import columns
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import exceptions

_NAME_WIDTH = 13


class DriverList(base.Lister):
    """List the drivers by the URL scheme that they serve.

    A driver that is not available says why: its packages are missing, or
    the option enabled_drivers leaves it out.
    """

    examples = """\
Example::

  oslo-transfer driver list -f value -c name -c available
"""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], list[Sequence[typing.Any]]]:
        """Look at each installed driver."""
        conf = self.app.conf()
        enabled = conf.oslo_transfer.enabled_drivers
        rows: list[Sequence[typing.Any]] = []
        for scheme in _loader.names(_loader.DRIVERS):
            reason = name = None
            flags: list[str] = []
            try:
                cls = _loader.driver_class(scheme)
            except exceptions.DriverLoadError as exc:
                reason = str(exc)
            else:
                name = cls.name
                flags = [each.lower() for each, _help in _flags(cls)]
                if enabled and scheme not in enabled:
                    reason = 'not in [oslo_transfer] enabled_drivers'
            rows.append(
                (
                    scheme,
                    columns.Text(name),
                    columns.Names(flags),
                    columns.Flag(reason is None),
                    columns.Text(reason),
                )
            )
        names = ('name', 'driver', 'capabilities', 'available', 'reason')
        return names, rows


class DriverShow(base.ShowOne):
    """Show what a driver can do, and its options."""

    examples = """\
Example::

  oslo-transfer driver show https
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            'name', metavar='NAME', help='a URL scheme or a driver'
        )
        return parser

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], Sequence[typing.Any]]:
        """Look at one driver."""
        cls = _find(parsed_args.name)
        supported = dict(_flags(cls))
        flags = [
            {
                'name': each.lower(),
                'supported': each in supported,
                'help': flag.help,
            }
            for each, flag in drivers_base.Capability.__members__.items()
        ]
        options = [
            {
                'name': option.name,
                'default': option.default,
                'help': option.help,
            }
            for option in cls.OPTIONS
        ]
        names = (
            'name',
            'schemes',
            'description',
            'capabilities',
            'option_group',
            'options',
        )
        return names, (
            cls.name,
            columns.Names(cls.schemes),
            columns.Text(_first_line(cls)),
            columns.Rows(flags, [_flag_line(flag) for flag in flags]),
            columns.Text(f'oslo_transfer_{cls.name}' if options else None),
            columns.Rows(
                options, [_option_line(each) for each in cls.OPTIONS]
            ),
        )


class StrategyList(base.Lister):
    """List the strategies, and when each is tried.

    The column order is the place in the option strategy_order; a strategy
    that is not in it runs only if a call names it.
    """

    examples = """\
Example::

  oslo-transfer strategy list --sort-column order
"""

    def take_action(
        self, parsed_args: argparse.Namespace
    ) -> tuple[Sequence[str], list[Sequence[typing.Any]]]:
        """Look at each strategy that is installed or configured."""
        conf = self.app.conf()
        order = conf.oslo_transfer.strategy_order
        rows: list[Sequence[typing.Any]] = []
        for name in sorted({*_loader.names(_loader.STRATEGIES), *order}):
            place = order.index(name) + 1 if name in order else None
            try:
                cls = _loader.strategy_class(name)
            except exceptions.TransferError as exc:
                about: Sequence[typing.Any] = (
                    columns.Flag(False),
                    columns.Names([]),
                    str(exc),
                )
            else:
                about = (
                    columns.Flag(cls.attaching),
                    columns.Names(sorted(cls.forms)),
                    _first_line(cls),
                )
            rows.append((name, columns.Number(place), *about))
        names = ('name', 'order', 'attaching', 'forms', 'description')
        return names, rows


def _find(name: str) -> type[drivers_base.Driver]:
    """The driver of a scheme, or the driver of that name."""
    try:
        return _loader.driver_class(name)
    except exceptions.DriverNotFound:
        for scheme in _loader.names(_loader.DRIVERS):
            try:
                cls = _loader.driver_class(scheme)
            except exceptions.DriverLoadError:
                continue
            if cls.name == name:
                return cls
        raise


def _flags(
    cls: type[drivers_base.Driver],
) -> list[tuple[str, drivers_base.Capability]]:
    return [
        (name, flag)
        for name, flag in drivers_base.Capability.__members__.items()
        if flag in cls.capabilities
    ]


def _flag_line(flag: typing.Mapping[str, typing.Any]) -> str:
    mark = 'yes' if flag['supported'] else 'no '
    return f'{mark} {flag["name"]:{_NAME_WIDTH}} {flag["help"]}'


def _option_line(option: cfg.Opt) -> str:
    default = 'unset' if option.default is None else option.default
    return f'{option.name} ({default}): {option.help}'


def _first_line(cls: type) -> str:
    return (inspect.getdoc(cls) or '').partition('\n')[0]
