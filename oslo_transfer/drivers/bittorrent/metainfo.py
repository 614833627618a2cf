# SPDX-License-Identifier: Apache-2.0
"""Torrent files: what they say, checked before anything believes it.

Both formats are read, BEP 3 (v1, SHA-1) and BEP 52 (v2, SHA-256), and
hybrids of the two. A torrent describes exactly one file here; its name is
shown to people and is never part of a path.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import typing

from oslo_transfer.drivers import base
from oslo_transfer.drivers.bittorrent import bencode
from oslo_transfer.drivers.bittorrent import merkle
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

_MAX_URLS = 128
_MAX_URL_LENGTH = 2048
_MAX_TEXT = 255
_SHA1 = 20
_STEP = 1 << 18
_READ = 1 << 20
# libtorrent takes a file of such a name for padding (an old convention).
_PADDING = b'_____padding_file_'
_PINNED = re.compile(r'[0-9a-f]{40}|[0-9a-f]{64}')

_Table: typing.TypeAlias = dict[bytes, bencode.Value]
_T = typing.TypeVar('_T', int, bytes, list[bencode.Value], _Table)
_KINDS = {
    int: 'number',
    bytes: 'string',
    list: 'list',
    dict: 'dictionary',
}


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
    # One hash after the other; empty where the format is not there.
    _sha1: bytes = dataclasses.field(repr=False)
    _sha256: bytes = dataclasses.field(repr=False)

    @property
    def piece_count(self) -> int:
        """How many pieces there are."""
        return -(-self.size // self.piece_length)

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
        offset = index * self.piece_length
        return offset, min(self.piece_length, self.size - offset)

    def check_piece(self, index: int, data: memoryview | bytes) -> bool:
        """Whether these are the bytes of a piece.

        SHA-256 decides where the torrent has it. Takes the time of one hash
        over the data, mostly without the interpreter's lock.
        """
        if not 0 <= index < self.piece_count:
            return False
        with memoryview(data).cast('B') as view:
            if len(view) != self.piece_span(index)[1]:
                return False
            if self._sha256:
                return self._tree(merkle.leaves(view)) == self._expected(index)
            found = hashlib.sha1(view, usedforsecurity=False)
            return found.digest() == self._expected(index)

    @functools.cached_property
    def _zero_pieces(self) -> frozenset[int]:
        last = self.piece_count - 1
        whole = self._zero_hash(self.piece_length) if last else b''
        found = {
            index for index in range(last) if self._expected(index) == whole
        }
        if self._expected(last) == self._zero_hash(self.piece_span(last)[1]):
            found.add(last)
        return frozenset(found)

    def zero_pieces(self) -> frozenset[int]:
        """The pieces that are all zeros, which their hashes tell."""
        return self._zero_pieces

    def _expected(self, index: int) -> bytes:
        hashes, length = self._sha256, merkle.DIGEST
        if not hashes:
            hashes, length = self._sha1, _SHA1
        return hashes[index * length : (index + 1) * length]

    def _tree(self, leaves: bytes) -> bytes:
        """The root over the leaves of one piece."""
        width = self.piece_length // merkle.BLOCK
        if self.piece_count == 1:
            # Nothing stands above it, so it is only as wide as it must be.
            width = merkle.width_for(len(leaves) // merkle.DIGEST)
        return merkle.root(leaves, width)

    def _zero_hash(self, length: int) -> bytes:
        """The hash of a piece of zeros."""
        zeros = memoryview(bytes(_STEP))
        if self._sha256:
            whole, rest = divmod(length, merkle.BLOCK)
            leaves = merkle.leaves(zeros[: merkle.BLOCK]) * whole
            return self._tree(leaves + merkle.leaves(zeros[:rest]))
        found = hashlib.sha1(usedforsecurity=False)
        for start in range(0, length, _STEP):
            found.update(zeros[: length - start])
        return found.digest()


def read(source: base.Source) -> bytes:
    """Read a torrent file.

    Blocks until all of it is there, by the source's limits.

    :raises ProtocolError: it is larger than :data:`MAX_BYTES`
    :raises TransferError: it cannot be read
    """
    if (source.size or 0) <= MAX_BYTES:
        found = bytearray()
        buffer = memoryview(bytearray(_READ))
        with source.stream(0, source.size) as stream:
            while count := stream.readinto(buffer):
                found += buffer[:count]
                if len(found) > MAX_BYTES:
                    break
            else:
                return bytes(found)
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
    info = _need(table, b'info', dict)
    described = _Info(info)
    # Decoding was strict, so this gives the bytes that were there.
    section = bencode.encode(info)
    v1 = v2 = None
    if described.sha1:
        v1 = hashlib.sha1(section, usedforsecurity=False).hexdigest()
    if described.root:
        v2 = hashlib.sha256(section).hexdigest()
    if pinned is not None:
        _check_pinned(pinned, v1, v2)
    return Metainfo(
        name=_shown(described.name),
        size=described.size,
        piece_length=described.piece_length,
        info_hash_v1=v1,
        info_hash_v2=v2,
        private=described.private,
        trackers=_trackers(table),
        web_seeds=_web_seeds(table),
        data=data,
        comment=_note(table, b'comment'),
        created_by=_note(table, b'created by'),
        _sha1=described.sha1,
        _sha256=_layer(table, described) if described.root else b'',
    )


class _Info:
    """The checked info dictionary: the part that the info-hash covers."""

    def __init__(self, info: _Table) -> None:
        version = _get(info, b'meta version', int)
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
        self.name = _get(info, b'name.utf-8', bytes) or _need(
            info, b'name', bytes
        )
        _check_name(self.name)
        self.piece_length = _need(info, b'piece length', int)
        _check_piece_length(self.piece_length)
        private = _get(info, b'private', int)
        if private not in (None, 0, 1):
            raise exceptions.ProtocolError(
                'the torrent\'s "private" is neither 0 nor 1'
            )
        self.private = bool(private)
        sizes = set()
        self.sha1 = self.root = b''
        if not version or b'length' in info or b'pieces' in info:
            sizes.add(_size(info))
            self.sha1 = _need(info, b'pieces', bytes)
        if version:
            leaf = self._leaf(info)
            sizes.add(_size(leaf))
            self.root = _need(leaf, b'pieces root', bytes)
        if len(sizes) > 1:
            raise exceptions.IntegrityError(
                'the v1 and v2 parts of the torrent tell different sizes'
            )
        (self.size,) = sizes
        self.piece_count = -(-self.size // self.piece_length)
        self._check_hashes()

    def _leaf(self, info: _Table) -> _Table:
        """The only file in the file tree."""
        tree = _need(info, b'file tree', dict)
        if len(tree) != 1:
            raise _not_one_file(f'it has {len(tree)} entries')
        if tree.keys() != {self.name}:
            raise _not_one_file('it names a directory, or two names')
        below = _need(tree, self.name, dict)
        if below.keys() != {b''}:
            raise _not_one_file('it has a directory')
        return _need(below, b'', dict)

    def _check_hashes(self) -> None:
        if self.piece_count > MAX_PIECES:
            raise exceptions.CapabilityMissing(
                f'the torrent has {self.piece_count} pieces; at most '
                f'{MAX_PIECES} can be used'
            )
        if self.sha1 and len(self.sha1) != self.piece_count * _SHA1:
            raise exceptions.IntegrityError(
                f'the torrent has {self.piece_count} pieces, and '
                f'{len(self.sha1)} bytes of SHA-1 hashes'
            )
        if self.root and (
            len(self.root) != merkle.DIGEST or not any(self.root)
        ):
            raise exceptions.ProtocolError(
                'the torrent\'s "pieces root" is no SHA-256 hash'
            )
        if not self.sha1 and not self.root:
            raise exceptions.ProtocolError('the torrent has no hashes')


def _layer(table: _Table, info: _Info) -> bytes:
    """The SHA-256 hash of each piece, checked against the root."""
    layers = _get(table, b'piece layers', dict) or {}
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
    found = merkle.root(
        layer,
        merkle.width_for(info.piece_count),
        merkle.empty(info.piece_length // merkle.BLOCK),
    )
    if found != info.root:
        raise _wrong_layers('the hashes do not lead to the root')
    return layer


def _trackers(table: _Table) -> tuple[tuple[str, ...], ...]:
    """The trackers in tiers (BEP 12); empty tiers are left out."""
    tiers: list[tuple[str, ...]] = []
    for tier in _get(table, b'announce-list', list) or ():
        if not isinstance(tier, list):
            raise _wrong_urls('announce-list')
        tiers.append(_urls(tier, 'announce-list'))
    found = tuple(tier for tier in tiers if tier)
    if sum(map(len, found)) > _MAX_URLS:
        raise _wrong_urls('announce-list')
    if not found:
        announce = _get(table, b'announce', bytes)
        found = (_urls([announce], 'announce'),) if announce else ()
    return found


def _web_seeds(table: _Table) -> tuple[str, ...]:
    found = table.get(b'url-list', b'')
    if isinstance(found, bytes):
        found = [found]
    if not isinstance(found, list):
        raise _wrong_urls('url-list')
    return _urls(found, 'url-list')


def _urls(
    values: list[bencode.Value] | list[bytes], key: str
) -> tuple[str, ...]:
    """URLs without repetitions; whether they may be used is not said."""
    found: dict[str, None] = {}
    for value in values:
        if not isinstance(value, bytes):
            raise _wrong_urls(key)
        url = value.strip()
        if len(url) > _MAX_URL_LENGTH or re.search(rb'[^\x21-\x7e]', url):
            raise _wrong_urls(key)
        if url:
            found[url.decode('ascii')] = None
    if len(found) > _MAX_URLS:
        raise _wrong_urls(key)
    return tuple(found)


def _check_pinned(pinned: str, v1: str | None, v2: str | None) -> None:
    wanted = pinned.lower()
    if not _PINNED.fullmatch(wanted):
        raise exceptions.InvalidEndpoint(
            'what pins a torrent is no info-hash: 40 hex digits for v1, 64 '
            'for v2'
        )
    found = v1 if len(wanted) == 2 * _SHA1 else v2
    if found != wanted:
        raise exceptions.DigestMismatch(
            'info-hash', wanted, found or 'not there', 'the torrent file'
        )


def _check_name(name: bytes) -> None:
    # libtorrent makes up its own name from what is left of this one.
    if not _shown(name, escape=False).strip('./\\') or name.startswith(
        _PADDING
    ):
        raise exceptions.ProtocolError('the torrent\'s "name" is no name')


def _check_piece_length(length: int) -> None:
    if not MIN_PIECE <= length <= MAX_PIECE or length & (length - 1):
        raise exceptions.CapabilityMissing(
            f'the torrent has pieces of {length} bytes; powers of two from '
            f'{MIN_PIECE} to {MAX_PIECE} can be used'
        )


def _size(table: _Table) -> int:
    attributes = _get(table, b'attr', bytes) or b''
    if b'l' in attributes or b'p' in attributes or b'symlink path' in table:
        raise _not_one_file('it has a symbolic link or padding')
    size = _need(table, b'length', int)
    if not size:
        raise exceptions.CapabilityMissing(
            'the torrent is of an empty file, which BitTorrent cannot move'
        )
    if not 0 < size <= MAX_SIZE:
        raise exceptions.CapabilityMissing(
            f'the torrent is of {size} bytes; from 1 to {MAX_SIZE} can be used'
        )
    return size


def _note(table: _Table, key: bytes) -> str | None:
    found = _get(table, key, bytes)
    return _shown(found) if found else None


def _shown(text: bytes, escape: bool = True) -> str:
    """Text that can be shown: no control character, no change of direction.

    :param escape: write what cannot be shown as an escape, or leave it out
    """
    # Cut before decoding, for it may be very long.
    decoded = text[: 4 * _MAX_TEXT].decode('utf-8', 'backslashreplace')
    shown = ''.join(
        each
        if each.isprintable()
        else each.encode('unicode_escape').decode('ascii')
        if escape
        else ''
        for each in decoded
    )
    if len(shown) > _MAX_TEXT:
        shown = f'{shown[: _MAX_TEXT - 3]}...'
    return shown


def _get(table: _Table, key: bytes, kind: type[_T]) -> _T | None:
    found = table.get(key)
    if found is None or isinstance(found, kind):
        return found
    raise exceptions.ProtocolError(
        f'the torrent\'s "{key.decode()}" is no {_KINDS[kind]}'
    )


def _need(table: _Table, key: bytes, kind: type[_T]) -> _T:
    found = _get(table, key, kind)
    if found is None:
        raise exceptions.ProtocolError(f'the torrent has no "{key.decode()}"')
    return found


def _not_one_file(detail: str) -> exceptions.CapabilityMissing:
    return exceptions.CapabilityMissing(
        f'the torrent is not of exactly one file: {detail}'
    )


def _wrong_layers(detail: str) -> exceptions.IntegrityError:
    return exceptions.IntegrityError(
        f'the torrent\'s "piece layers" are wrong: {detail}'
    )


def _wrong_urls(key: str) -> exceptions.ProtocolError:
    return exceptions.ProtocolError(
        f'the torrent\'s "{key}" is no list of at most {_MAX_URLS} URLs of at '
        f'most {_MAX_URL_LENGTH} characters'
    )


def _too_large() -> exceptions.ProtocolError:
    return exceptions.ProtocolError(
        f'a torrent file of more than {MAX_BYTES} bytes'
    )
