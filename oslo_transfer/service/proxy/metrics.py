# SPDX-License-Identifier: Apache-2.0
"""Metrics of a proxy in the text format of Prometheus, version 0.0.4.

https://prometheus.io/docs/instrumenting/exposition_formats/. Names keep to
its rules: base units, and ``_total`` behind what only grows. What belongs to
one image or origin begins anew when that goes.
"""

from __future__ import annotations

import collections
from collections.abc import Iterable
from collections.abc import Iterator
from collections.abc import Mapping
from collections.abc import Sequence
import typing

from oslo_transfer.service.proxy import prefetch_records

CONTENT_TYPE = 'text/plain; version=0.0.4; charset=utf-8'

_PREFIX = 'oslo_transfer_proxy_'
_ESCAPES = str.maketrans({'\\': r'\\', '\n': r'\n', '"': r'\"'})

_Labels = Mapping[str, str]
_Samples = Iterable[tuple[_Labels, float]]


class _Family(typing.NamedTuple):
    """Some samples that mean the same.

    :ivar name: without the prefix
    :ivar kind: ``counter`` or ``gauge``
    :ivar text: says what it is
    :ivar samples: with their labels
    """

    name: str
    kind: str
    text: str
    samples: _Samples


# Of the totals: their names, and what they say.
_TOTALS = (
    ('requests', 'Requests over HTTP that were answered to the end.'),
    ('refused', 'Requests for images that were refused.'),
    ('bytes_served', 'Bytes of images that clients were sent.'),
    ('bytes_fetched', 'Bytes that came from origins and upstreams.'),
    ('hits', 'How often bytes that a client read were here.'),
    ('misses', 'How often they had to be fetched first.'),
)
# Of each image: its field, the name, its kind and what it says.
_IMAGE = (
    ('size', 'size_bytes', 'gauge', 'Size of an image.'),
    ('bytes_here', 'here_bytes', 'gauge', 'Bytes of it that are here.'),
    ('readers', 'readers', 'gauge', 'Clients that read it now.'),
    ('pinned', 'pinned', 'gauge', 'Whether its blocks stay.'),
    ('used', 'used_timestamp_seconds', 'gauge', 'When it was asked for.'),
    ('bytes_served', 'bytes_served_total', 'counter', 'Bytes sent of it.'),
    ('bytes_fetched', 'bytes_fetched_total', 'counter', 'Bytes fetched.'),
    ('hits', 'hits_total', 'counter', 'How often its bytes were here.'),
    ('misses', 'misses_total', 'counter', 'How often they were not.'),
)
_ORIGIN = (
    ('bytes_fetched', 'Bytes that came from an origin.'),
    ('requests', 'Requests that were made to an origin.'),
    ('failures', 'Requests to an origin that failed.'),
)
# Of the store: what only grows, and what is of now.
_STORE = (
    ('blocks_evicted', 'counter', 'Blocks that others took the place of.'),
    ('blocks_flushed', 'counter', 'Blocks that were made durable.'),
    ('blocks_damaged', 'counter', 'Blocks with a wrong checksum.'),
    ('bytes_refused', 'counter', 'Bytes that there was no room for.'),
    ('bytes_used', 'gauge', 'Bytes of disk that the store takes.'),
    ('bytes_limit', 'gauge', 'The most that it may take; 0 for no limit.'),
    ('bytes_unflushed', 'gauge', 'Bytes that are not durable yet.'),
    ('objects', 'gauge', 'Versions of images with blocks here.'),
    ('objects_open', 'gauge', 'Those of them that are open.'),
)


def render(
    summary: Mapping[str, typing.Any],
    images: Sequence[Mapping[str, typing.Any]],
    prefetches: Sequence[Mapping[str, typing.Any]],
) -> str:
    """All metrics, of what the control API says.

    :param summary: of the proxy
    :param images: all of them
    :param prefetches: all of them
    """
    lines: list[str] = []
    for name, kind, text, samples in (
        *_of_proxy(summary),
        *_of_origins(summary['origins']),
        *_of_store(summary['store']),
        *_of_images(images),
        _of_prefetches(prefetches),
    ):
        lines.append(f'# HELP {_PREFIX}{name} {text}')
        lines.append(f'# TYPE {_PREFIX}{name} {kind}')
        for labels, value in samples:
            lines.append(f'{_PREFIX}{name}{_text(labels)} {_number(value)}')
    return '\n'.join(lines) + '\n'


def _number(value: float) -> str:
    # All digits: sums of bytes are long.
    return repr(float(value)) if isinstance(value, float) else str(int(value))


def _text(labels: _Labels) -> str:
    if not labels:
        return ''
    parts = (
        f'{name}="{value.translate(_ESCAPES)}"'
        for name, value in labels.items()
    )
    return f'{{{",".join(parts)}}}'


def _of_proxy(summary: Mapping[str, typing.Any]) -> Iterator[_Family]:
    totals = summary['totals']
    labels = {
        'version': summary['version'],
        'datacenter': summary['datacenter'] or '',
    }
    yield _Family('info', 'gauge', 'What runs here.', [(labels, 1)])
    yield _one('up_seconds', 'Since the start.', summary['uptime_seconds'])
    yield _one(
        'impaired',
        'Whether something keeps blocks from being kept.',
        bool(summary['problem']),
    )
    yield _one('connections', 'Clients now.', totals['connections'])
    for name, text in _TOTALS:
        yield _Family(f'{name}_total', 'counter', text, [({}, totals[name])])


def _one(name: str, text: str, value: float) -> _Family:
    return _Family(name, 'gauge', text, [({}, value)])


def _of_origins(
    origins: Sequence[Mapping[str, typing.Any]],
) -> Iterator[_Family]:
    for name, text in _ORIGIN:
        yield _Family(
            f'origin_{name}_total',
            'counter',
            text,
            [({'origin': each['origin']}, each[name]) for each in origins],
        )
    yield _Family(
        'origin_impaired',
        'gauge',
        'Whether the last request to an origin failed.',
        [
            ({'origin': each['origin']}, bool(each['problem']))
            for each in origins
        ],
    )


def _of_store(store: Mapping[str, int]) -> Iterator[_Family]:
    for name, kind, text in _STORE:
        full = f'store_{name}_total' if kind == 'counter' else f'store_{name}'
        yield _Family(full, kind, text, [({}, store[name])])


def _of_images(
    images: Sequence[Mapping[str, typing.Any]],
) -> Iterator[_Family]:
    for field, name, kind, text in _IMAGE:
        yield _Family(
            f'image_{name}',
            kind,
            text,
            [
                ({'image': each['id'], 'origin': each['origin']}, each[field])
                for each in images
            ],
        )


def _of_prefetches(
    prefetches: Sequence[Mapping[str, typing.Any]],
) -> _Family:
    found = collections.Counter(each['state'] for each in prefetches)
    return _Family(
        'prefetches',
        'gauge',
        'Prefetches by what has become of them.',
        [
            ({'state': state}, found[state])
            for state in prefetch_records.STATES
        ],
    )
