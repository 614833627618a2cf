# SPDX-License-Identifier: Apache-2.0
"""The one service of a host: its roles, its socket, its signals."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import contextlib
import http
import importlib.metadata
import logging
import os
import signal
import time
import typing

from oslo_config import cfg

from oslo_transfer.service import attach
from oslo_transfer.service import cache
from oslo_transfer.service import control
from oslo_transfer.service import listening
from oslo_transfer.service import notify
from oslo_transfer.service.proxy import role as proxy
from oslo_transfer.service import role
from oslo_transfer.service import seed
from oslo_transfer.service import signals

LOG = logging.getLogger(__name__)

#: The roles by name.
ROLES: Mapping[str, Callable[[cfg.ConfigOpts], role.Role]] = {
    attach.AttachRole.name: attach.AttachRole,
    cache.CacheRole.name: cache.CacheRole,
    proxy.ProxyRole.name: proxy.ProxyRole,
    seed.SeedRole.name: seed.SeedRole,
}
#: Seconds between two looks at what is due.
TICK = 1.0
_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


class Service:
    """Roles with a control API; a context manager.

    :param conf: the configuration
    :param roles: what it does
    """

    def __init__(
        self, conf: cfg.ConfigOpts, roles: Sequence[role.Role]
    ) -> None:
        self._conf = conf
        self._roles = roles
        self._stack = contextlib.ExitStack()
        self._started = time.monotonic()

    def __enter__(self) -> Service:
        """Start.

        :raises Unavailable: another service runs
        :raises TransferError: it cannot start; nothing is left running
        """
        options = self._conf.oslo_transfer_service
        with contextlib.ExitStack() as stack:
            # First of all: it tells whether there is another one.
            listener = stack.enter_context(
                listening.Listener(
                    options.control_socket, options.control_socket_group
                )
            )
            for each in self._roles:
                each.start()
                stack.callback(each.stop)
            server = control.ControlServer(listener.sock, self._routes())
            server.start()
            stack.callback(server.stop)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        """Stop, within a few seconds."""
        self._stack.close()

    def tick(self) -> None:
        """Do what is due."""
        for each in self._roles:
            each.tick()

    def _routes(self) -> list[role.Route]:
        found = [role.Route('GET', '/v1/status', self._status)]
        for each in self._roles:
            found.extend(each.routes())
        return found

    def _status(self, _: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        return http.HTTPStatus.OK, {
            'version': importlib.metadata.version('oslo.transfer'),
            'pid': os.getpid(),
            'uptime_seconds': round(time.monotonic() - self._started),
            'roles': {each.name: each.status() for each in self._roles},
        }


def run(conf: cfg.ConfigOpts, names: Sequence[str]) -> None:
    """Serve until SIGTERM or SIGINT; SIGHUP rereads the configuration.

    Only for the main thread of a process of its own.

    :param names: of the roles; () for the configured ones
    :raises TransferError: it cannot start
    """
    names = names or conf.oslo_transfer_service.roles
    roles = [ROLES[name](conf) for name in dict.fromkeys(names)]
    notifier = notify.Notifier(os.environ)
    with signals.Signals(_SIGNALS) as caught:
        with Service(conf, roles) as service:
            LOG.info(
                'serving %s at %s',
                ', '.join(each.name for each in roles) or 'nothing',
                conf.oslo_transfer_service.control_socket,
            )
            notifier.ready()
            _loop(conf, service, notifier, caught)
            notifier.stopping()
        LOG.info('the service has ended')


def _loop(
    conf: cfg.ConfigOpts,
    service: Service,
    notifier: notify.Notifier,
    caught: signals.Signals,
) -> None:
    while True:
        found = caught.wait(TICK)
        if found == signal.SIGHUP:
            _reread(conf)
        elif found is not None:
            return
        service.tick()
        # Only if that came back: the watchdog is for what hangs.
        notifier.alive()


def _reread(conf: cfg.ConfigOpts) -> None:
    try:
        conf.mutate_config_files()
    except (cfg.Error, OSError, ValueError) as exc:
        LOG.warning('the configuration is kept as it was: %s', exc)
    else:
        LOG.info('the configuration was read again')
