# SPDX-License-Identifier: Apache-2.0
"""Which host keys are known for a server: files as in sshd(8)."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterator
from collections.abc import Sequence
import dataclasses
import fnmatch
import hashlib
import hmac
import os

from oslo_transfer.drivers.sftp import opts
from oslo_transfer import exceptions

#: Looked at where no file is configured.
DEFAULT_FILES = ('~/.ssh/known_hosts', '/etc/ssh/ssh_known_hosts')

# The types of the keys that sign, by the name that stands in the files.
_SIGNATURES = {'ssh-rsa': ('rsa-sha2-512', 'rsa-sha2-256')}


@dataclasses.dataclass(frozen=True)
class KnownKeys:
    """What the files say of one server.

    :ivar name: the server as the files name it
    :ivar file: where to add a key
    :ivar good: the keys it may show
    :ivar revoked: the keys that must not be trusted
    """

    name: str
    file: str
    good: tuple[bytes, ...]
    revoked: tuple[bytes, ...]

    def preferred(self, offered: Sequence[str]) -> list[str]:
        """Host key algorithms, those first that can show a known key.

        Without that a server with several keys may show one that is not
        known although it has one that is.
        """
        known = [
            algorithm
            for blob in self.good
            for algorithm in _SIGNATURES.get(_type(blob), (_type(blob),))
        ]
        return sorted(offered, key=lambda each: each not in known)

    def check(self, blob: bytes) -> None:
        """See whether this is the server that it is said to be.

        :param blob: the public key that the server proved to have
        :raises AccessDenied: the key is unknown, changed or revoked
        """
        shown = f'{_type(blob)} key {fingerprint(blob)}'
        if blob in self.revoked:
            raise exceptions.AccessDenied(
                f'{self.name} shows the {shown}, which is revoked'
            )
        if blob in self.good:
            return
        if self.good:
            known = ', '.join(
                f'{_type(each)} {fingerprint(each)}' for each in self.good
            )
            raise exceptions.AccessDenied(
                f'the host key of {self.name} has changed, or somebody is '
                f'in between: it shows the {shown}, and {known} is known. '
                f'If the change is right, replace the key in {self.file}'
            )
        raise exceptions.AccessDenied(
            f'the host key of {self.name} is not known. It shows the '
            f'{shown}; if that is right, add this line to {self.file}: '
            f'{self.name} {_type(blob)} {base64.b64encode(blob).decode()}'
        )


def load(file: str | None, host: str, port: int) -> KnownKeys:
    """Look a server up.

    :param file: the configured file; None for the default ones
    :param host: the host name or address of the URL
    :param port: the TCP port
    :raises ConfigurationError: a file cannot be read, or has a line that
        is none
    """
    name = host if port == 22 else f'[{host}]:{port}'
    good: list[bytes] = []
    revoked: list[bytes] = []
    for each in (file,) if file else DEFAULT_FILES:
        path = os.path.expanduser(each)
        try:
            with open(path, 'rb') as lines:
                for marker, blob in _matching(lines, path, name):
                    (revoked if marker == b'@revoked' else good).append(blob)
        except OSError as exc:
            if file is None and isinstance(exc, FileNotFoundError):
                continue
            raise exceptions.ConfigurationError(
                f'[{opts.GROUP}] known_hosts_file {path} cannot be read: '
                f'{exc.strerror}'
            ) from exc
    return KnownKeys(
        name, file or DEFAULT_FILES[0], tuple(good), tuple(revoked)
    )


def fingerprint(blob: bytes) -> str:
    """A key's fingerprint as OpenSSH shows it."""
    digest = base64.b64encode(hashlib.sha256(blob).digest())
    return f'SHA256:{digest.decode().rstrip("=")}'


def _matching(
    lines: Iterator[bytes], path: str, name: str
) -> Iterator[tuple[bytes, bytes]]:
    """The marker and the key of each line that is about a server."""
    for number, line in enumerate(lines, 1):
        fields = line.split()
        if not fields or fields[0].startswith(b'#'):
            continue
        marker = fields.pop(0) if fields[0].startswith(b'@') else b''
        try:
            hosts, kind, text = fields[:3]
            blob = base64.b64decode(text, validate=True)
            if _type(blob).encode() != kind:
                raise ValueError('the key is of another type')
            matches = _matches(hosts, name)
        except (ValueError, binascii.Error) as exc:
            raise exceptions.ConfigurationError(
                f'{path}, line {number}, is no line of a known_hosts file '
                f'({exc})'
            ) from exc
        # Certificates of hosts are not supported: an authority is no key.
        if matches and marker != b'@cert-authority':
            yield marker, blob


def _matches(hosts: bytes, name: str) -> bool:
    if hosts.startswith(b'|'):
        _nothing, version, salt, digest = hosts.split(b'|')
        if version != b'1':
            raise ValueError('hashed in an unknown way')
        found = hmac.digest(
            base64.b64decode(salt, validate=True), name.encode(), 'sha1'
        )
        return found == base64.b64decode(digest, validate=True)
    matched = False
    for pattern in hosts.decode('utf-8', 'replace').lower().split(','):
        # Brackets are no set of characters here.
        plain = pattern.lstrip('!').replace('[', '[[]')
        if fnmatch.fnmatchcase(name, plain):
            if pattern.startswith('!'):
                return False
            matched = True
    return matched


def _type(blob: bytes) -> str:
    """The type that stands at the start of a public key (RFC 4253, 6.6)."""
    length = int.from_bytes(blob[:4], 'big')
    if not 0 < length <= min(64, len(blob) - 4):
        raise ValueError('no public key')
    return blob[4 : 4 + length].decode('ascii')
