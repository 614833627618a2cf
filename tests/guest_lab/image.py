# SPDX-License-Identifier: Apache-2.0
"""Builds the guest's disk once, and keeps it."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import fcntl
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

from tests.guest_lab import cpio
from tests.guest_lab import recipe

#: Says where guests are kept, instead of the user's cache directory.
CACHE = 'OSLO_TRANSFER_TEST_CACHE'
# Sparse: only what is used takes space.
_BYTES = 3 << 30
# A build takes two minutes.
_BUILD_SECONDS = 900.0
# Guests of other checkouts are kept this long after their last use.
_KEPT_SECONDS = 14 * 86400
#: Where programs are looked for, also by who is not root.
PATH = os.environ.get('PATH', '/usr/bin:/bin') + ':/usr/sbin:/sbin'
_HERE = pathlib.Path(__file__).parent


class BuildFailed(Exception):
    """There is no guest; the message holds the end of the log."""


def missing() -> str | None:
    """Why no guest can run here; None if one can."""
    for name in ('qemu-system-x86_64', 'setpriv'):
        if not find(name):
            return f'{name} is not installed'
    if (directory() / 'root.ext4').exists():
        return None
    if os.geteuid() != 0:
        return 'only root can build the guest'
    for name in ('mmdebstrap', 'mke2fs'):
        if not find(name):
            return f'{name} is not installed'
    return None


def directory() -> pathlib.Path:
    """Where this checkout's guest is, or will be."""
    if told := os.environ.get(CACHE):
        base = pathlib.Path(told)
    else:
        base = pathlib.Path(
            os.environ.get('XDG_CACHE_HOME') or pathlib.Path.home() / '.cache',
            'oslo-transfer-tests',
        )
    return base / f'guest-{recipe.key()}'


def ensure() -> pathlib.Path:
    """Build the guest unless it is there; blocks for minutes then.

    Several processes may call it at once: one builds.

    :returns: a directory with ``root.ext4``, ``kernel`` and ``initramfs``
    :raises BuildFailed: there is no such guest
    """
    there = directory()
    there.parent.mkdir(parents=True, exist_ok=True)
    with locked(there.with_name(there.name + '.lock')):
        if not (there / 'root.ext4').exists():
            _forget_old(there.parent)
            _build(there)
        os.utime(there)
    return there


@contextlib.contextmanager
def locked(path: pathlib.Path) -> Iterator[None]:
    """Keep other processes from building the same."""
    with open(path, 'w') as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _forget_old(base: pathlib.Path) -> None:
    for entry in base.glob('guest-*'):
        with contextlib.suppress(OSError):
            if time.time() - entry.stat().st_mtime > _KEPT_SECONDS:
                if entry.is_dir():
                    shutil.rmtree(entry)
                else:
                    entry.unlink()


def _build(there: pathlib.Path) -> None:
    with tempfile.TemporaryDirectory(
        prefix='building-', dir=there.parent
    ) as name:
        temporary = pathlib.Path(name)
        made = temporary / 'guest'
        made.mkdir()
        log = temporary / 'log'
        try:
            _install(temporary / 'root', log)
            _boot_files(temporary / 'root', made)
            run(
                log,
                *('mke2fs', '-q', '-t', 'ext4', '-O', '^has_journal'),
                *('-E', 'root_owner=0:0', '-d', temporary / 'root'),
                *(made / 'root.ext4', f'{_BYTES // 1024}k'),
            )
        except (OSError, subprocess.SubprocessError) as exc:
            written = log.read_text(errors='replace') if log.exists() else ''
            raise BuildFailed(f'{exc}\n{written[-4000:]}') from exc
        os.rename(made, there)


def _install(root: pathlib.Path, log: pathlib.Path) -> None:
    run(
        log,
        *('mmdebstrap', '--variant=minbase', '--mode=root'),
        '--include=' + ','.join(recipe.PACKAGES),
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Retries "3"',
        '--dpkgopt=force-confold',
        *(f'--dpkgopt=path-exclude={path}' for path in recipe.LEFT_OUT),
        # Its own initramfs is made here, and faster.
        '--essential-hook=mkdir -p "$1/etc/initramfs-tools" && echo '
        'update_initramfs=no >"$1/etc/initramfs-tools/update-initramfs.conf"',
        recipe.SUITE,
        root,
        INITRD='No',
    )
    site = root / f'usr/local/lib/python{recipe.PYTHON}/dist-packages'
    platforms = ('manylinux2014_x86_64', 'manylinux_2_28_x86_64', 'any')
    # What is installed is for the guest's Python, whichever runs this.
    run(
        log,
        *(sys.executable, '-m', 'pip', 'install', '--quiet', '--no-compile'),
        *('--disable-pip-version-check', '--only-binary=:all:'),
        *('--python-version', recipe.PYTHON, '--implementation', 'cp'),
        *(f'--platform={platform}' for platform in platforms),
        '--target',
        site,
        *recipe.distributions(),
    )
    # Emulated, that takes minutes.
    run(
        log,
        'chroot',
        root,
        *('python3', '-m', 'compileall', '-q', '-j', '0'),
        *('/usr/lib/python3', '/usr/lib/python' + recipe.PYTHON),
        f'/{site.relative_to(root)}',
        check=False,
    )
    run(log, 'chroot', root, 'python3', '-c', 'import os_brick, pytest')
    (root / 'checkout').mkdir()


def _boot_files(root: pathlib.Path, made: pathlib.Path) -> None:
    (kernel,) = (root / 'boot').glob('vmlinuz-*')
    version = kernel.name.removeprefix('vmlinuz-')
    archive = cpio.Archive()
    archive.directory('dev')
    archive.device('dev/console', 5, 1)
    archive.file('bin/busybox', root / 'bin/busybox')
    archive.file('init', _HERE / 'initramfs.sh')
    modules = _modules(root, version)
    for module in modules:
        archive.file(module, root / module)
    listed = made / 'modules'
    listed.write_text('\n'.join(modules) + '\n')
    archive.file('modules', listed)
    (made / 'initramfs').write_bytes(archive.finish())
    shutil.copy(kernel, made / 'kernel')


def _modules(root: pathlib.Path, version: str) -> list[str]:
    """Files of modules, in the order to load them."""
    shown = subprocess.run(
        [
            *('chroot', root, 'modprobe', '--set-version', version),
            *('--show-depends', '--all', *recipe.BOOT_MODULES),
        ],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, 'PATH': PATH},
    ).stdout
    files = [
        words[1].lstrip('/')
        for line in shown.splitlines()
        if (words := line.split())[0] == 'insmod'
    ]
    return list(dict.fromkeys(files))


def find(name: str) -> str | None:
    """Where a program is."""
    return shutil.which(name, path=PATH)


def run(
    log: pathlib.Path,
    *command: str | os.PathLike[str],
    check: bool = True,
    **environment: str,
) -> None:
    """Run a step of a build; what it says goes to the log."""
    with open(log, 'ab') as output:
        subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            check=check,
            timeout=_BUILD_SECONDS,
            env={
                **os.environ,
                'PATH': PATH,
                'LC_ALL': 'C',
                'DEBIAN_FRONTEND': 'noninteractive',
                **environment,
            },
        )
