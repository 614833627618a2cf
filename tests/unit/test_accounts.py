# SPDX-License-Identifier: Apache-2.0
"""Users and groups by name or number."""

from __future__ import annotations

import os

import pytest

from oslo_transfer import accounts
from oslo_transfer import exceptions


@pytest.mark.parametrize('find', [accounts.uid_of, accounts.gid_of])
def test_by_name_or_number(find):
    assert find('root', 'it') == 0
    assert find('4321', 'it') == 4321
    assert find(None, 'it') is None
    assert find('', 'it') is None


@pytest.mark.parametrize('find', [accounts.uid_of, accounts.gid_of])
@pytest.mark.parametrize('name', ['no-such-name', '-1', '\u0663'])
def test_one_that_is_not(find, name):
    """It is told which option named it."""
    with pytest.raises(exceptions.ConfigurationError) as caught:
        find(name, '[group] option')
    assert '[group] option' in str(caught.value) and name in str(caught.value)


def test_giving_changes_what_is_named(monkeypatch):
    given = []
    monkeypatch.setattr(os, 'chown', lambda *args: given.append(args))
    accounts.give('path', 7, None)
    accounts.give(3, None, 8)
    accounts.give('path', None, None)
    assert given == [('path', 7, -1), (3, -1, 8)]
