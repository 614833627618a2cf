# SPDX-License-Identifier: Apache-2.0
"""From a request to its answer: asks the gate, at once or by waiting."""

from __future__ import annotations

from collections.abc import Hashable
import logging

from oslo_transfer import exceptions
from oslo_transfer.export import gate as _gate
from oslo_transfer.export import http_answer
from oslo_transfer.export import http_message

LOG = logging.getLogger(__name__)

_PAGE_METHODS = (*http_answer.READS, 'POST', 'DELETE')
# Characters of a target that a log gets.
_MOST_SHOWN = 200
# Segments of a path that tell an origin: its scheme, its host and port.
_ORIGIN = 2


class Asking:
    """For one client. :meth:`ask` is for any thread, all else for one.

    :param gate: who decides
    :param peer: address of the client
    """

    def __init__(self, gate: _gate.Gate, peer: str) -> None:
        self._gate = gate
        self._peer = peer
        # What was asked last, which clients mostly ask for again.
        self._head: http_message.Head | None = None
        self._asked: _gate.Asked | None = None
        self.is_page = False

    def at_once(
        self, request: http_message.Request
    ) -> http_answer.Answer | None:
        """The answer where nobody has to be waited for.

        :ivar is_page: then tells whether it is for a page
        :returns: None for :meth:`ask`, with the body if there is one
        """
        head = request.head
        asked = self._asked
        if asked is None or head is not self._head:
            method, target, path, fields = head[:4]
            asked = _gate.Asked(method, target, path, fields, self._peer)
            self._head, self._asked = head, asked
            self.is_page = self._gate.is_page(path)
        methods = _PAGE_METHODS if self.is_page else http_answer.READS
        if head.method not in methods:
            return _not_allowed(request, methods)
        if self.is_page:
            return None
        try:
            image = self._gate.find(asked)
        except exceptions.TransferError as exc:
            return http_answer.refused(exc, request)
        if image is None:
            return None
        return http_answer.answer(request, image)

    def ask(
        self, request: http_message.Request, body: bytes
    ) -> http_answer.Answer:
        """The answer; blocks."""
        head = request.head
        method, target, path, fields = head[:4]
        # Under this name it goes on to others.
        fields = {**fields, 'x-request-id': request.id}
        asked = _gate.Asked(method, target, path, fields, self._peer)
        try:
            if not self._gate.is_page(path):
                return http_answer.answer(request, self._gate.admit(asked))
            page = self._gate.page(asked, body)
            if page is None:
                return http_answer.error(404, 'there is no such page', request)
            return http_answer.page(page, request)
        except exceptions.TransferError as exc:
            return http_answer.refused(exc, request)
        except Exception:
            LOG.exception('%s: answering %s', request.id, shown(request))
            return http_answer.error(500, 'this is a bug', request)

    @staticmethod
    def whose(request: http_message.Request) -> Hashable:
        """What :meth:`ask` for an image waits for."""
        return tuple(request.head.path.split('/', _ORIGIN + 1)[: _ORIGIN + 1])


def _not_allowed(
    request: http_message.Request, methods: tuple[str, ...]
) -> http_answer.Answer:
    if request.head.length:
        # A body would be taken for the next request.
        request = request.last()
    told = ', '.join(methods)
    return http_answer.error(
        405, f'only {told}', request, f'Allow: {told}\r\n'
    )


def shown(request: http_message.Request | None) -> str:
    """A request as logs may have it: without what may be secret."""
    if request is None:
        return 'what is no request'
    path = request.head.target.partition('?')[0].replace('%40', '@')
    parts = [
        _hidden(part) if '@' in part else part for part in path.split('/')
    ]
    path = '/'.join(parts)[:_MOST_SHOWN]
    return f'{request.head.method[:20]} {path}'


def _hidden(part: str) -> str:
    """Host and port without who logs in there."""
    return f'***@{part.rpartition("@")[2]}'
