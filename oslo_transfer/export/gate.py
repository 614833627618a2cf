# SPDX-License-Identifier: Apache-2.0
"""Who may have what: all that the HTTP export does not know itself."""

from __future__ import annotations

from collections.abc import Mapping
import types
import typing

from oslo_transfer import exceptions
from oslo_transfer.export import exported

_NOTHING: Mapping[str, str] = types.MappingProxyType({})


class Asked(typing.NamedTuple):
    """What a client asks for.

    :ivar method: as it came
    :ivar target: origin-form with the query, as it came: nothing is decoded
    :ivar path: decoded, without the query; always begins with a slash
    :ivar fields: headers by name in lower case, ISO 8859-1; Range may be
        left out, and ``x-request-id`` is there where the gate may block
    :ivar peer: address of the client, for logs
    """

    method: str
    target: str
    path: str
    fields: Mapping[str, str]
    peer: str


class Page(typing.NamedTuple):
    """An answer that is no image.

    :ivar status: of HTTP
    :ivar content_type: of the data
    :ivar data: all of it
    :ivar headers: more of them; their names and values are sent as they are
    """

    status: int
    content_type: str
    data: bytes
    headers: Mapping[str, str] = _NOTHING


class Gate(typing.Protocol):
    """Decides what is served, and to whom. Thread-safe.

    The text of what it raises is told to the client: it MUST NOT say what
    is none of his business. A client is answered, for:

    ==========================  =============================================
    NotFound                    404
    InvalidEndpoint             400
    PolicyRefused               403
    AccessDenied                403, or 401 where he did not say who he is,
                                or proves it no more
    SourceChanged               502
    others that are retryable   503, with ``Retry-After``
    others                      502
    ==========================  =============================================
    """

    def find(self, asked: Asked) -> exported.Exported | None:
        """What can be served to this one at once; never blocks.

        Called for each request of an image: it takes microseconds.

        :returns: None where :meth:`admit` has to find out
        :raises TransferError: it is known already that he gets nothing
        """

    def admit(self, asked: Asked) -> exported.Exported:
        """Find out what can be served to this one; blocks.

        In a thread of its own; few that ask for the same at once do.

        :raises TransferError: nothing
        """

    def is_page(self, path: str) -> bool:
        """Whether a path is answered by :meth:`page`; never blocks.

        Only then a request may be other than GET or HEAD, and have a body.
        """

    def page(self, asked: Asked, body: bytes) -> Page | None:
        """Answer a request that is for no image; blocks.

        In a thread of its own.

        :param body: of the request, empty without one
        :returns: None where there is no such page
        :raises TransferError: it cannot be answered
        """


class Names:
    """Serves exports by their names to everybody, as ``/NAME``.

    :param exports: which
    """

    def __init__(self, exports: exported.Exports) -> None:
        self._exports = exports

    def find(self, asked: Asked) -> exported.Exported:
        """See :meth:`Gate.find`."""
        image = self._exports.images.get(asked.path[1:])
        if image is None:
            raise exceptions.NotFound('no image has this name')
        return image

    #: See :meth:`Gate.admit`: nothing else is ever found out.
    admit = find

    def is_page(self, path: str) -> bool:
        """See :meth:`Gate.is_page`."""
        return False

    def page(self, asked: Asked, body: bytes) -> None:
        """See :meth:`Gate.page`."""
