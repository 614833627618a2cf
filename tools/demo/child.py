# SPDX-License-Identifier: Apache-2.0
"""A slow copy that tells its progress in lines; meant to be killed."""

from __future__ import annotations

import sys

import oslo_transfer


def main() -> None:
    """Copy; the arguments are SRC, DST, the SHA-512 and bytes per second."""
    src, dst, digest, rate = sys.argv[1:]
    oslo_transfer.copy(
        src,
        dst,
        hash_algo='sha512',
        hash_value=digest,
        rate_limit=int(rate),
        progress=lambda _chunk, total: print(total, flush=True),
    )


main()
