# SPDX-License-Identifier: Apache-2.0
"""Child processes that start at once: forked from one that has it all.

Run as a program it imports the library once, and then forks a child for
each job that comes over a socket. A child waits until it is told to go on,
so that a tracer can be attached to it first.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import os
import pathlib
import pickle
import resource
import signal
import socket
import subprocess
import sys
import time

from oslo_config import cfg

import oslo_transfer
from oslo_transfer import _loader
from oslo_transfer import growth
from oslo_transfer.testing import fixtures

READY_SECONDS = 20.0
END_SECONDS = 30.0
_ROOT = pathlib.Path(__file__).parents[2]
_PDEATHSIG = 1  # linux/prctl.h


class Died(Exception):
    """A child ended without an outcome: something killed it."""


def die_with_parent():
    """Have the kernel kill this process when its parent ends."""
    ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGKILL)


def make_conf(options):
    """A configuration as the fixture ``conf`` makes it, and options."""
    conf = cfg.ConfigOpts()
    conf([], default_config_files=[], default_config_dirs=[])
    oslo_transfer.register_opts(conf)
    for name, value in {
        'stall_timeout': 5.0,
        'connect_timeout': 3.0,
        'retry_delay': 0.01,
        'max_retry_delay': 0.2,
        'state_path': fixtures.NOWHERE,
        **options,
    }.items():
        conf.set_override(name, value, group='oslo_transfer')
    return conf


def copy(src, dst, conf=(), eager=False, **rest):
    """The job of most children.

    :param eager: open all streams that are allowed at once
    """
    if eager:
        growth.Growth.wants_more = lambda self, streams, **_rest: (
            streams < self._most
        )
    return oslo_transfer.copy(src, dst, conf=make_conf(dict(conf)), **rest)


def copy_with_limit(name, limit, *args, **kwargs):
    """A copy with less of something than usual, see setrlimit(2)."""
    number = getattr(resource, name)
    resource.setrlimit(number, (limit, limit))
    return copy(*args, **kwargs)


def copy_as(user, *args, **kwargs):
    """A copy of somebody else."""
    os.setgroups([])
    os.setgid(user)
    os.setuid(user)
    return copy(*args, **kwargs)


class Child:
    """A child process with one job.

    Its process group is its own.
    """

    def __init__(self, pid, sock):
        self.pid = pid
        self._sock = sock
        self._outcome = b''
        self._ended = False

    def go(self):
        """Let it begin."""
        self._sock.sendall(b'g')

    def kill(self, number=signal.SIGKILL):
        """Send a signal to its process group; no error if it is gone."""
        if not self._ended:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self.pid, number)

    def wait(self, timeout=END_SECONDS):
        """Wait until it has ended; True if it has."""
        end = time.monotonic() + timeout
        while not self._ended:
            self._sock.settimeout(max(0.001, end - time.monotonic()))
            try:
                data = self._sock.recv(1 << 16)
            except TimeoutError:
                return False
            except ConnectionResetError:
                data = b''
            self._outcome += data
            self._ended = not data
        return True

    def result(self, timeout=END_SECONDS):
        """What the job returned; raises what it raised.

        :raises Died: it was killed
        """
        if not self.wait(timeout):
            self.kill()
            raise AssertionError(f'the child did not end in {timeout} s')
        if not self._outcome:
            raise Died
        error, value = pickle.loads(self._outcome)
        if error is not None:
            raise error
        return value

    def close(self):
        """Kill it if it still runs, and wait for its end."""
        self.kill()
        ended = self.wait()
        self._sock.close()
        assert ended, 'a child could not be killed'


class ForkServer:
    """Starts children; a context manager."""

    def __enter__(self):
        self._sock, theirs = socket.socketpair(
            socket.AF_UNIX, socket.SOCK_SEQPACKET
        )
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, '-m', __name__, str(theirs.fileno())],
                cwd=_ROOT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        return self

    def __exit__(self, *_exc):
        self._sock.close()
        try:
            self._process.wait(READY_SECONDS)
        finally:
            self._process.kill()
            self._process.wait()

    def start(self, function, *args, wait=False, **kwargs):
        """Fork a child for ``function(*args, **kwargs)``.

        :param wait: it begins when its ``go()`` is called
        """
        ours, theirs = socket.socketpair()
        with theirs:
            socket.send_fds(
                self._sock,
                [pickle.dumps((function, args, kwargs))],
                [theirs.fileno()],
            )
        ours.settimeout(READY_SECONDS)
        pid = int.from_bytes(ours.recv(4), 'big')
        child = Child(pid, ours)
        if not wait:
            child.go()
        return child


class Children:
    """Children that end together.

    :param server: starts them
    """

    def __init__(self, server):
        self._server = server
        self._started = []

    def start(self, function, *args, wait=False, **kwargs):
        """As of the server."""
        child = self._server.start(function, *args, wait=wait, **kwargs)
        self._started.append(child)
        return child

    def close(self):
        """Kill what still runs."""
        for child in self._started:
            child.kill()
        for child in self._started:
            child.close()


def serve(sock):
    """Fork a child for each job until the socket is closed."""
    die_with_parent()
    # Nobody waits for the children.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        job, fds, _flags, _from = socket.recv_fds(sock, 1 << 16, 1)
        if not job:
            return
        with socket.socket(fileno=fds[0]) as conn:
            if os.fork() == 0:
                sock.close()
                _be_child(conn, job)


def _be_child(conn, job):
    die_with_parent()
    os.setpgid(0, 0)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    # A shell that runs the tests in the background has it ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    conn.sendall(os.getpid().to_bytes(4, 'big'))
    conn.recv(1)
    function, args, kwargs = pickle.loads(job)
    try:
        outcome = None, function(*args, **kwargs)
    except BaseException as exc:
        outcome = exc, None
    try:
        data = pickle.dumps(outcome)
    except Exception as exc:
        data = pickle.dumps((AssertionError(f'{outcome}: {exc!r}'), None))
    conn.sendall(data)
    # Not a normal end: what the server's process has is not ours to close.
    os._exit(0)


def main():
    """Import what children would import each by itself; serve."""
    # Jobs name their function by this module's real name.
    importlib.import_module(__spec__.name)
    for scheme in ('file', 'http', 'torrent'):
        _loader.driver_class(scheme)
    for strategy in ('clone', 'dd', 'full_copy', 'zero_copy'):
        _loader.strategy_class(strategy)
    serve(socket.socket(fileno=int(sys.argv[1])))


if __name__ == '__main__':
    main()
