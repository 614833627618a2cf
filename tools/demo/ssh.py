# SPDX-License-Identifier: Apache-2.0
"""A server of SFTP: this host's sshd, or one in Python where it has none."""

from __future__ import annotations

import pathlib
import shutil
import subprocess
import typing

import paramiko

from bench import daemon
from bench import registry
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives import serialization
from demo import program


class Server(typing.NamedTuple):
    """A server that runs.

    :ivar name: what it is
    :ivar port: on 127.0.0.1
    :ivar close: ends it
    """

    name: str
    port: int
    close: typing.Callable[[], object]


def start(directory: pathlib.Path) -> Server:
    """Start a server, of all files.

    :param directory: where to leave the files ``client``, a key that is let
        in, and ``known_hosts``
    """
    sshd = _sshd(directory)
    if sshd is not None:
        return Server('sshd', sshd.port, sshd.close)
    for name in ('client', 'host'):
        _make_key(directory / name)
    python = program.Program('sftpserver', directory)
    public = (directory / 'host.pub').read_text()
    (directory / 'known_hosts').write_text(
        f'[127.0.0.1]:{python.port} {public}'
    )
    return Server('paramiko', python.port, python.close)


def _sshd(directory: pathlib.Path) -> daemon.Sshd | None:
    """The host's sshd, if there is one that lets us in."""
    if shutil.which('ssh-keygen') is None:
        return None
    try:
        sshd = daemon.Sshd(directory)
    except (registry.Unmeasurable, subprocess.CalledProcessError, OSError):
        return None
    # To some it matters that an account is locked, or who owns what.
    client = paramiko.SSHClient()
    client.load_host_keys(str(sshd.known_hosts))
    try:
        client.connect(
            '127.0.0.1',
            sshd.port,
            key_filename=str(sshd.key),
            allow_agent=False,
            look_for_keys=False,
        )
    except (paramiko.SSHException, OSError):
        sshd.close()
        for path in directory.iterdir():
            path.unlink()
        return None
    finally:
        client.close()
    return sshd


def _make_key(path: pathlib.Path) -> None:
    key = ed25519.Ed25519PrivateKey.generate()
    path.touch(0o600)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.OpenSSH,
            serialization.NoEncryption(),
        )
    )
    path.with_name(f'{path.name}.pub').write_bytes(
        key.public_key().public_bytes(
            serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
        )
    )
