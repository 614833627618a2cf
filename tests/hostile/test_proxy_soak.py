# SPDX-License-Identifier: Apache-2.0
"""Everything at once, for long: all bytes are right, and nothing piles up."""

from __future__ import annotations

import contextlib
import functools
import http.client
import os
import pathlib
import random
import re
import secrets
import socket
import struct
import threading
import typing
import urllib.error
import urllib.parse

import pytest

from tests.servers import dd_lab
from tests.servers import http as servers_http
from tests.servers import nbd_client
from tests.servers import proxy_service
from tests.servers import resource
from tests import waiting

BLOCK = 4096
IMAGES, BLOCKS = 5, 80
SIZE = BLOCKS * BLOCK + 16
MIB = 1 << 20
# What a busy proxy says to one who may have an image.
LATER = {404, 412, 416, 429, 502, 503, 504}
_PATIENCE = 30.0


@functools.lru_cache(32)
def content(image, version):
    """Each 16 bytes of it tell what they are of."""
    return b''.join(
        struct.pack('>IIQ', image, version, block) * (BLOCK // 16)
        for block in range(BLOCKS + 1)
    )[:SIZE]


class Used(typing.NamedTuple):
    """What a process has."""

    descriptors: int
    threads: int
    memory: int


def used_by(pid):
    proc = pathlib.Path(f'/proc/{pid}')
    text = (proc / 'status').read_text()
    return Used(
        len(os.listdir(proc / 'fd')),
        int(re.search(r'Threads:\s+(\d+)', text).group(1)),
        int(re.search(r'VmRSS:\s+(\d+) kB', text).group(1)) << 10,
    )


class Crowd:
    """An origin that changes, its proxy, and all who ask that.

    :param origin: the server
    :param proxy: the proxy
    :param seed: of what they do
    """

    def __init__(self, origin, proxy, seed):
        self._origin = origin
        self._proxy = proxy
        self._dice = random.Random(seed)
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self.versions = [0] * IMAGES
        self.failures = []
        #: How often each of the actors has done something.
        self.done = {}
        for image in range(IMAGES):
            self.publish(image)

    def url(self, image):
        return self._origin.url(f'/{image}')

    # Those who act

    def run(self, seconds):
        """Let all of them act for a while, and then be quiet."""
        self._stop.clear()
        actors = [
            *[self.read] * 4,
            *[self.read_by_nbd] * 2,
            *(self.manage, self.change, self.vanish, self.pretend),
        ]
        threads = [
            threading.Thread(
                target=self._act,
                args=(actor, random.Random(self._dice.random())),
            )
            for actor in actors
        ]
        for thread in threads:
            thread.start()
        self._stop.wait(seconds)
        self._stop.set()
        for thread in threads:
            thread.join()
        assert not self.failures, self.failures[0]
        for image in range(IMAGES):
            self._origin.require_token(f'/{image}', self._tokens(image))
            self.publish(image)

    def _act(self, actor, dice):
        try:
            while not self._stop.is_set():
                with contextlib.suppress(OSError, http.client.HTTPException):
                    actor(dice)
                    with self._lock:
                        name = actor.__name__
                        self.done[name] = self.done.get(name, 0) + 1
        except BaseException as exc:
            self.failures.append(exc)
            self._stop.set()
            raise

    def read(self, dice):
        """By HTTP, over one connection, as some user."""
        with contextlib.closing(self._connect()) as connection:
            for _ in range(dice.randrange(1, 20)):
                image = dice.randrange(IMAGES)
                fields = {'X-Auth-Token': dice.choice(['alice', 'bob'])}
                start, end = 0, SIZE
                if dice.random() < 0.8:
                    start, end = sorted(dice.sample(range(SIZE + 1), 2))
                    fields['Range'] = f'bytes={start}-{end - 1}'
                if dice.random() < 0.02:
                    fields['Cache-Control'] = 'no-cache'
                status, tag, data = self._get(connection, image, fields)
                if status not in (200, 206):
                    assert status in LATER | {401, 403}, status
                    continue
                wanted = content(image, int(tag))[start:end]
                assert data == wanted[: len(data)]
                if len(data) < len(wanted):
                    return  # What was begun could not be ended.

    def pretend(self, dice):
        """To be somebody: each time with another token."""
        with contextlib.closing(self._connect()) as connection:
            image = dice.randrange(1, IMAGES)
            fields = {'X-Auth-Token': secrets.token_hex(8)}
            status, _tag, _data = self._get(connection, image, fields)
            assert status in LATER | {401, 403}, status

    def read_by_nbd(self, dice):
        """Whoever has begun with one version goes on with it, or ends."""
        place = urllib.parse.urlsplit(self._proxy.nbd_uri(''))
        where = place.hostname, place.port
        with nbd_client.Client(where, _PATIENCE) as client:
            try:
                assert client.go(self.url(0)) == SIZE
            except AssertionError:
                return  # It cannot be had now.
            version = None
            for _ in range(dice.randrange(1, 40)):
                offset, end = sorted(dice.sample(range(SIZE), 2))
                answer = client.call(offset, min(end - offset, 65536))
                if answer.error:
                    return
                if version is None:
                    first = content(0, 0)[:16]
                    head = client.call(0, len(first))
                    if head.error:
                        return
                    image, version, _block = struct.unpack('>IIQ', head.data)
                    assert image == 0
                wanted = content(0, version)[offset:][: len(answer.data)]
                assert answer.data == wanted

    def vanish(self, dice):
        """In the midst of it."""
        place = urllib.parse.urlsplit(self._proxy.url)
        target = self._target(dice.randrange(IMAGES))
        with socket.create_connection(
            (place.hostname, place.port), _PATIENCE
        ) as sock:
            head = f'GET {target} HTTP/1.1\r\nHost: a\r\nX-Auth-Token: bob'
            sent = f'{head}\r\n\r\n'.encode()[: dice.randrange(10, 400)]
            sock.sendall(sent)
            if sent.endswith(b'\n\r\n'):
                sock.recv(dice.choice([1, 5000]))

    def manage(self, dice):
        """As one who may."""
        ask = self._proxy.ask
        found = ask('GET', '/v1/proxy/images')['images']
        jobs = ask('GET', '/v1/proxy/prefetches')['prefetches']
        wanted = [('GET', '/v1/proxy', None)]
        body = {
            'url': self.url(dice.randrange(IMAGES)),
            'kind': dice.choice(['full', 'hot']),
        }
        wanted.append(('POST', '/v1/proxy/prefetches', body))
        if jobs:
            path = f'/v1/proxy/prefetches/{dice.choice(jobs)["id"]}'
            wanted += [('GET', path, None), ('DELETE', path, None)]
        if found:
            image = dice.choice(found)['id']
            wanted += [
                ('GET', f'/v1/proxy/maps/{image}', None),
                ('DELETE', f'/v1/proxy/images/{image}', None),
                ('POST', f'/v1/proxy/pins/{image}', None),
                ('DELETE', f'/v1/proxy/pins/{image}', None),
                ('DELETE', f'/v1/proxy/pins/{image}', None),
            ]
        try:
            headers = {**proxy_service.AS_ADMIN, 'X-Auth-Token': 'alice'}
            ask(*dice.choice(wanted), headers)
        except urllib.error.HTTPError as error:
            with contextlib.closing(error):
                assert error.code in (*LATER, 401, 409), error.code

    def change(self, dice):
        """The origin: another version, other rights, and times of trouble."""
        image = dice.randrange(IMAGES)
        path = f'/{image}'
        match dice.randrange(5):
            case 0 | 1:
                self.publish(image)
            case 2:
                self._origin.require_token(path, set())
            case 3:
                self._origin.serve(
                    path, lambda _request, conn: conn.reply(503)
                )
            case 4:
                self._origin.delete(path)
        self._stop.wait(dice.random() * 0.1)
        self._origin.require_token(path, self._tokens(image))
        self.publish(image, self.versions[image])

    def publish(self, image, version=None):
        """Have the origin give a version; the next one without."""
        if version is None:
            version = self.versions[image] = self.versions[image] + 1
        self._origin.serve(
            f'/{image}',
            resource.Resource(
                content(image, version), SIZE, etag=f'"{version}"'
            ),
        )
        self._origin.require_token(f'/{image}', self._tokens(image))

    def _tokens(self, image):
        """Those who may; the first one is for everybody."""
        return {'alice', 'bob'} if image else None

    # What they need

    def _target(self, image):
        return '/' + self.url(image).replace('://', '/')

    def _connect(self):
        place = urllib.parse.urlsplit(self._proxy.url)
        return http.client.HTTPConnection(
            place.hostname, place.port, timeout=_PATIENCE
        )

    def _get(self, connection, image, fields):
        """Status, version and bytes, as many as came."""
        connection.request('GET', self._target(image), headers=fields)
        with connection.getresponse() as answer:
            try:
                data = answer.read()
            except http.client.IncompleteRead as exc:
                data = exc.partial
            tag = answer.headers.get('ETag', '').strip('"')
            return answer.status, tag, data

    def look(self):
        """What is used while nobody asks; and all is as it should be."""
        proxy = self._proxy

        def is_quiet():
            images = proxy.ask('GET', '/v1/proxy/images')['images']
            return not any(image['readers'] for image in images)

        for job in proxy.ask('GET', '/v1/proxy/prefetches')['prefetches']:
            with contextlib.suppress(urllib.error.HTTPError):
                proxy.ask('DELETE', f'/v1/proxy/prefetches/{job["id"]}')
        waiting.until(is_quiet, _PATIENCE)
        for image in range(IMAGES):
            waiting.until(lambda n=image: self._is_right(n), _PATIENCE)
        assert 'Traceback' not in proxy.log.read_text()
        return used_by(proxy.pid)

    def _is_right(self, image):
        """Whether the newest version is given, all of it."""
        with contextlib.closing(self._connect()) as connection:
            fields = {'X-Auth-Token': 'alice'}
            status, tag, data = self._get(connection, image, fields)
            if status != 200:
                return False
            assert data == content(image, int(tag))[: len(data)]
            return int(tag) == self.versions[image] and len(data) == SIZE


@pytest.mark.parametrize(
    ('before', 'seconds'),
    [(1.0, 1.0), pytest.param(60.0, 600.0, marks=pytest.mark.campaign)],
)
@pytest.mark.timeout(900)
def test_everything_for_long(before, seconds):
    with (
        dd_lab.short_directory() as path,
        servers_http.ScriptedHTTPServer() as origin,
        proxy_service.ProxyService(
            path,
            {
                'oslo_transfer': {'max_retries': 1, 'retry_delay': 0.01},
                'oslo_transfer_cache': {'block_bytes': BLOCK},
                'oslo_transfer_proxy': {
                    'origins': origin.origin,
                    # Not all of them find room.
                    'max_bytes': IMAGES * SIZE * 2,
                    'grant_seconds': 0.05,
                    'stale_seconds': 0.5,
                    'idle_seconds': 1.0,
                },
            },
        ) as proxy,
    ):
        crowd = Crowd(origin, proxy, 1)
        crowd.run(before)
        first = crowd.look()
        crowd.run(seconds)
        waiting.until(lambda: is_no_more(crowd.look(), first), _PATIENCE)
        assert set(crowd.done) == {
            *('read', 'read_by_nbd', 'manage', 'change', 'vanish', 'pretend')
        }


def is_no_more(now, first):
    """Whether nothing has piled up; the allocator of C keeps some pages."""
    return (
        now.descriptors <= first.descriptors + 10
        and now.threads <= first.threads + 10
        and now.memory <= first.memory * 1.25 + 32 * MIB
    )
