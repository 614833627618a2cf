# SPDX-License-Identifier: Apache-2.0
"""A plugin of the pytest in the guest: asks the host for tests to run.

It tells the host how each of them went.
"""

from __future__ import annotations

import json
import os
import pathlib
import typing

import pytest

# Environment: the descriptor to write to, and the file of selected tests.
_PORT = 'OSLO_TRANSFER_GUEST_PORT'
_SELECTED = 'OSLO_TRANSFER_GUEST_SELECTED'


def pytest_configure(config: pytest.Config) -> None:
    """Report from the process that runs the tests."""
    config.pluginmanager.register(_Reporter(config), 'guest-reporter')


class _Reporter:
    def __init__(self, config: pytest.Config) -> None:
        self._config = config
        self._port = int(os.environ.pop(_PORT))
        os.set_inheritable(self._port, False)
        self._selected = set(
            pathlib.Path(os.environ.pop(_SELECTED)).read_text().splitlines()
        )

    def _say(self, **message: typing.Any) -> None:
        data = json.dumps(message, default=str).encode() + b'\n'
        while data:
            data = data[os.write(self._port, data) :]

    def _tell(self, event: str, report: typing.Any) -> None:
        told = self._config.hook.pytest_report_to_serializable(
            config=self._config, report=report
        )
        self._say(event=event, report=told)

    @pytest.hookimpl(trylast=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> None:
        """Keep what the host selected."""
        left_out = [
            item for item in items if item.nodeid not in self._selected
        ]
        items[:] = [item for item in items if item.nodeid in self._selected]
        config.hook.pytest_deselected(items=left_out)

    def pytest_runtestloop(self, session: pytest.Session) -> bool | None:
        """Run one test after the other, as the host names them."""
        if session.testsfailed:
            return None
        tests = {item.nodeid: item for item in session.items}
        while name := self._ask():
            item = tests[name]
            item.ihook.pytest_runtest_protocol(item=item, nextitem=None)
        return True

    def _ask(self) -> str:
        """The next test to run, or nothing."""
        self._say(event='next')
        line = bytearray()
        while not line.endswith(b'\n'):
            # No more than that: the agent reads what follows.
            line += os.read(self._port, 1)
        name: str = json.loads(line)['test']
        return name

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """A module that cannot be imported here."""
        if report.failed:
            self._say(event='collect', text=f'{report.longrepr}')

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        """A test begins."""
        self._say(event='start', test=nodeid)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """A step of a test."""
        self._tell('report', report)

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        """A test is over."""
        self._say(event='finish', test=nodeid)
