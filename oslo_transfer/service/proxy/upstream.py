# SPDX-License-Identifier: Apache-2.0
"""How the proxy gets at an origin: by other proxies, or directly."""

from __future__ import annotations

import dataclasses
import logging
import threading
import time
import typing

from oslo_transfer.cache import version as _version
from oslo_transfer import credentials as _credentials
from oslo_transfer import datacenters
from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import limiter as _limiter
from oslo_transfer import proxied
from oslo_transfer.service.proxy import opts
from oslo_transfer.service.proxy import tokens
from oslo_transfer import signed_urls
from oslo_transfer.wrappers import base as wrappers
from oslo_transfer.wrappers import retry
from oslo_transfer.wrappers import throttle
from oslo_transfer.wrappers import ways as _ways

if typing.TYPE_CHECKING:
    from oslo_transfer import call as _call
    from oslo_transfer import context as _context

LOG = logging.getLogger(__name__)

# Seconds for which an upstream that failed is not asked.
_PASSED_OVER = 30.0
# Seconds for which proxies are not believed of which one is to blame.
_MISTRUSTED = 60.0
# What is told to these in secret is not to go out readable.
_SECRET_SCHEMES = frozenset({'https', 'ftps', 'sftp', 'nbds'})


class Account:
    """What was asked of one origin. Thread-safe.

    :param name: scheme, host and port
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.limiter = _limiter.Limiter()
        self._lock = threading.Lock()
        #: What was fetched, how often was asked, and how often in vain.
        self.fetched = self.requests = self.failures = 0
        #: What went wrong last; '' where it went well since.
        self.problem = ''

    def asked(self) -> None:
        """Once more."""
        with self._lock:
            self.requests += 1

    def got(self, count: int) -> None:
        """Bytes came."""
        with self._lock:
            self.fetched += count
            self.problem = ''

    def failed(self, error: exceptions.TransferError) -> None:
        """It went wrong."""
        with self._lock:
            self.failures += 1
            self.problem = str(error)


class _Upstream:
    """A proxy to be asked first.

    :param base_url: of it
    """

    def __init__(self, base_url: str) -> None:
        try:
            self.base = _endpoint.parse(base_url)
        except exceptions.InvalidEndpoint as exc:
            raise exceptions.ConfigurationError(
                f'[{opts.GROUP}] upstreams: {exc}'
            ) from exc
        if self.base.scheme not in ('http', 'https') or (
            self.base.username is not None or self.base.query is not None
        ):
            raise exceptions.ConfigurationError(
                f'[{opts.GROUP}] upstreams: {self.base} is no base URL of a '
                f'proxy; it begins with http:// or https://'
            )
        self._again = 0.0

    @property
    def works(self) -> bool:
        """Whether it is worth asking."""
        return time.monotonic() >= self._again

    def failed(self, error: exceptions.TransferError) -> None:
        """Leave it in peace where it does not work."""
        if error.retryable and self.works:
            self._again = time.monotonic() + _PASSED_OVER
            LOG.warning(
                'the upstream %s is passed over for %d seconds: %s',
                *(self.base, _PASSED_OVER, error),
            )


class Opener:
    """Opens origins; see :data:`oslo_transfer.service.images.Opener`.

    Thread-safe.

    :param call: with the options and the drivers
    :raises ConfigurationError: an option is malformed
    """

    def __init__(self, call: _call.Call) -> None:
        self._call = call
        self._group = call.conf[opts.GROUP]
        self._upstreams = [_Upstream(url) for url in self._group.upstreams]
        path = self._group.upstream_token_file
        self._token = (
            tokens.Token(path, 'upstream_token_file') if path else None
        )
        self._limiter = _limiter.Limiter()
        self._lock = threading.Lock()
        self._accounts: dict[str, Account] = {}
        # Until when what others keep of an origin is not believed.
        self._mistrusted: dict[str, float] = {}
        self.look()

    @property
    def accounts(self) -> list[Account]:
        """Of all origins that were asked."""
        with self._lock:
            return list(self._accounts.values())

    def look(self) -> None:
        """Go by what the options and files say now."""
        if self._token is not None:
            self._token.look()
        self._limiter.rate = self._group.fetch_bytes_per_second or None
        for each in self.accounts:
            each.limiter.rate = self._group.origin_bytes_per_second or None

    def mistrust(self, endpoint: _endpoint.Endpoint) -> None:
        """What was read of an origin was wrong; a proxy may be to blame.

        Those that are asked next are told to look for themselves.
        """
        now = time.monotonic()
        with self._lock:
            self._mistrusted = {
                url: until
                for url, until in self._mistrusted.items()
                if until > now
            }
            self._mistrusted[_name_of(endpoint)] = now + _MISTRUSTED

    def _account(self, endpoint: _endpoint.Endpoint) -> Account:
        scheme = endpoint.carrier or endpoint.scheme
        name = f'{scheme}://{endpoint.netloc}'
        with self._lock:
            account = self._accounts.get(name)
            if account is None:
                account = self._accounts[name] = Account(name)
                account.limiter.rate = (
                    self._group.origin_bytes_per_second or None
                )
            return account

    def __call__(
        self,
        end: ends.LocationEnd,
        ctx: _context.Context,
        version: base.Validator | None,
    ) -> base.Source:
        """Open an origin by the first way that works.

        Its streams go on by the next ones when that fails.

        :param version: that it has to be; None for that of the first
        :raises TransferError: none works; why the origin itself does not
        """
        account = self._account(end.endpoint)
        if time.monotonic() < self._mistrusted.get(
            _name_of(end.endpoint), 0.0
        ):
            ctx = ctx.replace(anew=True)
        upstreams: dict[int, _Upstream] = {}
        ways = []
        for upstream in self._upstreams:
            if not upstream.works or end.endpoint.scheme == 'file':
                continue
            try:
                way = self._by(upstream, end)
            except exceptions.PolicyRefused as exc:
                LOG.warning('%s by %s: %s', end, upstream.base, exc)
                continue
            upstreams[id(way)] = upstream
            ways.append(way)
        if not ways:
            return _retrying(self._open(end, ctx, account, None), end, ctx)
        hurried = ctx.replace(hurried=True)

        def open_way(way: ends.LocationEnd) -> base.Source:
            upstream = upstreams.get(id(way))
            if upstream is None:
                return self._open(way, ctx, account, None)
            try:
                source = self._open(way, hurried, account, upstream)
            except exceptions.TransferError as exc:
                upstream.failed(exc)
                raise
            return _retrying(source, way, hurried)

        source = _ways.WaysSource(
            [*ways, end],
            open_way,
            version,
            ctx.conf.oslo_transfer.location_backoff,
        )
        return _retrying(source, end, ctx)

    def _by(
        self, upstream: _Upstream, end: ends.LocationEnd
    ) -> ends.LocationEnd:
        """The same by an upstream.

        :raises PolicyRefused: a secret would go out readable
        """
        shown = end.location.credentials
        if (
            end.endpoint.scheme in _SECRET_SCHEMES
            and upstream.base.scheme != 'https'
            and (end.endpoint.query is not None or _is_secret(shown))
        ):
            raise exceptions.PolicyRefused(
                'what only the origin may see would go out without TLS; give '
                'the upstream an https URL'
            )
        if self._token is not None:
            shown = proxied.Shown(
                shown or _credentials.Credentials(), self._token.value
            )
        by = datacenters.Proxy(upstream.base, plain=True)
        location = dataclasses.replace(
            end.location,
            url=proxied.url_of(by, end.endpoint),
            credentials=shown,
        )
        return ends.end_of(location, self._call.driver)

    def _open(
        self,
        end: ends.LocationEnd,
        ctx: _context.Context,
        account: Account,
        upstream: _Upstream | None,
    ) -> base.Source:
        account.asked()
        try:
            source = _Counted(end.open_source(ctx), account, upstream, end)
        except exceptions.TransferError as exc:
            account.failed(exc)
            raise
        # Images get equal parts of what there is.
        ctx = ctx.replace(transfer=end.identity)
        limited = throttle.ThrottledSource(
            throttle.limited(source, ctx, (end.host,)),
            ctx,
            (self._limiter, account.limiter),
        )
        return limited


def _name_of(endpoint: _endpoint.Endpoint) -> str:
    """Tells what is there from all else, however it is signed."""
    return signed_urls.unsigned(endpoint).url()


def _is_secret(shown: _credentials.Credentials | None) -> bool:
    """Whether any headers tell more than the way of a request."""
    return shown is not None and not {*shown.headers()} <= {'Via'}


def _retrying(
    source: base.Source, end: ends.LocationEnd, ctx: _context.Context
) -> base.Source:
    return retry.RetryingSource(source, ctx, str(end), joinable=True)


def _check_settled(source: base.Source, end: ends.LocationEnd) -> None:
    """Keep nothing that may yet change without another version.

    :raises CapabilityMissing: it changed a moment ago. It is not something
        to wait for: who asks next may have it
    """
    found = source.validator
    if found is not None and found.fresh:
        raise exceptions.CapabilityMissing(
            f'{end} has changed within the last second, and has no ETag: only '
            f'in a moment it can be told from another version'
        )


class _Counted(wrappers.SourceWrapper):
    """Counts, and tells versions apart as HTTP does.

    All ways to an origin, and the proxies behind them, have to name a
    version alike: by its strong ETag where it has one, and otherwise by what
    a proxy would make of what it has.
    """

    def __init__(
        self,
        source: base.Source,
        account: Account,
        upstream: _Upstream | None,
        end: ends.LocationEnd,
    ) -> None:
        super().__init__(source)
        self._account = account
        self._upstream = upstream
        try:
            self.validator = _version.as_etag(source, str(end))
            _check_settled(source, end)
        except BaseException:
            source.close()
            raise

    def stream(self, offset: int, length: int | None) -> base.Stream:
        """A stream that is counted."""
        self._account.asked()
        with self.noted():
            return _CountedStream(self._source.stream(offset, length), self)

    def noted(self) -> _Noted:
        """Note what goes wrong while a context lasts."""
        return _Noted(self._account, self._upstream)

    def got(self, count: int) -> None:
        """Bytes came."""
        self._account.got(count)


class _Noted:
    """Notes what goes wrong; a context manager that costs little."""

    def __init__(self, account: Account, upstream: _Upstream | None) -> None:
        self._account = account
        self._upstream = upstream

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, exc: object, _trace: object) -> None:
        if isinstance(exc, exceptions.TransferError) and not isinstance(
            exc, exceptions.TransferCancelled
        ):
            self._account.failed(exc)
            if self._upstream is not None:
                self._upstream.failed(exc)


class _CountedStream(base.Stream):
    def __init__(self, stream: base.Stream, source: _Counted) -> None:
        super().__init__()
        self._stream = stream
        self._source = source
        self._noted = source.noted()

    @property
    def waited(self) -> float:  # type: ignore[override]
        return self._stream.waited

    def readinto(self, buffer: typing.Any) -> int:
        with self._noted:
            count = self._stream.readinto(buffer)
        self._source.got(count)
        return count

    def close(self) -> None:
        self._stream.close()
        super().close()
