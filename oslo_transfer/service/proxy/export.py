# SPDX-License-Identifier: Apache-2.0
"""An image as the proxy's servers see it."""

from __future__ import annotations

import typing

from oslo_transfer.cache import image as _image
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer.cache import reader as _reader


class Export:
    """An image as it is served; see :class:`.exported.Exported`.

    :param image: the image
    :param etag: of its version, as the origin has it
    """

    def __init__(self, image: _image.CachedImage, etag: str) -> None:
        self._image = image
        self.size = image.size
        self.etag = etag

    @property
    def stays(self) -> bool:
        """Whether nothing that is there is evicted any more."""
        return self._image.stays

    def reader(self) -> _reader.Reader:
        """Begin to read.

        :raises Unavailable: it was just closed, and will be opened again
        """
        try:
            return self._image.reader()
        except exceptions.TransferCancelled as exc:
            raise exceptions.Unavailable('the image was just closed') from exc
