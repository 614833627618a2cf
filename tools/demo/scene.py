# SPDX-License-Identifier: Apache-2.0
"""Where the demonstration takes place, and the rows that it shows."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterator
import contextlib
import dataclasses
import functools
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import typing

from oslo_config import cfg

from demo import certificate
from demo import images
from demo import program
from demo import show
from demo import ssh
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
    :ivar copied: what the library says; None where nothing was copied
    :ivar notes: more, to be shown below the table
    """

    protocol: str
    what: str
    copied: oslo_transfer.TransferResult | None
    notes: tuple[str, ...] = ()

    @property
    def result(self) -> oslo_transfer.TransferResult:
        """The same, where something was copied."""
        assert self.copied is not None
        return self.copied


#: Those that have a server here.
PROTOCOLS = ('http', 'https', 'ftp', 'ftps', 'sftp')

#: The command of the library.
TOOL = pathlib.Path(sys.executable).with_name('oslo-transfer')

Act = Callable[['Scene'], Iterator[Row]]

#: Each shows some rows; (title, function).
ACTS: list[tuple[str, Act]] = []


def act(title: str) -> Callable[[Act], Act]:
    """Register a function that shows rows."""

    def register(function: Act) -> Act:
        ACTS.append((title, function))
        return function

    return register


def free_port() -> int:
    """A TCP port that nobody on this host uses."""
    with socket.socket() as sock:
        sock.bind(('', 0))
        port: int = sock.getsockname()[1]
    return port


def configuration(path: str | pathlib.Path) -> cfg.ConfigOpts:
    """A configuration from a file, and from nowhere else."""
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[str(path)], default_config_dirs=[])
    opts.register_opts(conf)
    return conf


class Scene:
    """A directory with images, and servers of it; a context manager.

    :param size: of the disk in bytes
    """

    def __init__(self, size: int) -> None:
        self._stack = contextlib.ExitStack()
        self._size = size
        #: A page to be looked at in the end, or ''.
        self.page = ''

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
            self._ssh.mkdir()
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

    def url(self, protocol: str) -> str:
        """Where a server shows the images."""
        found: str = getattr(self, protocol)
        return found

    def serve(self, scheme: str, module: str, *options: str) -> str:
        """Start a server of the images; returns the URL."""
        started = self._start(module, *options, str(self.served))
        return f'{scheme}://localhost:{started.port}'

    def _start(self, module: str, *arguments: str) -> program.Program:
        return self._stack.enter_context(
            contextlib.closing(program.Program(module, *arguments))
        )

    @functools.cached_property
    def http(self) -> str:
        """The URL of the HTTP server."""
        return self.serve('http', 'server')

    @functools.cached_property
    def https(self) -> str:
        """The URL of the HTTPS server."""
        return self.serve('https', 'server', '--certificate', self._pem)

    @functools.cached_property
    def ftp(self) -> str:
        """The URL of the FTP server."""
        return self.serve('ftp', 'ftpserver')

    @functools.cached_property
    def ftps(self) -> str:
        """The URL of the FTP server with TLS."""
        return self.serve('ftps', 'ftpserver', '--certificate', self._pem)

    @functools.cached_property
    def sftp(self) -> str:
        """The URL of the directory on the SFTP server."""
        started = ssh.start(self._ssh)
        self.undo(started.close)
        self.sftp_server = started.name
        return f'sftp://127.0.0.1:{started.port}{self.served}'

    @functools.cached_property
    def _pem(self) -> str:
        return str(certificate.make(self.root)[0])

    @property
    def _ssh(self) -> pathlib.Path:
        return self.root / 'ssh'

    @functools.cached_property
    def conf_file(self) -> pathlib.Path:
        """A configuration that trusts the servers, and is let in."""
        path = self.root / 'transfer.conf'
        path.write_text(
            f'[oslo_transfer_http]\n'
            f'ca_file = {self.root}/ca.pem\n'
            f'[oslo_transfer_ftp]\n'
            f'ca_file = {self.root}/ca.pem\n'
            f'[oslo_transfer_sftp]\n'
            f'known_hosts_file = {self._ssh}/known_hosts\n'
            f'private_key_file = {self._ssh}/client\n'
            f'[oslo_transfer_bittorrent]\n'
            f'peer_networks = 127.0.0.0/8\n'
            f'peers = {self.seeder}\n'
            f'listen_address = 127.0.0.1\n'
            f'[oslo_transfer_service]\n'
            f'control_socket = {self.root}/nobody.sock\n'
        )
        return path

    @functools.cached_property
    def seeder(self) -> str:
        """Where the seeder of the torrents will be."""
        return f'127.0.0.1:{free_port()}'

    @functools.cached_property
    def conf(self) -> cfg.ConfigOpts:
        """The same, read."""
        return configuration(self.conf_file)

    def undo(self, function: Callable[[], object]) -> None:
        """Have something done at the end."""
        self._stack.callback(function)

    def command(self, *arguments: str | os.PathLike[str]) -> str:
        """Run the command of the library; returns what it prints.

        :raises Broken: it fails
        """
        done = subprocess.run(
            [TOOL, '--config-file', self.conf_file, *arguments],
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise Broken(f'oslo-transfer {arguments[0]}: {done.stderr}')
        return done.stdout

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
        arguments.setdefault('conf', self.conf)
        try:
            result = oslo_transfer.copy(
                src,
                dst,
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
