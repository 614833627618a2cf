# SPDX-License-Identifier: Apache-2.0
"""The images that the proxy knows, and who may read them."""

from __future__ import annotations

from collections.abc import Mapping
import contextlib
import logging
import os
import threading
import time
import typing

from oslo_transfer.cache import opts as cache_opts
from oslo_transfer.cache import store as _store
from oslo_transfer.cache import version as _version
from oslo_transfer import call as _call
from oslo_transfer import ends
from oslo_transfer import exceptions
from oslo_transfer import opts as _core_opts
from oslo_transfer import oserrors
from oslo_transfer.service import images as _images
from oslo_transfer.service.proxy import access
from oslo_transfer.service.proxy import grants as _grants
from oslo_transfer.service.proxy import opened as _opened
from oslo_transfer.service.proxy import opts
from oslo_transfer.service.proxy import policy as _policy
from oslo_transfer.service.proxy import records as _records
from oslo_transfer.service.proxy import shelf as _shelf
from oslo_transfer.service.proxy import upstream as _upstream
from oslo_transfer.service.proxy import via as _via
from oslo_transfer.service import scrubbing

if typing.TYPE_CHECKING:
    from oslo_config import cfg

    from oslo_transfer import endpoint as _endpoint
    from oslo_transfer.export import exported
    from oslo_transfer.export import gate

LOG = logging.getLogger(__name__)

Opened = _opened.Opened

# Seconds between two looks at what nobody reads, and at all the rest.
_LOOK, _SWEEP = 1.0, 30.0
_PATIENCE = 3.0
_REFUSALS = (exceptions.AccessDenied, exceptions.PolicyRefused)
# Requests that are known: what they ask for was taken apart already.
_MOST_KNOWN = 10000


class Origin(typing.NamedTuple):
    """What was asked of one origin since the proxy has started.

    :ivar origin: scheme, host and port
    :ivar bytes_fetched: from it, or by an upstream
    :ivar requests: that were made
    :ivar failures: of these
    :ivar problem: what went wrong last, or '' where it went well since
    """

    origin: str
    bytes_fetched: int
    requests: int
    failures: int
    problem: str


class Catalog:
    """All images of a proxy. Thread-safe.

    It is most of a :class:`oslo_transfer.export.gate.Gate`: see there.

    :param conf: the configuration
    :raises ConfigurationError: options do not fit together
    :raises TransferError: the directory cannot be used
    """

    def __init__(self, conf: cfg.ConfigOpts) -> None:
        self._conf = conf
        self._group = group = conf[opts.GROUP]
        self._stopping = threading.Event()
        call = _call.Call(conf, None, None, None)
        self._driver = call.driver
        self._ctx = call.ctx.replace(stop=self._stopping)
        self._allowed = group.origins, group.names
        self._policy = _policy.Policy(*self._allowed)
        self._access = access.Access(group)
        self._opener = _upstream.Opener(call)
        self._via = _via.Via()
        self._grants = _grants.Grants(self._ask, self._ctx, self._limits)
        self._lock = threading.Lock()
        # What was found for requests: the grant, by all that it depends on.
        self._known: dict[str, _grants.Grant] = {}
        #: How often somebody was refused.
        self.refused = 0
        state = (
            conf.oslo_transfer.state_path or _core_opts.default_state_path()
        )
        with contextlib.ExitStack() as stack:
            records = _records.Records(os.path.join(state, 'proxied'), None)
            stack.callback(records.close)
            block_bytes = conf[cache_opts.GROUP].block_bytes
            self._store = _store.Store(
                group.directory or os.path.join(state, 'proxy'),
                quota_bytes=group.max_bytes,
                block_bytes=block_bytes,
                owner=conf.oslo_transfer_service.control_socket,
            )
            stack.callback(self._store.close)
            #: Compares what is kept with its checksums.
            self.scrubber = scrubbing.Scrubber(
                self._store, self._stopping, '/v1/proxy/scrub'
            )
            traces = os.path.join(state, 'traces')
            with oserrors.os_errors(f'making {traces}'):
                os.makedirs(traces, mode=0o700, exist_ok=True)
            self._opens = _images.Images(
                *(call, self._ctx, self._store, traces, self._opener),
                empty=True,
            )
            self._shelf = _shelf.Shelf(
                *(records, self._store, self._opens, block_bytes),
                self._forget,
            )
            stack.callback(self._shelf.close)
            stack.callback(self._grants.close)
            self._shelf.load()
            self._thread = threading.Thread(
                target=self._look_after,
                name='oslo-transfer-proxy',
                daemon=True,
            )
            self._thread.start()
            self._stack = stack.pop_all()

    def _limits(self) -> tuple[float, float]:
        return self._group.grant_seconds, self._group.stale_seconds

    # The gate

    def find(self, asked: gate.Asked) -> exported.Exported | None:
        """What one who asked before may have at once; never blocks."""
        grant = self._known.get(_name_of(asked))
        if grant is None or not grant.holds or _wants_news(asked):
            return None
        image = grant.opened.image
        if image is not None:
            grant.opened.touch()
        return image

    def admit(self, asked: gate.Asked) -> exported.Exported:
        """Ask the origin whether he may have it; blocks.

        :raises TransferError: he may not, or it cannot be had
        """
        # Of before: should what is allowed change meanwhile, this is not kept.
        known = self._known
        try:
            self._access.check_reader(asked.fields)
            endpoint = self._policy.asked(asked.target, asked.path)
            via = self._via.through(asked.fields.get('via'))
        except _REFUSALS:
            self.refused += 1
            raise
        proof = self._access.proof_of(asked.fields)
        again = _wants_news(asked)
        grant = self._get(endpoint, proof, via, again=again)
        image = self._enter(grant, endpoint, proof, via)
        if again and grant.stale:
            # What is here is all that there is.
            grant.opened.doubt()
        elif again:
            # Proxies on the way are not to be believed either.
            self._opener.mistrust(endpoint)
            grant.opened.mistrust()
        with self._lock:
            known.pop(_name_of(asked), None)
            known[_name_of(asked)] = grant
            if len(known) > _MOST_KNOWN:
                del known[next(iter(known))]
        return image

    def _get(
        self,
        endpoint: _endpoint.Endpoint,
        proof: Mapping[str, str],
        via: str,
        *,
        again: bool = False,
    ) -> _grants.Grant:
        try:
            return self._grants.get(
                _grants.Asking(endpoint, proof, via), again=again
            )
        except _REFUSALS:
            self.refused += 1
            raise

    def _ask(self, asking: _grants.Asking) -> tuple[Opened, str]:
        """Ask an origin, and know what it has from now on."""
        url = asking.endpoint.text()
        record, source = self._opens.find(
            _records.record_of(asking.key, url, _headers(asking))
        )
        try:
            end = ends.end_of(record.location, self._driver)
            identifier = _version.key(end.identity, record.identity)
            made = self._shelf.know(identifier, record.url, source)
        except BaseException:
            source.close()
            raise
        made.enter(record, source)
        return made, record.id

    def _enter(
        self,
        grant: _grants.Grant,
        endpoint: _endpoint.Endpoint,
        proof: Mapping[str, str],
        via: str,
    ) -> exported.Exported:
        """What a grant is for; it may have been closed meanwhile."""
        opened = grant.opened
        image = opened.image
        if image is None:
            asking = _grants.Asking(endpoint, proof, via)
            record = opened.kept.asked(
                grant.user, _headers(asking), endpoint.text()
            )
            image = opened.enter(record)
        opened.touch()
        return image

    # For others

    def may_manage(self, fields: Mapping[str, str], *, change: bool) -> bool:
        """Whether one may use the control API over TCP; never blocks.

        :param fields: headers as they came, with names in lower case
        :param change: he is about to change something
        :returns: False where nobody may
        :raises AccessDenied: he may not
        """
        try:
            return self._access.may_manage(fields, change=change)
        except exceptions.AccessDenied:
            self.refused += 1
            raise

    @property
    def needs_tokens(self) -> bool:
        """Whether readers of images have to show one."""
        return self._access.needs_tokens

    def open(self, url: str, proof: Mapping[str, str] | None = None) -> Opened:
        """Have an image, asking its origin; blocks.

        :param url: of the origin, or one of the names
        :param proof: headers for the origin that say who asks
        :raises PolicyRefused: it is none of those that may be asked for
        :raises TransferError: the origin refuses it, or cannot be reached
        """
        endpoint = self._policy.named(url)
        shown, via = self._access.proof(proof or {}), self._via.through(None)
        grant = self._get(endpoint, shown, via)
        self._enter(grant, endpoint, shown, via)
        return grant.opened

    def export(self, name: str) -> exported.Exported:
        """What one may read who has no more than a name or a URL; blocks.

        :raises TransferError: as :meth:`open`
        """
        opened = self.open(name)
        image = opened.image
        if image is None:
            raise exceptions.Unavailable(f'{opened.where} was just closed')
        return image

    def all(self) -> list[Opened]:
        """Those of which there are blocks, those used last first."""
        return self._shelf.all()

    def get(self, identifier: str) -> Opened:
        """One of them.

        :raises NotFound: there is none
        """
        return self._shelf.get(identifier)

    def using(
        self, opened: Opened
    ) -> contextlib.AbstractContextManager[_images.Shared]:
        """Have its blocks open for as long as a context lasts.

        Blocks for the disk, but asks no origin.

        :raises TransferError: they cannot be read
        """
        proof = self._access.proof({})
        return opened.using(opened.kept.asked(opened.id, proof))

    def evict(self, identifier: str) -> None:
        """Let go of all its blocks that nobody is just being sent.

        :raises NotFound: there is no such image
        :raises DetachError: it is pinned
        :raises TransferError: the disk does not work
        """
        self._shelf.evict(self.get(identifier))

    def pin(self, identifier: str, pinned: bool) -> None:
        """Say whether its blocks stay, also over a restart.

        :raises NotFound: there is no such image
        :raises TransferError: that cannot be noted
        """
        self._shelf.pin(self.get(identifier), pinned)

    def origins(self) -> list[Origin]:
        """What was asked of each origin."""
        return [
            Origin(
                *(each.name, each.fetched, each.requests),
                *(each.failures, each.problem),
            )
            for each in self._opener.accounts
        ]

    def statistics(self) -> Mapping[str, int]:
        """Of the store: see :meth:`oslo_transfer.cache.store.Store`."""
        return self._store.statistics()

    @property
    def problem(self) -> str:
        """Why nothing can be kept, or ''."""
        return self._store.problem

    # Life

    def tick(self) -> None:
        """Go by what files and options say now; called once a second."""
        if self._access.look() | self._look():
            # Who asked before may not be allowed any more.
            with self._lock:
                self._known = {}
        self._opener.look()

    def _look(self) -> bool:
        """Allow what the options say; returns whether that has changed."""
        allowed = self._group.origins, self._group.names
        if allowed == self._allowed:
            return False
        self._allowed = allowed
        try:
            self._policy = _policy.Policy(*allowed)
        except exceptions.ConfigurationError as exc:
            LOG.error('%s; what was allowed before still is', exc)
            return False
        return True

    def _look_after(self) -> None:
        """Close what nobody reads; in a thread, for that takes the disk."""
        self._shelf.count(self._stopping)
        sweep = time.monotonic() + _SWEEP
        while not self._stopping.wait(_LOOK):
            try:
                self._shelf.close_idle(self._group.idle_seconds)
                if time.monotonic() >= sweep:
                    sweep = time.monotonic() + _SWEEP
                    self._grants.sweep()
                    self._shelf.sweep()
            except exceptions.TransferError as exc:
                LOG.warning('%s', exc)
            except Exception:
                LOG.exception('looking after the images')

    def _forget(self, opened: Opened) -> None:
        """Whoever asks for it again is asked for again."""
        self._grants.forget(opened)
        with self._lock:
            self._known = {
                name: grant
                for name, grant in self._known.items()
                if grant.opened is not opened
            }

    def close(self) -> None:
        """Close all, within seconds; idempotent."""
        self._stopping.set()
        self._thread.join(_PATIENCE)
        self._stack.close()


def _headers(asking: _grants.Asking) -> dict[str, str]:
    return {**asking.headers, 'Via': asking.via}


def _wants_news(asked: gate.Asked) -> bool:
    """Whether what is kept is not to be believed: RFC 9111, 5.2.1.4."""
    return 'no-cache' in asked.fields.get('cache-control', '').lower()


def _name_of(asked: gate.Asked) -> str:
    """Stands for all that the answer to a request depends on."""
    fields = asked.fields
    return _grants.hashed(
        '\0'.join(
            [
                asked.target,
                *(fields.get(name, '') for name in _DEPENDS),
            ]
        )
    )


_DEPENDS = ('authorization', 'x-auth-token', 'proxy-authorization', 'via')
