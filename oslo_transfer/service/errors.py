# SPDX-License-Identifier: Apache-2.0
"""How the library's errors travel over the control API."""

from __future__ import annotations

import http

from oslo_transfer import exceptions

# The first that fits counts. Each can be made of its message alone.
_STATUS: tuple[tuple[type[exceptions.TransferError], int], ...] = (
    (exceptions.NotFound, http.HTTPStatus.NOT_FOUND),
    (exceptions.AccessDenied, http.HTTPStatus.FORBIDDEN),
    (exceptions.PolicyRefused, http.HTTPStatus.FORBIDDEN),
    (exceptions.AlreadyExists, http.HTTPStatus.CONFLICT),
    (exceptions.InvalidEndpoint, http.HTTPStatus.BAD_REQUEST),
    (exceptions.IntegrityError, http.HTTPStatus.UNPROCESSABLE_ENTITY),
    (exceptions.ProtocolError, http.HTTPStatus.UNPROCESSABLE_ENTITY),
    (exceptions.NoSpace, http.HTTPStatus.INSUFFICIENT_STORAGE),
    (exceptions.CapabilityMissing, http.HTTPStatus.NOT_IMPLEMENTED),
    (exceptions.Unavailable, http.HTTPStatus.SERVICE_UNAVAILABLE),
    (exceptions.AttachError, http.HTTPStatus.BAD_GATEWAY),
    (exceptions.DetachError, http.HTTPStatus.CONFLICT),
    (exceptions.StorageError, http.HTTPStatus.INTERNAL_SERVER_ERROR),
    (exceptions.TransferError, http.HTTPStatus.INTERNAL_SERVER_ERROR),
)
_CLASSES = {kind.__name__: kind for kind, _status in _STATUS}


def describe(error: exceptions.TransferError) -> tuple[int, dict[str, str]]:
    """An HTTP status and a JSON object for an error."""
    kind, status = next(row for row in _STATUS if isinstance(error, row[0]))
    return int(status), {'error': kind.__name__, 'message': str(error)}


def restore(name: object, message: object) -> exceptions.TransferError:
    """The error that the service met."""
    kind = _CLASSES.get(str(name), exceptions.ProtocolError)
    return kind(f'the service: {message}')
