# SPDX-License-Identifier: Apache-2.0
"""The records of what was to be prefetched: what is where, and since when.

In ``<state_path>/prefetches``; see :mod:`oslo_transfer.service.exports`. The
URL, which may be signed, and the headers that prove who asks are the secret
of one that has not ended; it is removed with the end.
"""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import typing

from oslo_transfer.cache import trace as _trace
from oslo_transfer import exceptions
from oslo_transfer.service import exports

#: All of an image; what its last readers have read first; what an iolog
#: says; and ranges.
FULL, HOT, TRACE, RANGES = KINDS = ('full', 'hot', 'trace', 'ranges')
#: What becomes of it. Those that wait or run go on after a restart.
WAITING, RUNNING, DONE, FAILED, CANCELLED = STATES = (
    'waiting',
    'running',
    'done',
    'failed',
    'cancelled',
)
#: The most ranges that one may name.
MAX_RANGES = 100_000

_MOST = 1 << 62


@dataclasses.dataclass(frozen=True)
class Wanted:
    """What is to be brought, and as whom.

    :ivar url: of the origin, with all its secrets; or a name
    :ivar kind: one of :data:`KINDS`
    :ivar headers: for the origin
    :ivar iolog: of the kind ``trace``; '' otherwise
    :ivar ranges: of the kind ``ranges``: offsets and lengths in bytes
    """

    url: str
    kind: str
    headers: Mapping[str, str] = dataclasses.field(default_factory=dict)
    iolog: str = ''
    ranges: tuple[tuple[int, int], ...] = ()

    @property
    def what(self) -> tuple[typing.Any, ...]:
        """Two with the same want the same, whoever asks."""
        return self.url, self.kind, self.iolog, self.ranges


@dataclasses.dataclass(frozen=True)
class Record:
    """One prefetch.

    :ivar id: its name
    :ivar kind: one of :data:`KINDS`
    :ivar origin: what can be shown of the URL
    :ivar added: when it was asked for, in seconds of the Unix clock
    :ivar rate_limit: bytes per second; None for what is configured
    :ivar state: one of :data:`STATES`
    :ivar image: the ID of the image, once it is known
    :ivar bytes_wanted: in whole blocks; None until that is known
    :ivar bytes_here: of these
    :ivar seconds: that it has taken
    :ivar ended: when it has, or None
    :ivar problem: why it failed, or ''
    :ivar wanted: None once it has ended
    """

    id: str
    kind: str
    origin: str
    added: float
    rate_limit: int | None = None
    state: str = WAITING
    image: str | None = None
    bytes_wanted: int | None = None
    bytes_here: int | None = None
    seconds: float = 0.0
    ended: float | None = None
    problem: str = ''
    wanted: Wanted | None = None

    def fields(self) -> dict[str, typing.Any]:
        """All but the secret."""
        found = {name: getattr(self, name) for name in ('id', *_FIELDS)}
        found['seconds'] = round(self.seconds, 3)
        return found


_FIELDS: Mapping[str, typing.Any] = {
    'kind': str,
    'origin': str,
    'added': float | int,
    'rate_limit': int | None,
    'state': str,
    'image': str | None,
    'bytes_wanted': int | None,
    'bytes_here': int | None,
    'seconds': float | int,
    'ended': float | int | None,
    'problem': str,
}


class Records(exports.Records[Record]):
    """The records of prefetches."""

    version = 1
    files = ()

    def encode(self, record: Record) -> Mapping[str, typing.Any]:
        """All but the secret."""
        return {name: getattr(record, name) for name in _FIELDS}

    def secret(self, record: Record) -> str | None:
        """The secret."""
        wanted = record.wanted
        return None if wanted is None else json.dumps(vars(wanted))

    def decode(
        self, name: str, fields: Mapping[str, typing.Any], secret: str | None
    ) -> Record:
        """See that it makes sense."""
        found = {}
        for key, kind in _FIELDS.items():
            if not isinstance(fields[key], kind):
                raise TypeError(f'"{key}" is of another kind')
            found[key] = fields[key]
        if found['kind'] not in KINDS or found['state'] not in STATES:
            raise ValueError('"kind" or "state" is none')
        times = found['added'], found['seconds'], found['ended'] or 0.0
        if not all(0 <= each < _MOST for each in times):
            raise ValueError('"added", "seconds" or "ended" is no time')
        wanted = None
        if found['ended'] is None:
            if secret is None:
                raise ValueError('its secret is missing')
            wanted = wanted_of(json.loads(secret))
            found.update(state=WAITING, problem='')
        return Record(name, wanted=wanted, **found)


def wanted_of(body: typing.Any) -> Wanted:
    """What somebody asks for, in JSON types.

    :raises InvalidEndpoint: it makes no sense
    :raises ProtocolError: the iolog is none
    :raises CapabilityMissing: it is one of another version
    """
    if not isinstance(body, Mapping):
        raise _senseless('it is no JSON object')
    url, kind = body.get('url'), body.get('kind')
    if not isinstance(url, str) or not url:
        raise _senseless('"url" is no text')
    if kind not in KINDS:
        raise _senseless(f'"kind" is none of {", ".join(KINDS)}')
    headers = body.get('headers') or {}
    if not isinstance(headers, Mapping) or not all(
        isinstance(each, str) and each.isascii() and each.isprintable()
        for item in headers.items()
        for each in item
    ):
        raise _senseless('"headers" are not names with printable texts')
    iolog = body.get('iolog') or ''
    if not isinstance(iolog, str) or bool(iolog) != (kind == TRACE):
        raise _senseless('"iolog" is the text of the kind "trace" alone')
    if iolog:
        trace_of(iolog)
    ranges = body.get('ranges') or ()
    if bool(ranges) != (kind == RANGES):
        raise _senseless('"ranges" are of the kind "ranges" alone')
    return Wanted(url, kind, dict(headers), iolog, _ranges(ranges))


def trace_of(iolog: str) -> _trace.Trace:
    """The trace that somebody has sent.

    :raises TransferError: it is none
    """
    # Only the names of files may hold anything, and they do not matter.
    return _trace.Trace.parse(iolog.encode(errors='replace'))


def rate_limit_of(body: Mapping[str, typing.Any]) -> int | None:
    """The bytes per second that somebody allows.

    :raises InvalidEndpoint: it makes no sense
    """
    rate = body.get('rate_limit')
    if rate is None:
        return None
    if not _is_number(rate) or not 1 <= rate <= _MOST:
        raise _senseless('"rate_limit" is no positive number of bytes')
    return typing.cast(int, rate)


def _ranges(given: typing.Any) -> tuple[tuple[int, int], ...]:
    if not isinstance(given, list | tuple) or len(given) > MAX_RANGES:
        raise _senseless(f'"ranges" are no list of at most {MAX_RANGES}')
    found = []
    for each in given:
        if not isinstance(each, list | tuple) or len(each) != 2:
            raise _senseless('a range is no pair of offset and length')
        offset, length = each
        if not (_is_number(offset) and _is_number(length)):
            raise _senseless('a range is no pair of numbers')
        if not (0 <= offset <= _MOST and 1 <= length <= _MOST):
            raise _senseless('a range is none of an image')
        found.append((offset, length))
    return tuple(found)


def _is_number(value: typing.Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _senseless(why: str) -> exceptions.InvalidEndpoint:
    return exceptions.InvalidEndpoint(
        f'this does not say what is to be prefetched: {why}'
    )
