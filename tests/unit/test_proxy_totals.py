# SPDX-License-Identifier: Apache-2.0
"""The sums of a proxy, while several ask for them at once."""

from __future__ import annotations

import threading

from oslo_transfer.service.proxy import api
from oslo_transfer.service.proxy import rates


class Image:
    """Counts on; the first one who asks for it takes a while."""

    id = 'a1'

    def __init__(self):
        self.served = 0
        self.asked = threading.Event()
        self.others_done = threading.Event()

    def statistics(self):
        self.served += 100
        found = self.served
        if not self.asked.is_set():
            self.asked.set()
            # If others wait for this one, it is not the other way round.
            self.others_done.wait(0.2)
        return {
            'bytes_served': found,
            'bytes_fetched': 0,
            'hits': 0,
            'misses': 0,
        }


class Catalog:
    problem = ''
    refused = 0

    def __init__(self, *images):
        self._images = images

    def all(self):
        return list(self._images)

    def statistics(self):
        return {}

    def origins(self):
        return []


class Idle:
    """Prefetches, of which there are none."""

    def tick(self):
        pass


def test_nothing_is_counted_twice():
    """What one has looked up before another is noted before it, too."""
    image = Image()
    asked = api.Api(Catalog(image), Idle(), counts=api.Counts)
    first = threading.Thread(target=asked.tick)
    first.start()
    image.asked.wait(10)
    asked.tick()
    image.others_done.set()
    first.join()
    assert asked.summary()['totals']['bytes_served'] == image.served


def test_hits_may_waver():
    """A miss is one hit less, until what was missed is claimed."""
    accounts = rates.Accounts()
    for hits, misses in ((7, 0), (6, 1), (7, 1), (7, 1)):
        accounts.note({'a1': rates.Sums(1000, 500, hits, misses)})
    assert accounts.total == (1000, 500, 7, 1)


def test_what_was_evicted_begins_anew():
    accounts = rates.Accounts()
    for sums in ((1000, 500, 7, 1), (10, 10, 0, 1), (20, 10, 1, 1)):
        accounts.note({'a1': rates.Sums(*sums)})
    assert accounts.total == (1020, 510, 8, 2)
