# SPDX-License-Identifier: Apache-2.0
"""The NBD export negotiates as proto.md says, whatever clients send."""

from __future__ import annotations

import os
import socket
import stat
import struct

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer import exceptions
from oslo_transfer.export import listening
from oslo_transfer.export import nbd
from oslo_transfer.export import nbd_options
from oslo_transfer import nbd_wire as wire
from tests.servers import nbd_client

Option = wire.Option
Reply = wire.OptionReply
ACK = (Reply.ACK, b'')
FLAGS = (
    wire.Flag.HAS_FLAGS
    | wire.Flag.READ_ONLY
    | wire.Flag.CAN_MULTI_CONN
    | wire.Flag.SEND_CACHE
)


class Image:
    """Nobody reads it here."""

    etag = 'feed'

    def __init__(self, size):
        self.size = size


IMAGES = {'': Image(1000), 'größer': Image(1 << 40)}
NAMES = [name.encode() for name in IMAGES]


class Line:
    """What a client sends, and what it is sent."""

    def __init__(self, received):
        self._received = received
        self.sent = b''
        self.secured = 0

    def take(self, count):
        if count > len(self._received):
            raise EOFError
        taken = self._received[:count]
        self._received = self._received[count:]
        return taken

    def sendall(self, data):
        self.sent += data

    def secure(self):
        self.secured += 1


def option(kind, data=b''):
    return wire.OPTION_MAGIC + struct.pack('>II', kind, len(data)) + data


def query(name, *queries):
    parts = [name, None, *queries]
    return b''.join(
        struct.pack('>I', len(queries))
        if part is None
        else struct.pack('>I', len(part)) + part
        for part in parts
    )


def find_listed(name):
    if name not in IMAGES:
        raise exceptions.NotFound('there is no such export')
    return IMAGES[name]


def negotiate(*options, tls=False, flags=3, find=find_listed):
    """Returns what was agreed upon, and the replies to each option."""
    line = Line(struct.pack('>I', flags) + b''.join(options))
    agreed = []
    done = nbd_options.Negotiation(
        line, IMAGES, find, tls, agreed.append
    ).run()
    assert done == bool(agreed)
    assert line.sent.startswith(b'NBDMAGICIHAVEOPT\0\3')
    return agreed, replies(line.sent[18:]), line


def replies(sent):
    found = []
    while sent.startswith(struct.pack('>Q', wire.OPTION_REPLY_MAGIC)):
        _magic, kind, reply, length = struct.unpack_from('>QIII', sent)
        found.append((kind, reply, sent[20 : 20 + length]))
        sent = sent[20 + length :]
    return found + ([sent] if sent else [])


ABORT = option(Option.ABORT)
STRUCTURED = option(Option.STRUCTURED_REPLY)


def asked(*options, **kwargs):
    """Replies to options; the client then gives up."""
    agreed, found, line = negotiate(*options, ABORT, **kwargs)
    assert not agreed
    assert found.pop() == (Option.ABORT, *ACK)
    return found


def test_list():
    assert asked(option(Option.LIST)) == [
        (Option.LIST, Reply.SERVER, struct.pack('>I', len(name)) + name)
        for name in sorted(NAMES)
    ] + [(Option.LIST, *ACK)]


@pytest.mark.parametrize(
    'kind', [Option.LIST, Option.STRUCTURED_REPLY, Option.STARTTLS]
)
def test_options_without_data(kind):
    assert [reply for _kind, reply, _data in asked(option(kind, b'x'))] == [
        Reply.ERR_INVALID
    ]


@pytest.mark.parametrize('kind', [4, 11, 0, (1 << 32) - 1])
def test_unknown_options(kind):
    """They are refused, and what comes next is not taken for their data."""
    assert [reply for _kind, reply, _data in asked(option(kind, ABORT))] == [
        Reply.ERR_UNSUP
    ]


@pytest.mark.parametrize('name', NAMES)
@pytest.mark.parametrize('structured', [False, True])
@pytest.mark.parametrize('kind', [Option.INFO, Option.GO])
def test_info_and_go(kind, structured, name):
    begin = [STRUCTURED] if structured else []
    agreed, found, _line = negotiate(
        *begin, option(kind, wire.go(name)), *[ABORT] * (kind == Option.INFO)
    )
    image = IMAGES[name.decode()]
    flags = FLAGS | wire.Flag.SEND_DF * structured
    sizes = struct.pack('>HIII', wire.Info.BLOCK_SIZE, 1, 1 << 16, 1 << 25)
    assert found[structured:][:3] == [
        (kind, Reply.INFO, struct.pack('>HQH', 0, image.size, flags)),
        (kind, Reply.INFO, sizes),
        (kind, *ACK),
    ]
    if kind == Option.GO:
        assert agreed == [(name.decode(), image, structured, False)]


@pytest.mark.parametrize('kind', [Option.INFO, Option.GO])
def test_unknown_export(kind):
    """It is an error, and the client may go on."""
    for name in (b'unknown', b'\xff', b'gr\xc3'):
        ((_kind, reply, text),) = asked(option(kind, wire.go(name)))
        assert reply == Reply.ERR_UNKNOWN
        assert b'no such export' in text


@pytest.mark.parametrize(
    ('error', 'reply'),
    [
        (exceptions.NotFound, Reply.ERR_UNKNOWN),
        (exceptions.InvalidEndpoint, Reply.ERR_UNKNOWN),
        (exceptions.Unavailable, Reply.ERR_UNKNOWN),
        (exceptions.PolicyRefused, Reply.ERR_POLICY),
        (exceptions.AccessDenied, Reply.ERR_POLICY),
    ],
)
@pytest.mark.parametrize(
    'kind',
    [Option.INFO, Option.GO, Option.SET_META_CONTEXT],
)
def test_names_that_cannot_be_found(kind, error, reply):
    """The client learns why, and may go on."""

    def find(name):
        raise error(f'no {name}, for a r\xe9ason ' + 'x' * 5000)

    data = (
        query(b'http://far/image', wire.ALLOCATION)
        if kind == Option.SET_META_CONTEXT
        else wire.go(b'http://far/image')
    )
    _, (told_kind, told, text) = asked(
        STRUCTURED, option(kind, data), find=find
    )
    assert (told_kind, told) == (kind, reply)
    assert text.decode('utf-8', 'ignore').startswith('no http://far/image, f')
    assert len(text) <= 4096
    with pytest.raises(nbd_options.Refused):
        negotiate(option(Option.EXPORT_NAME, b'http://far/i'), find=find)


def test_a_name_is_looked_up_once():
    """However often a client says it: each look-up may ask an origin."""
    found = []

    def find(name):
        found.append(name)
        return IMAGES['']

    name = 'http://far/gr\xf6\xdfer'.encode()
    agreed, _, _ = negotiate(
        STRUCTURED,
        option(Option.INFO, wire.go(name)),
        option(Option.SET_META_CONTEXT, query(name, wire.ALLOCATION)),
        option(Option.GO, wire.go(name)),
        find=find,
    )
    assert agreed == [(name.decode(), IMAGES[''], True, True)]
    assert found == [name.decode()]


@pytest.mark.parametrize('name', [b'x' * 4097, b'\xff', b'\xed\xa0\x80'])
@pytest.mark.parametrize('kind', [Option.INFO, Option.GO])
def test_nobody_is_asked_for_what_is_no_name(kind, name):
    ((_kind, reply, _text),) = asked(
        option(kind, wire.go(name)), find=lambda name: pytest.fail(name)
    )
    assert reply == Reply.ERR_UNKNOWN


@pytest.mark.parametrize('flags', [0, 1, 2, 3])
def test_export_name(flags):
    """The old way, which has no answer but the export."""
    agreed, found, _line = negotiate(
        option(Option.EXPORT_NAME, NAMES[1]), flags=flags
    )
    said = struct.pack('>QH', 1 << 40, FLAGS)
    assert found == [said + bytes(0 if flags & 2 else 124)]
    assert agreed == [('größer', IMAGES['größer'], False, False)]


def test_export_name_that_is_unknown():
    with pytest.raises(nbd_options.Refused):
        negotiate(option(Option.EXPORT_NAME, b'unknown'))


@pytest.mark.parametrize('flags', [4, 1 << 31, 7])
def test_unknown_flags(flags):
    with pytest.raises(nbd_options.Refused):
        negotiate(flags=flags)


def test_option_that_is_none():
    with pytest.raises(nbd_options.Refused):
        negotiate(b'GET / HTTP/1.1\r\n\r\n')


def test_option_that_is_too_long():
    """Nobody waits for its end."""
    head = wire.OPTION_MAGIC + struct.pack('>II', Option.GO, 1 << 20)
    with pytest.raises(nbd_options.Refused):
        negotiate(head)


@pytest.mark.parametrize(
    ('queries', 'listed', 'set_'),
    [
        ([], True, False),
        ([b'base:'], True, False),
        ([b'base:allocation'], True, True),
        ([b'x-other:thing', b'base:allocation'], True, True),
        ([b'base:unknown', b'qemu:dirty-bitmap:a', b''], False, False),
    ],
)
def test_metadata(queries, listed, set_):
    """base:allocation, and nothing else."""
    data = query(b'', *queries)
    for kind, found, number in (
        (Option.LIST_META_CONTEXT, listed, 0),
        (Option.SET_META_CONTEXT, set_, 1),
    ):
        said = (kind, Reply.META_CONTEXT, struct.pack('>I', number))
        context = [said[:2] + (said[2] + wire.ALLOCATION,)] if found else []
        assert asked(STRUCTURED, option(kind, data))[1:] == [
            *context,
            (kind, *ACK),
        ]
    agreed, _found, _line = negotiate(
        STRUCTURED,
        option(Option.SET_META_CONTEXT, data),
        option(Option.GO, wire.go(b'')),
    )
    assert agreed == [('', IMAGES[''], True, set_)]


def test_metadata_of_another_export():
    """What was agreed for one export is not for another."""
    context = option(Option.SET_META_CONTEXT, query(NAMES[1], wire.ALLOCATION))
    for extra, name, expected in (
        ([], NAMES[1], True),
        ([], NAMES[0], False),
        # The last one counts, also where it fails.
        ([option(Option.SET_META_CONTEXT, b'')], NAMES[1], False),
        ([option(Option.SET_META_CONTEXT, query(b'?'))], NAMES[1], False),
    ):
        agreed, _found, _line = negotiate(
            *(STRUCTURED, context, *extra), option(Option.GO, wire.go(name))
        )
        assert agreed[0].context is expected


@pytest.mark.parametrize(
    'kind', [Option.LIST_META_CONTEXT, Option.SET_META_CONTEXT]
)
def test_metadata_takes_structured_replies(kind):
    ((_kind, reply, _text),) = asked(option(kind, query(b'')))
    assert reply == Reply.ERR_INVALID
    found = asked(STRUCTURED, option(kind, query(b'unknown')))
    assert found[1][1] == Reply.ERR_UNKNOWN


@pytest.mark.parametrize(
    ('kind', 'data'),
    [
        (Option.GO, b''),
        (Option.GO, b'\0\0\0\5abc\0\0'),
        (Option.GO, b'\0\0\0\0\0\1'),
        (Option.GO, b'\0\0\0\0\0\0x'),
        (Option.INFO, b'\xff\xff\xff\xff\0\0'),
        (Option.SET_META_CONTEXT, b'\0\0\0\0'),
        (Option.SET_META_CONTEXT, b'\0\0\0\0\xff\xff\xff\xff' + bytes(60000)),
        (Option.LIST_META_CONTEXT, query(b'', b'base:') + b'x'),
        (Option.LIST_META_CONTEXT, b'\0\0\0\0\0\0\0\1\xff\xff\xff\xffx'),
    ],
)
def test_malformed(kind, data):
    found = asked(STRUCTURED, option(kind, data))
    assert [reply for _kind, reply, _text in found[1:]] == [Reply.ERR_INVALID]


def test_no_tls():
    ((_kind, reply, _text),) = asked(option(Option.STARTTLS))
    assert reply == Reply.ERR_UNSUP


def test_tls_comes_first():
    """Before it nothing is told, and nothing is agreed."""
    early = [
        option(Option.LIST),
        option(Option.INFO, wire.go(b'')),
        option(Option.GO, wire.go(b'unknown')),
        STRUCTURED,
        option(99),
    ]
    agreed, found, line = negotiate(
        *early,
        option(Option.STARTTLS),
        option(Option.STARTTLS),
        option(Option.GO, wire.go(b'')),
        tls=True,
    )
    assert [reply for _kind, reply, _text in found[:7]] == [
        *[Reply.ERR_TLS_REQD] * 5,
        Reply.ACK,
        Reply.ERR_INVALID,
    ]
    assert line.secured == 1
    assert agreed == [('', IMAGES[''], False, False)]
    with pytest.raises(nbd_options.Refused):
        negotiate(option(Option.EXPORT_NAME), tls=True)


def test_what_was_agreed_before_tls_does_not_count(monkeypatch):
    """Were it told at all."""
    line = Line(b'\0\0\0\3' + option(Option.STARTTLS) + ABORT)
    talk = nbd_options.Negotiation(line, IMAGES, find_listed, True, print)
    talk._structured, talk._context = True, ''
    talk.run()
    assert (talk._structured, talk._context) == (False, None)


def refuse(agreement):
    raise exceptions.NotFound('gone')


KINDS = st.one_of(st.sampled_from(list(Option)), st.integers(0, 20))
DATAS = st.one_of(
    st.binary(max_size=40),
    st.sampled_from([wire.go(b''), query(b'', b'base:'), b'']),
    st.builds(
        lambda name, parts: query(name, *parts),
        st.sampled_from([*NAMES, b'?']),
        st.lists(
            st.sampled_from([b'base:', wire.ALLOCATION, b'x']), max_size=3
        ),
    ),
)


@hypothesis.settings(max_examples=200, deadline=None)
@hypothesis.given(
    st.one_of(
        st.binary(max_size=200),
        st.lists(st.builds(option, KINDS, DATAS), max_size=8).map(b''.join),
        st.tuples(
            st.lists(st.builds(option, KINDS, DATAS), max_size=5).map(
                b''.join
            ),
            st.binary(max_size=40),
        ).map(b''.join),
    ),
    st.booleans(),
    st.booleans(),
)
def test_any_bytes(data, tls, refuses):
    """They end in an agreement, a refusal, or with the connection."""
    line = Line(b'\0\0\0\3' + data)
    agreed = []
    enter = refuse if refuses else agreed.append
    try:
        done = nbd_options.Negotiation(
            line, IMAGES, find_listed, tls, enter
        ).run()
    except (EOFError, nbd_options.Refused, exceptions.NotFound):
        done = False
    assert done <= bool(agreed)
    assert not (tls and agreed and not line.secured)
    # Each reply belongs to an option, and makes sense.
    found = replies(line.sent[18:])
    for reply in found[: -1 if done else None]:
        assert len(reply) == 3


# Listening


def test_unix_socket(tmp_path, nothing_left):
    """It has the mode that it should have before anybody can connect."""
    path = str(tmp_path / 'sock')
    tried = []

    def chmod(name, mode):
        with socket.socket(socket.AF_UNIX) as probe:
            with pytest.raises(ConnectionRefusedError):
                probe.connect(name)
        tried.append(name)
        real(name, mode)

    real = os.chmod
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(os, 'chmod', chmod)
        server = nbd.NbdServer(
            IMAGES, listening.Address(path=path, mode=0o620)
        )
        server.start()
    assert tried
    found = os.stat(path)
    assert stat.S_IMODE(found.st_mode) == 0o620
    assert os.listdir(tmp_path) == ['sock']
    assert server.uri == f'nbd+unix:///?socket={path}'
    server.stop()
    assert os.listdir(tmp_path) == []
    server.stop()


def test_owner_and_group(tmp_path, monkeypatch, nothing_left):
    path = str(tmp_path / 'sock')
    changed = []
    monkeypatch.setattr(os, 'chown', lambda *args: changed.append(args))
    for uid, gid, ids in (
        (1234, 4321, (1234, 4321)),
        (0, 0, (0, 0)),
        (None, 7, (-1, 7)),
    ):
        with nbd.NbdServer({}, listening.Address(path=path, uid=uid, gid=gid)):
            assert changed.pop() == (path, *ids)
    with nbd.NbdServer({}, listening.Address(path=path)):
        assert changed == []


def test_socket_of_another_one(tmp_path, nothing_left):
    """A dead one is replaced, a living one is not."""
    path = str(tmp_path / 'sock')
    with nbd.NbdServer(IMAGES, listening.Address(path=path)):
        with pytest.raises(exceptions.Unavailable, match=path):
            nbd.NbdServer({}, listening.Address(path=path)).start()
        with nbd_client.Client(path) as client:
            client.greet()
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    with nbd.NbdServer(IMAGES, listening.Address(path=path)) as server:
        with nbd_client.Client(path) as client:
            client.greet()
        # Somebody else's is not removed with it.
        os.unlink(path)
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(path)
            server.stop()
            assert os.path.exists(path)


@pytest.mark.parametrize('path', ['relative', '/' + 'x' * 107])
def test_unfit_path(path):
    with pytest.raises(exceptions.ConfigurationError, match=path):
        listening.Listener(listening.Address(path=path))


def test_path_that_is_a_file(tmp_path):
    path = tmp_path / 'file'
    path.write_text('precious')
    with pytest.raises(exceptions.ConfigurationError, match='no socket'):
        listening.Listener(listening.Address(path=str(path)))
    assert path.read_text() == 'precious'
    with pytest.raises(exceptions.NotFound):
        nowhere = str(tmp_path / 'no' / 'sock')
        listening.Listener(listening.Address(path=nowhere))


@pytest.mark.parametrize('host', ['127.0.0.1', 'localhost', '::1'])
def test_tcp(host, nothing_left):
    with nbd.NbdServer(IMAGES, listening.Address(host=host)) as server:
        where = f'[{host}]' if ':' in host else host
        assert server.uri.startswith(f'nbd://{where}:')
        assert server.uri_of('a b/c').endswith('/a%20b%2Fc')


def test_address_of_another_host():
    with pytest.raises(exceptions.Unavailable, match='192.0.2.1'):
        listening.Listener(listening.Address(host='192.0.2.1'))
