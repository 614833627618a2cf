# SPDX-License-Identifier: Apache-2.0
"""Configurations and drivers that exist for one test only."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import tempfile
import typing
from unittest import mock

from oslo_config import cfg

from oslo_transfer import _loader
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import opts
from oslo_transfer.strategies import base as strategies_base
from oslo_transfer.testing import memory


#: Where nobody can write, root neither, who could make ``/nonexistent``.
NOWHERE = '/dev/null/nowhere'


def make_conf(**options: typing.Any) -> cfg.ConfigOpts:
    """A configuration of its own, that reads no file.

    It leaves what is on this host alone: there is no service to ask, and
    what keeps a state needs a ``state_path`` from the test.

    :param options: values for options of the group ``oslo_transfer``
    """
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    opts.register_opts(conf)
    # Nobody wants to wait for a retry in a test.
    for name, value in {
        'retry_delay': 0.01,
        'max_retry_delay': 0.1,
        'state_path': NOWHERE,
        **options,
    }.items():
        conf.set_override(name, value, group=opts.GROUP)
    conf.set_override('control_socket', NOWHERE, group='oslo_transfer_service')
    return conf


@contextlib.contextmanager
def registered(
    *classes: type[drivers_base.Driver] | type[strategies_base.Strategy],
) -> Iterator[None]:
    """Let drivers and strategies be found as if they were installed.

    They go before those that are. It holds for the whole process, until
    the end of the context.
    """
    found: dict[tuple[str, str], typing.Any] = {}
    for cls in classes:
        if issubclass(cls, drivers_base.Driver):
            found.update(((_loader.DRIVERS, s), cls) for s in cls.schemes)
        else:
            found[_loader.STRATEGIES, cls.name] = cls
    load = _loader._load

    def look_here_first(namespace: str, name: str) -> typing.Any:
        return found.get((namespace, name)) or load(namespace, name)

    with mock.patch.object(_loader, '_load', new=look_here_first):
        yield


class Transfer:
    """An in-memory store that ``memory://`` URLs lead to.

    A context manager; under unittest use ``enterContext()``::

        with fixtures.Transfer() as transfer:
            transfer.store.put('memory://images/cirros', b'data')
            oslo_transfer.copy(
                'memory://images/cirros', path, conf=transfer.conf
            )

    :param options: values for options of the group ``oslo_transfer``
    """

    def __init__(self, **options: typing.Any) -> None:
        #: To be passed to each call.
        self.conf = make_conf(**options)
        self._stateless = 'state_path' not in options
        #: Has the objects.
        self.store = memory.MemoryStore()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> typing.Self:
        self._stack.enter_context(registered(self.store.driver_class()))
        if self._stateless:
            state = self._stack.enter_context(tempfile.TemporaryDirectory())
            self.conf.set_override('state_path', state, group=opts.GROUP)
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()
