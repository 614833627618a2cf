# SPDX-License-Identifier: Apache-2.0
"""Faults at chosen system calls of a child, by strace."""

from __future__ import annotations

import dataclasses
import re
import selectors
import subprocess

from tests.functional import forkserver

_ATTACH_SECONDS = 20.0
# Names of descriptors, and whole notes of journals.
_IN_FULL = ('-y', '-s', '4096')
_RESUMED = re.compile(r'(\d+)\s+<\.\.\. \w+ resumed>(.*)')
_CALL = re.compile(r'(\d+)\s+(\w+)\((.*)')


@dataclasses.dataclass
class Call:
    """One system call with its place among the others.

    :ivar thread: who made it
    :ivar name: of the system call
    :ivar rest: its arguments and result, as strace writes them
    :ivar begin: the line of the log where it began
    :ivar end: the line where it returned
    """

    thread: int
    name: str
    rest: str
    begin: int
    end: int

    @property
    def failed(self):
        """Whether it returned an error."""
        return ' = -1 ' in self.rest


def parse(log):
    """The calls of a log, in the order in which they began."""
    found, unfinished = [], {}
    lines = log.read_text(errors='replace').splitlines()
    for number, line in enumerate(lines):
        match = _CALL.match(line)
        if match:
            call = Call(int(match[1]), match[2], match[3], number, number)
            found.append(call)
            if call.rest.endswith('<unfinished ...>'):
                unfinished[match[1]] = call
            continue
        match = _RESUMED.match(line)
        # It may have begun before strace was there.
        if match and match[1] in unfinished:
            call = unfinished.pop(match[1])
            call.end = number
            call.rest = call.rest.removesuffix('<unfinished ...>') + match[2]
    return found


class Strace:
    """Runs children under strace.

    :param children: starts them
    :param directory: for the logs
    """

    def __init__(self, children, directory):
        self._children = children
        self._directory = directory
        self._runs = 0

    def record(self, paths, function, *args, **kwargs):
        """Run a job without a fault; returns its calls."""
        child, process, log = self.start(
            None, paths, function, *args, options=_IN_FULL, **kwargs
        )
        try:
            child.result()
        finally:
            finish(process)
        return parse(log)

    def run(self, inject, paths, function, *args, **kwargs):
        """Run a job with a fault.

        :param inject: as for ``strace -e``, without ``inject=``; or None
        :param paths: only calls for these files count
        :returns: what the job returned or raised, or the instance of Died;
            and the log
        """
        child, process, log = self.start(
            inject, paths, function, *args, **kwargs
        )
        try:
            outcome = child.result()
        except Exception as exc:
            outcome = exc
        finally:
            finish(process)
        return outcome, parse(log)

    def start(self, inject, paths, function, *args, options=(), **kwargs):
        """Start a job under strace; returns child, strace and its log."""
        child = self._children.start(function, *args, wait=True, **kwargs)
        self._runs += 1
        log = self._directory / f'log{self._runs}'
        command = ['strace', '-f', '-p', str(child.pid), '-o', str(log)]
        command += options
        for path in paths:
            command += ['-P', str(path)]
        if inject is not None:
            command += ['-e', f'inject={inject}']
        process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL
        )
        try:
            _wait_for_attach(process)
        except BaseException:
            finish(process)
            raise
        child.go()
        return child, process, log


def _wait_for_attach(process):
    with selectors.DefaultSelector() as selector:
        selector.register(process.stderr, selectors.EVENT_READ)
        assert selector.select(_ATTACH_SECONDS), 'strace says nothing'
    told = process.stderr.readline()
    assert b'attached' in told, told


def finish(process):
    """Wait for the end of strace, which follows that of the child."""
    try:
        process.communicate(timeout=forkserver.END_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.communicate()
        raise
