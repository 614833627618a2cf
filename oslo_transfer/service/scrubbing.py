# SPDX-License-Identifier: Apache-2.0
"""Compares all that a role keeps with its checksums, in the background."""

from __future__ import annotations

import http
import logging
import threading
import typing

from oslo_transfer import exceptions
from oslo_transfer.service import role

if typing.TYPE_CHECKING:
    from collections.abc import Mapping

    from oslo_transfer.cache import store as _store

LOG = logging.getLogger(__name__)

# Bytes per second that are compared: readers are not to notice.
_RATE = 100 << 20


class Scrubber:
    """Does it when it is asked for. Thread-safe.

    :param store: what to look at
    :param stop: ends it
    :param path: at which the control API is asked for it
    """

    def __init__(
        self, store: _store.Store, stop: threading.Event, path: str
    ) -> None:
        self._store = store
        self._stop = stop
        self._path = path
        self._busy = threading.Lock()

    @property
    def route(self) -> role.Route:
        """How it is asked for."""
        return role.Route('POST', self._path, self._begin)

    def _begin(self, _: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        if not self._busy.acquire(blocking=False):
            raise exceptions.Unavailable('the blocks are being looked at')
        threading.Thread(
            target=self._look_at_all, name='oslo-transfer-scrub', daemon=True
        ).start()
        return http.HTTPStatus.ACCEPTED, {}

    def _look_at_all(self) -> None:
        try:
            damaged = self._store.scrub(self._stop, _RATE)
        except exceptions.TransferError as exc:
            LOG.error('scrubbing has ended early: %s', exc)
        else:
            LOG.info('all blocks were looked at; %d were damaged', damaged)
        finally:
            self._busy.release()
