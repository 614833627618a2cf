# SPDX-License-Identifier: Apache-2.0
"""Replies of FTP servers are read strictly."""

from __future__ import annotations

import re

import hypothesis
from hypothesis import strategies as st
import pytest

from oslo_transfer.drivers.ftp import reply
from oslo_transfer import exceptions

WHERE = 'ftp://ftp.example/file'
# What a server might put where a number is due.
LIKE_NUMBERS = st.text('0123456789-+_ ,.()|eE\t٣１', max_size=30)


def of(text):
    return reply.parse(text, WHERE)


@pytest.mark.parametrize(
    ('text', 'code'),
    [
        ('220', 220),
        ('220 Welcome', 220),
        ('220-Welcome\nto this\n220 server', 220),
        ('599 \udcff', 599),
    ],
)
def test_code(text, code):
    """A reply begins with three digits."""
    assert of(text).code == code
    assert of(text).kind == code // 100


@pytest.mark.parametrize(
    'text', ['', '22', '2200', '٢٢٠ x', '999 x', '020 x', 'SSH-2.0-x', '22O x']
)
def test_no_code(text):
    """What does not is no FTP."""
    with pytest.raises(exceptions.ProtocolError):
        of(text)


@hypothesis.given(st.text())
def test_lines(text):
    """A line holds no control character but tabs, or is refused."""
    try:
        line = reply.check_line(text, WHERE)
    except exceptions.ProtocolError as exc:
        assert str(exc).isprintable()
        assert re.search('[\x00-\x1f\x7f]', text)
    else:
        assert text in (line, f'{line}\n', f'{line}\r\n', f'{line}\r')
        assert not re.search('[\x00-\x08\x0a-\x1f\x7f]', line)


@hypothesis.given(st.integers(1024, 65535))
def test_data_port(port):
    """The port is all that counts, wherever the address leads."""
    high, low = divmod(port, 256)
    for text in (
        f'229 Entering Extended Passive Mode (|||{port}|)',
        f'229 What (!!!{port}!) ever',
        f'227 Entering Passive Mode (10,1,2,3,{high},{low}).',
        f'227 =10,1,2,3,{high},{low}',
    ):
        assert reply.data_port(of(text), WHERE) == port


@pytest.mark.parametrize(
    'text',
    [
        '229 (|||0|)',
        '229 (|||21|)',
        '229 (|||1023|)',
        '229 (|||65536|)',
        '229 (|||99999999|)',
        '229 (|||-5000|)',
        '229 (|||+5000|)',
        '229 (||| 5000|)',
        '229 (|||5_000|)',
        '229 (|||٥٠٠٠|)',
        '229 (|1|10.0.0.1|5000|)',
        '229 (||5000|)',
        '229 (1115000 1)',
        '229 5000',
        '229 ()',
        '229',
        '227 (10,0,0,1,3,255)',
        '227 (10,0,0,1,0,0)',
        '227 (10,0,0,1,256,1)',
        '227 (10,0,0,1,20,256)',
        '227 (10,0,0,999,20,1)',
        '227 (10,0,0,1,20)',
        '227 (10,0,0,1,20,1000)',
        '227',
    ],
)
def test_no_data_port(text):
    """Neither other services nor what is no number."""
    with pytest.raises(exceptions.ProtocolError):
        reply.data_port(of(text), WHERE)


@hypothesis.given(st.sampled_from(['227', '229']), st.text())
@hypothesis.example('229', '(' * 1000)
def test_any_data_port(code, text):
    """Whatever a server says: a port that can be meant, or one error."""
    try:
        port = reply.data_port(of(f'{code} {text}'), WHERE)
    except exceptions.ProtocolError as exc:
        assert str(exc).isprintable()
    else:
        assert 1024 <= port <= 65535


@hypothesis.given(st.integers(0, 10**18 - 1))
def test_size(size):
    """A size is a number."""
    assert reply.size(of(f'213 {size}'), WHERE) == size


@hypothesis.given(LIKE_NUMBERS)
@hypothesis.example('-1')
@hypothesis.example('1e6')
@hypothesis.example('1\n213 2')
@hypothesis.example('9' * 19)
def test_no_size(text):
    """And nothing that only looks like one."""
    try:
        found = reply.size(of(f'213 {text}'), WHERE)
    except exceptions.ProtocolError:
        assert not re.fullmatch('[0-9]{1,18}', text)
    else:
        assert text.strip(' ') == text.strip(' ').lstrip('+')
        assert int(text) == found


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('213 20261122203127', '20261122203127'),
        ('213 20261122203127.25', '20261122203127.25'),
        ('213 191001122203127', '191001122203127'),
        ('213 yesterday', None),
        ('213 ', None),
        ('213 2026112220312٧', None),
    ],
)
def test_modified(text, found):
    """A time is kept as it came."""
    assert reply.modified(of(text)) == found


@pytest.mark.parametrize(
    ('text', 'found'),
    [
        ('150 Opening BINARY mode data connection for x (12 bytes).', 12),
        ('150 Opening BINARY mode data connection for x.', None),
        ('150 (-12 bytes)', None),
        ('125 x (0 bytes)', 0),
    ],
)
def test_told_size(text, found):
    """Many servers tell the size when they begin."""
    assert reply.told_size(of(text)) == found


@pytest.mark.parametrize(
    ('text', 'kind', 'retryable'),
    [
        ('421 Too many connections.', exceptions.Unavailable, True),
        ('425 No data connection.', exceptions.Unavailable, True),
        ('450 Busy.', exceptions.Unavailable, True),
        ('452 Full.', exceptions.NoSpace, False),
        ('552 Quota exceeded.', exceptions.NoSpace, False),
        ('530 Who are you?', exceptions.AccessDenied, False),
        ('550 No such file or directory.', exceptions.NotFound, False),
        ('550 Permission denied.', exceptions.AccessDenied, False),
        ('550 Not enough privileges.', exceptions.AccessDenied, False),
        ('550 Failed to open file.', exceptions.NotFound, False),
        ('553 Could not create file.', exceptions.AccessDenied, False),
        ('500 What?', exceptions.ProtocolError, False),
        ('200 Very well.', exceptions.ProtocolError, False),
    ],
)
def test_errors(text, kind, retryable):
    """A code stands for what a caller can do; the text is not repeated."""
    error = reply.error_for(of(f'{text} hunter2'), 'RETR', WHERE)
    assert type(error) is kind
    assert error.retryable == retryable
    assert 'hunter2' not in str(error)
    assert WHERE in str(error)


def test_error_of_what_was_there():
    """550 to RETR after a SIZE that worked: there are no rights to it."""
    kinds = {
        '550 Failed to open file.': exceptions.AccessDenied,
        '550 No such file or directory.': exceptions.NotFound,
    }
    for text, kind in kinds.items():
        error = reply.error_for(of(text), 'RETR', WHERE, exists=True)
        assert type(error) is kind


def test_text_is_not_shown():
    """Not by repr either: it may repeat a login."""
    assert 'hunter2' not in repr(of('331 hunter2'))
