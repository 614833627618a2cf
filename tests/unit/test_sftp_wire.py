# SPDX-License-Identifier: Apache-2.0
"""What stands between the socket and paramiko's transport."""

from __future__ import annotations

import socket
import struct
import threading

from cryptography.hazmat.primitives.ciphers import aead
import paramiko
from paramiko import common
import pytest

from oslo_transfer import context
from oslo_transfer.drivers.sftp import wire
from oslo_transfer import exceptions
from tests.unit import fakes

KEY, IV = bytes(16), bytes(range(12))


@pytest.fixture
def ends():
    """A connection; paramiko gives it a short timeout, too."""
    here, there = socket.socketpair()
    here.settimeout(0.05)
    with here, there:
        yield here, there


@pytest.fixture
def make(ends):
    """A wire, and the peer's end of it."""

    def make(**limits):
        ctx = fakes.make_ctx().replace(**limits)
        return wire.Wire(ends[0], ctx, 'sftp://fake/x'), ends[1]

    return make


@pytest.fixture
def encrypted(make):
    """A packetizer that has keys, and the peer's end."""
    connection, peer = make()
    packetizer = wire.Packetizer(connection)
    packetizer.start_handshake(1.0)
    packetizer.set_inbound_cipher(
        block_engine=aead.AESGCM(KEY),
        block_size=16,
        mac_engine=None,
        mac_size=16,
        mac_key=None,
        etm=False,
        aead=True,
        iv_in=IV,
    )
    return packetizer, peer


def seal(payload, number=0, padding=None):
    """The packet of a payload, as AES-GCM has it (RFC 5647)."""
    fill = 4 + -(len(payload) + 5) % 16
    said = fill if padding is None else padding
    plain = bytes([said]) + payload + bytes(fill)
    head = struct.pack('>I', len(plain))
    nonce = IV[:4] + (int.from_bytes(IV[4:], 'big') + number).to_bytes(8)
    return head + aead.AESGCM(KEY).encrypt(nonce, plain, head)


def channel_data(content, channel=7):
    return struct.pack('>BII', 94, channel, len(content)) + content


def test_packets_are_decrypted(encrypted):
    packetizer, peer = encrypted
    contents = [b'', b'a', bytes(range(256)) * 900]
    sender = threading.Thread(
        target=lambda: (
            [
                peer.sendall(seal(channel_data(each), number))
                for number, each in enumerate(contents)
            ]
            + [peer.sendall(seal(b'\x02' + struct.pack('>I', 9), 3))]
        )
    )
    sender.start()
    for each in contents:
        kind, message = packetizer.read_message()
        assert kind == common.MSG_CHANNEL_DATA
        assert message.get_int() == 7
        assert message.get_binary() == each
    kind, message = packetizer.read_message()
    assert (kind, message.get_int()) == (2, 9)
    sender.join()


def test_packets_that_come_byte_by_byte(encrypted):
    packetizer, peer = encrypted
    stream = seal(channel_data(b'one')) + seal(channel_data(b'two'), 1)
    sender = threading.Thread(
        target=lambda: [peer.sendall(bytes([each])) for each in stream]
    )
    sender.start()
    for content in (b'one', b'two'):
        _kind, message = packetizer.read_message()
        assert message.get_binary() == content
    sender.join()


@pytest.mark.parametrize(
    'stream',
    [
        pytest.param(b'\xff\xff\xff\xff', id='longer than any'),
        pytest.param(struct.pack('>I', 0), id='empty'),
        pytest.param(struct.pack('>I', 40), id='no whole blocks'),
        pytest.param(
            seal(channel_data(b'x'))[:-1] + b'\0', id='tampered with'
        ),
        pytest.param(seal(channel_data(b'x'), 1), id='replayed'),
        pytest.param(seal(b'x', padding=255), id='padding only'),
        pytest.param(
            seal(struct.pack('>BII', 94, 7, 5) + b'x'), id='wrong length'
        ),
    ],
)
def test_bad_packets_end_the_connection(encrypted, stream):
    packetizer, peer = encrypted
    peer.sendall(stream)
    with pytest.raises(paramiko.SSHException):
        packetizer.read_message()


def test_the_end_is_no_packet(encrypted):
    packetizer, peer = encrypted
    peer.sendall(seal(channel_data(b'x'))[:-1])
    peer.close()
    with pytest.raises(EOFError):
        packetizer.read_message()


def test_keys_are_used_for_a_while_only(encrypted, monkeypatch):
    monkeypatch.setattr(paramiko.Packetizer, 'REKEY_BYTES', 100)
    monkeypatch.setattr(paramiko.Packetizer, 'REKEY_BYTES_OVERFLOW_MAX', 100)
    packetizer, peer = encrypted
    for number in range(6):
        peer.sendall(seal(channel_data(b'x'), number))
    packetizer.read_message()
    assert not packetizer.need_rekey()
    packetizer.read_message()
    packetizer.read_message()
    assert packetizer.need_rekey()
    with pytest.raises(paramiko.SSHException, match='keys'):
        for _ in range(3):
            packetizer.read_message()


def test_plain_packets_are_bounded(make):
    """Before there are keys paramiko reads as much as a packet says."""
    connection, peer = make()
    packetizer = wire.Packetizer(connection)
    packetizer.start_handshake(1.0)
    peer.sendall(b'\xff\xff\xff\xf4' + bytes(100))
    with pytest.raises(paramiko.SSHException, match='a packet of'):
        packetizer.read_message()


def test_the_version_and_no_more(make):
    """What is behind it is packets: paramiko must not have read them."""
    connection, peer = make()
    packetizer = wire.Packetizer(connection)
    peer.sendall(b'hello\r\nSSH-2.0-x\r\n\0\0\0\x0c')
    assert packetizer.readline(1.0) == 'hello'
    assert packetizer.readline(1.0) == 'SSH-2.0-x'
    packetizer.start_handshake(1.0)
    assert packetizer.read_all(4) == b'\0\0\0\x0c'


@pytest.mark.parametrize('text', [b'x' * 40_000, b'x\n' * 20_000])
def test_no_version_but_bytes_without_end(make, text):
    connection, peer = make()
    packetizer = wire.Packetizer(connection)
    sender = threading.Thread(target=peer.sendall, args=(text,))
    sender.start()
    with pytest.raises(paramiko.SSHException, match='without end'):
        while packetizer.readline(1.0):
            pass
    sender.join()


@pytest.mark.parametrize(
    ('limits', 'error'),
    [
        ({'stall': context.StallRule(0.1, 1 << 30)}, exceptions.Stalled),
        ({'deadline': 0.0}, exceptions.DeadlineExceeded),
    ],
)
def test_a_peer_that_takes_nothing(make, limits, error):
    """paramiko itself would try for ever."""
    connection, _peer = make(**limits)
    packetizer = wire.Packetizer(connection)
    with pytest.raises(EOFError):
        packetizer.write_all(bytes(16 << 20))
    assert isinstance(connection.error, error)


def test_inbox_gives_what_came():
    inbox = wire.Inbox(100)
    content = b'abcdef'
    inbox.feed(memoryview(content))
    inbox.feed(b'')
    inbox.feed(b'gh')
    assert inbox.read_ready()
    assert inbox.read(4) == b'abcd'
    assert inbox.read(4) == b'ef'
    assert inbox.read(4) == b'gh'
    assert not inbox.read_ready()
    with pytest.raises(paramiko.buffered_pipe.PipeTimeout):
        inbox.read(4, 0.01)
    inbox.feed(b'i')
    inbox.close()
    assert inbox.read(4) == b'i'
    assert inbox.read(4) == b''


def test_inbox_is_bounded():
    """A server that ignores the window must not fill the memory."""
    inbox = wire.Inbox(100)
    inbox.feed(bytes(100))
    with pytest.raises(paramiko.SSHException, match='window'):
        inbox.feed(b'x')
