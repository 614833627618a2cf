# SPDX-License-Identifier: Apache-2.0
"""Signals wait to be asked for, and no program inherits that."""

from __future__ import annotations

import os
import pathlib
import signal
import subprocess

from oslo_transfer.service import signals


def test_they_come_in_their_order():
    with signals.Signals([signal.SIGHUP, signal.SIGTERM]) as caught:
        assert caught.wait(0) is None
        for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGHUP):
            os.kill(os.getpid(), number)
        found = [caught.wait(5) for _ in range(3)]
        assert found == [signal.SIGHUP, signal.SIGTERM, signal.SIGHUP]
        assert caught.wait(0) is None


def test_all_is_as_before():
    before = signal.getsignal(signal.SIGTERM)
    with signals.Signals([signal.SIGTERM]):
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_programs_can_be_ended():
    """Nothing is blocked or ignored in what is started."""
    with signals.Signals([signal.SIGTERM]):
        with subprocess.Popen(['sleep', '60']) as started:
            status = pathlib.Path(f'/proc/{started.pid}/status').read_text()
            started.terminate()
            assert started.wait(5) == -signal.SIGTERM
    fields = dict(line.split(':\t', 1) for line in status.splitlines())
    assert int(fields['SigBlk'], 16) == 0
