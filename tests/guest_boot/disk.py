# SPDX-License-Identifier: Apache-2.0
"""Builds the disk that the guest boots from, once, and keeps it."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import pathlib
import shutil
import tempfile

from tests.guest_lab import cpio
from tests.guest_lab import image

# A new number makes new ones.
_FORMAT = 1
_BYTES = 200 << 20
# From the root of the other guest, but for what is large and no boot needs.
_PARTS = (
    *('etc', 'usr/bin', 'usr/sbin'),
    *('usr/lib/python3.11', 'usr/lib/x86_64-linux-gnu'),
)
_LEFT_OUT = ('ceph', 'gconv', 'libicudata*', 'libicui18n*', 'librbd*')
_LIBRARIES = 'usr/lib/x86_64-linux-gnu'
_MOUNTS = ('dev', 'mnt', 'proc', 'root', 'run', 'sys', 'tmp', 'var')
_UUID = '6f736c6f-7472-616e-7366-657220626f6f'
_HERE = pathlib.Path(__file__).parent
_SOURCES = ('init.sh', 'initramfs.sh', 'disk.py')


@dataclasses.dataclass(frozen=True)
class Disk:
    """What QEMU needs.

    :ivar path: the raw disk, to be copied and not to be written to
    :ivar kernel: Debian's
    :ivar initrd: finds the disk
    """

    path: pathlib.Path
    kernel: pathlib.Path
    initrd: pathlib.Path

    @property
    def size(self) -> int:
        """In bytes."""
        return self.path.stat().st_size


def missing() -> str | None:
    """Why there can be none here; None if there can."""
    if why := image.missing():
        return why
    for name in ('debugfs', 'mke2fs', 'qemu-img'):
        if not image.find(name):
            return f'{name} is not installed'
    return None


def ensure() -> Disk:
    """Build it unless it is there; blocks for seconds then.

    Several processes may call it at once: one builds.

    :raises BuildFailed: there is none
    """
    guest = image.ensure()
    there = guest / f'boot-{_key()}'
    with image.locked(guest / 'boot.lock'):
        if not there.exists():
            for old in guest.glob('boot-*'):
                shutil.rmtree(old)
            with tempfile.TemporaryDirectory(prefix='new-', dir=guest) as new:
                _build(guest, pathlib.Path(new))
                made = pathlib.Path(new, 'made')
                os.rename(made, there)
    return Disk(there / 'disk.raw', guest / 'kernel', there / 'initramfs')


def _key() -> str:
    digest = hashlib.sha256(f'{_FORMAT}'.encode())
    for name in _SOURCES:
        digest.update((_HERE / name).read_bytes())
    return digest.hexdigest()[:16]


def _build(guest: pathlib.Path, new: pathlib.Path) -> None:
    made, root, log = new / 'made', new / 'root', new / 'log'
    made.mkdir()
    try:
        _unpack(guest / 'root.ext4', root, log)
        image.run(
            log,
            *('mke2fs', '-q', '-t', 'ext4', '-O', '^has_journal'),
            *('-U', _UUID, '-E', f'root_owner=0:0,hash_seed={_UUID}'),
            *('-d', root, made / 'disk.raw', f'{_BYTES // 1024}k'),
        )
    except Exception as exc:
        written = log.read_text(errors='replace') if log.exists() else ''
        raise image.BuildFailed(f'{exc}\n{written[-4000:]}') from exc
    archive = cpio.Archive()
    archive.file('init', _HERE / 'initramfs.sh')
    # Of two files with one name in two archives the last one counts.
    (made / 'initramfs').write_bytes(
        (guest / 'initramfs').read_bytes() + archive.finish()
    )


def _unpack(disk: pathlib.Path, root: pathlib.Path, log: pathlib.Path) -> None:
    """Take files out of a file system, without mounting it."""
    commands = root.with_name('commands')
    lines = []
    for part in _PARTS:
        (root / part).parent.mkdir(parents=True, exist_ok=True)
        lines.append(f'rdump "/{part}" "{(root / part).parent}"\n')
    commands.write_text(''.join(lines))
    image.run(log, 'debugfs', '-f', commands, disk)
    for pattern in _LEFT_OUT:
        for path in (root / _LIBRARIES).glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name in _MOUNTS:
        (root / name).mkdir()
    # As Debian has it.
    for name in ('bin', 'lib', 'sbin'):
        (root / name).symlink_to(f'usr/{name}')
    (root / 'lib64').symlink_to(_LIBRARIES)
    shutil.copy(_HERE / 'init.sh', root / 'usr/sbin/init-boot')
    (root / 'usr/sbin/init-boot').chmod(0o755)
