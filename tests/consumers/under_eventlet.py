# SPDX-License-Identifier: Apache-2.0
"""A service under eventlet, as cinder-volume still is; a program.

It runs every scenario and prints what came of it, as JSON. While they run
a green thread ticks: whoever blocks the hub shows as a gap.
"""

from __future__ import annotations

import eventlet  # noqa: H905

eventlet.monkey_patch()

# All of these have to come behind the patching.
import hashlib  # noqa: E402
import io  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import threading  # noqa: E402
import time  # noqa: E402

from eventlet import tpool  # noqa: E402,H905
from oslo_config import cfg  # noqa: E402

import oslo_transfer  # noqa: E402

TICK = 0.005


class Ticker:
    """Ticks in a green thread, and knows the longest gap."""

    def __init__(self):
        self._last = time.monotonic()
        self.reset()
        eventlet.spawn(self._run)

    def reset(self):
        """Begin to measure."""
        eventlet.sleep(TICK)
        self.gap, self.ticks = 0.0, 0
        self._last = time.monotonic()

    def _tick(self):
        now = time.monotonic()
        self.gap = max(self.gap, now - self._last)
        self._last = now

    def read(self):
        """The longest gap so far, and the ticks."""
        self._tick()
        return self.gap, self.ticks

    def _run(self):
        while True:
            eventlet.sleep(TICK)
            self._tick()
            self.ticks += 1


class Scenarios:
    """What a service does with the library.

    :param job: the URL, digests and directory that the test has made
    """

    def __init__(self, job):
        self._job = job
        self._conf = cfg.ConfigOpts()
        self._conf([], default_config_files=[], default_config_dirs=[])
        oslo_transfer.register_opts(self._conf)
        for name, value in job['options'].items():
            self._conf.set_override(name, value, group='oslo_transfer')
        self._names = iter(range(1000))

    def _path(self):
        return os.path.join(self._job['directory'], str(next(self._names)))

    def _copy(self, src, dst, **rest):
        result = oslo_transfer.copy(src, dst, conf=self._conf, **rest)
        return {
            'size': result.size,
            'verified': result.verified,
            'method': result.method,
            'reused': result.reused,
        }

    def _digest(self):
        return {'hash_algo': 'sha256', 'hash_value': self._job['sha256']}

    def digest(self):
        """Over HTTP, hashed on the way."""
        return self._copy(self._job['url'], self._path(), **self._digest())

    def by_name(self):
        """The same, with a name to resolve."""
        url = self._job['url'].replace('127.0.0.1', 'localhost')
        return self._copy(url, self._path(), **self._digest())

    def splice(self):
        """By the kernel alone."""
        self._conf.set_override('detect_zeros', False, group='oslo_transfer')
        try:
            path = self._path()
            found = self._copy(self._job['url'], path)
        finally:
            self._conf.clear_override('detect_zeros', group='oslo_transfer')
        return {**found, 'right': self._is_right(path)}

    def parallel(self):
        """Several streams, for each is slow."""
        return self._copy(
            self._job['slow_url'], self._path(), **self._digest()
        )

    def local(self):
        """From file to file, where no socket ever waits."""
        path = self._path()
        found = self._copy(self._job['file'], path)
        return {**found, 'right': self._is_right(path)}

    def observed(self):
        """With an observer that sees the finished file."""
        seen = hashlib.sha256()
        found = self._copy(self._job['file'], self._path(), observers=[seen])
        return {**found, 'right': seen.hexdigest() == self._job['sha256']}

    def reused(self):
        """The destination is right already, which has to be hashed."""
        return self._copy(
            self._job['url'], self._job['file'], **self._digest()
        )

    def upload(self):
        """A PUT."""
        return self._copy(
            self._job['file'], self._job['put_url'], **self._digest()
        )

    def proxied_file(self):
        """Into an open file behind tpool, as cinder's fetch() gives it."""
        path = self._path()
        with open(path, 'wb') as file:
            data = tpool.Proxy(file)
            found = self._copy(self._job['url'], data, **self._digest())
            found['name'] = data.name == path
        return {**found, 'right': self._is_right(path)}

    def proxied_name(self):
        """To the name of such a file."""
        path = self._path()
        with open(path, 'wb') as file:
            found = self._copy(
                self._job['url'],
                tpool.Proxy(file).name,
                overwrite=True,
                **self._digest(),
            )
        return {**found, 'right': self._is_right(path)}

    def memory(self):
        """Into a BytesIO."""
        data = io.BytesIO()
        found = self._copy(self._job['url'], data, **self._digest())
        right = hashlib.sha256(data.getvalue()).hexdigest()
        return {**found, 'right': right == self._job['sha256']}

    def torrent(self):
        """Fed from HTTP; libtorrent has threads of its own."""
        locations = [self._job['torrent'], self._job['url']]
        return self._copy(locations, self._path(), **self._digest())

    def dd(self):
        """By dd, a few processes at once."""
        return self._copy(
            self._job['file'], self._path(), strategy='dd', **self._digest()
        )

    def read(self):
        """By open_source()."""
        state = hashlib.sha256()
        with oslo_transfer.open_source(
            self._job['url'], conf=self._conf
        ) as source:
            with source.stream(0, None) as stream:
                for data in iter(lambda: stream.read(1 << 20), b''):
                    state.update(data)
        return {'right': state.hexdigest() == self._job['sha256']}

    def cancelled(self):
        """Another green thread cancels while the server is silent."""
        return self._cancelled(self._job['stalled_url'])

    def cancelled_busy(self):
        """The same while bytes come."""
        return self._cancelled(self._job['slow_url'])

    def _cancelled(self, url):
        cancel = threading.Event()
        cancelled_at = []

        def later():
            eventlet.sleep(0.2)
            cancelled_at.append(time.monotonic())
            cancel.set()

        eventlet.spawn(later)
        try:
            self._copy(url, self._path(), cancel=cancel)
        except oslo_transfer.TransferError as exc:
            return {
                'error': type(exc).__name__,
                'after': time.monotonic() - cancelled_at[0],
            }
        return {}

    def _is_right(self, path):
        with open(path, 'rb') as file:
            found = hashlib.file_digest(file, 'sha256').hexdigest()
        return found == self._job['sha256']


def main():
    """Run the scenarios that standard input names."""
    job = json.load(sys.stdin)
    scenarios = Scenarios(job)
    # What every process imports once, when it first needs it.
    scenarios.read()
    ticker = Ticker()
    found = {}
    for name in job['scenarios']:
        ticker.reset()
        try:
            outcome = getattr(scenarios, name)()
        except Exception as exc:
            outcome = {'error': repr(exc)}
        gap, ticks = ticker.read()
        found[name] = {**outcome, 'gap': gap, 'ticks': ticks}
    threads = {type(thread).__module__ for thread in threading.enumerate()}
    json.dump({'found': found, 'threads': sorted(threads)}, sys.stdout)


if __name__ == '__main__':
    main()
