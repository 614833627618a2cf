# SPDX-License-Identifier: Apache-2.0
"""A journal is believed when it is whole and ours, and never else."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import random
import struct
import zlib

import hypothesis
from hypothesis import stateful
from hypothesis import strategies as st
import pytest

from oslo_transfer import exceptions
from oslo_transfer import journal
from oslo_transfer import ranges

SLOT = 512 * 1024
INODE = 77
SIZE = 1 << 30
OURS = journal.Identity(
    source='a' * 64, validator='"v1"', digest='sha256:' + 'b' * 64, size=SIZE
)
BEFORE = ranges.RangeSet([(0, 1 << 20)])
AFTER = ranges.RangeSet([(0, 5 << 20), (8 << 20, 9 << 20)])
SYNCED = ranges.RangeSet([(0, 512 << 10)])


def load(path, inode=INODE, length=SIZE):
    return journal.load(os.fspath(path), inode, length)


def held(path, **where):
    found = load(path, **where)
    return None if found is None else found.held


def open_journal(path, identity=OURS, earlier=None, inode=INODE):
    return journal.Journal(os.fspath(path), inode, identity, earlier)


@pytest.fixture
def path(tmp_path):
    return tmp_path / 'j'


@pytest.fixture
def both(path):
    """A journal with a note in each slot: BEFORE, then AFTER."""
    writer = open_journal(path)
    writer.save(BEFORE, SYNCED)
    writer.save(AFTER, SYNCED)
    writer.close()
    return path


def slots(content):
    """The used part of each slot."""
    for start in (0, SLOT):
        length = struct.unpack_from('>8sII', content, start)[1]
        yield start, start + 16 + length


def test_newest_note_counts(both):
    found = load(both)
    assert found.held == AFTER
    assert found.identity == OURS


def test_no_flipped_bit_is_believed(both):
    """Every bit of both slots: the other note, and never a wrong one."""
    content = both.read_bytes()
    (_, end_old), (start_new, end_new) = slots(content)
    with open(both, 'r+b', buffering=0) as file:
        for start, end, want in (
            (0, end_old, AFTER),
            (start_new, end_new, BEFORE),
        ):
            for place in range(start, end):
                right = content[place]
                for bit in range(8):
                    os.pwrite(file.fileno(), bytes([right ^ 1 << bit]), place)
                    assert held(both) == want, (place, bit)
                os.pwrite(file.fileno(), bytes([right]), place)


def test_both_damaged_is_nothing(both):
    content = both.read_bytes()
    (_, end_old), (start_new, end_new) = slots(content)
    rng = random.Random(1)
    with open(both, 'r+b', buffering=0) as file:
        for _ in range(500):
            places = rng.randrange(end_old), rng.randrange(start_new, end_new)
            for place in places:
                wrong = content[place] ^ 1 << rng.randrange(8)
                os.pwrite(file.fileno(), bytes([wrong]), place)
            assert held(both) is None
            for place in places:
                os.pwrite(file.fileno(), content[place : place + 1], place)
    assert held(both) == AFTER


def test_every_truncation(both):
    content = both.read_bytes()
    (_, end_old), (_start, end_new) = slots(content)
    lengths = itertools.chain(
        range(len(content), SLOT - 2, -1), range(end_old + 2, -1, -1)
    )
    for length in lengths:
        os.truncate(both, length)
        if length >= end_new:
            want = AFTER
        elif length >= end_old:
            want = BEFORE
        else:
            want = None
        assert held(both) == want, length


def test_every_torn_write(path):
    """Whatever part of a note reaches the file, one note is whole."""
    writer = open_journal(path)
    sets = [ranges.RangeSet([(0, end)]) for end in range(1000, 5000, 1000)]
    writer.save(sets[0], SYNCED)
    for old, new in itertools.pairwise(sets):
        before = path.read_bytes()
        writer.save(new, SYNCED)
        after = path.read_bytes()
        before = before.ljust(len(after), b'\0')
        changes = [
            place
            for place in range(len(after))
            if before[place] != after[place]
        ]
        for order in (changes, changes[::-1]):
            path.write_bytes(before)
            with open(path, 'r+b', buffering=0) as file:
                for place in order[:-1]:
                    byte = after[place : place + 1]
                    os.pwrite(file.fileno(), byte, place)
                    assert held(path) == old, place
                byte = after[order[-1] : order[-1] + 1]
                os.pwrite(file.fileno(), byte, order[-1])
                assert held(path) == new
    writer.close()


@pytest.mark.campaign
def test_random_damage(both):
    """A hundred thousand ways to be damaged, none of them believed."""
    content = both.read_bytes()
    rng = random.Random(2)
    right = (BEFORE, AFTER, None)
    for _ in range(100_000):
        changed = bytearray(content)
        for _ in range(rng.choice([1, 2, 8, 64])):
            # The slots are mostly empty: aim at what is used.
            place = rng.choice([0, SLOT]) + rng.randrange(400)
            count = rng.choice([1, 2, 16, 512])
            changed[place : place + count] = rng.randbytes(count)
        length = rng.choice([100, 400, SLOT + 400, len(changed)])
        both.write_bytes(changed[:length])
        assert held(both) in right


def test_trailing_garbage_changes_nothing(both):
    with open(both, 'ab') as file:
        file.write(b'x' * 100_000)
    assert held(both) == AFTER


@hypothesis.given(st.binary(max_size=200))
def test_garbage_is_nothing(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / 'garbage'
    path.write_bytes(content)
    assert load(path) is None


def note(body):
    """A slot with a right checksum."""
    data = json.dumps(body).encode()
    return (
        struct.pack('>8sII', b'OSLOXFR2', len(data), zlib.crc32(data)) + data
    )


RIGHT = {
    'serial': 3,
    'inode': INODE,
    'boot': journal.boot_id(),
    'identity': dataclasses.asdict(OURS),
    'written': [[0, 100]],
    'synced': [],
}
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False)
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=3), inner, max_size=3)
    ),
    max_leaves=6,
)


@hypothesis.given(JSON)
def test_valid_checksum_of_nonsense_is_nothing(tmp_path_factory, body):
    path = tmp_path_factory.getbasetemp() / 'nonsense'
    path.write_bytes(note(body))
    assert load(path) is None


@hypothesis.given(st.sampled_from([*RIGHT, 'identity.size']), JSON)
def test_valid_checksum_of_odd_fields_never_raises(
    tmp_path_factory, key, value
):
    """As another version of this program might have written them."""
    body = json.loads(json.dumps(RIGHT))
    if key == 'identity.size':
        body['identity']['size'] = value
    else:
        body[key] = value
    path = tmp_path_factory.getbasetemp() / 'odd'
    path.write_bytes(note(body))
    found = load(path)
    assert found is None or found.held.total <= 100


@pytest.mark.parametrize('key', RIGHT)
def test_missing_field_is_nothing(path, key):
    body = {name: value for name, value in RIGHT.items() if name != key}
    path.write_bytes(note(body))
    assert load(path) is None


def test_further_fields_are_refused(path):
    """A newer version may mean something else by the rest."""
    body = json.loads(json.dumps(RIGHT))
    body['identity']['compressed'] = True
    path.write_bytes(note(body))
    assert load(path) is None


def test_other_versions_are_refused(path):
    for magic in (b'OSLOXFR1', b'OSLOXFR3', b'osloxfr2', bytes(8)):
        path.write_bytes(note(RIGHT).replace(b'OSLOXFR2', magic))
        assert load(path) is None
    path.write_bytes(note(RIGHT))
    assert held(path).total == 100


def test_other_part_file_is_refused(both):
    assert load(both, inode=INODE + 1) is None


def test_ranges_behind_the_end_of_the_part_are_refused(both):
    end = 9 << 20
    assert held(both, length=end) == AFTER
    for length in (end - 1, 8 << 20, 1, 0):
        assert load(both, length=length) is None


def test_ranges_behind_the_end_of_the_data_are_refused(path):
    identity = dataclasses.replace(OURS, size=1000)
    for written in ([(0, 1001)], [(0, 10), (900, 1100)], [(2000, 2001)]):
        writer = open_journal(path, identity)
        writer.save(ranges.RangeSet(written), ranges.RangeSet())
        writer.close()
        assert load(path) is None


def test_after_another_boot_only_synced_counts(both, monkeypatch):
    monkeypatch.setattr(journal, 'boot_id', lambda: 'another')
    assert held(both) == SYNCED


def test_without_a_boot_id_only_synced_counts(path, monkeypatch):
    monkeypatch.setattr(journal, 'boot_id', lambda: '')
    writer = open_journal(path)
    writer.save(AFTER, SYNCED)
    writer.close()
    assert held(path) == SYNCED


def test_boot_has_an_id():
    assert journal.boot_id() == journal.boot_id() != ''


def test_serial_continues_across_a_restart(both):
    """The notes of the next process count, whichever slot they get."""
    for end in range(10 << 20, 15 << 20, 1 << 20):
        earlier = load(both)
        more = ranges.RangeSet([(0, end)])
        writer = open_journal(both, earlier=earlier)
        writer.save(more, SYNCED)
        writer.close()
        found = load(both)
        assert found.held == more
        assert found.serial > earlier.serial


def test_damaged_journal_is_begun_anew(both):
    """Old notes cannot come back after a new beginning."""
    content = bytearray(both.read_bytes())
    for _start, end in slots(content):
        content[end - 1] ^= 1
    both.write_bytes(content)
    assert load(both) is None
    writer = open_journal(both, earlier=None)
    writer.save(BEFORE, SYNCED)
    writer.close()
    assert held(both) == BEFORE
    assert len(both.read_bytes()) < SLOT


def test_too_many_ranges_keep_the_last_note(path):
    writer = open_journal(path)
    writer.save(BEFORE, SYNCED)
    many = ranges.RangeSet([(i * 10, i * 10 + 5) for i in range(60_000)])
    writer.save(many, SYNCED)
    assert held(path) == BEFORE
    writer.save(AFTER, SYNCED)
    writer.close()
    assert held(path) == AFTER


def test_missing_journal_is_nothing(path):
    assert load(path) is None


def test_link_is_not_followed(both, tmp_path):
    """Neither to believe what it leads to, nor to write to it."""
    link = tmp_path / 'link'
    link.symlink_to(both)
    before = both.read_bytes()
    assert load(link) is None
    with pytest.raises(exceptions.InvalidEndpoint):
        open_journal(link).save(AFTER, SYNCED)
    assert both.read_bytes() == before


@pytest.mark.timeout(10)
def test_fifo_does_not_hang(path):
    """Neither to read it, nor to write to it with a reader there."""
    os.mkfifo(path)
    assert load(path) is None
    with pytest.raises(exceptions.TransferError):
        open_journal(path).save(AFTER, SYNCED)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(exceptions.InvalidEndpoint):
        open_journal(path).save(AFTER, SYNCED)
    assert not os.read(reader, 10)
    os.close(reader)


def test_other_name_of_a_file_is_not_written_to(path, tmp_path):
    """Somebody has linked it there, to have it overwritten."""
    precious = tmp_path / 'precious'
    precious.write_bytes(b'mine')
    os.link(precious, path)
    with pytest.raises(exceptions.InvalidEndpoint):
        open_journal(path).save(AFTER, SYNCED)
    assert precious.read_bytes() == b'mine'


def test_only_the_owner_can_read_it(both):
    assert both.stat().st_mode & 0o777 == 0o600


def test_closed_journal_writes_nothing_more(path):
    """A thread that was left behind may come back late."""
    writer = open_journal(path)
    writer.save(BEFORE, SYNCED)
    writer.close()
    writer.close()
    path.unlink()
    writer.save(AFTER, SYNCED)
    assert not path.exists()


def test_earlier_note_can_be_reinstated(both):
    """When other bytes were to come, and did not."""
    earlier = load(both)
    writer = open_journal(
        both, dataclasses.replace(OURS, source='other'), earlier
    )
    writer.save(ranges.RangeSet(), ranges.RangeSet(), durable=True)
    assert not held(both).total
    writer.reinstate(earlier)
    writer.close()
    found = load(both)
    assert found.held == AFTER
    assert found.identity == OURS


def test_journal_can_be_read_when_it_is_gone(both):
    """Who waits for a copy learns in the end what it was."""
    fd = journal.open_file(str(both))
    try:
        writer = open_journal(both, earlier=load(both))
        both.unlink()
        assert journal.read(fd, INODE, SIZE).held == AFTER
        writer.close()
    finally:
        os.close(fd)


SAME = {'source': 's', 'validator': '"v"', 'digest': None, 'size': 10}


@pytest.mark.parametrize(
    ('changes', 'joined'),
    [
        ({}, True),
        ({'source': 'other'}, False),
        ({'validator': '"w"'}, False),
        ({'validator': None}, False),
        ({'size': 11}, False),
        ({'size': None}, False),
        # What the earlier caller expected of the same bytes.
        ({'digest': 'sha256:1'}, True),
    ],
)
def test_what_may_be_joined_by_validator(changes, joined):
    ours = journal.Identity(**SAME)
    earlier = journal.Identity(**{**SAME, **changes})
    assert ours.continues(earlier) is joined


@pytest.mark.parametrize(
    ('changes', 'joined'),
    [
        ({}, True),
        ({'source': 'a mirror'}, True),
        ({'validator': '"w"'}, True),
        ({'validator': None}, True),
        ({'digest': 'sha256:2'}, False),
        ({'digest': 'sha512:1'}, False),
        ({'digest': None}, False),
        ({'size': 11}, False),
        ({'size': None}, False),
    ],
)
def test_what_may_be_joined_by_digest(changes, joined):
    same = {**SAME, 'digest': 'sha256:1'}
    ours = journal.Identity(**same)
    earlier = journal.Identity(**{**same, **changes})
    assert ours.continues(earlier) is joined


def test_nothing_is_joined_without_proof():
    """No validator and no digest: equal URL and size are not enough."""
    weak = journal.Identity('s', None, None, 10)
    assert not weak.continues(weak)
    unknown = journal.Identity('s', '"v"', 'sha256:1', None)
    assert not unknown.continues(unknown)


@pytest.mark.parametrize(
    ('ours', 'theirs', 'same'),
    [
        (('s', None), ('s', None), True),
        (('s', None), ('t', None), False),
        (('s', '1'), ('t', '1'), True),
        (('s', '1'), ('s', '2'), False),
        (('s', '1'), ('s', None), False),
        (('s', None), ('s', '1'), False),
    ],
)
def test_which_running_copy_is_worth_waiting_for(ours, theirs, same):
    ours, theirs = (
        journal.Identity(source, None, digest, None)
        for source, digest in (ours, theirs)
    )
    assert ours.same_data(theirs) is same


class Life(stateful.RuleBasedStateMachine):
    """Processes and boots come and go; what is held is never too much."""

    def __init__(self):
        super().__init__()
        self.boot = 0
        self.path = f'{self.root}/{next(self.numbers)}'
        self.patch = pytest.MonkeyPatch()
        self.patch.setattr(journal, 'boot_id', lambda: f'boot {self.boot}')
        self.written = ranges.RangeSet()
        self.synced = ranges.RangeSet()
        self.start()

    def start(self):
        """A process looks at what there is, and goes on with it."""
        found = load(self.path)
        if found is not None:
            assert found.held == self.written
        else:
            assert not self.written.total
        self.journal = open_journal(self.path, earlier=found)
        self.journal.save(self.written, self.written, durable=True)
        self.synced = self.written.copy()

    @stateful.rule(start=st.integers(0, 50), length=st.integers(1, 9))
    def write(self, start, length):
        self.written.add(start, start + length)
        self.journal.save(self.written, self.synced)

    @stateful.rule()
    def sync(self):
        self.synced = self.written.copy()
        self.journal.save(self.written, self.synced, durable=True)

    @stateful.rule()
    def crash(self):
        self.journal.close()
        self.start()

    @stateful.rule()
    def power_cut(self):
        self.journal.close()
        self.boot += 1
        self.written = self.synced.copy()
        self.start()

    @stateful.rule(place=st.integers(0, 2 * SLOT), new=st.binary(max_size=3))
    def damage(self, place, new):
        """Any loss may be believed, any gain may not."""
        self.journal.close()
        with open(self.path, 'r+b') as file:
            file.seek(place)
            file.write(new)
        found = load(self.path)
        if found is None:
            self.written = ranges.RangeSet()
        else:
            for start, end in found.held:
                assert self.written.frontier(start) >= end
            self.written = found.held
        self.start()

    def teardown(self):
        self.journal.close()
        self.patch.undo()


def live(directory, lives, steps):
    class Here(Life):
        root = directory
        numbers = itertools.count()

    stateful.run_state_machine_as_test(
        Here,
        settings=hypothesis.settings(
            max_examples=lives, stateful_step_count=steps, deadline=None
        ),
    )


def test_life_of_a_journal(tmp_path):
    live(tmp_path, 30, 25)


@pytest.mark.campaign
@pytest.mark.timeout(1200)
def test_many_lives_of_a_journal(tmp_path):
    live(tmp_path, 2000, 50)
