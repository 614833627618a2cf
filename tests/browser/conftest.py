# SPDX-License-Identifier: Apache-2.0
"""One browser for all tests; each has a window of its own."""

from __future__ import annotations

import pytest

from tests.browser import chromium


@pytest.fixture(scope='session')
def browser():
    """Chromium, for as long as there are tests."""
    with chromium.Chromium() as running:
        yield running


@pytest.fixture
def window(browser):
    """A window, in which nothing may go wrong."""
    with browser.page() as page:
        yield page
        assert page.complaints() == []
