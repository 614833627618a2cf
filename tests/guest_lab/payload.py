# SPDX-License-Identifier: Apache-2.0
"""What the guest tests: this checkout, as it is now."""

from __future__ import annotations

import io
import os
import pathlib
import py_compile
import sys
import tarfile
import tempfile
import tomllib

from tests.guest_lab import recipe

# What is not needed there is left out.
_PARTS = ('etc', 'oslo_transfer', 'pyproject.toml', 'tests')
_METADATA = 'oslo_transfer-0.dist-info'
# Emulated, the compiler takes seconds for what is imported there.
_COMPILED = (
    *('oslo_transfer', 'tests/guest', 'tests/guest_lab', 'tests/servers'),
)
_UNCHECKED = py_compile.PycInvalidationMode.UNCHECKED_HASH
_CACHE_TAG = f'cpython-{recipe.PYTHON.replace(".", "")}'
#: The guest's second disk: its size cannot change while it runs.
BYTES = 64 << 20


def write(path: str | os.PathLike[str]) -> None:
    """Write a tar file as large as the disk; replaces what was there."""
    with open(path, 'wb') as file:
        with tarfile.open(fileobj=file, mode='w') as tar:
            for part in _PARTS:
                if (recipe.ROOT / part).exists():
                    tar.add(recipe.ROOT / part, part, filter=_wanted)
            if sys.implementation.cache_tag == _CACHE_TAG:
                _add_compiled(tar)
            _add(tar, 'METADATA', 'Name: oslo.transfer\nVersion: 0\n')
            _add(tar, 'entry_points.txt', _entry_points())
        if file.tell() > BYTES:
            raise ValueError(f'the checkout has more than {BYTES} bytes')
        file.truncate(BYTES)


def _wanted(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    name = pathlib.PurePath(entry.name).name
    if name == '__pycache__' or name.endswith('.egg-info'):
        return None
    return _of_root(entry)


def _of_root(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    entry.uid = entry.gid = 0
    entry.uname = entry.gname = ''
    return entry


def _add_compiled(tar: tarfile.TarFile) -> None:
    with tempfile.TemporaryDirectory(prefix='guest-') as name:
        compiled = os.path.join(name, 'compiled')
        for part in _COMPILED:
            for path in sorted((recipe.ROOT / part).rglob('*.py')):
                source = path.relative_to(recipe.ROOT)
                py_compile.compile(
                    os.fspath(path),
                    compiled,
                    f'/checkout/{source}',
                    doraise=True,
                    # Its time there is nobody's business.
                    invalidation_mode=_UNCHECKED,
                )
                there = f'__pycache__/{path.stem}.{_CACHE_TAG}.pyc'
                tar.add(compiled, f'{source.parent}/{there}', filter=_of_root)


def _add(tar: tarfile.TarFile, name: str, text: str) -> None:
    data = text.encode()
    entry = tarfile.TarInfo(f'{_METADATA}/{name}')
    entry.size = len(data)
    tar.addfile(entry, io.BytesIO(data))


def _entry_points() -> str:
    """Drivers and strategies, as an installed package tells them."""
    with open(recipe.ROOT / 'pyproject.toml', 'rb') as file:
        project = tomllib.load(file)['project']
    groups = {'console_scripts': project['scripts'], **project['entry-points']}
    lines = []
    for group, entries in groups.items():
        lines.append(f'[{group}]')
        lines.extend(f'{name} = {value}' for name, value in entries.items())
    return '\n'.join(lines) + '\n'
