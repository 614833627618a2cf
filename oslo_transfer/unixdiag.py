# SPDX-License-Identifier: Apache-2.0
"""Who is connected to a unix socket, as the kernel has it: sock_diag(7).

A server that hangs does not close what its clients have closed. Whether
there is anybody at the other end is what only the kernel can tell.
"""

from __future__ import annotations

from collections.abc import Iterator
import os
import socket
import struct

# linux/netlink.h, linux/sock_diag.h, linux/unix_diag.h
_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20
_NLM_F_REQUEST = 0x1
_NLM_F_DUMP = 0x300
_NLMSG_ERROR = 2
_NLMSG_DONE = 3
_SHOW_NAME = 1
_SHOW_PEER = 4
_NAME = 0
_PEER = 2
_ESTABLISHED = 1
_ANY = 0xFFFFFFFF

_HEAD = struct.Struct('=IHHII')
_REQUEST = struct.Struct('=BBHIIIII')
_ANSWER = struct.Struct('=BBBBIII')
_ATTRIBUTE = struct.Struct('=HH')
_NUMBER = struct.Struct('=I')
_ERROR = struct.Struct('=i')
_SECONDS = 2.0


def connections(path: str) -> int:
    """How many live clients a socket has, in this network namespace.

    Where the kernel has no such answers, those that are gone and that the
    server has not closed count, too.

    :param path: that it is bound to
    """
    name = os.fsencode(path)
    try:
        # The kernel tells in parts, and can leave one out where others go
        # between two of them: nobody is there only if that is said twice.
        return sum(_clients(name)) or sum(_clients(name))
    except OSError:
        return _listed(path)


def _clients(name: bytes) -> Iterator[bool]:
    for answer in _dump():
        _family, _type, state, *_rest = _ANSWER.unpack_from(answer)
        found = dict(_attributes(answer[_ANSWER.size :]))
        # A client that is gone has no number any more.
        if state == _ESTABLISHED and found.get(_NAME, b'') == name + b'\0':
            yield _NUMBER.unpack(found.get(_PEER, bytes(4)))[0] != 0


def _dump() -> Iterator[bytes]:
    """What the kernel says of each unix socket."""
    request = _REQUEST.pack(
        socket.AF_UNIX, 0, 0, _ANY, 0, _SHOW_NAME | _SHOW_PEER, _ANY, _ANY
    )
    head = _HEAD.pack(
        _HEAD.size + len(request),
        _SOCK_DIAG_BY_FAMILY,
        _NLM_F_REQUEST | _NLM_F_DUMP,
        1,
        0,
    )
    with socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG
    ) as sock:
        sock.settimeout(_SECONDS)
        sock.send(head + request)
        while True:
            data = sock.recv(1 << 16)
            while data:
                length, kind, *_rest = _HEAD.unpack_from(data)
                body = data[_HEAD.size : length]
                if kind == _NLMSG_DONE:
                    return
                if kind == _NLMSG_ERROR:
                    raise OSError(-_ERROR.unpack_from(body)[0], 'sock_diag')
                yield body
                data = data[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE.size:
        length, kind = _ATTRIBUTE.unpack_from(data)
        yield kind, data[_ATTRIBUTE.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return (length + 3) & ~3


def _listed(path: str) -> int:
    """The same by /proc/net/unix: see proc(5)."""
    with open('/proc/net/unix', errors='surrogateescape') as file:
        # Num RefCount Protocol Flags Type St Inode Path
        rows = [line.rstrip('\n').split(maxsplit=7) for line in file]
    return sum(row[7:] == [path] and row[5] == '03' for row in rows)
