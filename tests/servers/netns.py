# SPDX-License-Identifier: Apache-2.0
"""Hosts on a switch, as network namespaces: needs root, ip and tc.

Nothing has a name that another network could have, too, and nothing outlives
the process that made it: a namespace is held by a file descriptor alone.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import ctypes
import os
import shutil
import subprocess
import threading
import typing

_CLONE_NEWNET = 0x40000000
_SUBNET = '10.77.0'
# What a port holds back before it drops.
_QUEUE_BYTES = 1 << 20
# An end is killed that takes longer.
_END_SECONDS = 5.0
_FORWARD = '/proc/sys/net/ipv4/ip_forward'
_SBIN = '/usr/local/sbin:/usr/sbin:/sbin'

#: The network that all hosts are in.
NETWORK = f'{_SUBNET}.0/24'
#: Packets to it get lost without a word.
BLACK_HOLE = '10.78.0.1'


def missing() -> str | None:
    """Why there can be no network here; None if there can."""
    if os.geteuid() != 0:
        return 'only root can make network namespaces'
    for name in ('ip', 'tc', 'nsenter'):
        if not (shutil.which(name) or shutil.which(name, path=_SBIN)):
            return f'{name} is not installed'
    return None


class Namespace:
    """A network namespace; gone when closed, and its processes with it."""

    def __init__(self) -> None:
        self._processes: list[subprocess.Popen[typing.Any]] = []
        # In a thread of its own, for it is the thread that moves.
        made: list[int | OSError] = []
        thread = threading.Thread(target=lambda: made.append(_unshare()))
        thread.start()
        thread.join()
        if isinstance(made[0], OSError):
            raise made[0]
        self._fd = made[0]

    @property
    def path(self) -> str:
        """What ip takes for its name, as long as this process lives."""
        return f'/proc/{os.getpid()}/fd/{self._fd}'

    def command(self, *command: str | os.PathLike[str]) -> list[str]:
        """A command that runs the one given in here."""
        words = (os.fspath(word) for word in command)
        return ['nsenter', f'--net={self.path}', *words]

    def run(self, *command: str | os.PathLike[str]) -> str:
        """Run a command to its end; returns what it prints.

        :raises RuntimeError: it fails
        """
        done = subprocess.run(
            self.command(*command),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(f'{command}: {done.stderr.strip()}')
        return done.stdout

    def popen(
        self, *command: str | os.PathLike[str], **options: typing.Any
    ) -> subprocess.Popen[typing.Any]:
        """Start a command that ends with the namespace, or before.

        :param options: Popen's
        """
        process = subprocess.Popen(self.command(*command), **options)
        self._processes.append(process)
        return process

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Have this thread, and threads that it starts, in here."""
        before = os.open('/proc/thread-self/ns/net', os.O_RDONLY)
        try:
            _setns(self._fd)
            try:
                yield
            finally:
                _setns(before)
        finally:
            os.close(before)

    def counter(self, device: str, name: str) -> int:
        """What a device in here has counted: rx_bytes, tx_bytes."""
        with (
            self.inside(),
            open('/proc/thread-self/net/dev') as file,
        ):
            fields = next(
                line.split(':')[1].split()
                for line in file
                if line.strip().startswith(f'{device}:')
            )
        return int(fields[{'rx_bytes': 0, 'tx_bytes': 8}[name]])

    def close(self) -> None:
        """End what popen() started, and leave the rest to the kernel."""
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            try:
                process.wait(_END_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        os.close(self._fd)


class Switch(Namespace):
    """What hosts are plugged into; the gateway of their subnet.

    :param subnet: see :class:`Host`
    :param forward: whether it passes on what is for others
    """

    def __init__(self, subnet: str, forward: bool = False) -> None:
        super().__init__()
        self.run('ip', 'link', 'add', 'name', 'sw0', 'type', 'bridge')
        address = f'{gateway(subnet)}/24'
        self.run('ip', 'address', 'add', address, 'dev', 'sw0')
        self.run('ip', 'link', 'set', 'sw0', 'up')
        with self.inside(), open(_FORWARD, 'w') as file:
            file.write(f'{forward:d}')


class Host(Namespace):
    """A host with one interface, eth0.

    :param number: from 1 on
    :param switch: where it is plugged in
    :param subnet: of all hosts there: the first three parts of an address
    """

    def __init__(
        self, number: int, switch: Namespace, subnet: str = _SUBNET
    ) -> None:
        super().__init__()
        #: The address of eth0.
        self.address = f'{subnet}.{number}'
        self._switch = switch
        self._port = f'port{number}'
        switch.run(
            *('ip', 'link', 'add', 'name', self._port, 'type', 'veth'),
            *('peer', 'name', 'eth0', 'netns', self.path),
        )
        switch.run('ip', 'link', 'set', self._port, 'master', 'sw0', 'up')
        self.run('ip', 'link', 'set', 'lo', 'up')
        self.run('ip', 'address', 'add', f'{self.address}/24', 'dev', 'eth0')
        self.run('ip', 'link', 'set', 'eth0', 'up')
        # What is not here is the switch's affair.
        self.run('ip', 'route', 'add', 'default', 'via', gateway(subnet))

    def shape(self, rate: int) -> None:
        """Limit it to a rate, in bits per second, each way."""
        for end, device in ((self, 'eth0'), (self._switch, self._port)):
            shape(end, device, rate)

    def large_packets(self, size: int) -> None:
        """Let packets be as large as that, in bytes."""
        for end, device in ((self, 'eth0'), (self._switch, self._port)):
            end.run('ip', 'link', 'set', device, 'mtu', str(size))

    def plug(self, on: bool) -> None:
        """Plug its cable in, or pull it: no error tells the host."""
        state = 'up' if on else 'down'
        self._switch.run('ip', 'link', 'set', self._port, state)

    def sent(self) -> int:
        """Bytes that left it so far, with all headers."""
        return self.counter('eth0', 'tx_bytes')

    def received(self) -> int:
        """Bytes that reached it so far, with all headers."""
        return self.counter('eth0', 'rx_bytes')


class Network:
    """A switch and hosts; a context manager.

    :param count: of the hosts
    :param rate: bits per second each way and host, None for no limit
    """

    def __init__(self, count: int, rate: int | None = None) -> None:
        self._count = count
        self._rate = rate
        self._stack = contextlib.ExitStack()
        #: The hosts; each sees the others.
        self.hosts: list[Host] = []

    def __enter__(self) -> typing.Self:
        with contextlib.ExitStack() as stack:
            # It forwards nothing: what is for others gets lost here.
            switch = stack.enter_context(contextlib.closing(Switch(_SUBNET)))
            for number in range(1, self._count + 1):
                host = stack.enter_context(
                    contextlib.closing(Host(number, switch))
                )
                if self._rate is not None:
                    host.shape(self._rate)
                self.hosts.append(host)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()
        self.hosts.clear()


def gateway(subnet: str) -> str:
    """The address of a switch."""
    return f'{subnet}.254'


def shape(end: Namespace, device: str, rate: int) -> None:
    """Limit what an end sends by a device, in bits per second."""
    end.run('ip', 'link', 'set', device, 'txqueuelen', '1000')
    end.run(
        *('tc', 'qdisc', 'replace', 'dev', device, 'root'),
        *('handle', '1:', 'htb', 'default', '1'),
    )
    end.run(
        *('tc', 'class', 'replace', 'dev', device, 'parent', '1:'),
        *('classid', '1:1', 'htb', 'rate', f'{rate}bit', 'quantum', '65536'),
    )
    end.run(
        *('tc', 'qdisc', 'replace', 'dev', device, 'parent', '1:1'),
        *('bfifo', 'limit', str(_QUEUE_BYTES)),
    )


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _unshare() -> int | OSError:
    """Give this thread a namespace of its own; returns a descriptor."""
    if _libc().unshare(_CLONE_NEWNET):
        return OSError(ctypes.get_errno(), 'unshare')
    return os.open('/proc/thread-self/ns/net', os.O_RDONLY)


def _setns(descriptor: int) -> None:
    if _libc().setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), 'setns')
