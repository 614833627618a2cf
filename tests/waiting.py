# SPDX-License-Identifier: Apache-2.0
"""Waits for what tests need, and fails where it does not come."""

from __future__ import annotations

from collections.abc import Callable

from oslo_transfer.testing import harness


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    """Wait until something holds; it is looked at often.

    Only for what tells nobody that it has happened.

    :raises AssertionError: it does not within that time
    """
    assert harness.wait_for(lambda: bool(condition()), seconds), (
        f'still not, after {seconds:g} s'
    )
