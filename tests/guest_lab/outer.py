# SPDX-License-Identifier: Apache-2.0
"""The host's pytest runs tests of the guest as if they were its own."""

from __future__ import annotations

import collections
import os
import threading
import typing

import pytest

from tests.guest_lab import machine

# Inside, pytest-timeout ends a test after two minutes; a guest that says
# nothing for longer is gone.
_SILENCE = 180.0
# Where there are more tests another guest is worth its start.
_TESTS_EACH = 4
_GUESTS = 4
_END_SECONDS = 10.0

_Told = dict[str, typing.Any]


class Guests:
    """Boots guests at the first test, and runs all selected tests in them.

    There is one for each processor; each takes the next test that nobody
    has taken when it is done with one.

    :param items: the selected tests that belong there
    """

    def __init__(self, items: list[pytest.Item]) -> None:
        self._tests = [item.nodeid for item in items]
        self._board = _Board(self._tests)
        self._runners: list[_Runner] = []

    def run(self, item: pytest.Item) -> list[pytest.TestReport]:
        """Wait until a test is over in there; returns what it reported."""
        if not self._runners:
            self._start()
        told, reason = self._board.wait(item.nodeid)
        reports = [_report(item, report) for report in told]
        if reason:
            reports.append(_never(item, reason))
        return reports

    def _start(self) -> None:
        worth = -(-len(self._tests) // _TESTS_EACH)
        count = min(os.cpu_count() or 1, _GUESTS, worth)
        self._runners = [
            _Runner(self._tests, self._board) for _ in range(count)
        ]
        self._board.runners = count
        for runner in self._runners:
            runner.start()

    def close(self) -> None:
        """End the guests."""
        for runner in self._runners:
            runner.stop()
        for runner in self._runners:
            runner.join(_END_SECONDS)


class _Board:
    """What is to do, and what is done; thread-safe."""

    def __init__(self, tests: list[str]) -> None:
        self._waiting = collections.deque(tests)
        self._changed = threading.Condition()
        self._reports: dict[str, list[_Told]] = {name: [] for name in tests}
        # Why a test has no end; empty for one that has.
        self._finished: dict[str, str] = {}
        self._reason = ''
        #: How many may still finish tests.
        self.runners = 0

    def take(self) -> str:
        """The next test, or nothing."""
        with self._changed:
            return self._waiting.popleft() if self._waiting else ''

    def report(self, report: _Told) -> None:
        """Note a step of a test."""
        with self._changed:
            self._reports[report['nodeid']].append(report)

    def finish(self, name: str, reason: str = '') -> None:
        """Note that there will be no more of a test, and why if too soon."""
        with self._changed:
            self._finished[name] = reason
            self._changed.notify_all()

    def leave(self, reason: str) -> None:
        """Note that a runner is gone."""
        with self._changed:
            self.runners -= 1
            self._reason = reason or self._reason
            self._changed.notify_all()

    def wait(self, name: str) -> tuple[list[_Told], str]:
        """What was reported of a test, and why that is not all."""
        with self._changed:
            self._changed.wait_for(
                lambda: name in self._finished or not self.runners
            )
            reason = self._finished.get(
                name, self._reason or 'the guest did not report this test'
            )
            return self._reports.pop(name), reason


class _Runner(threading.Thread):
    """A guest, from its start to its end.

    :param tests: all that it may be asked for
    :param board: where the next one stands
    """

    def __init__(self, tests: list[str], board: _Board) -> None:
        # QEMU ends with the thread that has started it.
        super().__init__(name='guest', daemon=True)
        self._tests = tests
        self._board = board
        self._machine = machine.Machine()
        self._running = ''
        self._complaints: list[str] = []

    def run(self) -> None:
        """Run tests until there are none."""
        reason = ''
        try:
            with self._machine:
                self._machine.send(
                    tests=self._tests, ci=bool(os.environ.get('CI'))
                )
                for message in self._machine.messages(_SILENCE):
                    if message['event'] == 'done':
                        reason = self._done(message['status'])
                        break
                    self._handle(message)
        except Exception as exc:
            reason = str(exc) or type(exc).__name__
        finally:
            if self._running:
                self._board.finish(self._running, reason or 'it was lost')
            self._board.leave(reason)

    def _handle(self, message: dict[str, typing.Any]) -> None:
        event = message['event']
        if event == 'next':
            self._running = self._board.take()
            self._machine.send(test=self._running)
        elif event == 'report':
            self._board.report(message['report'])
        elif event == 'finish':
            self._running = ''
            self._board.finish(message['test'])
        elif event == 'collect':
            self._complaints.append(message['text'])

    def _done(self, status: int) -> str:
        return '\n'.join(
            [
                f'the guest did not run it; its pytest ended with {status}',
                *self._complaints,
                self._machine.console()[-6000:],
            ]
        )

    def stop(self) -> None:
        """End it, whatever it does."""
        self._machine.kill()


def _report(item: pytest.Item, told: _Told) -> pytest.TestReport:
    report = item.config.hook.pytest_report_from_serializable(
        config=item.config, data=told
    )
    assert isinstance(report, pytest.TestReport)
    if report.skipped and os.environ.get('CI'):
        report.outcome = 'failed'
        report.longrepr = f'skipped in the guest: {report.longrepr}'
    return report


def _never(item: pytest.Item, reason: str) -> pytest.TestReport:
    return pytest.TestReport(
        nodeid=item.nodeid,
        location=item.location,
        keywords={},
        outcome='failed',
        longrepr=reason,
        when='call',
    )
