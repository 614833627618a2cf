# SPDX-License-Identifier: Apache-2.0
"""A process that has imported everything, and does what it is told.

Run as a program it reads jobs as lines of JSON, and answers each with a
line.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import hashlib
import json
import subprocess
import sys
import time
import typing

_CHUNK = 64 * 1024


class Worker:
    """The other end: starts the process and gives it jobs."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'bench.worker'],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def ask(self, job: str, **arguments: typing.Any) -> dict[str, typing.Any]:
        """Have a job done; returns its answer."""
        assert self._process.stdin and self._process.stdout
        self._process.stdin.write(json.dumps([job, arguments]) + '\n')
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        answer: dict[str, typing.Any] = json.loads(line or '{}')
        if 'seconds' not in answer:
            raise OSError(f'{job}: {answer.get("error", "the worker died")}')
        return answer

    def job(self, job: str, **arguments: typing.Any) -> Callable[[], float]:
        """A function that has a job done and returns its seconds."""
        return lambda: float(self.ask(job, **arguments)['seconds'])

    def kill(self) -> None:
        """End the process at once, whatever it does."""
        self._process.kill()

    def close(self) -> None:
        """End the process: it stops at the end of its input."""
        self._process.communicate()


def configuration(options: Mapping[str, typing.Any]) -> typing.Any:
    """A configuration of its own.

    :param options: by their names; those that are not in [oslo_transfer]
        with a group and a dot before
    """
    from oslo_config import cfg

    from oslo_transfer import opts

    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    opts.register_opts(conf)
    for center in options.get('datacenters', ()):
        conf.register_opts(
            opts.DATACENTER_OPTIONS, group=f'{opts.DATACENTER_GROUP}{center}'
        )
    for key, value in options.items():
        group, _dot, name = key.rpartition('.')
        conf.set_override(name, value, group=group or opts.GROUP)
    return conf


def copy(
    src: str | list[str],
    dst: str,
    options: Mapping[str, typing.Any],
    **arguments: typing.Any,
) -> dict[str, typing.Any]:
    """Copy by the library."""
    import oslo_transfer

    conf = configuration(options)
    started = time.perf_counter()
    result = oslo_transfer.copy(src, dst, conf=conf, **arguments)
    seconds = time.perf_counter() - started
    return {'seconds': seconds, 'method': result.method}


def zero_copy(
    src: str, dst: str, options: Mapping[str, typing.Any]
) -> dict[str, typing.Any]:
    """Attach, until the first bytes were read from the destination."""
    import oslo_transfer

    conf = configuration(options)
    started = time.perf_counter()
    result = oslo_transfer.copy(src, dst, conf=conf, strategy='zero_copy')
    subprocess.run(
        ['qemu-io', '-r', '-f', 'qcow2', '-c', 'read 0 4k', dst],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - started
    assert result.attachment is not None
    result.attachment.detach()
    return {'seconds': seconds}


def digest(path: str, algorithm: str) -> dict[str, typing.Any]:
    """Hash a file, and do nothing else."""
    started = time.perf_counter()
    with open(path, 'rb', buffering=0) as file:
        hashlib.file_digest(file, algorithm)
    return {'seconds': time.perf_counter() - started}


def replay(**arguments: typing.Any) -> dict[str, typing.Any]:
    """Read through the cache as a guest has read when it booted."""
    from bench import replay

    return replay.replay(**arguments)


def boot_in_place(url: str) -> dict[str, typing.Any]:
    """Read the same over HTTP, without a cache."""
    from bench import replay

    return replay.in_place(url)


def requests_loop(url: str, dst: str) -> dict[str, typing.Any]:
    """What many programs, and OpenStack's clients, do."""
    import requests

    started = time.perf_counter()
    with requests.get(url, stream=True) as answer, open(dst, 'wb') as file:
        answer.raise_for_status()
        for chunk in answer.iter_content(_CHUNK):
            file.write(chunk)
    return {'seconds': time.perf_counter() - started}


def cached(what: str, **arguments: typing.Any) -> dict[str, typing.Any]:
    """Do something with the block cache."""
    from bench import cached

    found: dict[str, typing.Any] = getattr(cached, what)(**arguments)
    return found


_JOBS: dict[str, Callable[..., dict[str, typing.Any]]] = {
    'boot_in_place': boot_in_place,
    'cached': cached,
    'copy': copy,
    'digest': digest,
    'replay': replay,
    'requests': requests_loop,
    'zero_copy': zero_copy,
}


def main() -> None:
    """Do jobs until there are no more."""
    for line in sys.stdin:
        job, arguments = json.loads(line)
        try:
            answer = _JOBS[job](**arguments)
        except Exception as error:  # noqa: BLE001
            answer = {'error': f'{type(error).__name__}: {error}'}
        print(json.dumps(answer), flush=True)


if __name__ == '__main__':
    main()
