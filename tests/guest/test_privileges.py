# SPDX-License-Identifier: Apache-2.0
"""A service that is not root attaches, by the two privileged daemons."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import subprocess
import sys
import threading

import pytest

from tests.servers import resource

pytestmark = pytest.mark.functional

_DATA = resource.pattern(2 << 20)
_NOBODY = 65534
# Stands for sudo(8), which the guest has not: asks the root of the test.
_SUDO = """#!/bin/sh
for word; do printf '%s ' "$word"; done >>{directory}/asked
echo >>{directory}/asked
read status <{directory}/status
exit "$status"
"""
_DAEMON = 'from oslo_privsep.daemon import helper_main; helper_main()'
_PROGRAM = """
import json, os, sys
from oslo_config import cfg
import oslo_transfer
file, url, dst, digest = sys.argv[1:]
conf = cfg.ConfigOpts()
conf([], default_config_files=[file], default_config_dirs=[])
oslo_transfer.register_opts(conf)
told = {'user': os.geteuid()}
with oslo_transfer.attach(url, conf=conf) as attachment:
    told['size'] = attachment.size
    # The privileged daemon opens the device.
    copied = oslo_transfer.copy(
        url, dst, 'full_copy', hash_algo='sha256', hash_value=digest, conf=conf
    )
    told['verified'] = copied.verified
    try:
        open(attachment.path, 'rb')
    except PermissionError:
        told['open'] = 'refused'
told['left'] = len(oslo_transfer.attachments(conf))
print(json.dumps(told))
"""


@contextlib.contextmanager
def _root(directory):
    """Answers what stands for sudo; yields what it was asked for."""
    asked, status = directory / 'asked', directory / 'status'
    for path in (asked, status):
        os.mkfifo(path)
        os.chown(path, _NOBODY, -1)
    lines: list[str] = []

    def serve():
        # Open for both, so that nobody waits for it to be opened.
        with (
            open(os.open(asked, os.O_RDWR)) as requests,
            open(os.open(status, os.O_RDWR), 'w') as answers,
        ):
            while (line := requests.readline().strip()) != 'end':
                lines.append(line)
                program, *words = shlex.split(line)
                assert program == 'privsep-helper'
                done = subprocess.run(
                    [sys.executable, '-c', _DAEMON, *words], check=False
                )
                answers.write(f'{done.returncode}\n')
                answers.flush()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield lines
    finally:
        asked.write_text('end\n')
        thread.join(10)


# Three processes import os-brick or oslo.privsep.
@pytest.mark.timeout(170)
def test_without_root(tgt, tmp_path):
    """The device is root's, and nothing of it is left."""
    # Above it others may not go.
    directory = tmp_path.parents[2] / 'nobody'
    directory.mkdir(mode=0o755)
    os.chown(directory, _NOBODY, _NOBODY)
    sudo = directory / 'sudo'
    sudo.write_text(_SUDO.format(directory=directory))
    sudo.chmod(0o755)
    conf = directory / 'transfer.conf'
    conf.write_text(
        f'[oslo_transfer]\nstate_path = {directory}/state\n'
        f'[oslo_transfer_iscsi]\nengine = os_brick\n'
    )
    lun = tgt.lun(content=_DATA, size=len(_DATA))
    with _root(directory) as asked:
        done = subprocess.run(
            [
                *('setpriv', f'--reuid={_NOBODY}', f'--regid={_NOBODY}'),
                *('--clear-groups', '--inh-caps=-all', '--'),
                *(sys.executable, '-c', _PROGRAM, conf, lun.url()),
                *(directory / 'copy', hashlib.sha256(_DATA).hexdigest()),
            ],
            env={**os.environ, 'PATH': f'{directory}:{os.environ["PATH"]}'},
            capture_output=True,
            text=True,
            check=False,
            timeout=150,
        )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == {
        'user': _NOBODY,
        'verified': True,
        'size': len(_DATA),
        'open': 'refused',
        'left': 0,
    }
    contexts = [
        line.split('--privsep_context ')[1].split()[0] for line in asked
    ]
    assert sorted(contexts) == [
        'os_brick.privileged.default',
        'oslo_transfer.privileged.default',
    ]
