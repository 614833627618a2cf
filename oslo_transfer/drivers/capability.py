# SPDX-License-Identifier: Apache-2.0
"""What drivers and their handles can do."""

from __future__ import annotations

import enum


class Capability(enum.Flag):
    """What a driver, or one of its open handles, can do.

    A handle may have fewer than its driver (an HTTP server without
    ranges): it is asked once, right after it was opened. A source may lose
    RANDOM_READ later, by raising :class:`CapabilityMissing` from
    ``stream()``, when the peer turns out not to keep its word.
    """

    help: str

    def __new__(cls, value: int, text: str = '') -> Capability:
        """Carry the description along with each member."""
        member = object.__new__(cls)
        member._value_ = value
        member.help = text
        return member

    READ = 1 << 0, 'opens sources: data can be read from it'
    RANDOM_READ = (
        1 << 1,
        'streams start at any offset, several at once',
    )
    EXTENTS = 1 << 2, 'sources tell their holes apart from data'
    PIECES = 1 << 3, 'sources have a digest for each piece'
    WRITE = 1 << 4, 'opens sinks: data can be written to it'
    RANDOM_WRITE = (
        1 << 5,
        'sinks take bytes at any offset, from several threads at once',
    )
    ATOMIC = 1 << 6, 'nothing is visible before a sink is committed'
    READBACK = 1 << 7, 'sinks can be read before they are committed'
    RESUME = 1 << 8, 'sinks can go on with what an earlier one has kept'
    ATTACH = 1 << 9, 'makes a remote object readable in place'
    CLONE = 1 << 10, 'fills a file without moving a byte (reflink)'
    FILL = 1 << 11, 'sources fill a file by a transport of their own'
    LOCAL_FILL = 1 << 12, 'fills a file from another local path'
    LOCAL_PATH = 1 << 13, 'its endpoints are paths on this host'
    POLICED = (
        1 << 14,
        'connects only through the context, so the URL policy holds: may '
        'serve untrusted URLs',
    )
