# SPDX-License-Identifier: Apache-2.0
"""Cinder's dictionary of what does not fit a URL."""

from __future__ import annotations

from collections.abc import Mapping
import typing

from oslo_transfer import exceptions


def data(
    info: Mapping[str, typing.Any] | None, kind: str, where: str
) -> Mapping[str, typing.Any]:
    """What stands under ``data``, or is the whole; empty without any.

    :param kind: Cinder's ``driver_volume_type``
    :param where: names the location in errors
    :raises InvalidEndpoint: it is of another kind, or no dictionary
    """
    if info is None:
        return {}
    if not isinstance(info, Mapping):
        raise exceptions.InvalidEndpoint(
            f'{where}: connection_info is no dictionary'
        )
    found = info.get('driver_volume_type', kind)
    if found != kind:
        raise exceptions.InvalidEndpoint(
            f'{where}: connection_info is of the type {found}, and not {kind}'
        )
    inner = info.get('data', info)
    if not isinstance(inner, Mapping):
        raise exceptions.InvalidEndpoint(
            f'{where}: the data in connection_info is no dictionary'
        )
    return inner
