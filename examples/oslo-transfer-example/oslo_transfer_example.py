# SPDX-License-Identifier: Apache-2.0
"""Members of zip archives as sources: ``zip://ARCHIVE/MEMBER``."""

import contextlib
import copy
import os
import threading
import urllib.parse
import zipfile
import zlib

from oslo_config import cfg

from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer import oserrors

OPTIONS = (
    cfg.StrOpt(
        'directory',
        help='Directory with the archives that zip URLs name. Unset means '
        'that there are none.',
    ),
)


def list_opts():
    """Options by group, for ``oslo-config-generator``."""
    return [('oslo_transfer_zip', copy.deepcopy(list(OPTIONS)))]


class ZipDriver(base.Driver):
    """Members of zip archives in a directory of the deployer's choice."""

    name = 'zip'
    schemes = ('zip',)
    # A compressed member can be read from its start only: no RANDOM_READ.
    capabilities = base.Capability.READ
    OPTIONS = OPTIONS

    def open_source(self, endpoint, ctx):
        """Open a member of an archive."""
        directory = self.conf.oslo_transfer_zip.directory
        if not directory:
            raise exceptions.ConfigurationError(
                '[oslo_transfer_zip] directory is not set'
            )
        # A host name has no slash in it, so this leads nowhere else.
        archive = os.path.join(directory, f'{endpoint.host}.zip')
        member = urllib.parse.unquote(endpoint.path).lstrip('/')
        return ZipSource(archive, member, ctx)


class ZipSource(base.Source):
    """A member of an archive that is open for reading."""

    capabilities = base.Capability.READ
    # One stream is as fast as it gets: more would unpack the same again.
    geometry = base.Geometry(max_streams=1)

    def __init__(self, archive, member, ctx):
        self.where = f'{archive}, {member}'
        self.ctx = ctx
        self.closed = False
        with _errors(archive):
            self._archive = zipfile.ZipFile(archive)
        try:
            self._info = self._archive.getinfo(member)
        except KeyError:
            self._archive.close()
            raise exceptions.NotFound(
                f'{archive} has no member {member}'
            ) from None
        self.size = self._info.file_size
        # Equal checksums do not promise equal bytes: weak.
        self.validator = base.Validator(
            f'{self._info.CRC:08x}-{self.size}', strong=False
        )

    def stream(self, offset, length):
        """Unpack from the start."""
        if self.closed:
            raise exceptions.TransferCancelled(f'{self.where} was closed')
        if offset:
            raise exceptions.CapabilityMissing(
                f'{self.where} can be read from its start only'
            )
        if length is None:
            length = self.size
        if length > self.size:
            raise exceptions.SourceChanged(
                f'{self.where} has {self.size} bytes, {length} were asked for'
            )
        with _errors(self.where):
            return ZipStream(self, self._archive.open(self._info), length)

    def close(self):
        """Close the archive, when the last stream is closed, too."""
        self.closed = True
        self._archive.close()


class ZipStream(base.Stream):
    """The first bytes of a member, or all of them."""

    def __init__(self, source, file, length):
        super().__init__()
        self._source = source
        self._file = file
        self._left = length
        # Any thread may close a stream while another one reads it.
        self._lock = threading.Lock()

    def readinto(self, buffer):
        """Unpack some; 0 at the end of what was asked for, and only then."""
        where = self._source.where
        view = memoryview(buffer).cast('B')[: self._left]
        with self._lock, _errors(where):
            if self.closed:
                raise exceptions.TransferCancelled(f'{where} was closed')
            self._source.ctx.check()
            data = self._file.read1(len(view)) if view else b''
        if view and not data:
            raise exceptions.ProtocolError(
                f'{where} ends {self._left} bytes early'
            )
        view[: len(data)] = data
        self._left -= len(data)
        return len(data)

    def close(self):
        """Close the member."""
        with self._lock:
            self._file.close()
            super().close()


@contextlib.contextmanager
def _errors(where):
    """Turn what goes wrong into errors that callers know."""
    try:
        with oserrors.os_errors(f'reading {where}'):
            yield
    except (zipfile.BadZipFile, zlib.error, EOFError) as exc:
        raise exceptions.ProtocolError(f'{where} is damaged: {exc}') from exc
    except RuntimeError as exc:  # Encrypted, or packed in a way unknown here.
        raise exceptions.CapabilityMissing(f'{where}: {exc}') from exc
