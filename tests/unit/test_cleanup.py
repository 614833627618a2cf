# SPDX-License-Identifier: Apache-2.0
"""What is stale goes, and nothing else does."""

from __future__ import annotations

import fcntl
import os
import threading
import time

import pytest

import oslo_transfer
from oslo_transfer import cleanup
from oslo_transfer import exceptions
from oslo_transfer import flight
from tests.servers import resource

DAY = 86400.0


@pytest.fixture(autouse=True)
def _nothing_left(nothing_left):
    yield


def leave(path, age=2 * DAY, data=b'data'):
    path.write_bytes(data)
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def clean(*directories, **options):
    options = {'older_than': DAY, **options}
    return {
        os.path.basename(each.path): each
        for each in cleanup.clean([str(d) for d in directories], **options)
    }


def test_part_and_journal(tmp_path):
    part = leave(tmp_path / '.a.oslo-part', data=bytes(9000))
    journal = leave(tmp_path / '.a.oslo-part.journal')
    size = part.stat().st_blocks * 512
    found = clean(tmp_path)
    assert list(found) == ['.a.oslo-part.journal', '.a.oslo-part']
    assert {each.outcome for each in found.values()} == {cleanup.REMOVED}
    assert found['.a.oslo-part'].kind == 'part'
    assert found['.a.oslo-part'].size == size > 0
    assert found['.a.oslo-part.journal'].kind == 'journal'
    assert 2 * DAY <= found['.a.oslo-part'].age < 2 * DAY + 60
    assert not part.exists()
    assert not journal.exists()
    assert clean(tmp_path) == {}


@pytest.mark.parametrize('young', ['.a.oslo-part', '.a.oslo-part.journal'])
def test_the_younger_counts(tmp_path, young):
    for name in ('.a.oslo-part', '.a.oslo-part.journal'):
        leave(tmp_path / name, age=0 if name == young else 2 * DAY)
    assert clean(tmp_path) == {}
    assert len(list(tmp_path.iterdir())) == 2


def test_what_is_not_ours(tmp_path):
    leave(tmp_path / 'a.oslo-part')
    leave(tmp_path / '.oslo-part.old')
    leave(tmp_path / 'image.raw')
    leave(tmp_path / 'image.json.new')
    leave(tmp_path / f'{"a" * 32}.json')
    (tmp_path / '.d.oslo-part').mkdir()
    (tmp_path / '.e.oslo-part.journal').mkdir()
    os.mkfifo(tmp_path / '.f.oslo-part')
    (tmp_path / '.l.oslo-part').symlink_to(tmp_path / 'image.raw')
    before = sorted(tmp_path.iterdir())
    assert clean(tmp_path, older_than=-10) == {}
    assert sorted(tmp_path.iterdir()) == before


def test_record(tmp_path):
    record = leave(tmp_path / f'{"a" * 32}.json.new')
    young = leave(tmp_path / f'{"b" * 32}.json.new', age=0)
    assert [each.kind for each in clean(tmp_path).values()] == ['record']
    assert not record.exists()
    assert young.exists()


def test_dry_run(tmp_path):
    leave(tmp_path / '.a.oslo-part')
    leave(tmp_path / '.b.oslo-part.journal')
    before = sorted(tmp_path.iterdir())
    found = clean(tmp_path, dry_run=True)
    assert {each.outcome for each in found.values()} == {cleanup.WOULD_REMOVE}
    assert len(found) == 2
    assert sorted(tmp_path.iterdir()) == before


def test_live_holder(tmp_path):
    part = leave(tmp_path / '.a.oslo-part')
    leave(tmp_path / '.a.oslo-part.journal')
    with part.open() as holder:
        fcntl.flock(holder, fcntl.LOCK_EX)
        for dry_run in (False, True):
            found = clean(tmp_path, dry_run=dry_run)
            outcomes = {each.outcome for each in found.values()}
            assert outcomes == {cleanup.IN_USE}
        assert part.exists()
    assert len(clean(tmp_path)) == 2
    assert not part.exists()


def test_live_copy(tmp_path, server, conf):
    data = resource.pattern(1 << 18)
    url = server.put('/image', data, rate=1 << 19)
    target = str(tmp_path / 'target')
    copy = threading.Thread(
        target=oslo_transfer.copy, args=(url, target), kwargs={'conf': conf}
    )
    copy.start()
    try:
        end = time.monotonic() + 5
        while not os.path.exists(flight.part_path(target)):
            assert time.monotonic() < end
            threading.Event().wait(0.001)
        found = clean(tmp_path, older_than=-10)
        assert {each.outcome for each in found.values()} <= {cleanup.IN_USE}
    finally:
        copy.join()
    assert (tmp_path / 'target').read_bytes() == data


def test_used_just_before_the_lock(tmp_path, monkeypatch):
    part = leave(tmp_path / '.a.oslo-part')

    def flock(_fd, _operation):
        os.utime(part)

    monkeypatch.setattr(fcntl, 'flock', flock)
    assert clean(tmp_path) == {}
    assert part.exists()


def test_another_file_under_the_name(tmp_path, monkeypatch):
    part = leave(tmp_path / '.a.oslo-part')

    def flock(_fd, _operation):
        part.rename(tmp_path / 'a')
        leave(part)

    monkeypatch.setattr(fcntl, 'flock', flock)
    assert clean(tmp_path) == {}
    assert part.exists()


def test_orphan_journal(tmp_path):
    leave(tmp_path / '.a.oslo-part.journal')
    assert [each.kind for each in clean(tmp_path).values()] == ['journal']
    assert list(tmp_path.iterdir()) == []


def test_orphan_journal_that_a_copy_takes(tmp_path, monkeypatch):
    journal = leave(tmp_path / '.a.oslo-part.journal')
    real_stat = os.stat

    def stat(path, **options):
        if path == journal.name:
            (tmp_path / '.a.oslo-part').touch()
        return real_stat(path, **options)

    monkeypatch.setattr(os, 'stat', stat)
    found = clean(tmp_path)
    assert found[journal.name].outcome == cleanup.IN_USE
    assert journal.exists()


def test_orphan_journal_that_was_just_written(tmp_path, monkeypatch):
    journal = leave(tmp_path / '.a.oslo-part.journal')

    def flock(_fd, _operation):
        os.utime(journal)

    monkeypatch.setattr(fcntl, 'flock', flock)
    assert clean(tmp_path) == {}
    assert list(tmp_path.iterdir()) == [journal]


def test_recursive(tmp_path):
    below = tmp_path / 'below'
    below.mkdir()
    leave(below / '.a.oslo-part')
    elsewhere = tmp_path / 'elsewhere'
    elsewhere.mkdir()
    leave(elsewhere / '.b.oslo-part')
    top = tmp_path / 'top'
    top.mkdir()
    (top / 'link').symlink_to(elsewhere)
    below.rename(top / 'below')
    assert clean(top) == {}
    assert list(clean(top, recursive=True)) == ['.a.oslo-part']
    # What is named by the caller may be a link.
    assert list(clean(top / 'link')) == ['.b.oslo-part']


def test_other_names_keep_their_data(tmp_path):
    part = leave(tmp_path / '.a.oslo-part')
    (tmp_path / 'a').hardlink_to(part)
    assert clean(tmp_path)['.a.oslo-part'].size == 0
    assert (tmp_path / 'a').read_bytes() == b'data'


def test_directory_that_is_missing(tmp_path):
    part = leave(tmp_path / '.a.oslo-part')
    with pytest.raises(exceptions.NotFound, match='nothing'):
        clean(tmp_path, tmp_path / 'nothing')
    assert part.exists()


def test_what_cannot_be_locked_stays(tmp_path, monkeypatch):
    part = leave(tmp_path / '.a.oslo-part')
    real_open = os.open

    def refuse(path, *args, **kwargs):
        if path == part.name:
            raise PermissionError(13, 'Permission denied')
        return real_open(path, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(os, 'open', refuse)
        found = clean(tmp_path)['.a.oslo-part']
    assert (found.outcome, found.reason) == ('failed', 'Permission denied')
    assert part.exists()


def test_no_locks_on_this_file_system(tmp_path, monkeypatch):
    part = leave(tmp_path / '.a.oslo-part')

    def flock(_fd, _operation):
        raise OSError(37, 'No locks available')

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, 'flock', flock)
        found = clean(tmp_path)['.a.oslo-part']
    assert found.outcome == cleanup.FAILED
    assert part.exists()
