# SPDX-License-Identifier: Apache-2.0
"""Tells systemd how the service is; sd_notify(3)."""

from __future__ import annotations

from collections.abc import Mapping
import logging
import os
import socket

LOG = logging.getLogger(__name__)


class Notifier:
    """Does nothing where no service manager asked for it.

    :param environ: the environment of the process
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._address = environ.get('NOTIFY_SOCKET', '')
        # A name that begins with "@" is in the abstract name space.
        if self._address.startswith('@'):
            self._address = '\0' + self._address[1:]
        self._watched = _watched(environ)

    def ready(self) -> None:
        """Whoever waits for the service may begin."""
        self._send('READY=1')

    def alive(self) -> None:
        """Keep the watchdog from killing the process."""
        if self._watched:
            self._send('WATCHDOG=1')

    def stopping(self) -> None:
        """It is about to end."""
        self._send('STOPPING=1')

    def _send(self, text: str) -> None:
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
                # Rather one message less than a service that hangs.
                sock.setblocking(False)
                sock.sendto(text.encode(), self._address)
        except OSError as exc:
            LOG.warning('telling the service manager %s: %s', text, exc)


def _watched(environ: Mapping[str, str]) -> bool:
    """Whether a watchdog waits for this process, and not for a parent."""
    return bool(environ.get('WATCHDOG_USEC')) and environ.get(
        'WATCHDOG_PID', str(os.getpid())
    ) == str(os.getpid())
