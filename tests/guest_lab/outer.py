# SPDX-License-Identifier: Apache-2.0
"""The host's pytest runs tests of the guest as if they were its own."""

from __future__ import annotations

from collections.abc import Iterator
import os
import typing

import pytest

from tests.guest_lab import image
from tests.guest_lab import machine

# Inside, pytest-timeout ends a test after two minutes; a guest that says
# nothing for longer is gone.
_SILENCE = 180.0


class Guest:
    """Boots the guest at the first test, and runs all selected ones in it.

    :param items: the selected tests that belong there
    """

    def __init__(self, items: list[pytest.Item]) -> None:
        self._tests = [item.nodeid for item in items]
        self._machine = machine.Machine()
        self._messages: Iterator[dict[str, typing.Any]] | None = None
        self._reports: dict[str, list[dict[str, typing.Any]]] = {}
        self._finished: set[str] = set()
        self._complaints: list[str] = []
        # Why there will be no more reports.
        self._over = ''

    def run(self, item: pytest.Item) -> list[pytest.TestReport]:
        """Wait until a test is over in there; returns what it reported."""
        name = item.nodeid
        self._wait(name)
        told = self._reports.pop(name, [])
        reports = [_report(item, report) for report in told]
        if name not in self._finished:
            reports.append(_never(item, self._over))
        return reports

    def _wait(self, name: str) -> None:
        try:
            if self._messages is None:
                self._messages = self._start()
            while name not in self._finished and not self._over:
                self._handle(next(self._messages))
        except (machine.GuestDied, image.BuildFailed, OSError) as exc:
            self._over = f'{exc}'
            self._machine.close()

    def _start(self) -> Iterator[dict[str, typing.Any]]:
        self._machine.__enter__()
        self._machine.send(
            tests=self._tests,
            ci=bool(os.environ.get('CI')),
        )
        return self._machine.messages(_SILENCE)

    def _handle(self, message: dict[str, typing.Any]) -> None:
        event = message['event']
        if event == 'report':
            report = message['report']
            self._reports.setdefault(report['nodeid'], []).append(report)
        elif event == 'finish':
            self._finished.add(message['test'])
        elif event == 'collect':
            self._complaints.append(message['text'])
        elif event == 'done':
            self._over = '\n'.join(
                [
                    f'the guest did not run it; its pytest ended with '
                    f'{message["status"]}',
                    *self._complaints,
                    self._machine.console()[-6000:],
                ]
            )

    def close(self) -> None:
        """End the guest."""
        self._machine.close()


def _report(
    item: pytest.Item, told: dict[str, typing.Any]
) -> pytest.TestReport:
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
        longrepr=reason or 'the guest did not report this test',
        when='call',
    )
