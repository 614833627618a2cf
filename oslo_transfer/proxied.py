# SPDX-License-Identifier: Apache-2.0
"""Leads locations through the proxies of this host's datacenter.

What is in this datacenter, or on this host, is read where it is. All else
is asked of the first proxy; the next ones, and the locations themselves,
come in tiers behind it.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
from collections.abc import Sequence
import dataclasses
import typing

from oslo_transfer import attempts as _attempts
from oslo_transfer.cache import version as _version
from oslo_transfer import credentials as _credentials
from oslo_transfer import datacenters
from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import location as _location
from oslo_transfer import opening
from oslo_transfer import oserrors
from oslo_transfer import result as _result
from oslo_transfer import selector
from oslo_transfer.wrappers import base as wrappers
from oslo_transfer.wrappers import retry
from oslo_transfer.wrappers import throttle
from oslo_transfer.wrappers import ways as _ways

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer import call as _call
    from oslo_transfer import context as _context

#: In front of the URL of the service of this library.
SCHEME = 'proxy'
_PLAIN_SCHEMES = frozenset({'http', 'https'})
# What is told to these in secret is not to go out readable.
_SECRET_SCHEMES = frozenset({'https', 'ftps', 'sftp', 'nbds'})
_MOST_TOKEN = 4096


class Shown(_credentials.Credentials):
    """What the origin is to see, and what the proxy is.

    RFC 9110, 11.7.2: the proxy keeps Proxy-Authorization to itself.
    """

    def __init__(
        self, inner: _credentials.Credentials, token: str | None
    ) -> None:
        self._inner = inner
        self._token = token

    def headers(self) -> Mapping[str, str]:
        """Headers for both."""
        found = dict(self._inner.headers())
        if self._token is not None:
            found['Proxy-Authorization'] = f'Bearer {self._token}'
        return found

    def login(self) -> tuple[str, str] | None:
        """For the origin."""
        return self._inner.login()

    def refresh(self) -> bool:
        """For the origin."""
        return self._inner.refresh()


def expand(
    sources: Sequence[ends.End],
    conf: cfg.ConfigOpts,
    open_driver: Callable[[str], base.Driver],
) -> tuple[list[ends.End], tuple[_result.Attempt, ...]]:
    """Put what leads to locations by proxies in front of them.

    Opens nothing. Without proxies for this host all stays as it is.

    :returns: the locations in the order to try, and the proxies that one
        is not asked of, with why
    :raises ConfigurationError: the map of datacenters cannot be used, nor
        the file of a token
    """
    where = datacenters.from_conf(conf)
    here = where.here
    if here is None or not here.proxies:
        return list(sources), ()
    token = _token(here)
    passed_over = _attempts.Attempts('')
    tiers: list[list[ends.End]] = [[] for _ in range(len(here.proxies) + 1)]
    for end in sources:
        if not _is_far(end, where):
            tiers[0].append(end)
            continue
        for tier, proxy in enumerate(here.proxies):
            try:
                made = through(proxy, end, token)
                tiers[tier].append(
                    dataclasses.replace(
                        ends.end_of(made, open_driver), tier=tier, origin=end
                    )
                )
            except exceptions.TransferError as exc:
                passed_over.add(f'{end} by {proxy}', exc)
        tier = len(here.proxies)
        tiers[tier].append(dataclasses.replace(end, tier=tier))
    return [end for tier in tiers for end in tier], passed_over.all


class _AsProxiesTell(wrappers.SourceWrapper):
    """The origin itself, whose version is named as proxies name it."""

    def __init__(self, source: base.Source, where: str) -> None:
        super().__init__(source)
        self.validator = _version.as_etag(source, where)

    def stream(self, offset: int, length: int | None) -> base.Stream:
        return self._source.stream(offset, length)


class Opener:
    """Opens a location by what leads to it, again and again.

    :param call: with the options and the drivers
    """

    def __init__(self, call: _call.Call) -> None:
        self._call = call

    def __call__(
        self,
        end: ends.LocationEnd,
        ctx: _context.Context,
        version: base.Validator | None,
    ) -> base.Source:
        """Open the first that works; its streams go on by the next ones.

        :param version: that it has to be; None for that of the first
        :raises TransferError: none works; why the last one does not
        """
        found, _ = expand([end], ctx.conf, self._call.driver)
        ways = [place.end for place in selector.choose(found, ctx)]
        if len(ways) == 1:
            return opening.alone(end, ctx)
        origin = max(ways, key=lambda each: each.tier)
        ways.sort(key=lambda each: each is origin)
        hurried = ctx.replace(hurried=True)

        def open_way(way: ends.LocationEnd) -> base.Source:
            # The origin is tried again as often as without proxies.
            if way is origin:
                opened = throttle.limited(
                    way.open_source(ctx), ctx, (way.host,)
                )
                if opened.validator is None:
                    return opened
                return _AsProxiesTell(opened, str(way))
            return opening.alone(way, hurried)

        source = _ways.WaysSource(
            typing.cast('list[ends.LocationEnd]', ways),
            open_way,
            version,
            ctx.conf.oslo_transfer.location_backoff,
        )
        known = source.validator
        return retry.RetryingSource(
            source, ctx, str(end), known is not None and known.strong
        )


def _is_far(
    end: ends.End, where: datacenters.Map
) -> typing.TypeGuard[ends.LocationEnd]:
    """Whether a proxy of this datacenter can be asked for it."""
    if not isinstance(end, ends.LocationEnd):
        return False
    needed = base.Capability.RANDOM_READ
    return (
        bool(end.host)
        and end.endpoint.carrier is None
        and end.endpoint.scheme != SCHEME
        and needed in end.capabilities
        and base.Capability.FILL not in end.capabilities
        # A proxy resolves names by itself, whatever was checked here.
        and end.location.trusted
        and end.location.connection_info is None
        and where.find(end.host) != where.own
    )


def through(
    proxy: datacenters.Proxy, end: ends.LocationEnd, token: str | None
) -> _location.Location:
    """What leads to a location by a proxy.

    :raises CapabilityMissing: the proxy has no such thing
    :raises PolicyRefused: a secret would go out readable
    """
    endpoint, location = end.endpoint, end.location
    if proxy.plain and endpoint.scheme not in _PLAIN_SCHEMES:
        raise exceptions.CapabilityMissing(
            f'a plain HTTP cache has no {endpoint.scheme} URLs'
        )
    secret = (
        location.credentials is not None
        or endpoint.username is not None
        or endpoint.query is not None
    )
    if (
        secret
        and endpoint.scheme in _SECRET_SCHEMES
        and proxy.base.scheme != 'https'
    ):
        raise exceptions.PolicyRefused(
            'what only the origin may see would go to the proxy without TLS; '
            'give it an https URL'
        )
    inner = location.credentials
    if inner is None and endpoint.username is not None:
        inner = _credentials.LoginCredentials(
            endpoint.username, endpoint.password or ''
        )
    if inner is not None or token is not None:
        inner = Shown(inner or _credentials.Credentials(), token)
    return dataclasses.replace(
        location, url=url_of(proxy, endpoint), credentials=inner
    )


def url_of(proxy: datacenters.Proxy, endpoint: _endpoint.Endpoint) -> str:
    """The URL by which a proxy has what is at an endpoint; never log it."""
    base_url = proxy.base.without_userinfo().url().rstrip('/')
    kind = '' if proxy.plain else f'{SCHEME}+'
    return (
        f'{kind}{base_url}/{endpoint.scheme}/{endpoint.netloc}'
        f'{endpoint.request_target}'
    )


def _token(here: datacenters.Datacenter) -> str | None:
    """What the proxies of a datacenter want to see.

    :raises ConfigurationError: the file cannot be read, or holds no token
    """
    path = here.token_file
    if path is None:
        return None
    try:
        with oserrors.os_errors(f'reading {path}'), open(path) as file:
            text = file.read(_MOST_TOKEN + 1).strip()
    except (exceptions.TransferError, ValueError) as exc:
        raise exceptions.ConfigurationError(
            f'proxy_token_file of datacenter {here.name}: {exc}'
        ) from exc
    if not (text.isascii() and text.isprintable() and ' ' not in text):
        text = ''
    if not text or len(text) > _MOST_TOKEN:
        raise exceptions.ConfigurationError(
            f'proxy_token_file of datacenter {here.name}: {path} holds no '
            f'token'
        )
    return text
