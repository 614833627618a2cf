# SPDX-License-Identifier: Apache-2.0
"""One host of a swarm: copies when it is told to.

Its arguments are a file of the configuration, the SHA-512, the destination
and the locations. It prints objects by pickle: True when it is ready, then
the bytes in place as they come, and the result at last.
"""

from __future__ import annotations

import pickle
import sys

from demo import scene
import oslo_transfer


def _print(found: object) -> None:
    pickle.dump(found, sys.stdout.buffer)
    sys.stdout.buffer.flush()


def main() -> None:
    """Copy once."""
    conf_file, digest, dst, *src = sys.argv[1:]
    conf = scene.configuration(conf_file)
    _print(True)
    sys.stdin.readline()
    result = oslo_transfer.copy(
        src,
        dst,
        conf=conf,
        hash_algo='sha512',
        hash_value=digest,
        progress=lambda _chunk, total: _print(total),
    )
    _print(result)


main()
