# SPDX-License-Identifier: Apache-2.0
"""Files on the server: their names, and what can be done to them."""

from __future__ import annotations

import stat
import struct
import typing
import urllib.parse

from oslo_transfer.drivers.sftp import protocol
from oslo_transfer.drivers.sftp import session as _session
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import endpoint as _endpoint

Type = protocol.Type
Status = protocol.Status

_KINDS = {
    stat.S_IFDIR: 'a directory',
    stat.S_IFCHR: 'a device',
    stat.S_IFBLK: 'a device',
    stat.S_IFIFO: 'a pipe',
    stat.S_IFSOCK: 'a socket',
}


def path_of(endpoint: _endpoint.Endpoint) -> bytes:
    """The path on the server that a URL names.

    Absolute, or under the home directory if it starts with ``/~/``.
    Nothing else is special: ``..`` and ``~user`` go to the server as they
    are written.

    :raises InvalidEndpoint: there is none, or nothing that can be a path
    """
    if endpoint.query is not None:
        raise exceptions.InvalidEndpoint(
            'an sftp URL has no query; write "?" in a name as %3F'
        )
    path = urllib.parse.unquote_to_bytes(endpoint.path)
    if b'\x00' in path:
        raise exceptions.InvalidEndpoint(
            'the path of an sftp URL holds a NUL character'
        )
    if path.startswith(b'/~/'):
        path = path[3:]
    if not path or path.endswith(b'/'):
        raise exceptions.InvalidEndpoint('an sftp URL has to name a file')
    return path


class Files:
    """Requests about files of one session, with the library's errors.

    Blocks until the reply is there, by all methods.

    :param session: to send them by
    :param waiter: whose limits hold
    """

    def __init__(
        self, session: _session.Session, waiter: _session.Waiter
    ) -> None:
        self.session = session
        self.waiter = waiter

    def stat(self, path: bytes) -> protocol.Attributes:
        """What is there, symbolic links followed."""
        return self._attributes(Type.STAT, path)

    def lstat(self, path: bytes) -> protocol.Attributes:
        """What is there, a symbolic link itself if it is one."""
        return self._attributes(Type.LSTAT, path)

    def fstat(self, handle: bytes) -> protocol.Attributes:
        """What an open file is now."""
        return self._attributes(Type.FSTAT, handle)

    def _attributes(self, kind: Type, name: bytes) -> protocol.Attributes:
        return self.attributes(
            self.session.ask(self.waiter, kind, protocol.string(name))
        )

    def attributes(self, reply: protocol.Reply) -> protocol.Attributes:
        """The attributes that a reply brings."""
        self.expect(reply, Type.ATTRS)
        return protocol.Reader(reply.body).attributes()

    def open(
        self,
        path: bytes,
        flags: protocol.Open,
        attributes: protocol.Attributes | None = None,
    ) -> bytes:
        """Open a file; returns its handle."""
        reply = self.session.ask(
            self.waiter,
            Type.OPEN,
            protocol.string(path)
            + struct.pack('>I', flags)
            + (attributes or protocol.Attributes()).encode(),
        )
        self.expect(reply, Type.HANDLE)
        handle = protocol.Reader(reply.body).string()
        if len(handle) > 256:
            raise exceptions.ProtocolError(
                f'{self.session.where}: a handle of {len(handle)} bytes'
            )
        return handle

    def close(self, handle: bytes) -> None:
        """Close a file."""
        self.do(Type.CLOSE, protocol.string(handle))

    def set_size(self, handle: bytes, size: int) -> None:
        """Cut an open file, or make it longer by zeros."""
        attributes = protocol.Attributes(size=size).encode()
        self.do(Type.FSETSTAT, protocol.string(handle) + attributes)

    def remove(self, path: bytes) -> None:
        """Remove a file."""
        self.do(Type.REMOVE, protocol.string(path))

    def rename(self, old: bytes, new: bytes) -> None:
        """Give a file a name that is not taken."""
        self.do(Type.RENAME, protocol.string(old) + protocol.string(new))

    def extended(self, name: bytes, *fields: bytes) -> bool:
        """Do an extended request that answers with a status.

        :returns: False if the server does not have it
        """
        if name not in self.session.extensions:
            return False
        body = b''.join(protocol.string(each) for each in (name, *fields))
        self.do(Type.EXTENDED, body)
        return True

    def free(self, path: bytes) -> int | None:
        """Bytes that we can still store beside a path; None if unknown."""
        name = b'statvfs@openssh.com'
        if name not in self.session.extensions:
            return None
        reply = self.session.ask(
            self.waiter,
            Type.EXTENDED,
            protocol.string(name) + protocol.string(path),
        )
        if reply.type != Type.EXTENDED_REPLY:
            return None
        fields = protocol.Reader(reply.body)
        _block, unit, _blocks, _free, available = (
            fields.uint64() for _ in range(5)
        )
        return unit * available

    def do(self, kind: Type, body: bytes) -> None:
        """Send a request that answers with a status."""
        self.expect(self.session.ask(self.waiter, kind, body), Type.STATUS)

    def expect(self, reply: protocol.Reply, kind: Type) -> None:
        """Raise unless a reply is of a type, and no failure."""
        if reply.type == Type.STATUS:
            error = self.error(reply)
            if error is not None:
                raise error
        if reply.type != kind:
            raise exceptions.ProtocolError(
                f'{self.session.where}: a reply of type {reply.type} where '
                f'{kind.name} is due'
            )

    def expect_data(self, reply: protocol.Reply) -> None:
        """Raise for what a READ is answered by other than data.

        :raises SourceChanged: the file ends there
        """
        if reply.type == Type.STATUS:
            if protocol.Reader(reply.body).uint32() == Status.EOF:
                raise exceptions.SourceChanged(
                    f'{self.session.where}: it ends before the size that '
                    f'it had'
                )
        self.expect(reply, Type.DATA)

    def error(self, reply: protocol.Reply) -> exceptions.TransferError | None:
        """The library's error for a status; None for success."""
        fields = protocol.Reader(reply.body)
        code = fields.uint32()
        if code == Status.OK:
            return None
        # Not every server of version 3 has a text.
        text = fields.string() if fields.rest else b''
        said = text.decode('utf-8', 'replace')[:200]
        said = ''.join(each if each.isprintable() else '?' for each in said)
        message = f'{self.session.where}: {said or f"status {code}"}'
        return _ERRORS.get(code, exceptions.StorageError)(message)

    def check_regular(self, attributes: protocol.Attributes) -> None:
        """Refuse what is no file: reading a pipe might never end.

        :raises InvalidEndpoint: it is something else
        """
        if attributes.mode is None or stat.S_ISREG(attributes.mode):
            return
        kind = _KINDS.get(stat.S_IFMT(attributes.mode), 'something else')
        raise exceptions.InvalidEndpoint(
            f'{self.session.where} is no file but {kind}'
        )


_ERRORS: dict[int, type[exceptions.TransferError]] = {
    Status.EOF: exceptions.StorageError,
    Status.NO_SUCH_FILE: exceptions.NotFound,
    Status.PERMISSION_DENIED: exceptions.AccessDenied,
    Status.FAILURE: exceptions.StorageError,
    Status.BAD_MESSAGE: exceptions.ProtocolError,
    Status.NO_CONNECTION: exceptions.Unavailable,
    Status.CONNECTION_LOST: exceptions.Unavailable,
    Status.OP_UNSUPPORTED: exceptions.CapabilityMissing,
    Status.NO_SUCH_PATH: exceptions.NotFound,
    Status.FILE_ALREADY_EXISTS: exceptions.AlreadyExists,
    Status.WRITE_PROTECT: exceptions.AccessDenied,
    Status.NO_SPACE_ON_FILESYSTEM: exceptions.NoSpace,
    Status.QUOTA_EXCEEDED: exceptions.NoSpace,
}
