# SPDX-License-Identifier: Apache-2.0
"""What has to be measured in a fresh process.

Run as a program with the name of a function and its arguments; prints what
the function returns, as JSON.
"""

# Nothing is imported here that would hide what is measured.
from __future__ import annotations

import contextlib
import importlib
import json
import re
import sys
import time


def _status(name: str) -> float:
    """A field of /proc/self/status, in MiB."""
    with open('/proc/self/status') as file:
        found = re.search(rf'^{name}:\s+(\d+) kB', file.read(), re.M)
    assert found is not None
    return int(found.group(1)) / 1024


def memory(url: str, dst: str, options: str) -> dict[str, float]:
    """Copy with a digest and no value; the peak above the import.

    :param options: as JSON
    """
    import oslo_transfer

    from bench import worker

    conf = worker.configuration(json.loads(options))
    before = _status('VmRSS')
    # Where it cannot be set back, the peak is that of the whole life.
    with (
        contextlib.suppress(OSError),
        open('/proc/self/clear_refs', 'w') as file,
    ):
        file.write('5')
    oslo_transfer.copy(url, dst, conf=conf, hash_algo='sha512', overwrite=True)
    return {'peak': _status('VmHWM') - before}


def _drivers() -> set[str]:
    """Modules of drivers and of requests that are loaded."""
    from importlib import metadata

    names = {
        entry.module
        for entry in metadata.entry_points(group='oslo.transfer.drivers')
    }
    return {
        name
        for name in sys.modules
        if name in names or name.split('.')[0] == 'requests'
    }


def import_ours() -> dict[str, float]:
    """Import the library, then all that it left for later."""
    started = time.perf_counter()
    importlib.import_module('oslo_transfer')
    seconds = time.perf_counter() - started
    early = len(_drivers())
    for name in ('drivers.file', 'drivers.http.driver'):
        importlib.import_module(f'oslo_transfer.{name}')
    return {
        'seconds': seconds,
        'early': early,
        'drivers': len(_drivers()),
    }


def import_requests() -> dict[str, float]:
    """Import requests."""
    started = time.perf_counter()
    importlib.import_module('requests')
    return {'seconds': time.perf_counter() - started}


if __name__ == '__main__':
    print(json.dumps(globals()[sys.argv[1]](*sys.argv[2:])))
