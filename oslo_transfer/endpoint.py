# SPDX-License-Identifier: Apache-2.0
"""A parsed URL whose text form never shows a secret.

One parser serves the policy check and the connection, so that both speak
about the same host (RFC 3986; no WHATWG leniency).
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
import urllib.parse

from oslo_transfer import exceptions

_SCHEME = re.compile(r'([A-Za-z][A-Za-z0-9+.-]{0,63}):')
_LIKE_URL = re.compile(r'[^/]*://')
# Never legal in a URL: control characters, white space, the backslash that
# some parsers take for a slash, and halves of characters.
_FORBIDDEN = re.compile(r'[\x00-\x20\x7f\\\ud800-\udfff]')
_MAX_LENGTH = 64 * 1024
# More than any name has, and few enough for IDNA, which is slow.
_MAX_HOST = 1024

DEFAULT_PORTS = {
    'ftp': 21,
    'ftps': 21,  # By AUTH TLS; 990 is for TLS from the first byte.
    'http': 80,
    'https': 443,
    'iscsi': 3260,
    'nbd': 10809,
    'nbds': 10809,
    'nfs': 2049,
    'sftp': 22,
}

# Schemes whose URLs may name several hosts, with commas in between: ways
# to the same thing (the portals of an iSCSI target).
_MANY_HOSTS = frozenset({'iscsi'})
# The carrier of what is reached by a socket on this host, named in the
# query (doc/uri.md of the NBD project).
_UNIX = 'unix'


@dataclasses.dataclass(frozen=True, repr=False)
class Endpoint:
    """One end of a transfer: a scheme and what it names.

    :ivar scheme: lower-case URL scheme; ``file`` for paths. Of
        ``torrent+https`` it is what stands before the ``+``: the driver
    :ivar host: lower-case ASCII host name or bare IP address, '' for none
    :ivar port: TCP port, or None where the URL names none
    :ivar path: for ``file`` the decoded local path, else the URL's path as
        it was written
    :ivar query: what stood behind ``?``, undecoded; a secret
    :ivar username: decoded user name, or None; a secret
    :ivar password: decoded password, or None; a secret
    :ivar carrier: of ``torrent+https`` it is ``https``: the rest of the URL
        names what describes the data, and this is how to fetch it
    :ivar fragment: what stood behind ``#``, where there is a carrier
    :ivar further: more hosts and ports that lead to the same thing
    """

    scheme: str
    host: str = ''
    port: int | None = None
    path: str = ''
    query: str | None = None
    username: str | None = None
    password: str | None = None
    carrier: str | None = None
    fragment: str | None = None
    further: tuple[tuple[str, int | None], ...] = ()

    @property
    def carried(self) -> Endpoint | None:
        """What the carrier fetches; None without a carrier."""
        if self.carrier is None:
            return None
        return dataclasses.replace(
            self, scheme=self.carrier, carrier=None, fragment=None
        )

    @property
    def netloc(self) -> str:
        """The hosts and ports as they stand in a URL, without userinfo."""
        return ','.join(
            _authority(host, port)
            for host, port in ((self.host, self.port), *self.further)
        )

    @property
    def origin(self) -> tuple[str, str, int | None]:
        """What credentials are bound to: scheme, host and port."""
        scheme = self.carrier or self.scheme
        return scheme, self.host, self.port or DEFAULT_PORTS.get(scheme)

    @property
    def request_target(self) -> str:
        """The path and query as they are sent; holds the query's secrets."""
        path = self.path or '/'
        return path if self.query is None else f'{path}?{self.query}'

    def url(self) -> str:
        """The URL to connect to, without userinfo; never log it."""
        if self.carrier is not None:
            carried = self.carried
            assert carried is not None
            mark = '' if self.fragment is None else f'#{self.fragment}'
            return f'{self.scheme}+{carried.url()}{mark}'
        return f'{self.scheme}://{self.netloc}{self.request_target}'

    def text(self) -> str:
        """What :func:`parse` makes this endpoint of; never log it."""
        if self.scheme == 'file':
            return self.path
        url = self.url()
        if self.username is None:
            return url
        userinfo = urllib.parse.quote(self.username, safe='')
        if self.password is not None:
            userinfo += ':' + urllib.parse.quote(self.password, safe='')
        return url.replace('://', f'://{userinfo}@', 1)

    def without_userinfo(self) -> Endpoint:
        """The same endpoint with no login in it."""
        return dataclasses.replace(self, username=None, password=None)

    def __str__(self) -> str:
        if self.scheme == 'file':
            return self.path
        carried = self.carried
        if carried is not None:
            mark = '' if self.fragment is None else f'#{self.fragment}'
            if carried.scheme == 'file':
                return f'{self.scheme}+file://{carried.path}{mark}'
            return f'{self.scheme}+{carried}{mark}'
        userinfo = '***@' if self.username is not None else ''
        query = '?***' if self.query is not None else ''
        if self.scheme == _UNIX and self.query is not None:
            query = f'?{self.query}'  # It names a socket, and no secret.
        return f'{self.scheme}://{userinfo}{self.netloc}{self.path}{query}'

    def __repr__(self) -> str:
        return f'<Endpoint {self}>'


def parse(text: str | os.PathLike[str]) -> Endpoint:
    """Parse a URL or a local path.

    Text without a scheme is a path. ``file:`` URLs may name no host but
    ``localhost``. Only URLs with a carrier have a fragment; that of others
    is dropped, for no protocol sends it.

    :param text: the URL or path
    :raises InvalidEndpoint: it is empty, too long, or not a legal URL; the
        message never repeats the text, which may hold a secret
    """
    text = os.fspath(text)
    if not isinstance(text, str):
        raise exceptions.InvalidEndpoint('a path must be str, not bytes')
    if not text:
        raise exceptions.InvalidEndpoint('an empty URL or path')
    if len(text) > _MAX_LENGTH:
        raise exceptions.InvalidEndpoint(
            f'a URL or path of {len(text)} characters; at most '
            f'{_MAX_LENGTH} are allowed'
        )
    match = _SCHEME.match(text)
    if match is None:
        # A typing error must not turn a URL, with its login, into a path.
        if _LIKE_URL.match(text):
            raise exceptions.InvalidEndpoint(
                'a URL has a malformed scheme; name a local file that looks '
                'like this as "./NAME"'
            )
        return _local(text)
    scheme = match.group(1).lower()
    outer, plus, carrier = scheme.partition('+')
    if _FORBIDDEN.search(text):
        raise exceptions.InvalidEndpoint(
            f'a {scheme} URL holds white space, a control character, a '
            f'backslash or half a character; percent-encode it'
        )
    if not text[match.end() :].startswith('//'):
        raise exceptions.InvalidEndpoint(
            f'a {scheme} URL must go on with "//" behind the scheme; name '
            f'a local file that looks like this as "./NAME"'
        )
    rest, mark, fragment = text[match.end() + 2 :].partition('#')
    if not plus:
        return _from_url(scheme, rest)
    if '+' in carrier or not carrier:
        raise exceptions.InvalidEndpoint(
            'a URL has one "+" in its scheme: between the driver and the '
            'scheme of what it needs'
        )
    return dataclasses.replace(
        _from_url(carrier, rest),
        scheme=outer,
        carrier=carrier,
        fragment=fragment if mark else None,
    )


def _local(path: str) -> Endpoint:
    if '\x00' in path:
        raise exceptions.InvalidEndpoint('a path holds a NUL character')
    try:
        os.fsencode(path)
    except UnicodeEncodeError:
        raise exceptions.InvalidEndpoint(
            'a path holds characters that no file name can have'
        ) from None
    return Endpoint('file', path=path)


def _from_url(scheme: str, rest: str) -> Endpoint:
    before_query, mark, query = rest.partition('?')
    authority, slash, path = before_query.partition('/')
    userinfo, at, hostport = authority.rpartition('@')
    username = password = None
    if at:
        if '@' in userinfo:
            raise exceptions.InvalidEndpoint(
                f'a {scheme} URL holds more than one "@" before its path; '
                f'write it as %40 in a user name or password'
            )
        name, colon, secret = userinfo.partition(':')
        username = urllib.parse.unquote(name)
        password = urllib.parse.unquote(secret) if colon else None
    first, *others = (
        hostport.split(',') if scheme in _MANY_HOSTS else [hostport]
    )
    host, port = _host_and_port(scheme, first)
    further = tuple(_host_and_port(scheme, each) for each in others)
    if scheme == 'file':
        return _local_from_url(host, port, username, path)
    return Endpoint(
        scheme,
        host,
        port,
        slash + path,
        query if mark else None,
        username,
        password,
        further=further,
    )


def _authority(host: str, port: int | None) -> str:
    host = f'[{host}]' if ':' in host else host
    return host if port is None else f'{host}:{port}'


def _local_from_url(
    host: str, port: int | None, username: str | None, path: str
) -> Endpoint:
    if host not in ('', 'localhost') or port is not None or username:
        raise exceptions.InvalidEndpoint(
            'a file URL names another host; write file:///PATH'
        )
    return _local('/' + urllib.parse.unquote(path, errors='surrogateescape'))


def _host_and_port(scheme: str, hostport: str) -> tuple[str, int | None]:
    match = re.fullmatch(r'(\[[^\[\]]*\]|[^:\[\]]*)(?::([^:]*))?', hostport)
    if match is None:
        raise exceptions.InvalidEndpoint(
            f'a {scheme} URL has a malformed host or port'
        )
    host, port_text = match.group(1), match.group(2)
    port = None
    if port_text:
        if not re.fullmatch(r'[0-9]{1,5}', port_text) or not (
            0 < int(port_text) < 65536
        ):
            raise exceptions.InvalidEndpoint(
                f'a {scheme} URL has a port that is no number from 1 to 65535'
            )
        port = int(port_text)
    return _host(scheme, host), port


def _host(scheme: str, host: str) -> str:
    if not host:
        if scheme in ('file', _UNIX):
            return ''
        raise exceptions.InvalidEndpoint(f'a {scheme} URL names no host')
    if host.startswith('['):
        try:
            address = ipaddress.IPv6Address(host[1:-1])
        except ValueError:
            raise exceptions.InvalidEndpoint(
                f'a {scheme} URL has a malformed IPv6 address'
            ) from None
        if address.scope_id is not None:
            raise exceptions.InvalidEndpoint(
                f'a {scheme} URL has an IPv6 address with a zone; it would '
                f'choose an interface of this host'
            )
        return address.compressed
    host = urllib.parse.unquote(host)
    if len(host) > _MAX_HOST:
        raise exceptions.InvalidEndpoint(
            f'a {scheme} URL has a host name of {len(host)} characters'
        )
    if not host.isascii():
        try:
            host = host.encode('idna').decode('ascii')
        except UnicodeError:
            raise exceptions.InvalidEndpoint(
                f'a {scheme} URL has a host name that is not valid IDNA'
            ) from None
    host = host.lower().rstrip('.')
    if not re.fullmatch(r'[a-z0-9_]([a-z0-9_.-]*[a-z0-9_])?', host):
        raise exceptions.InvalidEndpoint(
            f'a {scheme} URL has a host name with characters that no host '
            f'name has'
        )
    return host
