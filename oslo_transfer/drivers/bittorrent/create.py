# SPDX-License-Identifier: Apache-2.0
"""Makes torrent files: the same data and options give the same bytes."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence

from oslo_transfer import context as _context
from oslo_transfer.drivers import base
from oslo_transfer.drivers.bittorrent import bencode
from oslo_transfer.drivers.bittorrent import fields
from oslo_transfer.drivers.bittorrent import hashing
from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer import endpoint
from oslo_transfer import exceptions
from oslo_transfer import progress as _progress

#: The formats: ``v1`` for old clients, ``v2`` for SHA-256, or both in one.
VERSIONS = ('hybrid', 'v1', 'v2')

# More pieces than this cost more than smaller ones bring.
_MANY_PIECES = 8192
_SMALL_PIECE = 64 << 10
_LARGE_PIECE = 16 << 20
# Where the size is not known beforehand: good for 4 to 8 GiB.
_USUAL_PIECE = 1 << 20
# So many that the torrent file stays below what is read.
_MOST_PIECES = 1 << 20
_LONGEST_NAME = 255


def create(
    source: base.Source,
    *,
    name: str,
    piece_length: int | None = None,
    trackers: Sequence[str] = (),
    web_seeds: Sequence[str] = (),
    private: bool = False,
    comment: str | None = None,
    version: str = 'hybrid',
    progress: _progress.ProgressCallback | None = None,
    cancel: _context.CancelEvent | None = None,
) -> bytes:
    """Make the content of a torrent file.

    Reads the source once, from its start to its end, and skips its holes.
    Blocks for that long; the hashes are computed beside it.

    :param source: the data; its own limits end waits
    :param name: what clients call the file
    :param piece_length: in bytes, a power of two; None to fit the size
    :param trackers: announce URLs; the first is tried first
    :param web_seeds: URLs of the same data
    :param private: peers may come from the trackers only
    :param comment: for people, or None
    :param version: one of :data:`VERSIONS`
    :param progress: called with ``(chunk_bytes, total_bytes)``
    :param cancel: set by the caller to stop
    :raises ConfigurationError: an option has a value that cannot work
    :raises CapabilityMissing: the source is empty, or too large
    :raises IntegrityError: the source does not say where it ends, or has
        another size than it said
    :raises TransferCancelled: ``cancel`` was set
    :raises TransferError: the source cannot be read
    """
    _check_name(name)
    _check_urls('tracker', trackers)
    _check_urls('web seed', web_seeds)
    if version not in VERSIONS:
        raise exceptions.ConfigurationError(
            f'unknown torrent version {version!r}; known are '
            f'{", ".join(VERSIONS)}'
        )
    length = piece_length or automatic_piece_length(source.size)
    _check_piece_length(length)
    hashes = _hash(source, length, version, _Meter(progress, cancel))
    table = _table(name.encode(), length, hashes, private)
    if trackers:
        table[b'announce'] = trackers[0].encode()
    if len(trackers) > 1:
        # One in each tier, or clients would choose at random (BEP 12).
        table[b'announce-list'] = [[url.encode()] for url in trackers]
    if web_seeds:
        table[b'url-list'] = [url.encode() for url in web_seeds]
    if comment:
        table[b'comment'] = comment.encode(errors='replace')
    made = bencode.encode(table)
    # Nobody is given what could not be read again.
    metainfo.parse(made)
    return made


def automatic_piece_length(size: int | None) -> int:
    """The piece length in bytes that fits a size.

    Small pieces spread faster: a host passes a piece on when it has all of
    it. Large ones make small torrent files.
    """
    if size is None:
        return _USUAL_PIECE
    length = _SMALL_PIECE
    while length < _LARGE_PIECE and size > length * _MANY_PIECES:
        length *= 2
    return length


class _Meter:
    """Tells progress, and notices that the caller wants to stop."""

    def __init__(
        self,
        progress: _progress.ProgressCallback | None,
        cancel: _context.CancelEvent | None,
    ) -> None:
        self._progress = progress
        self._cancel = cancel
        self._total = 0

    def add(self, count: int) -> None:
        """So many bytes more are done."""
        if self._cancel is not None and self._cancel.is_set():
            raise exceptions.TransferCancelled('cancelled by the caller')
        self._total += count
        if self._progress is not None:
            self._progress(count, self._total)


def _hash(
    source: base.Source, length: int, version: str, meter: _Meter
) -> hashing.Hashes:
    """Read all of the source."""
    size = source.size
    if size is None and not source.delimited:
        raise exceptions.IntegrityError(
            'the source does not say where it ends, so a broken connection '
            'could not be told from the end'
        )
    _check_size(size, length)
    with hashing.Hasher(
        length, sha1=version != 'v2', sha256=version != 'v1'
    ) as hasher:
        for offset, count, data in _runs(source, hasher.stride):
            if data:
                with source.stream(offset, count) as stream:
                    _hash_stream(stream, hasher, length, meter)
            else:
                assert count is not None
                hasher.zeros(count)
                meter.add(count)
        hashes = hasher.finish()
    if size is not None and hashes.size != size:
        raise exceptions.SizeMismatch(size, hashes.size, 'the source')
    _check_size(hashes.size, length)
    return hashes


def _hash_stream(
    stream: base.Stream, hasher: hashing.Hasher, length: int, meter: _Meter
) -> None:
    while True:
        buffer = hasher.buffer()
        count = 0
        while count < len(buffer):
            step = stream.readinto(buffer[count:])
            if not step:
                hasher.add(buffer, count)
                return
            count += step
            meter.add(step)
        hasher.add(buffer, count)
        _check_size(hasher.total, length)


def _runs(
    source: base.Source, stride: int
) -> Iterator[tuple[int, int | None, bool]]:
    """Offset, length and whether it is data; holes are whole strides."""
    size = source.size
    if size is None:
        yield 0, None, True
        return
    position = 0
    for start, end in _holes(source, size):
        start = -(-start // stride) * stride
        end = end // stride * stride
        if end <= start:
            continue
        if start > position:
            yield position, start - position, True
        yield start, end - start, False
        position = end
    if position < size:
        yield position, size - position, True


def _holes(source: base.Source, size: int) -> Iterator[tuple[int, int]]:
    needed = base.Capability.EXTENTS | base.Capability.RANDOM_READ
    if source.capabilities & needed == needed:
        for extent in source.extents(0, size) or ():
            if not extent.data:
                yield extent.offset, extent.offset + extent.length


def _table(
    name: bytes, length: int, hashes: hashing.Hashes, private: bool
) -> fields.Table:
    """What follows from the data."""
    info: fields.Table = {b'name': name, b'piece length': length}
    table: fields.Table = {b'info': info}
    if private:
        info[b'private'] = 1
    if hashes.sha1:
        info[b'length'] = hashes.size
        info[b'pieces'] = hashes.sha1
    if hashes.sha256:
        leaf: fields.Table = {
            b'length': hashes.size,
            b'pieces root': hashes.root,
        }
        info[b'file tree'] = {name: {b'': leaf}}
        info[b'meta version'] = 2
        table[b'piece layers'] = (
            {hashes.root: hashes.sha256} if hashes.size > length else {}
        )
    return table


def _check_name(name: str) -> None:
    if (
        not name.isprintable()
        or not name.strip('. ')
        or not {'/', '\\'}.isdisjoint(name)
        or len(name.encode()) > _LONGEST_NAME
        or not metainfo.fit_name(name.encode())
    ):
        raise exceptions.ConfigurationError(
            f'{ascii(name[:40])} is no name that every client can give a file'
        )


def _check_piece_length(length: int) -> None:
    if not metainfo.MIN_PIECE <= length <= metainfo.MAX_PIECE or length & (
        length - 1
    ):
        raise exceptions.ConfigurationError(
            f'a piece size of {length} bytes; it has to be a power of two '
            f'from {metainfo.MIN_PIECE} to {metainfo.MAX_PIECE}'
        )


def _check_size(size: int | None, length: int) -> None:
    if size == 0:
        raise exceptions.CapabilityMissing(
            'the source is empty, and BitTorrent cannot move an empty file'
        )
    if size is not None and -(-size // length) > _MOST_PIECES:
        raise exceptions.CapabilityMissing(
            f'{size} bytes in pieces of {length} are more than '
            f'{_MOST_PIECES} pieces; use larger pieces'
        )


def _check_urls(what: str, urls: Sequence[str]) -> None:
    if len(urls) > fields.MAX_URLS:
        raise exceptions.ConfigurationError(
            f'{len(urls)} {what}s; at most {fields.MAX_URLS} are allowed'
        )
    for url in urls:
        try:
            found = endpoint.parse(url)
        except exceptions.InvalidEndpoint as exc:
            raise exceptions.ConfigurationError(f'a {what}: {exc}') from exc
        if found.username is not None:
            raise exceptions.ConfigurationError(
                f'the {what} {found} has a login in it, which everybody could '
                f'read in the torrent file'
            )
        if (
            not url.isascii()
            or '://' not in url
            or len(url) > fields.MAX_URL_LENGTH
        ):
            raise exceptions.ConfigurationError(
                f'the {what} {ascii(str(found)[:80])} is no URL of at most '
                f'{fields.MAX_URL_LENGTH} ASCII characters'
            )
