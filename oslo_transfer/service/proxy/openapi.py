# SPDX-License-Identifier: Apache-2.0
"""The OpenAPI document of the control API.

See https://spec.openapis.org/oas/v3.1.0. A test compares it with the routes,
and with what they really answer.
"""

from __future__ import annotations

from collections.abc import Mapping
import functools
import importlib.metadata
import typing

from oslo_transfer.service.proxy import prefetch_records

_Schema = Mapping[str, typing.Any]

#: The states of blocks in a map.
BLOCK_STATES = ('missing', 'cached', 'hot', 'flight')


def _of(kind: str | list[str], text: str, **more: typing.Any) -> _Schema:
    return {'type': kind, 'description': text, **more}


def _count(text: str) -> _Schema:
    return _of('integer', text, minimum=0)


def _text(text: str) -> _Schema:
    return _of('string', text)


def _number(text: str) -> _Schema:
    return _of('number', text, minimum=0)


def _list(items: _Schema, text: str) -> _Schema:
    return _of('array', text, items=items)


def _ref(name: str) -> _Schema:
    return {'$ref': f'#/components/schemas/{name}'}


def _object(**properties: _Schema) -> _Schema:
    return {
        'type': 'object',
        'required': list(properties),
        'properties': properties,
    }


_PROBLEM = _text('What is wrong just now; empty if nothing is.')
_ORIGIN = _text('URL of the origin, without anything that is secret.')
_SUMS: Mapping[str, _Schema] = {
    'bytes_served': _count('Bytes of images that clients were sent.'),
    'bytes_fetched': _count('Bytes that came from origins or upstreams.'),
    'hits': _count('How often bytes that a client read were here.'),
    'misses': _count('How often they had to be fetched first.'),
    'bytes_saved': _count('Bytes that did not have to cross the WAN.'),
}
_RATES: Mapping[str, _Schema] = {
    'in': _number('From origins and upstreams, bytes per second.'),
    'out': _number('To clients, bytes per second.'),
}
_RANGE: _Schema = {
    'type': 'array',
    'description': 'Offset and length in bytes.',
    'prefixItems': [
        {'type': 'integer', 'minimum': 0},
        {'type': 'integer', 'minimum': 1},
    ],
    'minItems': 2,
    'maxItems': 2,
}
_RUN: _Schema = {
    'type': 'array',
    'description': 'A state, and how many blocks in a row have it.',
    'prefixItems': [
        {'enum': list(BLOCK_STATES)},
        {'type': 'integer', 'minimum': 1},
    ],
    'minItems': 2,
    'maxItems': 2,
}

_SCHEMAS: Mapping[str, _Schema] = {
    'Error': _object(
        error=_text('Its kind: a class of oslo_transfer.exceptions.'),
        message=_text('For people; it never has a secret.'),
    ),
    'Health': _object(
        status={
            'enum': ['ok', 'impaired'],
            'description': 'Impaired: images are served, but not kept.',
        },
        problem=_PROBLEM,
    ),
    'Proxy': _object(
        version=_text('Of oslo.transfer.'),
        uptime_seconds=_number('Since it was started.'),
        datacenter=_of(
            ['string', 'null'], 'That the host is in, by its configuration.'
        ),
        nbd_port=_count('At which images can be had by NBD; 0 if at none.'),
        problem=_PROBLEM,
        totals=_object(
            requests=_count('Requests over HTTP, answered to the end.'),
            connections=_count('Clients that are connected now.'),
            refused=_count('Requests for images that were refused.'),
            **_SUMS,
        ),
        rates=_object(**_RATES),
        store=_of(
            'object',
            'Counts of the block store, by name.',
            additionalProperties={'type': 'integer'},
        ),
        origins=_list(_ref('Origin'), 'That were asked since the start.'),
    ),
    'Origin': _object(
        origin=_text('Scheme, host and port.'),
        bytes_fetched=_count('From it, or by an upstream.'),
        requests=_count('That were made.'),
        failures=_count('Of these.'),
        problem=_PROBLEM,
    ),
    'Image': _object(
        id=_text('Names this version of the image in the API.'),
        origin=_ORIGIN,
        size=_count('In bytes.'),
        block_bytes=_count('Size of a block; the last may be shorter.'),
        blocks=_count('How many it has.'),
        bytes_here=_count('Bytes of it that are on this host.'),
        pinned=_of('boolean', 'Whether its blocks stay.'),
        readers=_count('Clients that read it now.'),
        **_SUMS,
        rates=_object(**_RATES),
        used=_number('When it was asked for last, by the Unix clock.'),
        problem=_PROBLEM,
    ),
    'Images': _object(
        images=_list(_ref('Image'), 'Those that were used last first.')
    ),
    'Map': _object(
        blocks=_count('How many blocks the image has.'),
        block_bytes=_count('Size of each but the last one.'),
        runs=_list(_RUN, 'All blocks in their order.'),
    ),
    'Trace': _object(
        iolog=_text(
            'What is read of the image first, as an iolog of fio, version 3.'
        )
    ),
    'Prefetch': _object(
        id=_text('Names it in the API.'),
        kind={'enum': list(prefetch_records.KINDS)},
        origin=_ORIGIN,
        added=_number('When it was asked for, by the Unix clock.'),
        rate_limit=_of(
            ['integer', 'null'],
            'Bytes per second; null for what is configured.',
            minimum=1,
        ),
        state={
            'enum': list(prefetch_records.STATES),
            'description': 'Those that wait do so for their turn; or, where '
            'there is a problem, to be tried again.',
        },
        image=_of(['string', 'null'], 'Its ID, once it is known.'),
        bytes_wanted=_of(
            ['integer', 'null'],
            'Bytes in whole blocks; null until that is known.',
            minimum=0,
        ),
        bytes_here=_of(
            ['integer', 'null'],
            'Those of them that are here: now, or when it ended.',
            minimum=0,
        ),
        seconds=_number('That it has taken so far.'),
        ended=_of(['number', 'null'], 'When, by the Unix clock.'),
        problem=_PROBLEM,
    ),
    'Prefetches': _object(
        prefetches=_list(_ref('Prefetch'), 'The newest first.')
    ),
    'Wanted': {
        'type': 'object',
        'required': ['url', 'kind'],
        'properties': {
            'url': _text('Of the origin, or a name that the proxy has.'),
            'kind': {
                'enum': list(prefetch_records.KINDS),
                'description': 'All of it; what its readers have read first '
                'here; what an iolog says; ranges.',
            },
            'iolog': _text('Of the kind trace: of fio, version 2 or 3.'),
            'ranges': _of(
                'array',
                'Of the kind ranges: in the order in which to bring them.',
                items=_RANGE,
                maxItems=prefetch_records.MAX_RANGES,
            ),
            'rate_limit': _of(
                ['integer', 'null'], 'Bytes per second.', minimum=1
            ),
            'headers': _of(
                'object',
                'Sent to the origin, such as X-Auth-Token. They are kept '
                'where only the service can read them, until it ends.',
                additionalProperties={'type': 'string'},
            ),
        },
    },
}

# Path, method, what it does, schema and status of the answer.
_OPERATIONS = (
    ('/v1/proxy', 'get', 'How the proxy is', 'Proxy', 200),
    ('/v1/proxy/images', 'get', 'The images', 'Images', 200),
    ('/v1/proxy/images/{id}', 'get', 'One image', 'Image', 200),
    ('/v1/proxy/images/{id}', 'delete', 'Let go of it', 'Image', 200),
    ('/v1/proxy/maps/{id}', 'get', 'Where its blocks are', 'Map', 200),
    ('/v1/proxy/traces/{id}', 'get', 'What is read first', 'Trace', 200),
    ('/v1/proxy/pins/{id}', 'post', 'Have it stay', 'Image', 200),
    ('/v1/proxy/pins/{id}', 'delete', 'Let it go again', 'Image', 200),
    ('/v1/proxy/prefetches', 'get', 'All prefetches', 'Prefetches', 200),
    ('/v1/proxy/prefetches', 'post', 'Have something', 'Prefetch', 202),
    ('/v1/proxy/prefetches/{id}', 'get', 'One prefetch', 'Prefetch', 200),
    ('/v1/proxy/prefetches/{id}', 'delete', 'End it', 'Prefetch', 200),
)
_MORE: Mapping[tuple[str, str], str] = {
    ('/v1/proxy/images/{id}', 'delete'): 'Its blocks are removed, but for '
    'those that a client is just being sent. 409 where it is pinned.',
    ('/v1/proxy/prefetches', 'post'): 'It goes on after a restart. Where the '
    'same is under way already that one is answered, with status 200.',
    ('/v1/proxy/prefetches/{id}', 'delete'): 'What it has brought stays. One '
    'that has ended is forgotten.',
    ('/v1/proxy/pins/{id}', 'post'): 'Nothing of it is evicted until it is '
    'unpinned, also after a restart.',
}
_OPEN: typing.Final[list[_Schema]] = [{}]


@functools.cache
def document() -> Mapping[str, typing.Any]:
    """The document; in JSON types, not to be changed."""
    paths: dict[str, dict[str, typing.Any]] = {}
    for path, method, title, schema, status in _OPERATIONS:
        operation = paths.setdefault(path, {})
        operation[method] = _operation(path, method, title, schema, status)
    paths['/healthz'] = {
        'get': {
            'operationId': 'health',
            'summary': 'Whether it answers',
            'security': _OPEN,
            'responses': {'200': _json('Health')},
        }
    }
    paths['/metrics'] = {
        'get': {
            'operationId': 'metrics',
            'summary': 'Metrics for Prometheus',
            'responses': {
                '200': {
                    'description': 'The text format, version 0.0.4.',
                    'content': {'text/plain': {'schema': _text('Lines.')}},
                },
                'default': _json('Error'),
            },
        }
    }
    paths['/openapi.json'] = {
        'get': {
            'operationId': 'openapi',
            'summary': 'This document',
            'security': _OPEN,
            'responses': {
                '200': {
                    'description': 'This document.',
                    'content': {
                        'application/json': {'schema': {'type': 'object'}}
                    },
                }
            },
        }
    }
    return {
        'openapi': '3.1.0',
        'info': {
            'title': 'oslo.transfer proxy',
            'version': importlib.metadata.version('oslo.transfer'),
            'description': 'Watches and steers a proxy that keeps blocks of '
            'remote images for the hosts of a datacenter. The same is to be '
            'had on the unix socket of the service. Images themselves are '
            'at /SCHEME/HOST:PORT/PATH of their origin, or at /images/NAME.',
            'license': {'name': 'Apache-2.0', 'identifier': 'Apache-2.0'},
        },
        'servers': [{'url': '/'}],
        'security': [{'token': []}, {}],
        'paths': paths,
        'components': {
            'schemas': _SCHEMAS,
            'securitySchemes': {
                'token': {
                    'type': 'http',
                    'scheme': 'bearer',
                    'description': 'A line of tokens_file for what is only '
                    'looked at, one of admin_tokens_file for all.',
                }
            },
        },
    }


def _operation(
    path: str, method: str, title: str, schema: str, status: int
) -> dict[str, typing.Any]:
    words = path.removeprefix('/v1/proxy').replace('{id}', 'one').split('/')
    found: dict[str, typing.Any] = {
        'operationId': '_'.join([method, *filter(None, words)]),
        'summary': title,
        'responses': {str(status): _json(schema), 'default': _json('Error')},
    }
    if status == 202:
        found['responses']['200'] = _json(schema)
    if (path, method) in _MORE:
        found['description'] = _MORE[path, method]
    if path.endswith('{id}'):
        found['parameters'] = [
            {
                'name': 'id',
                'in': 'path',
                'required': True,
                'schema': {'type': 'string'},
            }
        ]
    if path.endswith('/prefetches') and method == 'post':
        found['requestBody'] = {
            'required': True,
            'content': {'application/json': {'schema': _ref('Wanted')}},
        }
    return found


def _json(schema: str) -> _Schema:
    return {
        'description': schema,
        'content': {'application/json': {'schema': _ref(schema)}},
    }
