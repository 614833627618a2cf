# SPDX-License-Identifier: Apache-2.0
"""What an iscsi URL and Cinder's ``connection_info`` name: a LUN.

Pure: nothing here connects. The names of the dictionary's keys are Cinder's
(``cinder/volume/targets/iscsi.py``) and those that os-brick reads.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import re
import typing
import urllib.parse

from oslo_transfer.drivers import connection_info as _info
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

PORT = 3260
# RFC 7143, 4.2.7.1.
_MAX_NAME = 223
_NAME = re.compile(r'(iqn|eui|naa)\.[^\x00-\x20/,\x7f]+', re.IGNORECASE)
# What libiscsi keeps of a name or secret; it would cut off the rest.
_MAX_SECRET = 255


@dataclasses.dataclass(frozen=True, order=True)
class Path:
    """One way to a LUN.

    :ivar host: host name or bare IP address of the portal
    :ivar port: its TCP port
    :ivar iqn: name of the target
    :ivar lun: number of the logical unit there
    """

    host: str
    port: int
    iqn: str
    lun: int

    @property
    def portal(self) -> str:
        """``host:port``, with brackets around an IPv6 address."""
        host = f'[{self.host}]' if ':' in self.host else self.host
        return f'{host}:{self.port}'

    def __str__(self) -> str:
        return f'{self.portal}/{self.iqn}/{self.lun}'


@dataclasses.dataclass(frozen=True, kw_only=True)
class Lun:
    """A logical unit, and what is known of it before it is opened.

    :ivar where: the redacted URL, for messages
    :ivar paths: all ways to it, in order of preference; never empty
    :ivar username: for CHAP; None where the target asks for none
    :ivar password: for CHAP
    :ivar discover: its portals are to be asked for more of them
    :ivar serial: unit serial number that it must have, or None
    :ivar wwn: identifier that it must have, as hexadecimal digits in lower
        case, or None
    :ivar size: bytes that it must have, or None
    :ivar read_only: it may not be written
    :ivar data: Cinder's dictionary as it came, empty without one; holds
        secrets
    """

    where: str
    paths: tuple[Path, ...]
    username: str | None = dataclasses.field(default=None, repr=False)
    password: str | None = dataclasses.field(default=None, repr=False)
    discover: bool = False
    serial: str | None = None
    wwn: str | None = None
    size: int | None = None
    read_only: bool = False
    data: Mapping[str, typing.Any] = dataclasses.field(
        default_factory=dict, repr=False
    )

    @property
    def key(self) -> str:
        """The same for all ways to the same LUN of this host."""
        iqn, lun = min((path.iqn.lower(), path.lun) for path in self.paths)
        return f'{iqn}/{lun}'


def from_endpoint(endpoint: _endpoint.Endpoint, ctx: _context.Context) -> Lun:
    """The LUN that a URL names, with what the context adds.

    :raises InvalidEndpoint: the URL or the dictionary makes no sense, or
        they name different LUNs
    """
    where = str(endpoint)
    if endpoint.query is not None:
        raise exceptions.InvalidEndpoint(f'{where}: an iscsi URL has no query')
    named = _paths_of_url(endpoint, where)
    data = _info.data(ctx.connection_info, 'iscsi', where)
    paths = _paths_of_data(data, where) or named
    if not {_unit(path) for path in named} <= {_unit(each) for each in paths}:
        raise exceptions.InvalidEndpoint(
            f'{where}: its connection_info names another LUN'
        )
    username, password = _login(endpoint, ctx, data, where)
    return Lun(
        where=where,
        # The same portal twice would only be tried twice.
        paths=tuple(dict.fromkeys(paths)),
        username=username,
        password=password,
        discover=data.get('target_discovered') is False,
        serial=_text(data, 'scsi_serial', where),
        wwn=_wwn(data, where),
        size=_integer(data, 'scsi_size', where),
        read_only=data.get('access_mode') == 'ro',
        data=data,
    )


def is_name(text: str) -> bool:
    """Whether it is the name of a target or initiator."""
    return bool(_NAME.fullmatch(text)) and len(text.encode()) <= _MAX_NAME


def fits_chap(text: str) -> bool:
    """Whether it can be a user name or a secret."""
    return 0 < len(text.encode()) <= _MAX_SECRET and '\x00' not in text


def normal_wwn(text: str) -> str:
    """An identifier as hexadecimal digits in lower case.

    As in ``/dev/disk/by-id``: ``0x6001...``, ``naa.6001...``,
    ``scsi-36001...`` and ``36001...`` are all the same. That leading digit
    is the type of designator, which a name of 17 or 33 digits has.
    """
    found = text.strip().lower()
    found = re.sub(r'^(scsi-|wwn-)', '', found)
    found = re.sub(r'^(naa|eui)\.', '', found)
    found = found.removeprefix('0x').replace(':', '').replace('-', '')
    if len(found) in (17, 33):
        found = found[1:]
    return found


def _unit(path: Path) -> tuple[str, int]:
    return path.iqn.lower(), path.lun


def _paths_of_url(
    endpoint: _endpoint.Endpoint, where: str
) -> tuple[Path, ...]:
    iqn, slash, number = endpoint.path.removeprefix('/').rpartition('/')
    if not slash:
        raise exceptions.InvalidEndpoint(
            f'{where}: an iscsi URL is iscsi://PORTAL/TARGET-NAME/LUN'
        )
    iqn = _name(urllib.parse.unquote(iqn), where)
    lun = _number(number, where)
    return tuple(
        Path(host, port or PORT, iqn, lun)
        for host, port in (
            (endpoint.host, endpoint.port),
            *endpoint.further,
        )
    )


def _paths_of_data(
    data: Mapping[str, typing.Any], where: str
) -> tuple[Path, ...]:
    lists = [
        _several(data, f'target_{name}', where)
        for name in ('portal', 'iqn', 'lun')
    ]
    if not any(lists):
        return ()
    if len({len(each) for each in lists}) != 1:
        raise exceptions.InvalidEndpoint(
            f'{where}: connection_info has {len(lists[0])} portals, '
            f'{len(lists[1])} target names and {len(lists[2])} LUNs; they '
            f'have to be lists of the same length'
        )
    return tuple(
        Path(*portal(each, where), _name(iqn, where), _number(lun, where))
        for each, iqn, lun in zip(*lists)
    )


def _several(
    data: Mapping[str, typing.Any], name: str, where: str
) -> Sequence[typing.Any]:
    """The list ``target_portals``, or ``target_portal`` alone."""
    many = data.get(f'{name}s')
    if many is None:
        one = data.get(name)
        return [] if one is None else [one]
    if isinstance(many, str) or not isinstance(many, Sequence):
        raise exceptions.InvalidEndpoint(
            f'{where}: {name}s in connection_info is no list'
        )
    return many


def portal(value: typing.Any, where: str) -> tuple[str, int]:
    """Host and port of what is written as ``HOST[:PORT][,TAG]``.

    :raises InvalidEndpoint: it is no such thing
    """
    # As a part of a URL, so that there is one parser of hosts. A portal
    # group tag behind a comma does not matter (RFC 7143, 4.2.7).
    text = str(value).partition(',')[0]
    try:
        parsed = _endpoint.parse(f'iscsi://{text}/')
    except exceptions.InvalidEndpoint:
        parsed = None
    if parsed is None or parsed.username is not None or parsed.path != '/':
        raise exceptions.InvalidEndpoint(f'{where}: a malformed portal')
    return parsed.host, parsed.port or PORT


def _name(value: typing.Any, where: str) -> str:
    name = str(value)
    if not is_name(name):
        raise exceptions.InvalidEndpoint(
            f'{where}: a target name begins with iqn., eui. or naa. and has '
            f'at most {_MAX_NAME} bytes'
        )
    return name


def _number(value: typing.Any, where: str) -> int:
    text = str(value)
    if not re.fullmatch('[0-9]{1,20}', text) or int(text) >= 1 << 64:
        raise exceptions.InvalidEndpoint(
            f'{where}: a LUN is a number, and at most 64 bits long'
        )
    return int(text)


def _text(data: Mapping[str, typing.Any], name: str, where: str) -> str | None:
    value = data.get(name)
    if value is None:
        return None
    text = str(value).strip()
    if not text:
        raise exceptions.InvalidEndpoint(
            f'{where}: {name} in connection_info is empty'
        )
    return text


def _integer(
    data: Mapping[str, typing.Any], name: str, where: str
) -> int | None:
    text = _text(data, name, where)
    if text is None:
        return None
    if not re.fullmatch('[0-9]{1,20}', text):
        raise exceptions.InvalidEndpoint(
            f'{where}: {name} in connection_info is no number of bytes'
        )
    return int(text)


def _wwn(data: Mapping[str, typing.Any], where: str) -> str | None:
    text = _text(data, 'scsi_wwn', where)
    if text is None:
        return None
    found = normal_wwn(text)
    if not re.fullmatch('[0-9a-f]{8,}', found):
        raise exceptions.InvalidEndpoint(
            f'{where}: scsi_wwn in connection_info is no identifier of a '
            f'device in hexadecimal digits'
        )
    return found


def _login(
    endpoint: _endpoint.Endpoint,
    ctx: _context.Context,
    data: Mapping[str, typing.Any],
    where: str,
) -> tuple[str | None, str | None]:
    """Who logs in: the location's credentials come first, the URL last."""
    login = ctx.credentials.login() if ctx.credentials else None
    if login is None:
        login = _chap(data, where)
    if login is None:
        login = ctx.login(endpoint)
    if login is None:
        return None, None
    if not all(map(fits_chap, login)):
        raise exceptions.InvalidEndpoint(
            f'{where}: a user name and a password for CHAP have from 1 to '
            f'{_MAX_SECRET} bytes'
        )
    return login


def _chap(
    data: Mapping[str, typing.Any], where: str
) -> tuple[str, str] | None:
    method = data.get('auth_method')
    if method is None:
        return None
    if str(method).upper() != 'CHAP':
        raise exceptions.InvalidEndpoint(
            f'{where}: connection_info asks for the login method {method}; '
            f'only CHAP is known'
        )
    return (
        str(data.get('auth_username') or ''),
        str(data.get('auth_password') or ''),
    )
