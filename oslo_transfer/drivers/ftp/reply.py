# SPDX-License-Identifier: Apache-2.0
"""What a server's replies say (RFC 959, RFC 2428, RFC 3659)."""

from __future__ import annotations

import dataclasses
import re

from oslo_transfer import exceptions

_CODE = re.compile(r'[1-5][0-9][0-9](?=[ \n-]|\Z)')
# What a line of text may not hold; a tab may be in a banner.
_CONTROL = re.compile(r'[\x00-\x08\x0a-\x1f\x7f]')
# One code, 550, stands for a file that is missing and for one that is
# forbidden. Only its text tells them apart.
_FORBIDDEN = re.compile(
    r'permission|denied|privilege|not allowed|forbidden', re.IGNORECASE
)
_MISSING = re.compile(
    r'no such|not found|not exist|cannot find|can.t find', re.IGNORECASE
)
# ftplib's own parsers take signs, blanks and bytes of 256 for numbers.
_EXTENDED = re.compile(r'\(([!-/:-~])\1\1([0-9]{1,5})\1\)')
_BYTE = '(25[0-5]|2[0-4][0-9]|1?[0-9]{1,2})'
_PASSIVE = re.compile(rf'(?<![0-9]){",".join([_BYTE] * 6)}(?![0-9])')
_LOGIN_CODES = frozenset({430, 530, 532, 533, 534, 535, 536, 537})


@dataclasses.dataclass(frozen=True)
class Reply:
    """One reply.

    :ivar code: three digits
    :ivar text: all of it, lines separated by ``\\n``; may repeat what was
        sent, secrets included, so it is never shown
    """

    code: int
    text: str = dataclasses.field(repr=False)

    @property
    def kind(self) -> int:
        """The first digit: 1 begun, 2 done, 3 go on, 4 not now, 5 no."""
        return self.code // 100

    @property
    def forbids(self) -> bool:
        """Whether it speaks of rights, and not of a file."""
        return _FORBIDDEN.search(self.text) is not None


def check_line(line: str, where: str) -> str:
    """A line of a reply without its end.

    :raises ProtocolError: it holds a control character
    """
    line = line.removesuffix('\n').removesuffix('\r')
    if _CONTROL.search(line):
        raise exceptions.ProtocolError(
            f'{where}: a reply of the server holds a control character'
        )
    return line


def parse(text: str, where: str) -> Reply:
    """A reply of one or more lines.

    :raises ProtocolError: it does not begin with a code
    """
    match = _CODE.match(text)
    if match is None:
        raise exceptions.ProtocolError(
            f'{where}: the server does not speak FTP'
        )
    return Reply(int(match.group()), text)


def data_port(reply: Reply, where: str) -> int:
    """The port for data in a reply to EPSV or PASV.

    The address that stands beside it after PASV is not used: data comes
    from where the control connection leads, or not at all.

    :raises ProtocolError: it is none that a server can mean
    """
    port = 0
    if reply.code == 229:
        extended = _EXTENDED.search(reply.text)
        if extended is not None:
            port = int(extended.group(2))
    else:
        passive = _PASSIVE.search(reply.text)
        if passive is not None:
            port = int(passive.group(5)) << 8 | int(passive.group(6))
    if not 1024 <= port <= 65535:
        # Below 1024 other services listen, which a server could make us
        # talk to.
        raise exceptions.ProtocolError(
            f'{where}: the server names no port from 1024 to 65535 for data '
            f'({reply.code})'
        )
    return port


def size(reply: Reply, where: str) -> int:
    """The size in a reply to SIZE, in bytes (RFC 3659, 4).

    :raises ProtocolError: it is malformed
    """
    match = re.fullmatch(r'213 +([0-9]{1,18}) *', reply.text)
    if match is None:
        raise exceptions.ProtocolError(f'{where}: a malformed reply to SIZE')
    return int(match.group(1))


def modified(reply: Reply) -> str | None:
    """The time in a reply to MDTM as it stands there (RFC 3659, 3).

    :returns: None where it is malformed: it is only compared
    """
    # Year 2000 as 19100 is as good as any other.
    match = re.fullmatch(r'213 +([0-9]{14,15}(\.[0-9]+)?) *', reply.text)
    return None if match is None else match.group(1)


def told_size(reply: Reply) -> int | None:
    """The bytes to come, as many servers tell at the start of a RETR."""
    match = re.search(r'\(([0-9]{1,18}) bytes\)', reply.text)
    return None if match is None else int(match.group(1))


def error_for(
    reply: Reply, verb: str, where: str, exists: bool = False
) -> exceptions.TransferError:
    """The error that a code stands for.

    The server's own text is left out: it may repeat what was sent.

    :param verb: the command that was refused
    :param exists: the file was there a moment ago
    """
    text = f'{where}: the server answers {reply.code} to {verb}'
    if reply.code in _LOGIN_CODES:
        return exceptions.AccessDenied(f'{text}; check the credentials')
    if reply.code in (452, 552):
        return exceptions.NoSpace(text)
    if reply.kind == 4:
        return exceptions.Unavailable(text)
    if reply.code == 553:
        return exceptions.AccessDenied(text)
    if reply.code == 550:
        if reply.forbids or (exists and not _MISSING.search(reply.text)):
            return exceptions.AccessDenied(text)
        return exceptions.NotFound(text)
    return exceptions.ProtocolError(text)
