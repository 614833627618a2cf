# SPDX-License-Identifier: Apache-2.0
"""Where the demonstration takes place, and the rows that it shows."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import pathlib
import tempfile
import typing

from oslo_config import cfg

from demo import certificate
from demo import images
from demo import server
from demo import show
import oslo_transfer
from oslo_transfer import opts


class Waits(Exception):  # noqa: N818
    """A row that cannot be shown here; says what it waits for."""


class Broken(Exception):  # noqa: N818
    """The library did not do what it promises."""


@dataclasses.dataclass(frozen=True)
class Row:
    """One line of the table.

    :ivar protocol: the source's, or that of an upload
    :ivar what: which case
    :ivar result: what the library says
    :ivar notes: more, to be shown below the table
    """

    protocol: str
    what: str
    result: oslo_transfer.TransferResult
    notes: tuple[str, ...] = ()


Act = Callable[['Scene'], Iterator[Row]]

#: Each shows some rows; (title, function).
ACTS: list[tuple[str, Act]] = []


def act(title: str) -> Callable[[Act], Act]:
    """Register a function that shows rows."""

    def register(function: Act) -> Act:
        ACTS.append((title, function))
        return function

    return register


class Scene:
    """A directory with images, and servers of it; a context manager.

    :param size: of the disk in bytes
    """

    def __init__(self, size: int) -> None:
        self._stack = contextlib.ExitStack()
        self._size = size

    def __enter__(self) -> typing.Self:
        # Nothing is left if there is no room for the images.
        with self._stack:
            temporary = tempfile.TemporaryDirectory(
                prefix='oslo-transfer-demo-'
            )
            self.root = pathlib.Path(self._stack.enter_context(temporary))
            # What servers show, and where copies go.
            self.served = self.root / 'served'
            self.copies = self.root / 'copies'
            self.served.mkdir()
            self.copies.mkdir()
            self.raw = images.make_raw(self.served / 'disk.raw', self._size)
            self.qcow2 = images.make_qcow2(
                self.served / 'disk.qcow2', self.raw
            )
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()

    @property
    def images(self) -> tuple[images.Image, images.Image]:
        """The images that are copied."""
        return self.raw, self.qcow2

    # Servers, started when they are first needed

    def start(self, *options: str) -> str:
        """Serve the images until the end; returns the URL."""
        started = server.Server(self.served, *options)
        return self._stack.enter_context(contextlib.closing(started)).url

    @functools.cached_property
    def http(self) -> str:
        """The URL of the HTTP server."""
        return self.start()

    @functools.cached_property
    def _certificates(self) -> tuple[pathlib.Path, pathlib.Path]:
        return certificate.make(self.root)

    @functools.cached_property
    def https(self) -> str:
        """The URL of the HTTPS server."""
        return self.start('--certificate', str(self._certificates[0]))

    @functools.cached_property
    def conf(self) -> cfg.ConfigOpts:
        """A configuration that trusts the HTTPS server."""
        conf = cfg.ConfigOpts()
        conf([], default_config_files=[], default_config_dirs=[])
        opts.register_opts(conf)
        conf.set_override(
            'ca_file', str(self._certificates[1]), 'oslo_transfer_http'
        )
        return conf

    def undo(self, function: Callable[[], object]) -> None:
        """Have something done at the end."""
        self._stack.callback(function)

    # Copying

    def copy(
        self,
        protocol: str,
        what: str,
        src: typing.Any,
        dst: str | pathlib.Path,
        image: images.Image,
        **arguments: typing.Any,
    ) -> Row:
        """Copy with a digest and a progress bar.

        :raises Broken: the result is not verified
        """
        bar = show.Bar(f'{protocol}, {what}', image.size)
        try:
            result = oslo_transfer.copy(
                src,
                dst,
                conf=self.conf,
                hash_algo='sha512',
                hash_value=image.digest,
                progress=bar,
                **arguments,
            )
        except BaseException:
            bar.end('failed')
            raise
        bar.end(f'{result.seconds:6.2f} s')
        if not (result.verified or result.reused):
            raise Broken(f'{protocol}, {what}: not verified')
        return Row(protocol, what, result)

    def target(self, image: images.Image) -> pathlib.Path:
        """A path for a copy; nothing is there."""
        path = self.copies / f'copy.{image.kind}'
        path.unlink(missing_ok=True)
        return path
