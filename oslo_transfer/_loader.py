# SPDX-License-Identifier: Apache-2.0
"""Finds drivers and strategies; the only module that touches stevedore."""

from __future__ import annotations

import functools
import importlib.metadata
import typing

from stevedore import driver as stevedore_driver
from stevedore import exception as stevedore_exception
from stevedore import extension

from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer.drivers import base as drivers_base
    from oslo_transfer.strategies import base as strategies_base

DRIVERS = 'oslo.transfer.drivers'
STRATEGIES = 'oslo.transfer.strategies'


def names(namespace: str) -> list[str]:
    """All installed names of a namespace; loads none of them."""
    return sorted(
        {
            point.name
            for point in importlib.metadata.entry_points(group=namespace)
        }
    )


def driver_class(scheme: str) -> type[drivers_base.Driver]:
    """The driver class for a URL scheme.

    :raises DriverNotFound: nothing installed serves the scheme
    :raises DriverLoadError: its import fails; names the missing extra
    """
    try:
        found: type[drivers_base.Driver] = _load(DRIVERS, scheme)
    except LookupError:
        raise exceptions.DriverNotFound(
            f'no driver serves "{scheme}" URLs; installed are: '
            f'{", ".join(names(DRIVERS)) or "none"}'
        ) from None
    return found


def driver(scheme: str, conf: cfg.ConfigOpts) -> drivers_base.Driver:
    """The driver for a URL scheme, with its options registered.

    :raises DriverNotFound: nothing installed and enabled serves it
    :raises DriverLoadError: its import fails
    """
    enabled = conf.oslo_transfer.enabled_drivers
    if enabled and scheme not in enabled:
        raise exceptions.DriverNotFound(
            f'"{scheme}" URLs are not enabled here; an operator decides with '
            f'[oslo_transfer] enabled_drivers'
        )
    cls = driver_class(scheme)
    if cls.OPTIONS:
        conf.register_opts(cls.OPTIONS, group=f'oslo_transfer_{cls.name}')
    # Constructed here and not by stevedore, which would take an error of
    # the constructor for an error of loading.
    return cls(conf)


def strategy_class(name: str) -> type[strategies_base.Strategy]:
    """The strategy class of a name.

    :raises StrategyNotFound: there is none
    :raises DriverLoadError: its import fails
    """
    try:
        found: type[strategies_base.Strategy] = _load(STRATEGIES, name)
    except LookupError:
        raise exceptions.StrategyNotFound(
            f'no strategy is named "{name}"; installed are: '
            f'{", ".join(names(STRATEGIES)) or "none"}'
        ) from None
    return found


@functools.cache  # Looking through all installed packages takes a while.
def _load(namespace: str, name: str) -> typing.Any:
    if name not in names(namespace):
        raise LookupError(name)
    try:
        manager: typing.Any = stevedore_driver.DriverManager(
            namespace,
            name,
            invoke_on_load=False,
            on_load_failure_callback=_fail,
            conflict_resolver=extension.error_on_conflict,
        )
    except stevedore_exception.MultipleMatches as exc:
        raise exceptions.DriverLoadError(
            f'more than one installed package offers "{name}" in '
            f'{namespace}; uninstall all but one'
        ) from exc
    return manager.driver


def _package(namespace: str, name: str) -> str:
    """The package that offers a name; stevedore's cache forgets it."""
    for point in importlib.metadata.entry_points(group=namespace, name=name):
        if point.dist is not None:
            return point.dist.name
    return 'its package'


def _fail(
    manager: typing.Any,
    point: importlib.metadata.EntryPoint,
    error: BaseException,
) -> typing.NoReturn:
    package = _package(manager.namespace, point.name)
    if isinstance(error, ImportError) and point.extras:
        advice = f"pip install '{package}[{point.extras[0]}]'"
    else:
        advice = f'reinstall {package}'
    raise exceptions.DriverLoadError(
        f'"{point.name}" of {package} cannot be loaded ({error}); {advice}'
    ) from error
