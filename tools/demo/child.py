# SPDX-License-Identifier: Apache-2.0
"""A slow copy that tells its progress in lines; meant to be killed."""

from __future__ import annotations

import sys

from demo import scene
import oslo_transfer


def main() -> None:
    """Copy; the arguments are those of the function, as text.

    SRC, DST, a file of the configuration, SHA-512, bytes per second.
    """
    src, dst, conf_file, digest, rate = sys.argv[1:]
    oslo_transfer.copy(
        src,
        dst,
        conf=scene.configuration(conf_file),
        hash_algo='sha512',
        hash_value=digest,
        rate_limit=int(rate),
        progress=lambda _chunk, total: print(total, flush=True),
    )


main()
