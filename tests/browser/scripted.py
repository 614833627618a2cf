# SPDX-License-Identifier: Apache-2.0
"""The status page, and an API behind it that says what a test wants.

For what a real proxy does not say: nonsense, refusals, what is hostile.
"""

from __future__ import annotations

import http.server
import json
import threading
import typing
from urllib import parse

from oslo_transfer.service.proxy import page

MIB = 1 << 20
BLOCK = 64 * 1024
API = '/v1/proxy'


def image(identifier: str = 'a1', **fields: typing.Any) -> dict:
    """What the API says of an image."""
    return {
        'id': identifier,
        'origin': f'http://far.example/{identifier}.raw',
        'size': 64 * MIB,
        'block_bytes': BLOCK,
        'blocks': 1024,
        'bytes_here': 16 * MIB,
        'pinned': False,
        'readers': 2,
        'hits': 768,
        'misses': 256,
        'bytes_served': 64 * MIB,
        'bytes_fetched': 16 * MIB,
        'bytes_saved': 48 * MIB,
        'rates': {'in': 2 * MIB, 'out': 8 * MIB},
        'used': 1700000000.0,
        'problem': None,
        **fields,
    }


def block_map(*runs: tuple[str, int]) -> dict:
    """What the API says of the blocks of an image."""
    blocks = sum(count for _, count in runs)
    return {'blocks': blocks, 'block_bytes': BLOCK, 'runs': runs}


def job(identifier: str = 'j1', **fields: typing.Any) -> dict:
    """What the API says of a prefetch."""
    return {
        'id': identifier,
        'origin': 'http://far.example/a1.raw',
        'kind': 'hot',
        'state': 'running',
        'bytes_wanted': 40 * MIB,
        'bytes_here': 10 * MIB,
        'seconds': 5.0,
        'problem': None,
        **fields,
    }


def answers() -> dict[str, typing.Any]:
    """Answers of a proxy that has one image, by path."""
    return {
        API: {
            'version': '1.2.3',
            'uptime_seconds': 7300,
            'datacenter': 'far',
            'nbd_port': 0,
            'problem': None,
            'totals': {
                'requests': 1234,
                'connections': 5,
                'refused': 6,
                'bytes_served': 64 * MIB,
                'bytes_fetched': 16 * MIB,
                'bytes_saved': 48 * MIB,
                'hits': 768,
                'misses': 256,
            },
            'rates': {'in': 2 * MIB, 'out': 8 * MIB},
            'store': {'keeps': 1, 'bytes_used': 16 * MIB, 'bytes_limit': 0},
            'origins': [
                {
                    'origin': 'http://far.example',
                    'bytes_fetched': 16 * MIB,
                    'requests': 256,
                    'failures': 1,
                    'problem': None,
                }
            ],
        },
        f'{API}/images': {'images': [image()]},
        f'{API}/prefetches': {'prefetches': [job()]},
        f'{API}/maps/a1': block_map(
            ('hot', 64), ('cached', 192), ('flight', 8), ('missing', 760)
        ),
    }


class ScriptedProxy(http.server.ThreadingHTTPServer):
    """Serves the page while it is entered.

    :ivar answers: by path; an int is a status to refuse with, bytes go out
        as they are
    :ivar token: what has to be given for all but the page; None for nothing
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(('127.0.0.1', 0), _Handler)
        self.answers = answers()
        self.token: str | None = None
        self._thread = threading.Thread(
            target=self.serve_forever, kwargs={'poll_interval': 0.01}
        )

    @property
    def url(self) -> str:
        """Of the page."""
        return f'http://127.0.0.1:{self.server_port}{page.HOME}'

    def __enter__(self) -> typing.Self:
        self._thread.start()
        return self

    def __exit__(self, *_exc: object) -> None:
        self.shutdown()
        self._thread.join()
        self.server_close()


class _Handler(http.server.BaseHTTPRequestHandler):
    server: ScriptedProxy

    def do_GET(self) -> None:
        path = parse.urlsplit(self.path).path
        found = page.find(self.command, path)
        if found is not None:
            self._send(found.status, found.data, found.content_type)
            return
        token = self.server.token
        given = self.headers.get('Authorization')
        if token is not None and given != f'Bearer {token}':
            self._json(401, {'message': 'a token of this proxy is needed'})
            return
        answer = self.server.answers.get(path, 404)
        if isinstance(answer, bytes):
            self._send(200, answer, 'application/json')
        elif isinstance(answer, int):
            self._json(answer, {'message': f'no: {answer}'})
        else:
            self._json(200, answer)

    def _json(self, status: int, answer: typing.Any) -> None:
        self._send(status, json.dumps(answer).encode(), 'application/json')

    def _send(self, status: int, data: bytes, content_type: str) -> None:
        self.send_response(status)
        found = page.find('GET', page.HOME)
        assert found is not None
        for name, value in found.headers.items():
            self.send_header(name, value)
        self.send_header('Content-Type', content_type)
        self.send_header('Content-Length', str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, format: str, *args: typing.Any) -> None:
        """Be quiet."""
