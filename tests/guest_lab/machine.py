# SPDX-License-Identifier: Apache-2.0
"""The virtual machine, and what it says."""

from __future__ import annotations

from collections.abc import Iterator
import json
import pathlib
import shutil
import socket
import subprocess
import tempfile
import typing

from tests.guest_lab import image
from tests.guest_lab import payload

# Without KVM every instruction is translated. What that costs most is left
# out: instructions that came late, several processors, five levels of pages,
# a clock that is a device, defences of a kernel that nobody attacks - and
# other addresses for each process, where nothing that was translated before
# fits.
_MEMORY = '1536M'
#: The processor that costs least.
PROCESSOR = 'qemu64'
#: What the kernel is told.
KERNEL = (
    *('console=ttyS0', 'quiet', 'panic=-1'),
    *('norandmaps', 'init_on_alloc=0', 'mitigations=off', 'no5lvl'),
    *('hardened_usercopy=off', 'randomize_kstack_offset=off'),
    *('apparmor=0', 'audit=0', 'cgroup_disable=memory'),
    *('transparent_hugepage=never', 'rcupdate.rcu_expedited=1'),
    *('tsc=reliable', 'clocksource=tsc', 'random.trust_cpu=on'),
    # On a busy host it would find that its timer does not work, and give up.
    'no_timer_check',
)
_END_SECONDS = 10.0
_TAIL = 6000


class GuestDied(Exception):
    """The guest is gone or silent; the message ends with its console."""


class Machine:
    """A guest that runs commands, one after the other; a context manager.

    What it writes is gone with it.
    """

    def __init__(self) -> None:
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._pending = b''

    def __enter__(self) -> typing.Self:
        guest = image.ensure()
        self._temporary = tempfile.TemporaryDirectory(prefix='guest-')
        try:
            self._start(guest, pathlib.Path(self._temporary.name))
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def _start(self, guest: pathlib.Path, there: pathlib.Path) -> None:
        payload.write(there / 'checkout.tar')
        self._socket, theirs = socket.socketpair()
        with theirs, open(there / 'errors', 'wb') as errors:
            # Killed with the thread that starts it, whatever happens.
            self._process = subprocess.Popen(
                ['setpriv', '--pdeathsig', 'KILL', *_command(guest, there)]
                + _port(theirs.fileno()),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                pass_fds=[theirs.fileno()],
                # Its temporary disk is where this one's files are.
                env={'PATH': image.PATH, 'TMPDIR': str(there)},
            )

    def send(self, **command: typing.Any) -> None:
        """Give it something to do.

        :raises GuestDied: it is gone
        """
        assert self._socket is not None
        try:
            self._socket.sendall(json.dumps(command).encode() + b'\n')
        except OSError:
            raise GuestDied(self._end('the guest ended')) from None

    def update(self) -> None:
        """Write the checkout anew, for the next command."""
        assert self._temporary is not None
        there = pathlib.Path(self._temporary.name)
        payload.write(there / 'new.tar')
        # In place: the machine has the file open.
        with (
            open(there / 'new.tar', 'rb') as new,
            open(there / 'checkout.tar', 'r+b') as old,
        ):
            shutil.copyfileobj(new, old)

    def messages(self, silence: float) -> Iterator[dict[str, typing.Any]]:
        """What it says, as it comes.

        :param silence: seconds without a word after which it is given up
        :raises GuestDied: it ended, or is silent
        """
        assert self._socket is not None
        while True:
            line, newline, rest = self._pending.partition(b'\n')
            if newline:
                self._pending = rest
                yield json.loads(line)
                continue
            self._socket.settimeout(silence)
            try:
                more = self._socket.recv(1 << 16)
            except TimeoutError:
                raise GuestDied(
                    self._end(f'the guest said nothing for {silence:.0f} s')
                ) from None
            except OSError:
                more = b''
            if not more:
                raise GuestDied(self._end('the guest ended'))
            self._pending += more

    def console(self) -> str:
        """All that it wrote to its console."""
        if self._temporary is None:
            return ''
        there = pathlib.Path(self._temporary.name)
        return ''.join(
            (there / name).read_text(errors='replace')
            for name in ('errors', 'console')
            if (there / name).exists()
        ).replace('\r', '')

    def _end(self, reason: str) -> str:
        tail = self.console()[-_TAIL:]
        return f'{reason}; the end of its console:\n{tail}'

    def kill(self) -> None:
        """Have it end now, whoever uses it."""
        if self._process is not None:
            self._process.kill()

    def close(self) -> None:
        """End it; idempotent."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None
        if self._process is not None:
            self._process.kill()
            self._process.wait(_END_SECONDS)
            self._process = None
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None


def _command(guest: pathlib.Path, there: pathlib.Path) -> list[str]:
    disk = 'format=raw,if=virtio,file='
    return [
        *('qemu-system-x86_64', '-nodefaults', '-no-user-config'),
        *('-display', 'none', '-no-reboot', '-net', 'none'),
        *('-accel', 'tcg', '-cpu', PROCESSOR, '-m', _MEMORY),
        *('-kernel', str(guest / 'kernel')),
        *('-initrd', str(guest / 'initramfs')),
        *('-append', ' '.join(KERNEL)),
        *('-chardev', f'file,id=console,path={there / "console"}'),
        *('-serial', 'chardev:console'),
        *('-drive', f'snapshot=on,{disk}{guest / "root.ext4"}'),
        *('-drive', f'{disk}{there / "checkout.tar"}'),
    ]


def _port(descriptor: int) -> list[str]:
    return [
        *('-device', 'virtio-serial-pci'),
        *('-chardev', f'socket,id=lab,fd={descriptor}'),
        *('-device', 'virtserialport,chardev=lab,name=lab'),
    ]
