# SPDX-License-Identifier: Apache-2.0
"""The NFS server of the kernel, on the host of targets."""

from __future__ import annotations

import pathlib
import subprocess
import typing

from tests.guest import network
from tests.guest import tools

_START_SECONDS = 20.0
# What a server has in a network of its own: its state, and its exports. As
# nfsdcld knows of no clients it waits for none to claim what they had open.
_SERVE = """
set -e
mount -t nfsd nfsd /proc/fs/nfsd
mount -t tmpfs state /var/lib/nfs
mkdir /var/lib/nfs/{sm,v4recovery,pipes,clients}
mount -t rpc_pipefs pipes /var/lib/nfs/pipes
setpriv --pdeathsig KILL \
    nfsdcld -F -p /var/lib/nfs/pipes/nfsd -s /var/lib/nfs/clients &
touch /var/lib/nfs/etab /var/lib/nfs/rmtab
exportfs -i -o "$2" "$3:$1"
rpc.nfsd --no-nfs-version 3 --grace-time 10 --lease-time 10 2
exec rpc.mountd --foreground --no-nfs-version 3
"""
_STOP = """
mount -t nfsd nfsd /proc/fs/nfsd
rpc.nfsd 0
"""


class Server:
    """Exports one directory; a context manager.

    :param paths: where its clients come from; cut the first to have it
        silent
    :param directory: for what it exports
    :param clients: who may mount it
    """

    def __init__(
        self,
        paths: network.Paths,
        directory: pathlib.Path,
        clients: str = '*',
    ) -> None:
        self._paths = paths
        self._clients = clients
        #: What is exported.
        self.directory = directory / 'export'
        self.directory.mkdir()
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        """Of the server."""
        return self._paths.addresses[0]

    def url(self, name: str) -> str:
        """The URL of a file of the export."""
        return f'nfs://{self.address}{self.directory}/{name}'

    def __enter__(self) -> typing.Self:
        tools.run('modprobe', '-a', 'nfsd', 'nfs')
        options = 'rw,no_root_squash,insecure,no_subtree_check,fsid=1'
        self._process = self._paths.host.popen(
            *('unshare', '--mount', 'bash', '-c', _SERVE, 'nfs'),
            *(self.directory, options, self._clients),
            stdout=subprocess.DEVNULL,
        )
        tools.until(self._listens, 'nfsd listens', _START_SECONDS)
        return self

    def _listens(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError('the NFS server did not start')
        listening = self._paths.host.run('ss', '--listening', '--tcp', '-n')
        return ':2049' in listening

    def stop(self) -> None:
        """End it; its clients get no answer any more; idempotent."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
            self._paths.host.run('unshare', '--mount', 'bash', '-c', _STOP)

    def __exit__(self, *_error: object) -> None:
        self.stop()
