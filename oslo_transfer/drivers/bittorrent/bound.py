# SPDX-License-Identifier: Apache-2.0
"""The time that no way of distributing a file can beat."""

from __future__ import annotations


def lower_bound(
    size: int, origin_rate: float, host_rate: float, hosts: int
) -> float:
    """Seconds until the last host can have it.

    The larger of: the origin sends it once; a host receives it; all that is
    received was sent by somebody. (Kumar and Ross, "Peer-assisted file
    distribution: the minimum distribution time", 2006.)

    :param size: of the file in bytes
    :param origin_rate: bytes per second that the origin can send
    :param host_rate: bytes per second that each host can send and receive
    :param hosts: how many hosts fetch it, at least one
    """
    return max(
        size / origin_rate,
        size / host_rate,
        hosts * size / (origin_rate + hosts * host_rate),
    )
