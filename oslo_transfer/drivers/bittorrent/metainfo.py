# SPDX-License-Identifier: Apache-2.0
"""Torrent files: what they say, checked before anything believes it.

Both formats are read, BEP 3 (v1, SHA-1) and BEP 52 (v2, SHA-256), and
hybrids of the two. A torrent describes exactly one file here; its name is
shown to people and is never part of a path.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re

from oslo_transfer.drivers import base
from oslo_transfer.drivers.bittorrent import bencode
from oslo_transfer.drivers.bittorrent import fields
from oslo_transfer.drivers.bittorrent import merkle
from oslo_transfer.drivers.bittorrent import pieces
from oslo_transfer import exceptions

#: The largest torrent file that is read, in bytes.
MAX_BYTES = 64 << 20
#: The bounds of a piece's length, in bytes.
MIN_PIECE = 16 << 10
MAX_PIECE = 64 << 20
#: The most pieces, which is what libtorrent takes by default too.
MAX_PIECES = 1 << 21
#: The largest file, in bytes; libtorrent ends at twice of it.
MAX_SIZE = 1 << 43

_READ = 1 << 20
_PINNED = re.compile(r'[0-9a-f]{40}|[0-9a-f]{64}')


@dataclasses.dataclass(frozen=True, kw_only=True)
class Metainfo:
    """What a torrent file says; immutable, for any number of threads.

    ``repr()`` holds no URL, for those of trackers are often secrets.

    :ivar name: what the publisher called the file, for people: printable,
        shortened, and not to be used as a path
    :ivar size: of the file in bytes, never 0
    :ivar piece_length: of each piece but the last, in bytes
    :ivar info_hash_v1: hex, or None for v2 only
    :ivar info_hash_v2: hex, or None for v1 only
    :ivar private: peers come from the trackers only (BEP 27)
    :ivar trackers: announce URLs in tiers, the first tier is tried first
    :ivar web_seeds: URLs of the same data (BEP 19); one that ends in a
        slash is that of a directory with the file in it
    :ivar data: the torrent file as it was read
    :ivar comment: for people, or None
    :ivar created_by: for people, or None
    """

    name: str
    size: int
    piece_length: int
    info_hash_v1: str | None
    info_hash_v2: str | None
    private: bool
    trackers: tuple[tuple[str, ...], ...] = dataclasses.field(repr=False)
    web_seeds: tuple[str, ...] = dataclasses.field(repr=False)
    data: bytes = dataclasses.field(repr=False)
    comment: str | None = dataclasses.field(default=None, repr=False)
    created_by: str | None = dataclasses.field(default=None, repr=False)
    _parts: pieces.Pieces = dataclasses.field(repr=False)

    @property
    def piece_count(self) -> int:
        """How many pieces there are."""
        return self._parts.count

    @property
    def info_hash(self) -> str:
        """The best info-hash, in hex: it pins the torrent in a URL."""
        found = self.info_hash_v2 or self.info_hash_v1
        assert found is not None
        return found

    @property
    def validator(self) -> base.Validator:
        """Equal for equal torrents, and those are of equal data."""
        return base.Validator(f'torrent:{self.info_hash}', strong=True)

    def piece_span(self, index: int) -> tuple[int, int]:
        """Where a piece begins, and its length, in bytes."""
        return self._parts.span(index)

    def check_piece(self, index: int, data: memoryview | bytes) -> bool:
        """Whether these are the bytes of a piece.

        SHA-256 decides where the torrent has it. Takes the time of one hash
        over the data, nearly all of it without the interpreter's lock.
        """
        return self._parts.check(index, data)

    def zero_pieces(self) -> frozenset[int]:
        """The pieces that are all zeros, which their hashes tell."""
        return self._parts.zero


def read(source: base.Source) -> bytes:
    """Read a torrent file.

    Blocks until all of it is there, by the source's limits.

    :raises ProtocolError: it is larger than :data:`MAX_BYTES`
    :raises TransferError: it cannot be read
    """
    if source.size is not None and source.size > MAX_BYTES:
        raise _too_large()
    found = bytearray()
    buffer = memoryview(bytearray(_READ))
    with source.stream(0, source.size) as stream:
        while len(found) <= MAX_BYTES:
            count = stream.readinto(buffer)
            if not count:
                return bytes(found)
            found += buffer[:count]
    raise _too_large()


def parse(data: bytes, *, pinned: str | None = None) -> Metainfo:
    """Read and check the content of a torrent file.

    :param data: the content
    :param pinned: the info-hash that it must have, in hex: 40 digits for
        v1, 64 for v2
    :raises InvalidEndpoint: ``pinned`` is no info-hash
    :raises DigestMismatch: the info-hash is not the pinned one
    :raises IntegrityError: it contradicts itself
    :raises CapabilityMissing: it is not the torrent of one file of a size
        and shape that can be used
    :raises ProtocolError: it is no torrent file
    """
    if len(data) > MAX_BYTES:
        raise _too_large()
    table = bencode.decode(data)
    if not isinstance(table, dict):
        raise exceptions.ProtocolError('this is no torrent file')
    info = fields.need(table, b'info', dict)
    described = _Info(info)
    # Decoding was strict, so this gives the bytes that were there.
    section = bencode.encode(info)
    v1 = v2 = None
    if described.sha1 is not None:
        v1 = hashlib.sha1(section, usedforsecurity=False).hexdigest()
    if described.root is not None:
        v2 = hashlib.sha256(section).hexdigest()
    if pinned is not None:
        _check_pinned(pinned, v1, v2)
    return Metainfo(
        name=fields.shown(described.name),
        size=described.size,
        piece_length=described.piece_length,
        info_hash_v1=v1,
        info_hash_v2=v2,
        private=described.private,
        trackers=_trackers(table),
        web_seeds=_web_seeds(table),
        data=data,
        comment=fields.note(table, b'comment'),
        created_by=fields.note(table, b'created by'),
        _parts=pieces.Pieces(
            described.size,
            described.piece_length,
            described.sha1 or b'',
            _layer(table, described),
        ),
    )


def fit_name(name: bytes) -> bool:
    """Whether libtorrent can make the name of a file from this one.

    It takes one with "_____padding_file_" in it for padding, which is an
    old convention.
    """
    letters = re.sub(rb'[^a-z]', b'', name)
    return b'paddingfile' not in letters and bool(
        fields.shown(name, escape=False).strip('./\\')
    )


class _Info:
    """The checked info dictionary: the part that the info-hash covers."""

    def __init__(self, info: fields.Table) -> None:
        version = fields.get(info, b'meta version', int)
        if version not in (None, 2) or (not version and b'file tree' in info):
            raise exceptions.CapabilityMissing(
                'a torrent of an unknown version; known are 1 and 2'
            )
        if b'files' in info:
            raise _not_one_file('it describes a directory')
        if b'ssl-cert' in info:
            raise exceptions.CapabilityMissing(
                'torrents that ask peers for certificates are not supported'
            )
        name = fields.get(info, b'name.utf-8', bytes)
        if name is None:
            name = fields.need(info, b'name', bytes)
        self.name = name
        if not fit_name(self.name):
            raise exceptions.ProtocolError(
                'the torrent\'s "name" is not one that a file can have'
            )
        self.piece_length = fields.need(info, b'piece length', int)
        _check_piece_length(self.piece_length)
        private = fields.get(info, b'private', int)
        if private not in (None, 0, 1):
            raise exceptions.ProtocolError(
                'the torrent\'s "private" is neither 0 nor 1'
            )
        self.private = bool(private)
        self.sha1: bytes | None = None
        self.root: bytes | None = None
        sizes = set()
        if not version or b'length' in info or b'pieces' in info:
            sizes.add(_size(info))
            self.sha1 = fields.need(info, b'pieces', bytes)
        if version:
            leaf = self._leaf(info)
            sizes.add(_size(leaf))
            self.root = fields.need(leaf, b'pieces root', bytes)
        if len(sizes) > 1:
            raise exceptions.IntegrityError(
                'the v1 and v2 parts of the torrent tell different sizes'
            )
        (self.size,) = sizes
        self.piece_count = -(-self.size // self.piece_length)
        self._check_hashes()

    def _leaf(self, info: fields.Table) -> fields.Table:
        """The only file in the file tree."""
        tree = fields.need(info, b'file tree', dict)
        if len(tree) != 1:
            raise _not_one_file(f'it has {len(tree)} entries')
        if tree.keys() != {self.name}:
            raise _not_one_file('it names a directory, or two names')
        below = fields.need(tree, self.name, dict)
        if below.keys() != {b''}:
            raise _not_one_file('it has a directory')
        return fields.need(below, b'', dict)

    def _check_hashes(self) -> None:
        if self.piece_count > MAX_PIECES:
            raise exceptions.CapabilityMissing(
                f'the torrent has {self.piece_count} pieces; at most '
                f'{MAX_PIECES} can be used'
            )
        length = self.piece_count * pieces.SHA1
        if self.sha1 is not None and len(self.sha1) != length:
            raise exceptions.IntegrityError(
                f'the torrent has {self.piece_count} pieces, and '
                f'{len(self.sha1)} bytes of SHA-1 hashes'
            )
        if self.root is not None and (
            len(self.root) != merkle.DIGEST or not any(self.root)
        ):
            raise exceptions.ProtocolError(
                'the torrent\'s "pieces root" is no SHA-256 hash'
            )


def _layer(table: fields.Table, info: _Info) -> bytes:
    """The SHA-256 hash of each piece, checked against the root."""
    if info.root is None:
        return b''
    layers = fields.get(table, b'piece layers', dict) or {}
    if info.piece_count == 1:
        if layers:
            raise _wrong_layers('there is one for a file of one piece')
        return info.root
    layer = layers.get(info.root)
    if not isinstance(layer, bytes) or len(layers) != 1:
        raise _wrong_layers('the one that is needed is missing, or others are')
    if len(layer) != info.piece_count * merkle.DIGEST:
        raise _wrong_layers(
            f'{info.piece_count} pieces, and {len(layer)} bytes of hashes'
        )
    if merkle.file_root(layer, info.piece_length) != info.root:
        raise _wrong_layers('the hashes do not lead to the root')
    return layer


def _trackers(table: fields.Table) -> tuple[tuple[str, ...], ...]:
    """The trackers in tiers (BEP 12); empty tiers are left out."""
    tiers: list[tuple[str, ...]] = []
    for tier in fields.get(table, b'announce-list', list) or ():
        if not isinstance(tier, list):
            raise fields.wrong_urls('announce-list')
        tiers.append(fields.urls(tier, 'announce-list'))
    found = tuple(tier for tier in tiers if tier)
    if sum(map(len, found)) > fields.MAX_URLS:
        raise fields.wrong_urls('announce-list')
    if not found:
        announce = fields.get(table, b'announce', bytes)
        found = (fields.urls([announce], 'announce'),) if announce else ()
    return found


def _web_seeds(table: fields.Table) -> tuple[str, ...]:
    found = table.get(b'url-list', b'')
    if isinstance(found, bytes):
        found = [found]
    if not isinstance(found, list):
        raise fields.wrong_urls('url-list')
    return fields.urls(found, 'url-list')


def _check_pinned(pinned: str, v1: str | None, v2: str | None) -> None:
    wanted = pinned.lower()
    if not _PINNED.fullmatch(wanted):
        raise exceptions.InvalidEndpoint(
            'what pins a torrent is no info-hash: 40 hex digits for v1, 64 '
            'for v2'
        )
    found = v1 if len(wanted) == 2 * pieces.SHA1 else v2
    if found != wanted:
        raise exceptions.DigestMismatch(
            'info-hash', wanted, found or 'not there', 'the torrent file'
        )


def _check_piece_length(length: int) -> None:
    if not MIN_PIECE <= length <= MAX_PIECE or length & (length - 1):
        raise exceptions.CapabilityMissing(
            f'the torrent has pieces of {length} bytes; powers of two from '
            f'{MIN_PIECE} to {MAX_PIECE} can be used'
        )


def _size(table: fields.Table) -> int:
    attributes = fields.get(table, b'attr', bytes) or b''
    if b'l' in attributes or b'p' in attributes or b'symlink path' in table:
        raise _not_one_file('it has a symbolic link or padding')
    size = fields.need(table, b'length', int)
    if not size:
        raise exceptions.CapabilityMissing(
            'the torrent is of an empty file, which BitTorrent cannot move'
        )
    if not 0 < size <= MAX_SIZE:
        raise exceptions.CapabilityMissing(
            f'the torrent is of {size} bytes; from 1 to {MAX_SIZE} can be used'
        )
    return size


def _not_one_file(detail: str) -> exceptions.CapabilityMissing:
    return exceptions.CapabilityMissing(
        f'the torrent is not of exactly one file: {detail}'
    )


def _wrong_layers(detail: str) -> exceptions.IntegrityError:
    return exceptions.IntegrityError(
        f'the torrent\'s "piece layers" are wrong: {detail}'
    )


def _too_large() -> exceptions.ProtocolError:
    return exceptions.ProtocolError(
        f'more than the {MAX_BYTES} bytes that a torrent file may have'
    )
