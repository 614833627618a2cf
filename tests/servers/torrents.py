# SPDX-License-Identifier: Apache-2.0
"""Torrents made by hand, right ones and wrong ones.

See BEP 3 for version 1, BEP 52 for version 2; a hybrid is both in one.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Iterable
import dataclasses
import hashlib
import math
import os
import pathlib
from typing import Any

#: The leaves of the hash trees of BEP 52.
BLOCK = 16 << 10
KINDS = ('v1', 'v2', 'hybrid')


def bencode(value: Any) -> bytes:
    """Return a value of dicts, lists, bytes, strings and ints in bencode."""
    if isinstance(value, str):
        value = value.encode()
    if isinstance(value, bytes):
        return b'%d:%s' % (len(value), value)
    if isinstance(value, int):
        return b'i%de' % value
    if isinstance(value, dict):
        items = sorted(
            (key.encode() if isinstance(key, str) else key, each)
            for key, each in value.items()
        )
        body = b''.join(bencode(key) + bencode(each) for key, each in items)
        return b'd' + body + b'e'
    return b'l' + b''.join(map(bencode, value)) + b'e'


def _root(hashes: list[bytes], width: int, pad: bytes) -> bytes:
    """Return the root of a hash tree that has so many leaves."""
    hashes = hashes + [pad] * (width - len(hashes))
    while len(hashes) > 1:
        pairs = zip(hashes[::2], hashes[1::2])
        hashes = [hashlib.sha256(a + b).digest() for a, b in pairs]
    return hashes[0]


def _tree(data: bytes, piece_bytes: int) -> tuple[bytes, bytes]:
    """Return the root over some data, and its layer of pieces."""
    leaves = [
        hashlib.sha256(data[at : at + BLOCK]).digest()
        for at in range(0, len(data), BLOCK)
    ]
    zero = bytes(32)
    if len(data) <= piece_bytes:
        return _root(leaves, 1 << (len(leaves) - 1).bit_length(), zero), b''
    per_piece = piece_bytes // BLOCK
    layer = [
        _root(leaves[at : at + per_piece], per_piece, zero)
        for at in range(0, len(leaves), per_piece)
    ]
    pad = _root([], per_piece, zero)
    width = 1 << (len(layer) - 1).bit_length()
    return _root(layer, width, pad), b''.join(layer)


@dataclasses.dataclass(frozen=True)
class Torrent:
    """A torrent of one file.

    :ivar content: what bencode() makes the file of
    :ivar kind: one of KINDS
    :ivar size: of the file that it describes, in bytes
    """

    content: dict[str, Any] = dataclasses.field(repr=False)
    kind: str
    size: int

    @property
    def encoded(self) -> bytes:
        """Return the .torrent file."""
        return bencode(self.content)

    @property
    def info(self) -> dict[str, Any]:
        """Return the part that the info-hash is of."""
        info: dict[str, Any] = self.content['info']
        return info

    @property
    def name(self) -> str:
        """Return the name that it gives to the file."""
        name: str = self.info['name']
        return name

    @property
    def piece_bytes(self) -> int:
        """Return the length of a piece."""
        length: int = self.info['piece length']
        return length

    @property
    def piece_count(self) -> int:
        """Return how many pieces there are."""
        return math.ceil(self.size / self.piece_bytes)

    @property
    def v1(self) -> str:
        """Return the SHA-1 info-hash in hex."""
        return hashlib.sha1(bencode(self.info)).hexdigest()  # noqa: S324

    @property
    def v2(self) -> str:
        """Return the SHA-256 info-hash in hex."""
        return hashlib.sha256(bencode(self.info)).hexdigest()

    @property
    def wire_hash(self) -> bytes:
        """Return the 20 bytes that a handshake and a tracker are given."""
        text = self.v2 if self.kind == 'v2' else self.v1
        return bytes.fromhex(text)[:20]

    def is_known_by(self, wire_hash: bytes) -> bool:
        """Return whether a handshake with this hash is for it."""
        return wire_hash in (
            bytes.fromhex(self.v1),
            bytes.fromhex(self.v2)[:20],
        )

    def write(self, path: str | os.PathLike[str]) -> pathlib.Path:
        """Write the file; return its path."""
        path = pathlib.Path(path)
        path.write_bytes(self.encoded)
        return path

    def changed(self, **info: Any) -> Torrent:
        """Return one whose info differs; None takes an entry out.

        An underscore in a name stands for a space.
        """
        new = dict(self.info)
        for key, value in info.items():
            key = key.replace('_', ' ')
            if value is None:
                new.pop(key, None)
            else:
                new[key] = value
        return dataclasses.replace(self, content={**self.content, 'info': new})


def make(
    data: bytes,
    kind: str = 'hybrid',
    *,
    name: str = 'image',
    piece_bytes: int = 4 * BLOCK,
    trackers: Iterable[str] = (),
    web_seeds: Iterable[str] = (),
    nodes: Iterable[tuple[str, int]] = (),
    private: bool = False,
) -> Torrent:
    """Make a torrent of one file.

    :param nodes: host and port of DHT nodes
    """
    assert kind in KINDS
    info: dict[str, Any] = {'name': name, 'piece length': piece_bytes}
    content: dict[str, Any] = {'info': info}
    if private:
        info['private'] = 1
    if kind != 'v2':
        info['length'] = len(data)
        info['pieces'] = b''.join(
            hashlib.sha1(data[at : at + piece_bytes]).digest()  # noqa: S324
            for at in range(0, len(data), piece_bytes)
        )
    if kind != 'v1':
        root, layer = _tree(data, piece_bytes)
        info['meta version'] = 2
        entry = {'length': len(data), 'pieces root': root}
        info['file tree'] = {name: {'': entry}}
        content['piece layers'] = {root: layer} if layer else {}
    if trackers := list(trackers):
        content['announce'] = trackers[0]
        content['announce-list'] = [[each] for each in trackers]
    if web_seeds := list(web_seeds):
        content['url-list'] = web_seeds
    if hosts := list(nodes):
        content['nodes'] = hosts
    return Torrent(content, kind, len(data))


def _flip(data: bytes) -> bytes:
    return bytes([data[0] ^ 1]) + data[1:]


def _wrong_layer(good: Torrent) -> bytes:
    layers = good.content['piece layers']
    wrong = {root: _flip(layer) for root, layer in layers.items()}
    return bencode({**good.content, 'piece layers': wrong})


def _tree_of(good: Torrent, **entry: Any) -> bytes:
    leaf = {**good.info['file tree'][good.name][''], **entry}
    return good.changed(file_tree={good.name: {'': leaf}}).encoded


def _two_files(_good: Torrent) -> bytes:
    files = [{'length': 10, 'path': [name]} for name in ('a', 'b')]
    info = {
        'name': 'two',
        'piece length': BLOCK,
        'pieces': bytes(20),
        'files': files,
    }
    return bencode({'info': info})


#: What makes a wrong .torrent file of a hybrid one with several pieces.
WRONG: dict[str, Callable[[Torrent], bytes]] = {
    'empty': lambda good: b'',
    'html': lambda good: b'<!DOCTYPE html><title>404</title>' * 20,
    'truncated': lambda good: good.encoded[:-7],
    'nested': lambda good: b'l' * 200_000,
    'huge-string': lambda good: b'd4:info99999999999:x',
    'no-info': lambda good: bencode({'announce': 'http://127.0.0.1/'}),
    'info-is-a-list': lambda good: bencode({'info': [1, 2]}),
    'no-name': lambda good: good.changed(name=None).encoded,
    'no-piece-length': lambda good: good.changed(piece_length=None).encoded,
    'piece-length-0': lambda good: good.changed(piece_length=0).encoded,
    'piece-length-negative': lambda good: (
        good.changed(piece_length=-BLOCK).encoded
    ),
    'piece-length-2**40': lambda good: (
        good.changed(piece_length=2**40).encoded
    ),
    'length-negative': lambda good: good.changed(length=-1).encoded,
    'length-2**62': lambda good: good.changed(length=2**62).encoded,
    'length-missing': lambda good: good.changed(length=None).encoded,
    'pieces-cut': lambda good: good.changed(pieces=bytes(33)).encoded,
    'pieces-too-few': lambda good: good.changed(pieces=bytes(20)).encoded,
    'pieces-too-many': lambda good: (
        good.changed(pieces=bytes(20 * (good.piece_count + 1))).encoded
    ),
    'meta-version-3': lambda good: good.changed(meta_version=3).encoded,
    'wrong-layer': _wrong_layer,
    'no-layers': lambda good: bencode({'info': good.info}),
    'wrong-root': lambda good: _tree_of(good, **{'pieces root': bytes(32)}),
    'short-root': lambda good: _tree_of(good, **{'pieces root': bytes(31)}),
    'hybrid-sizes-differ': lambda good: _tree_of(good, length=good.size - 1),
    'two-files': _two_files,
}
