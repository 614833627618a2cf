# SPDX-License-Identifier: Apache-2.0
"""A proxy within this process, without its ports."""

from __future__ import annotations

import contextlib
import json
import threading

from oslo_transfer import call
from oslo_transfer.export import gate
from oslo_transfer.service.proxy import api as _api
from oslo_transfer.service.proxy import catalog as _catalog
from oslo_transfer.service.proxy import prefetch as _prefetch
from tests.servers import resource
from tests import waiting

BLOCK = 4096
ADMIN = 'admin-token'
READER = 'reader-token'


@contextlib.contextmanager
def held(server, data, *paths):
    """An origin that answers nothing but who it is while this lasts."""
    go = threading.Event()
    serve = resource.Resource(data, len(data))

    def answer(request, conn):
        if request.headers.get('range') != 'bytes=0-0':
            assert go.wait(20)
        serve(request, conn)

    for path in paths:
        server.serve(path, answer)
    try:
        yield
    finally:
        go.set()


class Proxy:
    """A catalog, prefetches and their API, while it is entered.

    :param conf: the configuration; its state is in a directory
    :param path: that directory
    :param options: of the proxy
    """

    def __init__(self, conf, path, **options):
        self.conf = conf
        self.path = path
        for name, value in options.items():
            conf.set_override(name, value, group='oslo_transfer_proxy')
        conf.set_override('block_bytes', BLOCK, group='oslo_transfer_cache')
        conf.set_override('state_path', str(path), group='oslo_transfer')
        self.counts = _api.Counts(7, 3)

    def __enter__(self):
        self.catalog = _catalog.Catalog(self.conf)
        ctx = call.Call(self.conf, None, None, None).ctx
        self.prefetches = _prefetch.Prefetches(
            self.catalog, str(self.path / 'prefetches'), ctx
        )
        self.api = _api.Api(
            self.catalog,
            self.prefetches,
            counts=lambda: self.counts,
            datacenter='near',
        )
        self.prefetches.start()
        return self

    def __exit__(self, *_exc):
        self.prefetches.close()
        self.catalog.close()

    def page(self, method, path, body=None, **fields):
        """What one gets over TCP."""
        assert self.api.is_page(path)
        data = b''
        if body is not None:
            data = body if isinstance(body, bytes) else json.dumps(body)
            data = data if isinstance(data, bytes) else data.encode()
        fields = {name.replace('_', '-'): fields[name] for name in fields}
        asked = gate.Asked(method, path, path, fields, '127.0.0.1')
        return self.api.page(asked, data)

    def ask(self, method, path, body=None):
        """The status and the JSON of an answer to the administrator."""
        self.api.tick()
        found = self.page(method, path, body, authorization=f'Bearer {ADMIN}')
        return found.status, json.loads(found.data)

    def get(self, path):
        status, found = self.ask('GET', path)
        assert status == 200, found
        return found

    def read(self, url, offset=0, length=None):
        """Read an image as a client does."""
        opened = self.catalog.open(url)
        buffer = bytearray(opened.size - offset if length is None else length)
        reader = opened.image.reader()
        reader.read(memoryview(buffer), offset)
        reader.close()
        return bytes(buffer)

    def prefetch(self, **body):
        """Have something brought; returns its ID."""
        status, found = self.ask('POST', '/v1/proxy/prefetches', body)
        assert status in (200, 202), found
        return found['id']

    def ended(self, identifier, state='done'):
        """Wait for the end of a prefetch."""
        path = f'/v1/proxy/prefetches/{identifier}'
        waiting.until(lambda: self.get(path)['ended'] is not None, 20)
        found = self.get(path)
        assert found['state'] == state, found
        return found
