# SPDX-License-Identifier: Apache-2.0
"""An iSCSI target: tgtd, with files as LUNs."""

from __future__ import annotations

import os
import pathlib
import re
import signal
import subprocess

from demo import daemon
from demo import scene

_IQN = 'iqn.2010-10.org.openstack:demo'
# It has its control port in 15 bits.
_MOST_CONTROL_PORT = (1 << 15) - 1


class Target:
    """Runs until the end; needs no privileges.

    :param name: of the target, behind :data:`_IQN`
    """

    def __init__(self, here: scene.Scene, name: str = 'images') -> None:
        port = scene.free_port()
        self._control = str(port % _MOST_CONTROL_PORT + 1)
        # Instead of a socket in a directory of root's.
        self._environment = {'TGT_IPC_SOCKET': str(here.root / 'tgt')}
        process = daemon.Daemon(
            [
                *('tgtd', '--foreground', '--control-port', self._control),
                *('--iscsi', f'portal=127.0.0.1:{port}'),
            ],
            here.root / 'tgtd.log',
            self._environment,
            # Others it ignores as long as it has targets.
            signal.SIGKILL,
        )
        here.undo(process.close)
        process.wait_until(self._answers)
        self._pid = process.pid
        self._luns = 0
        iqn = f'{_IQN}-{name}'
        self._url = f'iscsi://127.0.0.1:{port}/{iqn}'
        self._admin('new', 'target', '--targetname', iqn)
        self._admin('bind', 'target', '--initiator-address', '127.0.0.1')

    def lun(self, path: pathlib.Path) -> str:
        """Offer a file, with its holes; returns the URL."""
        self._luns += 1
        lun = '--lun', str(self._luns)
        self._admin('new', 'logicalunit', *lun, '--backing-store', str(path))
        params = '--params', 'thin_provisioning=1'
        self._admin('update', 'logicalunit', *lun, *params)
        return f'{self._url}/{self._luns}'

    @property
    def sessions(self) -> int:
        """How many initiators are logged in."""
        done = self._run('--op', 'show', '--mode', 'target')
        return len(re.findall('Initiator: ', done.stdout))

    @property
    def has_read(self) -> int:
        """How many bytes of the files it has read."""
        text = pathlib.Path(f'/proc/{self._pid}/io').read_text()
        # What it reads from sockets is next to nothing.
        return int(re.findall(r'rchar: (\d+)', text)[0])

    def _answers(self) -> bool:
        done = self._run('--op', 'show', '--mode', 'system')
        return done.returncode == 0

    def _admin(self, operation: str, mode: str, *words: str) -> None:
        done = self._run('--op', operation, '--mode', mode, '--tid=1', *words)
        if done.returncode:
            raise scene.Broken(f'tgtadm: {done.stderr}')

    def _run(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ['tgtadm', '-C', self._control, '--lld', 'iscsi', *words],
            capture_output=True,
            text=True,
            env={**os.environ, **self._environment},
        )
