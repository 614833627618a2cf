# SPDX-License-Identifier: Apache-2.0
"""Archives that the kernel unpacks at its start ("newc", see cpio(5))."""

from __future__ import annotations

import io
import os
import pathlib
import stat


class Archive:
    """Collects directories, device nodes and files."""

    def __init__(self) -> None:
        self._out = io.BytesIO()
        self._number = 0

    def directory(self, name: str) -> None:
        """Add a directory."""
        self._add(name, stat.S_IFDIR | 0o755, b'')

    def device(self, name: str, major: int, minor: int) -> None:
        """Add a character device."""
        self._add(name, stat.S_IFCHR | 0o600, b'', (major, minor))

    def file(self, name: str, source: str | os.PathLike[str]) -> None:
        """Add a program, with the directories that it is in."""
        for parent in reversed(pathlib.PurePath(name).parents[:-1]):
            self.directory(os.fspath(parent))
        data = pathlib.Path(source).read_bytes()
        self._add(name, stat.S_IFREG | 0o755, data)

    def _add(
        self,
        name: str,
        mode: int,
        data: bytes,
        device: tuple[int, int] = (0, 0),
    ) -> None:
        self._number += 1
        path = name.encode() + b'\0'
        fields = (
            *(self._number, mode, 0, 0, 1, 0, len(data)),
            *(0, 0, *device, len(path), 0),
        )
        self._write(b'070701' + b''.join(b'%08X' % n for n in fields) + path)
        self._write(data)

    def _write(self, data: bytes) -> None:
        self._out.write(data)
        self._out.write(bytes(-self._out.tell() % 4))

    def finish(self) -> bytes:
        """The whole archive; nothing can be added any more."""
        self._add('TRAILER!!!', 0, b'')
        return self._out.getvalue()
