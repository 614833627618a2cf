# SPDX-License-Identifier: Apache-2.0
"""The engine dd: how dd is called, and what becomes of what it says."""

from __future__ import annotations

import os
import shutil
import threading
import time

import pytest

from oslo_transfer import context as _context
from oslo_transfer.drivers import dd
from oslo_transfer.drivers import dd_program
from oslo_transfer.drivers import dd_slices
from oslo_transfer import exceptions
from oslo_transfer.testing import harness
from tests.servers import dd_lab

pytestmark = pytest.mark.usefixtures('nothing_left')

MIB = 1 << 20
DATA = harness.pattern(3 * MIB + 777)
REAL = shutil.which('dd')
# Seconds; nobody else sleeps for as long.
HANG = f'60.{os.getpid()}'


@pytest.fixture
def target(tmp_path):
    """A function that makes a part file."""
    made = []

    def make(size=len(DATA), held=None):
        made.append(dd_lab.Target(tmp_path / f'part{len(made)}', size, held))
        return made[-1]

    yield make
    for each in made:
        each.close()


@pytest.fixture
def source(tmp_path, conf):
    """A function that opens a file as if it had been attached."""
    opened = []

    def make(data=DATA, **changes):
        path = tmp_path / 'image'
        path.write_bytes(data)
        opened.append(
            dd.DdSource(
                dd_lab.attachment(path), dd_lab.context(conf, **changes)
            )
        )
        return opened[-1]

    yield make
    for each in opened:
        each.close()


@pytest.fixture
def program(tmp_path, monkeypatch):
    """A function that puts a script in the place of dd.

    ``"$REAL" "$@"`` in it is dd itself, ``$IN`` and ``$OUT`` are what it
    calls its ends. What is asked only to see what dd knows goes to the real.
    """
    directory = tmp_path / 'bin'
    directory.mkdir()

    def make(script):
        path = directory / 'dd'
        path.write_text(
            f'#!/bin/sh\nREAL={REAL}\nOUT=${{1#of=}}\n'
            f'IN="standard input"\n'
            f'[ "$1" = if=/dev/null ] && exec "$REAL" "$@"\n{script}\n'
        )
        path.chmod(0o755)
        monkeypatch.setenv('PATH', f'{directory}:{os.environ["PATH"]}')
        return path

    return make


# What dd says


@pytest.mark.parametrize(
    ('end', 'why', 'error', 'words'),
    [
        ('IN', 'Input/output error', exceptions.Unavailable, 'reading'),
        ('IN', 'No such device', exceptions.Unavailable, 'reading'),
        ('IN', 'Permission denied', exceptions.AccessDenied, 'reading'),
        ('OUT', 'Input/output error', exceptions.StorageError, 'writing'),
        ('OUT', 'No space left on device', exceptions.NoSpace, 'writing'),
        ('OUT', 'Disk quota exceeded', exceptions.NoSpace, 'writing'),
        ('OUT', 'File too large', exceptions.NoSpace, 'writing'),
        ('OUT', 'Read-only file system', exceptions.AccessDenied, 'writing'),
    ],
)
def test_errors_are_typed_and_say_where(
    end, why, error, words, program, source, target, conf
):
    conf.set_override('parallel', 1, group='oslo_transfer_dd')
    program(
        f'echo "dd: error {words} \'${end}\': {why}" >&2\n'
        f'echo "1+0 records in\n1+0 records out\n'
        f'0 bytes copied, 1 s, 1 MB/s" >&2; exit 1'
    )
    into = target()
    with pytest.raises(error) as caught:
        source().fill(into)
    message = str(caught.value)
    assert why in message
    assert words in message
    assert 'from byte 0 on' in message
    assert '/proc/self/fd' not in message
    assert into.in_place.total == 0


def test_what_came_before_the_error_is_kept(program, source, target, conf):
    """So that another copy can go on behind it."""
    conf.set_override('parallel', 1, group='oslo_transfer_dd')
    program(
        'case " $* " in *" skip=0 "*) '
        '"$REAL" "$@" count=1048576 2>/dev/null\n'
        'echo "dd: error reading \'$IN\': Input/output error" >&2\n'
        'echo "1048576 bytes (1.0 MB) copied, 1 s, 1.0 MB/s" >&2; exit 1;;'
        'esac; exec "$REAL" "$@"'
    )
    into = target()
    with pytest.raises(exceptions.Unavailable, match=f'byte {MIB} on'):
        source().fill(into)
    assert list(into.in_place) == [(0, MIB)]
    assert not into.problems


@pytest.mark.parametrize(
    ('count', 'error'),
    [(1, exceptions.SourceChanged), (1 << 40, exceptions.StorageError)],
)
def test_another_count_is_an_error(count, error, program, source, target):
    """Whatever its status says; and no byte counts that is not there."""
    program(f'echo "{count} bytes copied, 1 s, 1 kB/s" >&2')
    into = target()
    with pytest.raises(error):
        source().fill(into)
    assert into.in_place.total <= 2


def test_a_status_without_words(program, source, target):
    program('exit 3')
    with pytest.raises(exceptions.StorageError, match='status 3'):
        source().fill(target())


def test_a_killed_dd(program, source, target):
    """By the OOM killer, say: going on may work."""
    program('kill -9 $$')
    with pytest.raises(exceptions.Unavailable, match='signal 9') as caught:
        source().fill(target())
    assert caught.value.retryable


def test_words_without_end_are_cut(program, source, target):
    program('yes "dd: nonsense" | head -c 3000 >&2; exit 1')
    with pytest.raises(exceptions.StorageError) as caught:
        source().fill(target())
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize('language', ['de_DE.UTF-8', 'C.UTF-8'])
def test_dd_speaks_english(language, program, source, target, monkeypatch):
    monkeypatch.setenv('LC_ALL', language)
    program('[ "$LC_ALL" = C ] && exec "$REAL" "$@"; exit 9')
    into = target()
    source().fill(into)
    assert into.content == DATA


# Which dd


def test_without_dd(source, target, monkeypatch, tmp_path):
    monkeypatch.setattr(dd_program.children, '_PATH', str(tmp_path))
    monkeypatch.setenv('PATH', str(tmp_path))
    with pytest.raises(exceptions.CapabilityMissing, match='coreutils'):
        source().fill(target())


def test_another_dd(source, target, tmp_path, monkeypatch):
    """Some do not know what is needed, and are not guessed at."""
    other = tmp_path / 'dd'
    other.write_text(
        '#!/bin/sh\necho "dd: unknown operand iflag" >&2; exit 1\n'
    )
    other.chmod(0o755)
    monkeypatch.setenv('PATH', f'{tmp_path}:{os.environ["PATH"]}')
    with pytest.raises(exceptions.CapabilityMissing, match='GNU'):
        source().fill(target())


# How it is called


@pytest.fixture
def calls(program, tmp_path):
    """What dd is called with."""
    log = tmp_path / 'calls'
    program(f'echo "$@" >> {log}; exec "$REAL" "$@"')
    return lambda: [
        dict(word.split('=', 1) for word in line.split())
        for line in log.read_text().splitlines()
    ]


def test_the_calls(calls, source, target):
    """Direct as far as whole blocks go, and flushed behind them."""
    into = target()
    source().fill(into)
    assert into.content == DATA
    found = calls()
    for each in found:
        conv = each['conv'].split(',')
        assert 'notrunc' in conv
        assert 'noerror' not in conv
        assert each['skip'] == each['seek']
        assert ('direct' in each['oflag']) is ('fdatasync' not in conv)
    assert {'direct' in each['oflag'] for each in found} == {True, False}
    tail = next(each for each in found if 'fdatasync' in each['conv'])
    assert tail['skip'] == str(len(DATA) // 4096 * 4096)
    assert sum(int(each['count']) for each in found) == len(DATA)


def test_where_direct_fails_late(program, source, target):
    """Some file systems refuse only when something is read."""
    program(
        'case "$*" in *,direct*) '
        'echo "dd: error reading \'$IN\': Invalid argument" >&2\n'
        'echo "0 bytes copied, 1 s, 1 kB/s" >&2; exit 1;; esac\n'
        'exec "$REAL" "$@"'
    )
    into = target()
    source().fill(into)
    assert into.content == DATA


def test_where_direct_cannot_be_opened(calls, source, target, monkeypatch):
    monkeypatch.setattr(dd_slices, '_can_be_direct', lambda _fd: False)
    monkeypatch.setattr(dd_slices, '_can_open_direct', lambda _fd: False)
    into = target()
    source().fill(into)
    assert into.content == DATA
    assert all('direct' not in str(each) for each in calls())
    assert all('fdatasync' in each['conv'] for each in calls())


@pytest.mark.parametrize(
    ('changes', 'sparse'),
    [({}, True), ({'held': {0: DATA[:MIB]}}, False), ({'device': 1}, False)],
)
def test_holes_only_in_what_is_new(changes, sparse, calls, source, target):
    into = target(held=changes.get('held'))
    into.device = bool(changes.get('device'))
    source().fill(into)
    assert all(('sparse' in each['conv']) is sparse for each in calls())
    assert into.content == DATA


def test_what_comes_before_the_start_is_not_touched(calls, source, target):
    """The core writes it, when all is verified."""
    into = target()
    into.start = MIB
    into.device = True
    source().fill(into)
    assert os.pread(into.fd, MIB, 0) == bytes(MIB)
    assert list(into.in_place) == [(MIB, len(DATA))]
    assert os.pread(into.fd, len(DATA), MIB) == DATA[MIB:]
    assert min(int(each['seek']) for each in calls()) == MIB


def test_slices_end_together(source, target, calls, conf, monkeypatch):
    monkeypatch.setattr(dd_slices, '_LEAST', 1 << 16)
    conf.set_override('parallel', 3, group='oslo_transfer_dd')
    into = target()
    source().fill(into)
    assert into.content == DATA
    sizes = [int(each['count']) for each in calls()]
    assert max(sizes) <= len(DATA) // 3 + 4096


# What is there already


@pytest.mark.parametrize(
    'held',
    [
        [(0, MIB)],
        [(MIB, 2 * MIB)],
        [(1, 3), (5000, 9001), (MIB + 1, 2 * MIB - 1)],
        [(2 * MIB, len(DATA))],
        [(0, len(DATA))],
    ],
)
def test_resume(held, source, target):
    """Only whole blocks are kept; each byte is reported once."""
    into = target(held={start: DATA[start:end] for start, end in held})
    # What stands between may be anything.
    gaps = list(into.held.gaps(len(DATA)))
    for start, end in gaps:
        os.pwrite(into.fd, b'x' * (end - start), start)
    source().fill(into)
    assert into.content == DATA
    assert into.in_place.total == len(DATA)
    assert into.was_checked
    kept = into.by_origin['resumed']
    assert kept <= sum(end - start for start, end in held)
    worth = [end - start - 8192 for start, end in held]
    assert kept >= sum(each for each in worth if each >= dd_slices._KEPT)


def test_many_holes_are_not_many_processes(calls, target, conf, tmp_path):
    """A hole that is small is read, and left out all the same."""
    path = tmp_path / 'image'
    with open(path, 'wb') as file:
        for number in range(40):
            file.seek(number * MIB)
            file.write(DATA[:4096])
        file.truncate(64 * MIB)
    into = target(64 * MIB)
    with dd.DdSource(dd_lab.attachment(path), dd_lab.context(conf)) as opened:
        opened.fill(into)
    assert into.content == path.read_bytes()
    assert len(calls()) < 10
    assert into.by_origin['zeros'] > 20 * MIB


def test_what_ends_with_other_bytes_is_not_kept(source, target):
    wrong = DATA[: MIB - 1] + bytes([DATA[MIB - 1] ^ 1])
    into = target(held={0: wrong, 2 * MIB: DATA[2 * MIB :]})
    source().fill(into)
    assert into.content == DATA
    assert into.by_origin['resumed'] == len(DATA) - 2 * MIB


# Limits


def test_rate(source, target):
    into = target()
    into.limit = 4 * MIB
    began = time.monotonic()
    source().fill(into)
    # Slices of a quarter of a second; the last is not waited for.
    assert time.monotonic() - began >= 0.5 - 0.1
    assert into.content == DATA


def test_a_tiny_rate_can_be_cancelled(source, target):
    into = target()
    into.limit = 1
    cancel = threading.Event()
    timer = threading.Timer(0.1, cancel.set)
    timer.start()
    began = time.monotonic()
    with pytest.raises(exceptions.TransferCancelled):
        source(cancel=cancel).fill(into)
    assert time.monotonic() - began < 1.0
    timer.join()
    assert not into.problems


@pytest.mark.parametrize('how', ['cancel', 'close', 'deadline'])
def test_a_dd_that_hangs_is_ended(how, program, source, target, tmp_path):
    """Within a second, and nobody is left."""
    ready = tmp_path / 'ready'
    program(f'echo > {ready}; exec sleep {HANG}')
    cancel = threading.Event()
    began = time.monotonic()
    changes = {
        'cancel': {'cancel': cancel},
        'close': {},
        'deadline': {'deadline': began + 0.5},
    }[how]
    opened = source(**changes)

    def end():
        assert harness.wait_for(ready.exists, 5)
        if how == 'close':
            opened.close()
        cancel.set()

    thread = threading.Thread(target=end)
    thread.start()
    with pytest.raises(
        (exceptions.TransferCancelled, exceptions.DeadlineExceeded)
    ):
        opened.fill(target())
    thread.join()
    assert time.monotonic() - began < 1.6
    assert not dd_lab.processes(HANG)


def test_a_dd_that_stalls(program, source, target):
    program(f'exec sleep {HANG}')
    began = time.monotonic()
    with pytest.raises(exceptions.Stalled) as caught:
        source(stall=_context.StallRule(0.5, 1000)).fill(target())
    assert 0.4 < time.monotonic() - began < 2
    assert caught.value.retryable


# The source


def test_another_size_than_attached(tmp_path, conf):
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    with pytest.raises(exceptions.SourceChanged, match='1000'):
        dd.DdSource(dd_lab.attachment(path, size=1000), dd_lab.context(conf))


def test_a_source_that_is_written_to(source, target, program, tmp_path):
    program(f'echo more >> {tmp_path}/image; exec "$REAL" "$@"')
    with pytest.raises(exceptions.SourceChanged):
        source().fill(target())


def test_a_source_that_becomes_shorter(source, target, program, tmp_path):
    program(f'truncate -s 1M {tmp_path}/image; exec "$REAL" "$@"')
    with pytest.raises(exceptions.SourceChanged):
        source().fill(target())


def test_what_was_put_in_its_place_is_not_read(
    source, target, tmp_path, monkeypatch
):
    """Also where it can only be opened again by its path."""
    opened = source()
    (tmp_path / 'other').write_bytes(DATA[::-1])
    os.rename(tmp_path / 'other', tmp_path / 'image')
    real = os.open

    def no_links(path, *rest):
        if str(path).startswith('/proc/self/fd/'):
            raise PermissionError(13, 'Permission denied', path)
        return real(path, *rest)

    into = target()
    monkeypatch.setattr(os, 'open', no_links)
    with pytest.raises(exceptions.SourceChanged, match='replaced'):
        opened.fill(into)
    assert into.in_place.total == 0


def test_it_is_detached_once(tmp_path, conf):
    path = tmp_path / 'image'
    path.write_bytes(DATA)
    calls = []
    opened = dd.DdSource(
        dd_lab.attachment(path),
        dd_lab.context(conf),
        lambda: calls.append(1),
    )
    opened.close()
    opened.close()
    assert calls == [1]
    with pytest.raises(exceptions.TransferCancelled):
        opened.stream(0, None)


@pytest.mark.parametrize(
    ('error', 'kind'),
    [
        (exceptions.AttachError('another LUN'), exceptions.IntegrityError),
        (exceptions.Unavailable('no answer'), exceptions.Unavailable),
    ],
)
def test_it_is_looked_at_when_all_was_copied(
    error, kind, tmp_path, target, conf
):
    """Bytes of two volumes are not kept as those of one."""
    path = tmp_path / 'image'
    path.write_bytes(DATA)

    def check():
        assert into.in_place.total == len(DATA)
        raise error

    into = target()

    with dd.DdSource(
        dd_lab.attachment(path), dd_lab.context(conf), check=check
    ) as opened:
        with pytest.raises(kind, match=str(error)):
            opened.fill(into)


def test_what_cannot_be_detached_is_logged(tmp_path, conf, caplog):
    path = tmp_path / 'image'
    path.write_bytes(DATA)

    def fail():
        raise exceptions.DetachError('no', ('a session',))

    dd.DdSource(dd_lab.attachment(path), dd_lab.context(conf), fail).close()
    assert 'a session' in caplog.text
