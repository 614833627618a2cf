# SPDX-License-Identifier: Apache-2.0
"""What is in the guest."""

from __future__ import annotations

import hashlib
import pathlib
import re

#: The checkout that is tested.
ROOT = pathlib.Path(__file__).resolve().parents[2]

#: Debian's release, and the version of its Python.
SUITE = 'bookworm'
PYTHON = '3.11'

PACKAGES = (
    # What boots it.
    *('busybox-static', 'linux-image-cloud-amd64', 'kmod', 'udev'),
    # Two targets, the initiator and its paths.
    *('tgt', 'targetcli-fb', 'open-iscsi', 'multipath-tools', 'dmsetup'),
    *('nfs-kernel-server', 'nfs-common'),
    # Attachments without a kernel initiator.
    *('qemu-utils', 'qemu-block-extra', 'libiscsi7', 'libnbd-bin', 'nbdkit'),
    *('fuse3',),
    # Tools of the tests, and of who looks for what is wrong.
    *('e2fsprogs', 'iproute2', 'lsscsi', 'procps', 'psmisc', 'sg3-utils'),
    *('strace', 'python3'),
)

#: Beside requirements.txt.
DISTRIBUTIONS = (
    'cryptography>=43.0.0',
    'hypothesis>=6.112.0',
    'os-brick>=7.1.1',
    'pytest>=8.3.0',
    'pytest-timeout>=2.3.1',
    'requests>=2.32.2',
    # What another Python than the guest's says is not needed.
    'typing-extensions>=4.12',
)

#: Found in the guest by initramfs.sh, with all that they depend on.
BOOT_MODULES = ('virtio_pci', 'virtio_blk')

#: Files that nobody reads there.
LEFT_OUT = ('/usr/share/doc/*', '/usr/share/locale/*', '/usr/share/man/*')

#: How the root file system is made: a new number makes new ones.
FORMAT = 1


def distributions() -> list[str]:
    """All requirements, as pip takes them."""
    found = [*DISTRIBUTIONS]
    for line in (ROOT / 'requirements.txt').read_text().splitlines():
        if requirement := re.sub(r'\s*#.*', '', line).strip():
            found.append(requirement)
    return sorted(found)


def key() -> str:
    """Names what goes in: another key is another guest."""
    digest = hashlib.sha256()
    for part in (
        FORMAT,
        SUITE,
        PACKAGES,
        distributions(),
        BOOT_MODULES,
        LEFT_OUT,
    ):
        digest.update(repr(part).encode() + b'\n')
    return digest.hexdigest()[:16]
