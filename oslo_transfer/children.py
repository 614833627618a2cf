# SPDX-License-Identifier: Apache-2.0
"""Programs that run for us, and never longer than we do."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
import os
import selectors
import shutil
import signal
import subprocess
import threading

from oslo_transfer import exceptions

#: Bytes of a program's errors that are kept.
MOST_OUTPUT = 4096
#: Seconds that a program has to end by itself.
PATIENCE = 2.0
# Seconds that is waited for what a program has started itself.
_LAST_WORDS = 1.0
#: Seconds that the kernel has to end one that was killed.
DYING = 5.0
# Where administrators' programs are, for users that do not look there.
_PATH = '/usr/local/sbin:/usr/sbin:/sbin'


def find(program: str, package: str) -> str:
    """The path of a program.

    :param package: the Debian package that has it
    :raises CapabilityMissing: it is not installed
    """
    found = shutil.which(program) or shutil.which(program, path=_PATH)
    if found is None:
        raise exceptions.CapabilityMissing(
            f'{program} is not installed; it is in the package {package}'
        )
    return found


def start(
    command: Sequence[str],
    *,
    stdin: int = subprocess.DEVNULL,
    fds: Sequence[int] = (),
    death: signal.Signals = signal.SIGKILL,
) -> subprocess.Popen[bytes]:
    """Start a program in a process group of its own, its errors in a pipe.

    :param command: with the path that :func:`find` returns
    :param stdin: a descriptor that becomes its input
    :param fds: descriptors that it inherits
    :param death: what the kernel sends it when the *thread* that calls
        this ends; see PR_SET_PDEATHSIG in prctl(2)
    :raises CapabilityMissing: setpriv(1) is not installed
    :raises Unavailable: it cannot be started just now
    """
    # preexec_fn= would run Python between fork and exec, which can hang
    # in a process with threads. The shell sees whether we died before the
    # kernel knew that it matters.
    guard = [
        *(find('setpriv', 'util-linux'), '--pdeathsig'),
        *(death.name.removeprefix('SIG'), '--'),
        *('/bin/sh', '-c', '[ "$PPID" = "$0" ] && exec "$@"'),
        str(os.getpid()),
    ]
    try:
        return subprocess.Popen(  # noqa: S603 (no shell, no words of others)
            [*guard, *command],
            stdin=stdin,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            pass_fds=fds,
            process_group=0,
            env={**os.environ, 'LC_ALL': 'C'},
        )
    except OSError as exc:
        raise exceptions.Unavailable(
            f'starting {command[0]}: {exc.strerror}'
        ) from exc


def run(command: Sequence[str], seconds: float) -> tuple[int, str]:
    """Run a program that ends soon; returns its status and its errors.

    :param command: with the path that :func:`find` returns
    :param seconds: the longest that it may take
    :raises Unavailable: it cannot be started, or took longer
    """
    process = start(command)
    try:
        _, told = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        raise exceptions.Unavailable(
            f'{command[0]} took more than {seconds:g} seconds'
        ) from None
    finally:
        if process.poll() is None:
            kill(process)
        reap(process)
    return process.returncode, told.decode('utf-8', 'replace')


def kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a program with all of its group; does not wait."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def reap(process: subprocess.Popen[bytes], seconds: float = DYING) -> bool:
    """Wait for the end of a program; never raises.

    :returns: whether it has ended; one that was killed and has not hangs
        in the kernel
    """
    ended = _wait(process, seconds)
    if ended and process.stderr is not None:
        process.stderr.close()
    return ended


def _wait(process: subprocess.Popen[bytes], seconds: float) -> bool:
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        return False
    return True


class Helper:
    """A program that runs beside us until it is closed, or we die.

    A thread of its own starts it and stays until it has ended, so that
    the kernel does not take the end of the calling thread for ours.
    Thread-safe.

    :param command: with the path that :func:`find` returns
    :param fds: descriptors that it inherits; they can be closed afterwards
    :param death: what ends it when we die
    :raises CapabilityMissing: setpriv(1) is not installed
    :raises Unavailable: it cannot be started just now
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        fds: Sequence[int] = (),
        death: signal.Signals = signal.SIGKILL,
    ) -> None:
        self.name = os.path.basename(command[0])
        self._process: subprocess.Popen[bytes]
        self._error: exceptions.TransferError | None = None
        self._output = b''
        started = threading.Event()

        def keep() -> None:
            try:
                self._process = start(command, fds=fds, death=death)
            except exceptions.TransferError as exc:
                self._error = exc
            started.set()
            if self._error is None:
                self._listen()

        self._thread = threading.Thread(
            target=keep, name=f'oslo-transfer-{self.name}', daemon=True
        )
        self._thread.start()
        started.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error

    def _listen(self) -> None:
        """Keep the end of what it says, until it has ended."""
        stderr = self._process.stderr
        assert stderr is not None
        ended = os.pidfd_open(self._process.pid)
        with stderr, selectors.DefaultSelector() as selector:
            selector.register(stderr, selectors.EVENT_READ)
            selector.register(ended, selectors.EVENT_READ)
            # What it has started has its errors open, too, and gets a
            # moment to end after it.
            patience: float | None = None
            while ready := selector.select(patience):
                if any(key.fileobj is stderr for key, _ in ready):
                    data = os.read(stderr.fileno(), MOST_OUTPUT)
                    if not data:
                        break
                    self._output = (self._output + data)[-MOST_OUTPUT:]
                else:
                    selector.unregister(ended)
                    patience = _LAST_WORDS
            self._process.wait()
        os.close(ended)

    @property
    def pid(self) -> int:
        """Its process id."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._thread.is_alive()

    @property
    def errors(self) -> str:
        """The end of what it said; complete once it has ended."""
        return self._output.decode('utf-8', 'replace').strip()

    def kill(self) -> None:
        """End it at once; does not wait."""
        # Not its group: fusermount3(1) waits there to tidy up.
        self._process.kill()

    def close(self) -> bool:
        """End it within a few seconds; idempotent, and never raises.

        :returns: False if it cannot be ended: it hangs in the kernel
        """
        with contextlib.suppress(ProcessLookupError):
            self._process.terminate()
        self._thread.join(PATIENCE)
        if self._thread.is_alive():
            self.kill()
            self._thread.join(DYING)
        return not self._thread.is_alive()
