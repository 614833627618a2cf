# SPDX-License-Identifier: Apache-2.0
"""The role ``seed``: sends finished files to peers, from where they are."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import http
import logging
import os
import threading
import time
import typing

from oslo_transfer.drivers.bittorrent import metainfo
from oslo_transfer import exceptions
from oslo_transfer import opts
from oslo_transfer.service import records
from oslo_transfer.service import role
from oslo_transfer.service import seeded_file
from oslo_transfer.service import seeder as _seeder

if typing.TYPE_CHECKING:
    from oslo_config import cfg

LOG = logging.getLogger(__name__)

#: Seconds after which a counter that has changed is written down.
_SAVE_SECONDS = 60.0
#: The Unix clock, for what outlives the process.
_now = time.time


class SeedRole(role.Role):
    """Seeds files until a limit is reached or the file changes.

    :param conf: the configuration
    :param make_seeder: makes what seeds; None for libtorrent's
    """

    name = 'seed'

    def __init__(
        self,
        conf: cfg.ConfigOpts,
        make_seeder: Callable[[cfg.ConfigOpts], _seeder.Seeder] | None = None,
    ) -> None:
        self._conf = conf
        self._make_seeder = make_seeder or _libtorrent
        self._lock = threading.Lock()
        self._seeds: dict[str, _Seed] = {}
        self._seeder: _seeder.Seeder | None = None
        self._stored: records.Records
        self._saved = time.monotonic()

    # Life

    def start(self) -> None:
        state = self._conf.oslo_transfer.state_path
        self._stored = records.Records(
            os.path.join(state or opts.default_state_path(), 'seeds')
        )
        try:
            found = self._stored.load()
            self._seeder = self._make_seeder(self._conf)
        except BaseException:
            self._stored.close()
            raise
        with self._lock:
            for record in found:
                try:
                    self._resume(record)
                except exceptions.TransferError as exc:
                    LOG.warning('%s is not seeded again: %s', record.path, exc)
                    self._forget(record)
            self._make_room()
        if found:
            LOG.info('%d files are seeded again', len(self._seeds))

    def tick(self) -> None:
        save = time.monotonic() - self._saved >= _SAVE_SECONDS
        with self._lock:
            for seed in list(self._seeds.values()):
                reason = seed.ended() or self._limit(seed)
                if not reason and seed.file.touched():
                    reason = self._check_again(seed)
                if reason:
                    self._drop(seed, reason)
                elif save:
                    self._save(seed)
            self._make_room()
        if save:
            self._saved = time.monotonic()

    def stop(self) -> None:
        with self._lock:
            if self._seeder is None:
                return
            for seed in self._seeds.values():
                self._save(seed)
            self._seeder.close()
            for seed in self._seeds.values():
                seed.file.close()
            self._seeds.clear()
            self._stored.close()
            self._seeder = None

    # What can be asked

    def status(self) -> Mapping[str, typing.Any]:
        with self._lock:
            seeds = list(self._seeds.values())
            stats = [seed.seeding.stats() for seed in seeds]
        return {
            'seeds': len(seeds),
            'peers': sum(each.peers for each in stats),
            'upload_rate': sum(each.upload_rate for each in stats),
        }

    def routes(self) -> Sequence[role.Route]:
        return (
            role.Route('GET', '/v1/seeds', self._list),
            role.Route('POST', '/v1/seeds', self._add),
            role.Route('DELETE', '/v1/seeds/', self._remove),
        )

    def _list(self, _: str, _body: Mapping[str, typing.Any]) -> role.Reply:
        with self._lock:
            found = [self._describe(seed) for seed in self._seeds.values()]
        return http.HTTPStatus.OK, {'seeds': found}

    def _add(self, _: str, body: Mapping[str, typing.Any]) -> role.Reply:
        torrent, path = body.get('torrent'), body.get('path')
        if not (isinstance(torrent, str) and isinstance(path, str)):
            raise exceptions.InvalidEndpoint(
                'the body needs "torrent" (in base64) and "path"'
            )
        try:
            data = base64.b64decode(torrent, validate=True)
        except (binascii.Error, ValueError):
            raise exceptions.InvalidEndpoint(
                '"torrent" is no base64'
            ) from None
        record = records.Record(metainfo.parse(data), path, _now())
        with self._lock:
            seed = self._hand_over(record)
            return http.HTTPStatus.CREATED, self._describe(seed)

    def _remove(self, name: str, _: Mapping[str, typing.Any]) -> role.Reply:
        with self._lock:
            for seed in self._seeds.values():
                meta = seed.record.meta
                if name and name in (meta.info_hash_v1, meta.info_hash_v2):
                    found = self._describe(seed)
                    self._drop(seed, 'as it was asked to')
                    return http.HTTPStatus.OK, found
        raise exceptions.NotFound(f'there is no seed {name}')

    # All below needs the lock

    def _hand_over(self, record: records.Record) -> _Seed:
        before = self._seeds.get(record.meta.info_hash)
        if before and before.record.path == record.path:
            if not before.ended():
                before.record = dataclasses.replace(
                    before.record, added=record.added
                )
                self._save(before)
                return before
        # The file that came last will be there for longest.
        file = self._open(record)
        try:
            if before:
                self._drop(before, 'it is handed over again')
            self._stored.save(record, new=True)
            seed = self._begin(record, file)
        except BaseException:
            file.close()
            self._forget(record)
            raise
        self._make_room()
        LOG.info('seeding %s (%s)', record.path, record.meta.info_hash)
        return seed

    def _open(self, record: records.Record) -> seeded_file.SeededFile:
        return seeded_file.SeededFile(
            record.path,
            record.meta.size,
            self._conf.oslo_transfer_seed.seed_paths,
        )

    def _begin(
        self, record: records.Record, file: seeded_file.SeededFile
    ) -> _Seed:
        seeding = self._live.add(record.meta, file.fd)
        seed = _Seed(record, file, seeding)
        self._seeds[record.meta.info_hash] = seed
        return seed

    def _resume(self, record: records.Record) -> None:
        file = self._open(record)
        try:
            self._begin(record, file)
        except BaseException:
            file.close()
            raise

    @property
    def _live(self) -> _seeder.Seeder:
        if self._seeder is None:
            raise exceptions.Unavailable('the service is about to end')
        return self._seeder

    def _check_again(self, seed: _Seed) -> str:
        """Have each piece checked before it is sent once more.

        :returns: why it cannot go on, or ''
        """
        LOG.info('%s was written to; checking it again', seed.record.path)
        seed.record = seed.counted()
        seed.seeding.remove()
        try:
            seed.seeding = self._live.add(seed.record.meta, seed.file.fd)
        except exceptions.TransferError as exc:
            return str(exc)
        return ''

    def _limit(self, seed: _Seed) -> str:
        """The limit that is reached, or ''."""
        limits = self._conf.oslo_transfer_seed
        if 0 < limits.seed_ratio <= seed.ratio():
            return f'it was sent {limits.seed_ratio:g} times over'
        left = self._seconds_left(seed)
        if left is not None and left <= 0:
            return f'{limits.seed_seconds} seconds have passed'
        return ''

    def _seconds_left(self, seed: _Seed) -> float | None:
        seconds = self._conf.oslo_transfer_seed.seed_seconds
        if not seconds:
            return None
        return seed.record.added + float(seconds) - _now()

    def _make_room(self) -> None:
        while len(self._seeds) > self._conf.oslo_transfer_seed.max_seeds:
            oldest = min(
                self._seeds.values(), key=lambda seed: seed.record.added
            )
            self._drop(oldest, 'there are more than max_seeds')

    def _drop(self, seed: _Seed, reason: str) -> None:
        LOG.info('seeding %s ends: %s', seed.record.path, reason)
        del self._seeds[seed.record.meta.info_hash]
        seed.seeding.remove()
        seed.file.close()
        self._forget(seed.record)

    def _save(self, seed: _Seed) -> None:
        record = seed.counted()
        try:
            self._stored.save(record, new=False)
        except exceptions.TransferError as exc:
            LOG.warning('%s', exc)

    def _forget(self, record: records.Record) -> None:
        try:
            self._stored.remove(record)
        except exceptions.TransferError as exc:
            LOG.warning('%s', exc)

    def _describe(self, seed: _Seed) -> dict[str, typing.Any]:
        meta, stats = seed.record.meta, seed.seeding.stats()
        left = self._seconds_left(seed)
        return {
            'info_hash': meta.info_hash,
            'name': meta.name,
            'size': meta.size,
            'path': seed.record.path,
            'uploaded': seed.record.uploaded + stats.uploaded,
            'ratio': round(seed.ratio(), 3),
            'upload_rate': stats.upload_rate,
            'peers': stats.peers,
            'seconds_left': None if left is None else max(0, round(left)),
        }


@dataclasses.dataclass
class _Seed:
    """A file that is seeded.

    :ivar record: as of when ``seeding`` began
    """

    record: records.Record
    file: seeded_file.SeededFile
    seeding: _seeder.Seeding

    def ended(self) -> str:
        """Why it cannot go on, or ''."""
        return self.file.lost() or self.seeding.stats().error

    def counted(self) -> records.Record:
        """The record with what was sent since."""
        sent = self.record.uploaded + self.seeding.stats().uploaded
        return dataclasses.replace(self.record, uploaded=sent)

    def ratio(self) -> float:
        """How many times over the file was sent."""
        return self.counted().uploaded / self.record.meta.size


def _libtorrent(conf: cfg.ConfigOpts) -> _seeder.Seeder:
    try:
        from oslo_transfer.service import torrents
    except ImportError as exc:
        raise exceptions.DriverLoadError(
            f'the role "seed" cannot be loaded ({exc}); '
            f"pip install 'oslo.transfer[bittorrent]'"
        ) from exc
    return torrents.LibtorrentSeeder(conf)
