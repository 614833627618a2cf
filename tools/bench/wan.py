# SPDX-License-Identifier: Apache-2.0
"""What crosses the WAN between two datacenters with a proxy in each."""

from __future__ import annotations

from collections.abc import Iterator
from collections.abc import Sequence
from concurrent import futures
import contextlib
import pathlib
import tempfile

from bench import lab
from bench import measure
from bench import registry
from bench import replay
from bench import swarm_lab
from bench import worker
from oslo_transfer.cache import trace as _trace
from tests.servers import sites as _sites

_HOSTS = 8
# Of the image of the guest whose trace is read.
_SIZE = 200 * lab.MIB
_BLOCK = 64 * 1024


class _Host:
    """A host with a worker that has loaded all."""

    def __init__(
        self,
        host: _sites.Host,
        options: dict[str, object],
        result: pathlib.Path,
    ) -> None:
        self._options = options
        self._result = result
        with host.namespace.inside():
            self._worker = worker.Worker()

    def copy(self, url: str, expected: pathlib.Path) -> None:
        """Copy, by the proxies of its datacenter.

        :raises OSError: it fails, or makes another file
        """
        job = self._worker.job(
            'copy',
            src=url,
            dst=str(self._result),
            options=self._options,
        )
        # It looks at the result.
        measure.Contestant('', job, self._result, expected, True).warm_up()
        self._result.unlink()

    def boot(self, url: str) -> None:
        """Read what a guest reads when it boots."""
        self._worker.ask('boot_in_place', url=url)

    def boot_cached(self, url: str) -> None:
        """The same through an empty cache of its own, without the rest."""
        self._worker.ask(
            'replay', url=url, block_bytes=_BLOCK, ahead=False, thinking=False
        )

    def close(self) -> None:
        """End the worker."""
        self._worker.close()


_BOOTS = {'in-place': _Host.boot, 'cached': _Host.boot_cached}


@contextlib.contextmanager
def _site(
    here: lab.Lab, root: pathlib.Path
) -> Iterator[tuple[_sites.Sites, Sequence[_Host], Sequence[_Host]]]:
    """All of it, and the hosts of the near and of the far datacenter."""
    with (
        tempfile.TemporaryDirectory(dir=here.memory) as name,
        contextlib.ExitStack() as stack,
    ):
        directory = pathlib.Path(name)
        sites = stack.enter_context(
            _sites.Sites(directory, root, hosts=_HOSTS)
        )

        def made(which: str, hosts: Sequence[_sites.Host]) -> list[_Host]:
            found = []
            for number, host in enumerate(hosts):
                result = directory / f'{which}-{number}'
                options = {
                    **sites.options(which),
                    'state_path': str(directory / f'state-{result.name}'),
                }
                one = _Host(host, options, result)
                stack.callback(one.close)
                found.append(one)
            return found

        yield (
            sites,
            made('near', sites.near_hosts),
            made('far', sites.far_hosts),
        )


@registry.benchmark('wan-bytes')
def wan_bytes(here: lab.Lab) -> Iterator[registry.Row]:
    """Two datacenters with eight hosts each, which all read one image."""
    swarm_lab.need('nginx')
    root = here.directory(str(here.memory))
    image = root / 'image'
    # All have a copy of it at the same time.
    here.random_file(image, here.size // 16)
    for name in _BOOTS:
        here.random_file(root / name, _SIZE)
    needed = _trace.Trace.load(str(replay.TRACE)).ranges().total
    with (
        _site(here, root) as (sites, near, far),
        futures.ThreadPoolExecutor(2 * _HOSTS) as pool,
    ):
        before = sites.wan.to_far()
        url = sites.origin.url('/image')
        list(pool.map(lambda host: host.copy(url, image), [*near, *far]))
        whole = sites.wan.to_far() - before
        booted = {}
        for name, boot in _BOOTS.items():
            before = sites.wan.to_far()
            url = sites.far_proxies[0].of(sites.origin.url(f'/{name}'))
            list(pool.map(lambda host: boot(host, url), far))
            booted[name] = sites.wan.to_far() - before
    yield registry.Row(
        'wan-bytes',
        measure.report('over the WAN, the image', [whole / 1e6], 'MB'),
        image.stat().st_size / 1e6,
        f'one image, for {_HOSTS} hosts there and {_HOSTS} here',
        1.02,
        'MB',
    )
    for name, moved in booted.items():
        yield registry.Row(
            'wan-bytes',
            measure.report(
                f'over the WAN, what is booted {name}', [moved / 1e6], 'MB'
            ),
            needed / 1e6,
            f'bytes that a boot reads, for {_HOSTS} hosts there, {name}',
            1.3,
            'MB',
        )
