# SPDX-License-Identifier: Apache-2.0
"""Tests in here run in the guest, see tests/guest_lab.

On the host they are only collected: the guest runs them, and what it says
is reported as if it had happened here. Inside, this is a conftest as usual.
"""

from __future__ import annotations

import os
import pathlib

import pytest

from tests.guest_lab import image
from tests.guest_lab import outer

_HERE = pathlib.Path(__file__).parent
_INSIDE = os.environ.get('OSLO_TRANSFER_GUEST') == '1'
# What os-brick imports, and Debian's rtslib, use what others deprecate.
_BEAR_WITH = (
    r'ignore:\s*Eventlet is deprecated',
    'ignore::DeprecationWarning',
    r'error::DeprecationWarning:(oslo_transfer|tests)\.',
)
_GUESTS = pytest.StashKey[outer.Guests]()

if _INSIDE:
    pytest_plugins = ['tests.guest.fixtures']


def _is_ours(item):
    return not _INSIDE and _HERE in item.path.parents


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """The guest has time limits of its own."""
    if _INSIDE:
        for item in items:
            for line in reversed(_BEAR_WITH):
                item.add_marker(pytest.mark.filterwarnings(line))
        return
    reason = _left_out()
    for item in filter(_is_ours, items):
        item.add_marker(pytest.mark.timeout(0), append=False)
        if reason:
            item.add_marker(pytest.mark.skip(reason=reason))


def _left_out():
    groups = os.environ.get('OSLO_TRANSFER_TEST_GROUPS')
    if groups is not None and 'guest' not in groups.split():
        return 'the group "guest" is left out'
    # With CI set it has to run, and says itself what is missing.
    return None if os.environ.get('CI') else image.missing()


def pytest_runtest_protocol(item, nextitem):
    """Report what the guest says of a test, instead of running it."""
    if not _is_ours(item) or item.get_closest_marker('skip'):
        return None
    guests = item.session.stash.get(_GUESTS, None)
    if guests is None:
        guests = outer.Guests(list(filter(_is_ours, item.session.items)))
        item.session.stash[_GUESTS] = guests
    item.ihook.pytest_runtest_logstart(
        nodeid=item.nodeid, location=item.location
    )
    for report in guests.run(item):
        item.ihook.pytest_runtest_logreport(report=report)
    item.ihook.pytest_runtest_logfinish(
        nodeid=item.nodeid, location=item.location
    )
    return True


def pytest_sessionfinish(session):
    """End the guests."""
    guests = session.stash.get(_GUESTS, None)
    if guests is not None:
        guests.close()
