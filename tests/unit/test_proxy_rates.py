# SPDX-License-Identifier: Apache-2.0
"""Bytes per second, and sums that never go back."""

from __future__ import annotations

import pytest

from oslo_transfer.service.proxy import rates
from oslo_transfer.service.proxy.rates import Sums


def meter(*samples):
    made = rates.Meter(0)
    for now, served, fetched in samples:
        made.add(now, Sums(served, fetched))
    return made.rates


def test_a_rate_is_one_of_the_window():
    assert meter() == (0, 0)
    assert meter((5, 100, 50)) == (10, 20)
    assert meter((0, 0, 0), (2, 100, 50)) == (25, 50)
    # What came before it does not count.
    long_ago = [(second, 1000 * second, 0) for second in range(100)]
    assert meter(*long_ago) == (0, 1000)
    silent = [(100 + second, 99_000, 0) for second in range(12)]
    assert meter(*long_ago, *silent) == (0, 0)


def test_many_samples_are_kept_as_few():
    made = rates.Meter(0)
    for number in range(10_000):
        made.add(number / 1000, Sums(number, 0))
    assert len(made._samples) < 40
    assert made.rates.outgoing == pytest.approx(1000, rel=0.1)


def test_two_samples_at_once_make_no_infinite_rate():
    assert meter((0, 0, 0), (0, 1000, 0)).outgoing <= 2000


def test_one_that_begins_anew():
    assert meter((0, 500, 500), (1, 10, 10)) == (0, 0)


def test_the_sums_outlive_what_they_are_of():
    accounts = rates.Accounts()
    accounts.note({'a': Sums(10, 1, 2, 3), 'b': Sums(5, 5, 0, 0)})
    accounts.note({'a': Sums(20, 1, 2, 3)})
    assert accounts.total == Sums(25, 6, 2, 3)
    # It was evicted, and came back.
    accounts.note({'a': Sums(1, 1, 0, 1)})
    assert accounts.total == Sums(26, 7, 2, 4)
    assert accounts.rates('b') == (0, 0)


def test_what_was_saved_is_never_negative():
    assert Sums(10, 4).bytes_saved == 6
    assert Sums(4, 10).bytes_saved == 0
