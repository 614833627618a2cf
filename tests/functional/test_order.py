# SPDX-License-Identifier: Apache-2.0
"""Nothing is said before it is true, also if the power fails.

A disk may keep or lose each write that was not flushed, in any order. So
it is the order of writes and flushes that decides, and it can be read off
one run: a note about data is written when the data is durable, a name is
given when the file is, and the copy returns when the name is.
"""

from __future__ import annotations

import codecs
import json
import os
import re

import pytest

from oslo_transfer import flight
from oslo_transfer import ranges
from tests.functional import forkserver
from tests.servers import resource

pytestmark = [
    pytest.mark.functional,
    pytest.mark.usefixtures('file_group'),
]

MIB = 1 << 20
SIZE = 6 * MIB
DATA = resource.pattern(SIZE)
CONF = {
    'segment_bytes': MIB,
    'sync_bytes': MIB,
    'buffer_bytes': 256 << 10,
}


class Recording:
    """What one copy did to the files of its destination."""

    def __init__(self, spans, dst):
        self.part = flight.part_path(str(dst))
        self.journal = flight.journal_path(self.part)
        self.directory = os.path.dirname(str(dst))
        self.dst = str(dst)
        self.spans = spans

    def on(self, path, *names):
        """Calls for an open file, in order."""
        return [
            span
            for span in self.spans
            if span.name in names
            and re.match(rf'\d+<{re.escape(path)}>', span.rest)
        ]

    @property
    def naming(self):
        """The call that gives the destination its name."""
        (found,) = [
            span
            for span in self.spans
            if span.name in ('linkat', 'rename', 'renameat2')
            and f'"{self.dst}"' in span.rest
        ]
        return found

    def changes(self):
        return self.on(
            self.part, 'pwrite64', 'ftruncate', 'fchmod', 'fchown', 'ioctl'
        )

    def notes(self):
        """Each note in the journal: when it was written, what it says."""
        for span in self.on(self.journal, 'pwrite64'):
            text = re.match(r'\d+<[^>]*>, "(.*)", \d+, \d+', span.rest)[1]
            body = codecs.decode(text, 'unicode_escape')
            yield span, json.loads(body[body.index('{"serial"') :])

    def durable_before(self, line):
        """What a power cut cannot take any more."""
        found = ranges.RangeSet()
        for flush in self.on(self.part, 'fsync', 'fdatasync'):
            if flush.end > line:
                break
            for write in self.on(self.part, 'pwrite64'):
                match = re.search(r', (\d+) ?\) += (\d+)$', write.rest)
                if write.end < flush.begin:
                    start = int(match[1])
                    found.add(start, start + int(match[2]))
        return found


@pytest.fixture
def place(tmp_path):
    (tmp_path / 'there').mkdir()
    return tmp_path / 'there' / 'image'


def record(strace, place, src, **options):
    part = flight.part_path(str(place))
    paths = [place, part, flight.journal_path(part), place.parent]
    spans = strace.record(
        paths, forkserver.copy, str(src), str(place), conf=CONF, **options
    )
    return Recording(spans, place)


def assert_durable_before_named(found):
    naming = found.naming
    last = max(change.end for change in found.changes())
    assert any(
        last < flush.begin and flush.end < naming.begin
        for flush in found.on(found.part, 'fsync')
    ), 'the file is not durable when it gets its name'
    assert any(
        naming.end < flush.begin
        for flush in found.on(found.directory, 'fsync')
    ), 'the name is not durable when the copy returns'
    # Nothing is taken away that is needed if the name gets lost.
    for span in found.spans:
        if span.name == 'unlink' and f'"{found.journal}"' in span.rest:
            assert span.begin > naming.end


@pytest.mark.parametrize('overwrite', [True, False])
@pytest.mark.parametrize('streams', [1, 4])
def test_file_is_durable_before_its_name(
    streams, overwrite, strace, server, place
):
    if overwrite:
        place.write_bytes(b'old')
    found = record(
        strace,
        place,
        server.put('/image', DATA, rate=20 * MIB),
        overwrite=overwrite,
        eager=streams > 1,
    )
    assert place.read_bytes() == DATA
    assert_durable_before_named(found)


@pytest.mark.parametrize('streams', [1, 4])
def test_note_says_no_more_than_is_durable(streams, strace, server, place):
    """Whichever notes and writes a power cut leaves."""
    found = record(
        strace,
        place,
        server.put('/image', DATA, rate=20 * MIB),
        eager=streams > 1,
    )
    notes = list(found.notes())
    claims = 0
    for span, body in notes:
        durable = found.durable_before(span.begin)
        for start, end in body['synced']:
            assert durable.frontier(start) >= end
            claims += 1
    assert claims, 'nothing was made durable on the way'
    serials = [body['serial'] for _span, body in notes]
    assert serials == sorted(set(serials))


def test_old_note_is_withdrawn_before_the_bytes_change(strace, server, place):
    """Else a power cut would join new bytes to an old note."""
    src = server.put('/image', DATA, rate=16 * MIB)
    child, process, _log = strace.start(
        'fdatasync:signal=KILL',
        [flight.journal_path(flight.part_path(str(place)))],
        forkserver.copy,
        src,
        str(place),
        conf=CONF,
    )
    with pytest.raises(forkserver.Died):
        child.result()
    process.communicate()
    server.put('/image', DATA[::-1], etag='"v2"')
    found = record(strace, place, src)
    assert place.read_bytes() == DATA[::-1]
    empty = [span for span, body in found.notes() if not body['written']]
    flushed = found.on(found.journal, 'fdatasync')
    changed = min(change.begin for change in found.changes())
    assert any(
        note.end < flush.begin and flush.end < changed
        for note in empty
        for flush in flushed
    )


def test_what_is_gone_on_with_is_made_durable_first(strace, server, place):
    """It may be of a process that was killed before it could flush."""
    part = flight.part_path(str(place))
    src = server.put('/image', DATA, rate=16 * MIB)
    child, process, _log = strace.start(
        'pwrite64:signal=KILL:when=9',
        [part],
        forkserver.copy,
        src,
        str(place),
        conf={**CONF, 'sync_bytes': 1 << 30},
    )
    with pytest.raises(forkserver.Died):
        child.result()
    process.communicate()
    found = record(strace, place, src)
    notes = [(span, body) for span, body in found.notes() if body['synced']]
    first = notes[0][0]
    assert any(
        flush.end < first.begin for flush in found.on(found.part, 'fsync')
    )


def test_clone_is_durable_before_its_name(disks, strace):
    there = disks.xfs()
    (there / 'src').write_bytes(DATA)
    found = record(strace, there / 'image', there / 'src')
    assert (there / 'image').read_bytes() == DATA
    assert_durable_before_named(found)
