# SPDX-License-Identifier: Apache-2.0
"""The role ``seed``: what is seeded, until when, and after a restart."""

from __future__ import annotations

import base64
import json
import os
import socket
import sys
import threading

import pytest

from oslo_transfer import exceptions
from oslo_transfer import service
from oslo_transfer.service import client
from oslo_transfer.service import seed as _seed
from oslo_transfer import statefile
from tests.servers import resource
from tests.servers import torrents
from tests.unit import services

DATA = resource.pattern(300_000)
TORRENT = torrents.make(DATA, 'hybrid')


class Seeds(services.Place):
    """A place with files, a clock, and a service that can be restarted."""

    def __init__(self, conf, monkeypatch):
        super().__init__(conf)
        self.now = 1_000_000.0
        monkeypatch.setattr(_seed, '_now', lambda: self.now)
        self.client = client.Client(conf)
        self.service = None

    def start(self):
        self.seeder = services.FakeSeeder()
        self.role = _seed.SeedRole(self.conf, lambda _conf: self.seeder)
        self.service = self.serve(self.role)
        self.service.__enter__()

    def stop(self):
        service, self.service = self.service, None
        if service is not None:
            service.__exit__()

    def restart(self):
        self.stop()
        self.start()

    def tick(self):
        self.service.tick()

    def file(self, name='image', data=DATA):
        path = self.path / name
        path.write_bytes(data)
        return path

    def add(self, path, torrent=TORRENT):
        return self.client.add_seed(torrent.encoded, str(path))

    def other(self, number):
        """Have another file seeded."""
        data = resource.pattern(100_000, seed=number)
        path = self.file(f'image-{number}', data)
        return self.add(path, torrents.make(data, 'v1'))

    @property
    def paths(self):
        return [os.path.basename(each['path']) for each in self.client.seeds()]

    @property
    def written(self):
        """The names of the records."""
        return {each.name for each in self.seeds.iterdir()} - {'lock'}


@pytest.fixture
def seeds(conf, monkeypatch, nothing_left):
    place = Seeds(conf, monkeypatch)
    place.start()
    yield place
    place.stop()
    place.close()


# Handing over


@pytest.mark.parametrize('kind', torrents.KINDS)
def test_file_is_seeded_from_where_it_is(seeds, kind):
    torrent = torrents.make(DATA, kind)
    path = seeds.file()
    found = seeds.add(path, torrent)
    assert found == {
        'info_hash': torrent.v1 if kind == 'v1' else torrent.v2,
        'name': 'image',
        'size': len(DATA),
        'path': str(path),
        'uploaded': 0,
        'ratio': 0.0,
        'upload_rate': 0,
        'peers': 0,
        'seconds_left': 3600,
    }
    assert seeds.client.seeds() == [found]
    (seeding,) = seeds.seeder.live
    assert seeding.meta.data == torrent.encoded
    assert os.path.samestat(os.fstat(seeding.fd), path.stat())


def test_it_is_only_read(seeds):
    path = seeds.file()
    path.chmod(0o400)
    seeds.add(path)
    with pytest.raises(OSError):
        os.write(seeds.seeder.live[0].fd, b'x')


def test_progress_shows(seeds):
    seeds.add(seeds.file())
    seeds.seeder.live[0].set(
        uploaded=3 * len(DATA) // 2, upload_rate=7, peers=2
    )
    (found,) = seeds.client.seeds()
    assert (found['ratio'], found['peers']) == (1.5, 2)
    assert (found['uploaded'], found['upload_rate']) == (450_000, 7)
    assert seeds.client.status()['roles'] == {
        'seed': {'seeds': 1, 'peers': 2, 'upload_rate': 7}
    }


def test_handing_over_again_starts_the_time_anew(seeds):
    path = seeds.file()
    seeds.add(path)
    seeds.now += 1000
    assert seeds.client.seeds()[0]['seconds_left'] == 2600
    assert seeds.add(path)['seconds_left'] == 3600
    assert len(seeds.seeder.added) == 1, 'its peers were thrown out'
    seeds.restart()
    assert seeds.client.seeds()[0]['seconds_left'] == 3600


def test_the_file_that_came_last_is_seeded(seeds):
    first, second = seeds.file('first'), seeds.file('second')
    seeds.add(first)
    seeds.add(second)
    assert seeds.paths == ['second']
    (seeding,) = seeds.seeder.live
    assert os.path.samestat(os.fstat(seeding.fd), second.stat())
    assert str(first) not in services.open_files()


def test_file_that_was_replaced_can_be_handed_over_at_once(seeds):
    path = seeds.file()
    seeds.add(path)
    path.unlink()
    seeds.file()
    seeds.add(path)
    (seeding,) = seeds.seeder.live
    assert os.path.samestat(os.fstat(seeding.fd), path.stat())


@pytest.mark.parametrize('info_hash', [TORRENT.v1, TORRENT.v2.upper()])
def test_seeding_is_ended_by_either_hash(seeds, info_hash):
    path = seeds.file()
    seeds.add(path)
    assert seeds.client.remove_seed(info_hash)['path'] == str(path)
    assert seeds.client.seeds() == []
    assert seeds.seeder.live == []
    assert seeds.written == set()
    assert path.read_bytes() == DATA
    assert str(path) not in services.open_files()


@pytest.mark.parametrize('info_hash', ['0' * 40, 'x', TORRENT.v2[:40]])
def test_what_is_not_seeded_cannot_be_ended(seeds, info_hash):
    seeds.add(seeds.file())
    with pytest.raises(exceptions.NotFound):
        seeds.client.remove_seed(info_hash)
    assert seeds.paths == ['image']


def test_info_hash_is_no_path(seeds):
    for text in ('', '../x', 'a b', '\r\n'):
        with pytest.raises(exceptions.InvalidEndpoint):
            seeds.client.remove_seed(text)
    assert seeds.ask('DELETE', '/v1/seeds/')[0] == 404


def test_name_that_is_no_text(seeds):
    path = seeds.file(os.fsdecode(b'im\xffage'))
    assert seeds.add(path)['path'] == str(path)
    seeds.restart()
    assert seeds.paths == [path.name]


# What is refused


def directory(path):
    path.mkdir()


def fifo(path):
    os.mkfifo(path)


def link(path):
    path.with_name('target').write_bytes(DATA)
    path.symlink_to('target')


def unix_socket(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))


def of(data):
    return lambda path: path.write_bytes(data)


@pytest.mark.parametrize(
    ('make', 'error'),
    [
        (directory, exceptions.InvalidEndpoint),
        (fifo, exceptions.InvalidEndpoint),
        (link, exceptions.InvalidEndpoint),
        (unix_socket, exceptions.TransferError),
        (lambda path: None, exceptions.NotFound),
        (of(b''), exceptions.IntegrityError),
        (of(DATA[1:]), exceptions.IntegrityError),
        (of(DATA + b'x'), exceptions.IntegrityError),
    ],
)
def test_path_of_something_else(seeds, make, error):
    path = seeds.path / 'it'
    make(path)
    with pytest.raises(error):
        seeds.add(path)
    assert seeds.client.seeds() == []
    assert seeds.written == set()
    assert str(path) not in services.open_files()


@pytest.mark.parametrize('path', ['', 'image', './image', 'a\0b'])
def test_path_that_is_not_absolute(seeds, path, monkeypatch):
    seeds.file()
    monkeypatch.chdir(seeds.path)
    with pytest.raises(exceptions.InvalidEndpoint):
        seeds.add(path)


@pytest.mark.parametrize(
    'body',
    [
        {},
        {'torrent': 'eA=='},
        {'path': '/x'},
        {'torrent': 1, 'path': '/x'},
        {'torrent': 'eA==', 'path': ['/x']},
        {'torrent': 'not base64!', 'path': '/x'},
        {'torrent': 'é', 'path': '/x'},
    ],
)
def test_body_of_something_else(seeds, body):
    status, fields = seeds.ask('POST', '/v1/seeds', body)
    assert (status, fields['error']) == (400, 'InvalidEndpoint')


def test_path_with_half_a_character(seeds):
    """JSON can hold one; no name of a file can."""
    text = base64.b64encode(TORRENT.encoded).decode()
    body = json.dumps({'torrent': text, 'path': '/\ud800'}).encode()
    status, fields = seeds.ask('POST', '/v1/seeds', body)
    assert (status, fields['error']) == (400, 'InvalidEndpoint')


@pytest.mark.parametrize('make', torrents.WRONG.values(), ids=torrents.WRONG)
def test_wrong_torrent(seeds, make):
    path = seeds.file()
    with pytest.raises(exceptions.TransferError):
        seeds.client.add_seed(make(TORRENT), str(path))
    assert seeds.client.seeds() == []
    assert seeds.written == set()


def test_what_the_seeder_refuses_leaves_nothing(seeds):
    seeds.seeder.refuses = True
    path = seeds.file()
    with pytest.raises(exceptions.ProtocolError, match='refused'):
        seeds.add(path)
    assert seeds.client.seeds() == []
    assert seeds.written == set()
    assert str(path) not in services.open_files()


@pytest.mark.parametrize('through', ['', 'link'])
def test_only_files_below_the_configured_directories(seeds, through):
    """Also where a link leads out of them, or into them."""
    inside = seeds.path / 'inside' / 'deep'
    inside.mkdir(parents=True)
    beside = seeds.path / 'inside-not'
    beside.mkdir()
    allowed = seeds.path / 'inside'
    if through:
        (seeds.path / 'link').symlink_to('inside')
        (inside / 'out').symlink_to(beside)
        allowed = seeds.path / 'link'
        beside = inside / 'out'
    seeds.set('seed_paths', ['/nowhere', str(allowed)])
    (inside / 'a').write_bytes(DATA)
    (beside / 'a').write_bytes(DATA)
    with pytest.raises(exceptions.PolicyRefused, match='seed_paths'):
        seeds.add(beside / 'a')
    with pytest.raises(exceptions.PolicyRefused):
        seeds.add(seeds.file())
    seeds.add(inside / 'a')
    assert seeds.paths == ['a']


def test_without_libtorrent_the_role_says_what_to_install(
    conf, monkeypatch, nothing_left
):
    place = services.Place(conf)
    monkeypatch.setitem(sys.modules, 'libtorrent', None)
    monkeypatch.delitem(
        sys.modules, 'oslo_transfer.service.torrents', raising=False
    )
    monkeypatch.delattr(service, 'torrents', raising=False)
    with pytest.raises(
        exceptions.DriverLoadError, match=r'oslo\.transfer\[bittorrent\]'
    ):
        place.serve(_seed.SeedRole(conf)).__enter__()
    place.close()


# The end


def test_nothing_ends_by_itself_too_early(seeds):
    seeds.add(seeds.file())
    seeds.now += 3599
    seeds.seeder.live[0].set(uploaded=1 << 50)
    seeds.tick()
    assert seeds.paths == ['image']


def ended(seeds, path, caplog, reason):
    """Whether all of a seed is gone."""
    with caplog.at_level('INFO', 'oslo_transfer'):
        seeds.tick()
    assert seeds.client.seeds() == []
    assert seeds.seeder.live == []
    assert seeds.written == set()
    assert not [
        each for each in services.open_files() if each.startswith(str(path))
    ]
    assert f'seeding {path} ends: {reason}' in caplog.text
    return True


def test_time_ends_it(seeds, caplog):
    path = seeds.file()
    seeds.add(path)
    seeds.set('seed_seconds', 10)
    seeds.now += 10
    assert ended(seeds, path, caplog, '10 seconds have passed')
    assert path.read_bytes() == DATA


def test_without_a_limit_time_does_not_end_it(seeds):
    seeds.set('seed_seconds', 0)
    assert seeds.add(seeds.file())['seconds_left'] is None
    seeds.now += 1e9
    seeds.tick()
    assert seeds.paths == ['image']


def test_ratio_ends_it(seeds, caplog):
    path = seeds.file()
    seeds.add(path)
    seeds.set('seed_ratio', 1.5)
    seeds.seeder.live[0].set(uploaded=len(DATA) * 3 // 2 - 1)
    seeds.tick()
    assert seeds.paths == ['image']
    seeds.seeder.live[0].set(uploaded=len(DATA) * 3 // 2)
    assert ended(seeds, path, caplog, 'it was sent 1.5 times over')


def remove(path):
    path.unlink()


def replace(path):
    path.with_name('new').write_bytes(DATA)
    path.with_name('new').rename(path)


def rename(path):
    path.rename(path.with_name('elsewhere'))


def grow(path):
    with open(path, 'ab') as file:
        file.write(b'x')


def truncate(path):
    os.truncate(path, 1000)


@pytest.mark.parametrize('change', [remove, replace, rename, grow, truncate])
def test_change_ends_it_and_lets_the_file_go(seeds, caplog, change):
    path = seeds.file()
    seeds.add(path)
    change(path)
    assert ended(seeds, path, caplog, 'the file ')


def test_wrong_piece_ends_it(seeds, caplog):
    path = seeds.file()
    seeds.add(path)
    seeds.seeder.live[0].set(error='piece 3 is wrong')
    assert ended(seeds, path, caplog, 'piece 3 is wrong')


def test_touched_file_is_checked_once_more(seeds):
    """Nova touches a base image each time that it boots from it."""
    path = seeds.file()
    seeds.add(path)
    (before,) = seeds.seeder.live
    before.set(uploaded=1000)
    os.utime(path, ns=(1, 1))
    seeds.tick()
    (now,) = seeds.seeder.live
    assert now is not before
    now.set(uploaded=10)
    assert seeds.client.seeds()[0]['uploaded'] == 1010
    seeds.tick()
    assert seeds.seeder.live == [now]


def test_reading_and_renaming_others_changes_nothing(seeds):
    path = seeds.file()
    seeds.add(path)
    (before,) = seeds.seeder.live
    path.read_bytes()
    path.chmod(0o600)
    os.link(path, seeds.path / 'second-name')
    os.utime(path, ns=(1, path.stat().st_mtime_ns))
    seeds.tick()
    assert seeds.seeder.live == [before]


def test_touched_file_that_cannot_be_added_again(seeds, caplog):
    path = seeds.file()
    seeds.add(path)
    os.utime(path, ns=(1, 1))
    seeds.seeder.refuses = True
    assert ended(seeds, path, caplog, 'refused')


def test_oldest_makes_room(seeds):
    seeds.set('max_seeds', 2)
    for number in (1, 2, 3):
        seeds.now += 1
        seeds.other(number)
    assert seeds.paths == ['image-2', 'image-3']
    seeds.set('max_seeds', 1)
    seeds.tick()
    assert seeds.paths == ['image-3']
    assert len(seeds.seeder.live) == 1


def test_many_hand_over_at_once(seeds):
    found = []

    def add(number):
        found.append(seeds.other(number)['info_hash'])

    threads = [threading.Thread(target=add, args=(n,)) for n in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(found) == sorted(
        each['info_hash'] for each in seeds.client.seeds()
    )
    assert len(seeds.seeder.live) == 20


# A restart


def test_restart_goes_on(seeds):
    path = seeds.file()
    seeds.add(path)
    seeds.other(1)
    seeds.seeder.added[0].set(uploaded=12345)
    before = seeds.client.seeds()
    seeds.now += 100
    seeds.restart()
    after = seeds.client.seeds()
    assert [each['seconds_left'] for each in after] == [3500, 3500]
    for each in (*before, *after):
        del each['seconds_left']
    assert after == before
    assert after[0]['uploaded'] == 12345
    seeds.seeder.added[0].set(uploaded=5)
    assert seeds.client.seeds()[0]['uploaded'] == 12350


def test_counter_is_kept_after_a_kill(seeds, monkeypatch):
    seeds.add(seeds.file())
    seeds.seeder.live[0].set(uploaded=777)
    seeds.tick()
    monkeypatch.setattr(_seed, '_SAVE_SECONDS', 0.0)
    seeds.tick()
    (record,) = seeds.seeds.glob('*.json')
    assert json.loads(record.read_bytes()) == {
        'version': 1,
        'path': str(seeds.path / 'image'),
        'added': 1_000_000.0,
        'uploaded': 777,
    }


@pytest.mark.parametrize('change', [remove, replace, grow, link])
def test_restart_after_a_change(seeds, change, caplog):
    path = seeds.file()
    seeds.add(path)
    seeds.other(1)
    seeds.stop()
    if change is link:
        path.unlink()
    change(path)
    seeds.start()
    # One that was replaced is checked before anything of it is sent.
    kept = ['image', 'image-1'] if change is replace else ['image-1']
    assert sorted(seeds.paths) == kept
    assert (str(path) in caplog.text) == (change is not replace)
    assert len(seeds.written) == 2 * len(kept)


def test_restart_after_the_time_is_over(seeds):
    seeds.add(seeds.file())
    seeds.stop()
    seeds.now += 3601
    seeds.start()
    seeds.tick()
    assert seeds.client.seeds() == []
    assert seeds.written == set()


def cut(path):
    os.truncate(path, path.stat().st_size // 2)


def zeros(path):
    path.write_bytes(bytes(path.stat().st_size))


def flip(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def set_field(**changes):
    def change(path):
        fields = json.loads(path.read_bytes())
        path.write_text(json.dumps({**fields, **changes}))

    return change


def drop_field(path):
    fields = json.loads(path.read_bytes())
    del fields['path']
    path.write_text(json.dumps(fields))


@pytest.mark.parametrize(
    ('suffix', 'damage'),
    [
        ('torrent', remove),
        ('torrent', cut),
        ('torrent', zeros),
        ('torrent', flip),
        ('json', cut),
        ('json', zeros),
        ('json', drop_field),
        ('json', lambda path: path.write_text('[]')),
        ('json', lambda path: path.write_text('[' * 100_000)),
        ('json', lambda path: path.write_bytes(b'x' * 1_000_000)),
        ('json', set_field(version=2)),
        ('json', set_field(version=None)),
        ('json', set_field(path=1)),
        ('json', set_field(added='now')),
        ('json', set_field(added=float('nan'))),
        ('json', set_field(uploaded='much')),
    ],
)
def test_damaged_record_is_told_and_left_alone(seeds, suffix, damage, caplog):
    seeds.add(seeds.file())
    seeds.other(1)
    seeds.stop()
    path = seeds.seeds / f'{TORRENT.v2}.{suffix}'
    damage(path)
    before = seeds.written
    seeds.start()
    assert seeds.paths == ['image-1']
    assert f'{TORRENT.v2}.json cannot be used' in caplog.text
    assert seeds.written == before
    # It is in nobody's way.
    seeds.add(seeds.path / 'image')
    seeds.restart()
    assert sorted(seeds.paths) == ['image', 'image-1']


def test_what_a_killed_process_left_is_swept(seeds):
    seeds.add(seeds.file())
    seeds.stop()
    kept = seeds.written
    for name in (
        f'{"a" * 40}.json.new',
        f'{"b" * 64}.torrent.new',
        f'{"c" * 40}.torrent',
        f'{TORRENT.v2}.json.new',
    ):
        (seeds.seeds / name).write_bytes(b'half of i')
    (seeds.seeds / 'README').write_text('by somebody else')
    seeds.start()
    assert seeds.written == kept | {'README'}
    assert seeds.paths == ['image']


def test_records_are_private(seeds):
    seeds.add(seeds.file())
    assert seeds.seeds.stat().st_mode & 0o777 == 0o700
    for each in seeds.seeds.iterdir():
        assert each.stat().st_mode & 0o777 == 0o600


def test_two_services_do_not_share_records(seeds):
    seeds.set(
        'control_socket', str(seeds.path / 'other'), 'oslo_transfer_service'
    )
    other = _seed.SeedRole(seeds.conf, services.FakeSeeder)
    with pytest.raises(exceptions.Unavailable, match='seeds'):
        seeds.serve(other).__enter__()


def test_full_disk_refuses_the_new_and_keeps_the_old(
    seeds, monkeypatch, caplog
):
    seeds.add(seeds.file())

    def full(path, *_args, **_kwargs):
        raise OSError(28, 'No space left on device')

    with monkeypatch.context() as patch:
        patch.setattr(statefile, 'write', full)
        with pytest.raises(exceptions.NoSpace):
            seeds.other(1)
        patch.setattr(_seed, '_SAVE_SECONDS', 0.0)
        seeds.tick()
    assert 'No space left' in caplog.text
    assert seeds.paths == ['image']
    assert len(seeds.seeder.live) == 1
    seeds.restart()
    assert seeds.paths == ['image']


def test_seeds_after_the_end_are_refused(seeds):
    seeds.stop()
    route = next(each for each in seeds.role.routes() if each.method == 'POST')
    body = {
        'torrent': base64.b64encode(TORRENT.encoded).decode(),
        'path': str(seeds.file()),
    }
    with pytest.raises(exceptions.Unavailable):
        route.handle('', body)
    assert seeds.written == set()
