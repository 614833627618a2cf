# SPDX-License-Identifier: Apache-2.0
"""tgtd as an honest iSCSI target, which ends with the test."""

from __future__ import annotations

import contextlib
import os
import pathlib
import re
import signal
import subprocess
import time

from tests.servers import child

#: Names of targets begin like this.
IQN = 'iqn.2010-10.org.openstack:test'
_SOCKETS = pathlib.Path('/var/run/tgtd')
# tgtd has its control port in 15 bits; those of free TCP ports begin here.
_FIRST_PORT = 1 << 15


class Tgt(child.Child):
    """A tgtd of its own, with a control port of its own.

    :param host: the address of its portal
    """

    program = 'tgtd'
    # It ignores SIGTERM while it has targets.
    signal = signal.SIGKILL

    def __init__(self, host: str = '127.0.0.1') -> None:
        super().__init__()
        self.host = host
        self._targets: dict[str, int] = {}
        self._disks = 0
        self.start()

    def __enter__(self) -> Tgt:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    @property
    def _control(self) -> str:
        return str(self.port % _FIRST_PORT or 1)

    def _portal(self, port: int) -> str:
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{host}:{port}'

    @property
    def portal(self) -> str:
        """The address of its first portal."""
        return self._portal(self.port)

    def command(self) -> list[str]:
        """Return the command."""
        program = self.found()
        assert program is not None
        return [
            program,
            '--foreground',
            '--control-port',
            self._control,
            '--nr_iothreads',
            '4',
            '--iscsi',
            f'portal={self.portal}',
        ]

    def ready(self) -> bool:
        """Return whether it can be told what to do."""
        return self._run('--op show --mode system').returncode == 0

    def close(self) -> None:
        """End it, and remove what it leaves."""
        self.stop()
        for suffix in ('', '.lock'):
            with contextlib.suppress(OSError):
                os.unlink(_SOCKETS / f'socket.{self._control}{suffix}')

    def _run(self, text: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ['tgtadm', '-C', self._control, '--lld', 'iscsi', *text.split()],
            check=False,
            capture_output=True,
            text=True,
            timeout=10,
        )

    def admin(self, text: str) -> str:
        """Run tgtadm; return what it prints."""
        done = self._run(text)
        if done.returncode:
            raise RuntimeError(f'tgtadm {text}: {done.stderr}')
        return done.stdout

    # Targets

    def target(
        self, name: str | None = None, initiators: str | None = 'ALL'
    ) -> str:
        """Make a target that everybody may use; return its name.

        :param initiators: the only address that may; None for nobody
        """
        number = len(self._targets) + 1
        name = name or f'{IQN}-{number}'
        self.admin(
            f'--op new --mode target --tid {number} --targetname {name}'
        )
        self._targets[name] = number
        if initiators is not None:
            self.admin(
                f'--op bind --mode target --tid {number} '
                f'--initiator-address {initiators}'
            )
        return name

    def tid(self, name: str) -> int:
        """Return the number of a target."""
        return self._targets[name]

    def disk(
        self,
        target: str,
        path: str | os.PathLike[str],
        lun: int = 1,
        *,
        thin: bool = True,
        block: int = 512,
        **params: object,
    ) -> int:
        """Offer a file as a disk; return its number.

        :param thin: blocks can be deallocated, and tell whether they are
        :param params: as tgtadm's, as ``scsi_sn``
        """
        self._disks += 1
        tid = self.tid(target)
        self.admin(
            f'--op new --mode logicalunit --tid {tid} --lun {lun} '
            f'--backing-store {path} --blocksize {block}'
        )
        params = {
            'scsi_id': f'{self.port}{self._disks:04}',
            'scsi_sn': f'S{self.port}{self._disks:04}',
            'thin_provisioning': int(thin),
            **params,
        }
        text = ','.join(f'{name}={value}' for name, value in params.items())
        self.configure(target, lun, text)
        return lun

    def configure(self, target: str, lun: int, params: str) -> None:
        """Change parameters of a disk."""
        self.admin(
            f'--op update --mode logicalunit --tid {self.tid(target)} '
            f'--lun {lun} --params {params}'
        )

    def take_away(self, target: str, lun: int = 1) -> None:
        """Let a disk vanish, as soon as tgt is done with its commands."""
        text = (
            f'--op delete --mode logicalunit --tid {self.tid(target)} '
            f'--lun {lun}'
        )
        end = time.monotonic() + child.READY_SECONDS
        while (done := self._run(text)).returncode:
            if 'still active' not in done.stderr or time.monotonic() > end:
                raise RuntimeError(f'tgtadm {text}: {done.stderr}')

    def chap(
        self, target: str, user: str, secret: str, *, mutual: bool = False
    ) -> None:
        """Ask for a login; or offer one, for mutual CHAP."""
        self.admin(
            f'--op new --mode account --user {user} --password {secret}'
        )
        self.admin(
            f'--op bind --mode account --tid {self.tid(target)} '
            f'--user {user}{" --outgoing" if mutual else ""}'
        )

    def another_portal(self) -> int:
        """Listen at one more port; return it."""
        port = child.free_port(self.host)
        self.admin(
            f'--op new --mode portal --param portal={self._portal(port)}'
        )
        return port

    def drop_portal(self, port: int) -> None:
        """Listen there no more."""
        self.admin(
            f'--op delete --mode portal --param portal={self._portal(port)}'
        )

    def url(self, target: str, lun: int = 1, *ports: int) -> str:
        """The URL of a disk.

        :param ports: of the portals to name; the first one by itself
        """
        portals = ','.join(
            self._portal(port) for port in ports or (self.port,)
        )
        return f'iscsi://{portals}/{target}/{lun}'

    def sessions(self) -> int:
        """Return how many sessions there are."""
        return len(
            re.findall('Initiator:', self.admin('--op show --mode target'))
        )
