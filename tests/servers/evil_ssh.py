# SPDX-License-Identifier: Apache-2.0
"""What a server can do wrong before SFTP begins, and beneath it."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
import os
import socket
import struct
import threading
from typing import Any

import paramiko

from tests.servers import evil_sftp_lab
from tests.servers import scripted_ssh
from tests.servers import sftp_session

FAIL, OK, OK_OR_FAIL = (
    evil_sftp_lab.FAIL,
    evil_sftp_lab.OK,
    evil_sftp_lab.OK_OR_FAIL,
)
DENIED: dict[str, Any] = {'errors': 'AccessDenied'}
# Ended for what it sends, and not for the time that it takes.
BOUNDED: dict[str, Any] = {'errors': 'ProtocolError'}
AWAY: dict[str, Any] = {'errors': 'Unavailable Stalled ProtocolError'}
# Nobody gets so far that a digest would matter.
ONCE: dict[str, Any] = {'facts': ('none',)}

_VERSION = b'SSH-2.0-evil\r\n'
_DISCONNECT, _IGNORE, _KEXINIT = 1, 2, 20


def plain(payload: bytes) -> bytes:
    """Return a packet as it is before there are keys (RFC 4253, 6)."""
    padding = 8 - (5 + len(payload)) % 8
    padding += 8 if padding < 4 else 0
    size = struct.pack('>IB', 1 + len(payload) + padding, padding)
    return size + payload + bytes(padding)


# S-17: before the first packet


def _tcp(key: str, title: str, script: Any, **fields: Any) -> None:
    def start(
        stack: contextlib.ExitStack, data: bytes
    ) -> evil_sftp_lab.Server:
        return stack.enter_context(scripted_ssh.TCPServer(script))

    evil_sftp_lab.add(key, title, FAIL, start, **ONCE, **{**AWAY, **fields})


def _says(*parts: bytes, then_close: bool = False) -> Any:
    def script(sock: socket.socket, closing: threading.Event) -> None:
        for part in parts:
            sock.sendall(part)
        if not then_close:
            closing.wait()

    return script


def _repeats(part: bytes, pause: float = 0.0, first: bytes = b'') -> Any:
    def script(sock: socket.socket, closing: threading.Event) -> None:
        sock.sendall(first)
        while not closing.wait(pause):
            sock.sendall(part)

    return script


_tcp('S-17-silent', 'says nothing', _says())
_tcp('S-17-closed', 'hangs up at once', _says(then_close=True))
_tcp('S-17-line', 'a line of 10 MB', _says(b'x' * 10_000_000), **BOUNDED)
_tcp('S-17-version', 'a version of 10 MB', _says(b'SSH-2.0-' + b'x' * 10**7))
_tcp(
    'S-17-lines',
    'lines without end',
    _repeats(b'welcome\r\n' * 999),
    **BOUNDED,
)
_tcp('S-17-slow', 'a line now and then', _repeats(b'wait\r\n', 0.05))
_tcp('S-17-bytes', 'a byte now and then', _repeats(b'w', 0.05))
_tcp('S-17-zeros', 'zeros without end', _repeats(bytes(4096)), **BOUNDED)
_tcp('S-17-old', 'version 1.5', _says(b'SSH-1.5-old\r\n'))
_tcp(
    'S-17-http', 'an HTTP server',
    _says(b'HTTP/1.1 400 Bad\r\nContent-Length: 0\r\n\r\n', then_close=True),
)  # fmt: skip
_tcp('S-17-no-kex', 'nothing behind the version', _says(_VERSION))
_tcp(
    'S-17-full', 'too many connections already',
    _says(
        _VERSION,
        plain(
            struct.pack('>BI', _DISCONNECT, 12)
            + sftp_session.string('Too many connections')
            + sftp_session.string('')
        ),
        then_close=True,
    ),
)  # fmt: skip
_tcp('S-20-ssh-huge', 'a packet of 4 GiB', _says(_VERSION, b'\xff' * 4000))
_tcp('S-20-ssh-zero', 'a packet of 0 bytes', _says(_VERSION, bytes(4000)))
_tcp(
    'S-20-ssh-noise', 'noise behind the version',
    _says(_VERSION, os.urandom(4000)),
)  # fmt: skip
_tcp(
    'S-20-ignore', 'packets to ignore, without end',
    _repeats(plain(bytes([_IGNORE]) + bytes(2000)), 0.001, _VERSION),
)  # fmt: skip
_tcp(
    'S-04-none', 'no algorithm at all',
    _says(_VERSION, plain(bytes([_KEXINIT]) + bytes(16 + 40 + 5))),
)  # fmt: skip


# Logins and channels


def _ssh(
    key: str,
    title: str,
    expect: str,
    connection: type[scripted_ssh.Connection] = scripted_ssh.Connection,
    server: dict[str, Any] | None = None,
    subsystem: bool = True,
    **fields: Any,
) -> None:
    def start(
        stack: contextlib.ExitStack, data: bytes
    ) -> evil_sftp_lab.Server:
        store = sftp_session.Store(data)
        return stack.enter_context(
            scripted_ssh.SSHServer(
                store.subsystem(sftp_session.Session) if subsystem else None,
                connection=connection,
                **server or {},
            )
        )

    evil_sftp_lab.add(key, title, expect, start, **ONCE, **fields)


def _override(**methods: Any) -> type[scripted_ssh.Connection]:
    return type('Evil', (scripted_ssh.Connection,), methods)


def _hang(self: Any, *_rest: Any) -> int:
    self.server.closing.wait()
    return 1


def _again(self: Any, *_rest: Any) -> Any:
    return paramiko.InteractiveQuery('', '', ('Password: ', False))


def _early_lines(self: Any) -> None:
    self.sock.sendall(b'all that you do\r\nis recorded\r\n')
    scripted_ssh.Connection.start(self)


def _old_name(self: Any) -> paramiko.Transport:
    transport = paramiko.Transport(self.sock)
    transport.local_version = 'SSH-1.99-new'
    return transport


def _not_strict(self: Any) -> paramiko.Transport:
    return paramiko.Transport(self.sock, strict_kex=False)


_ssh(
    'S-17-early', 'lines before the version', OK, _override(start=_early_lines)
)
_ssh('S-17-1.99', 'version 1.99', OK, _override(make_transport=_old_name))
_ssh('S-05-none', 'no strict kex', OK, _override(make_transport=_not_strict))
_ssh(
    'S-18-refused', 'refuses each login', FAIL,
    _override(check_auth_password=lambda *_rest: paramiko.AUTH_FAILED),
    **DENIED,
)  # fmt: skip
_ssh(
    'S-18-no-way', 'takes no password', FAIL,
    server={'methods': 'gssapi-with-mic,hostbased'}, **DENIED,
)  # fmt: skip
_ssh(
    'S-18-partial', 'is never satisfied', FAIL,
    _override(
        check_auth_password=lambda *_: paramiko.AUTH_PARTIALLY_SUCCESSFUL
    ),
    **DENIED,
)  # fmt: skip
_ssh(
    'S-18-asks', 'asks for the password for ever', FAIL,
    _override(check_auth_interactive=_again,
              check_auth_interactive_response=_again),
    {'methods': 'keyboard-interactive'},
    errors='AccessDenied Unavailable Stalled ProtocolError',
)  # fmt: skip
_ssh(
    'S-18-slow', 'never answers a login', FAIL,
    _override(check_auth_password=_hang), **AWAY,
)  # fmt: skip
_ssh(
    'S-18-banner', 'a word of 200 KB before the login', OK_OR_FAIL,
    _override(get_banner=lambda _self: ('x' * 200_000, 'en')),
)  # fmt: skip
_ssh('S-18-channel', 'no channels', FAIL, server={'refuse_channels': True})
_ssh('S-18-sftp', 'no SFTP', FAIL, subsystem=False)
_ssh(
    'S-19-channel', 'no answer to the channel', FAIL,
    _override(check_channel_request=_hang), **AWAY,
)  # fmt: skip
_ssh(
    'S-19-sftp', 'no answer to the subsystem', FAIL,
    _override(check_channel_subsystem_request=_hang), **AWAY,
)  # fmt: skip


# S-01, S-02: host keys


class _Stranger(scripted_ssh.SSHServer):
    known_hosts = '# nobody\n'


class _Changed(scripted_ssh.SSHServer):
    @property
    def known_hosts(self) -> str:
        """Return the text from before the key was changed."""
        key = paramiko.ECDSAKey.generate(bits=256)
        return f'[127.0.0.1]:{self.port} {key.get_name()} {key.get_base64()}\n'


def _host_key(key: str, title: str, cls: type[scripted_ssh.SSHServer]) -> None:
    def start(
        stack: contextlib.ExitStack, data: bytes
    ) -> evil_sftp_lab.Server:
        subsystem = sftp_session.Store(data).subsystem(sftp_session.Session)
        server = stack.enter_context(cls(subsystem))
        # Nothing is shown to a stranger.
        stack.callback(lambda: _assert_no_attempt(server))
        return server

    evil_sftp_lab.add(key, title, FAIL, start, **ONCE, **DENIED)


def _assert_no_attempt(server: scripted_ssh.SSHServer) -> None:
    assert not server.attempts, 'a stranger was shown a login'


_host_key('S-01-unknown', 'a host key that is not known', _Stranger)
_host_key('S-02-changed', 'a host key that has changed', _Changed)


# S-05, S-20: somebody in between


class _Between:
    """A server behind a relay, under the relay's port."""

    def __init__(
        self, server: scripted_ssh.SSHServer, relay: scripted_ssh.Relay
    ) -> None:
        self._server = server
        self._relay = relay

    def url(self, path: str = '/image') -> str:
        """Return the URL of a path."""
        old, new = f':{self._server.port}/', f':{self._relay.port}/'
        return self._server.url(path).replace(old, new)

    @property
    def known_hosts(self) -> str:
        """Return the right known_hosts text."""
        old, new = f':{self._server.port} ', f':{self._relay.port} '
        return self._server.known_hosts.replace(old, new)


def _between(
    key: str,
    title: str,
    expect: str,
    change: Callable[[], Callable[[bytes], bytes]],
    **fields: Any,
) -> None:
    def start(stack: contextlib.ExitStack, data: bytes) -> Any:
        server = evil_sftp_lab.serve(stack, sftp_session.Store(data))
        relay = scripted_ssh.Relay(server.port, change)
        return _Between(server, stack.enter_context(relay))

    evil_sftp_lab.add(key, title, expect, start, **ONCE, **fields)


class _Terrapin:
    """Puts a packet in before the keys are made (CVE-2023-48795)."""

    def __init__(self) -> None:
        self._held = b''
        self._done = False

    def __call__(self, data: bytes) -> bytes:
        self._held += data
        line, mark, rest = self._held.partition(b'\n')
        if self._done or not mark or len(rest) < 4:
            return self._release() if self._done else b''
        size = 4 + int.from_bytes(rest[:4], 'big')
        if len(rest) < size:
            return b''
        extra = plain(bytes([_IGNORE]) + sftp_session.string(b''))
        self._held = line + mark + rest[:size] + extra + rest[size:]
        self._done = True
        return self._release()

    def _release(self) -> bytes:
        held, self._held = self._held, b''
        return held


class _Flip:
    """Changes one bit far behind the login."""

    def __init__(self) -> None:
        self._passed = 0

    def __call__(self, data: bytes) -> bytes:
        at = 50_000 - self._passed
        self._passed += len(data)
        if 0 <= at < len(data):
            return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]
        return data


class _Twice(_Flip):
    """Sends some bytes again."""

    def __call__(self, data: bytes) -> bytes:
        self._passed += len(data)
        return data + data[-100:] if self._passed > 50_000 else data


_between('S-05-terrapin', 'a packet put in', FAIL, _Terrapin)
_between('S-20-flipped', 'a bit is changed on the way', FAIL, _Flip)
_between('S-20-replayed', 'bytes are sent again', FAIL, _Twice)


# Beneath a session


class _Chatter(sftp_session.Session):
    """Talks for ever, and says nothing."""

    def on_read(self, request: sftp_session.Request) -> None:
        while not self.connection.server.closing.wait(0.005):
            self.connection.transport.send_ignore(100)


evil_sftp_lab.session(
    'S-19-chatter',
    'packets to ignore instead of data',
    FAIL,
    errors='Stalled',
    **ONCE,
)(_Chatter)
