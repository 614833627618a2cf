# SPDX-License-Identifier: Apache-2.0
"""From the name of a portal to a login there."""

from __future__ import annotations

from collections.abc import Callable
import dataclasses
import re
import socket
import time

from oslo_transfer import context as _context
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import libiscsi
from oslo_transfer.drivers.iscsi import link as _link
from oslo_transfer.drivers.iscsi import lun as _lun
from oslo_transfer.drivers.iscsi import opts
from oslo_transfer.drivers.iscsi import waiting
from oslo_transfer import exceptions

_INITIATOR_FILE = '/etc/iscsi/initiatorname.iscsi'
# Storage arrays spread sessions over their ports by sending them on.
_MAX_REDIRECTS = 4
# How a login ended (RFC 7143, 11.13.5): class and detail, as the library
# shows them.
_STATUS = re.compile(r'Status: ([^()]*)\((\d+)\)')
_DENIED = (0x0201, 0x0202)
_NO_TARGET = (0x0203, 0x0204)
# For good; for the moment is another status of the library.
_MOVED = f'({0x0102})'


@dataclasses.dataclass(frozen=True)
class Identity:
    """Who logs in.

    :ivar initiator: name of this host
    :ivar login: user name and secret for CHAP, or None
    :ivar mutual: those that the target has to prove, or None
    """

    initiator: str
    login: tuple[str, str] | None = dataclasses.field(repr=False)
    mutual: tuple[str, str] | None = dataclasses.field(repr=False)


def identity(lun: _lun.Lun, ctx: _context.Context) -> Identity:
    """Who logs in to a LUN.

    :raises ConfigurationError: an option is missing or too long
    """
    group = ctx.conf.oslo_transfer_iscsi
    login = mutual = None
    if lun.username is not None:
        login = lun.username, lun.password or ''
        if group.mutual_chap_username is not None:
            mutual = group.mutual_chap_username, group.mutual_chap_password
            if not all(_lun.fits_chap(text or '') for text in mutual):
                raise exceptions.ConfigurationError(
                    f'[{opts.GROUP}]mutual_chap_username and '
                    f'mutual_chap_password need from 1 to 255 bytes each'
                )
    initiator = group.initiator_name or _host_initiator()
    if not _lun.is_name(initiator):
        raise exceptions.ConfigurationError(
            f'[{opts.GROUP}]initiator_name {initiator} is no iSCSI name; '
            f'they look like iqn.2010-10.org.openstack:host1'
        )
    return Identity(initiator, login, mutual)


def _host_initiator() -> str:
    try:
        with open(_INITIATOR_FILE, encoding='utf-8') as file:
            found = re.search(r'^InitiatorName=(\S+)', file.read(), re.M)
    except (OSError, UnicodeDecodeError):
        found = None
    if found:
        return found.group(1)
    host = re.sub('[^a-z0-9.-]', '-', socket.gethostname().lower())
    return f'iqn.2010-10.org.openstack:{host}'


def log_in(
    path: _lun.Path, who: Identity, waiter: waiting.Waiter
) -> _link.Link:
    """Log in at a portal, or where it sends us.

    Blocks for the context's connect timeout, for each portal that it is
    sent on to.

    :raises AccessDenied: the target does not let us in, or could not prove
        who it is
    :raises NotFound: the portal knows no such target
    :raises Broken: it does not answer, or does not serve the target now
    """
    host, port = path.host, path.port
    for _ in range(_MAX_REDIRECTS):
        address = _address(host, port, waiter)
        link = _link.Link(libiscsi.Handle(who.initiator, path.iqn))
        try:
            if who.login is not None:
                link.handle.log_in_as(*who.login)
            if who.mutual is not None:
                link.handle.expect(*who.mutual)
            elsewhere = _connect(link, address, path, waiter)
        except BaseException:
            link.close()
            raise
        if elsewhere is None:
            link.logged_in = True
            return link
        link.close()
        host, port = _lun.portal(elsewhere, waiter.where)
    raise failures.Broken(
        f'{waiter.where}: portal {path.portal}: the target sends us from '
        f'portal to portal'
    )


def _address(host: str, port: int, waiter: waiting.Waiter) -> str:
    """A numeric address that answers."""
    try:
        sock = waiter.ctx.connector.connect(host, port, waiter.ctx)
    except exceptions.Unavailable as exc:
        raise failures.Broken(f'{waiter.where}: {exc}') from exc
    with sock:
        numeric: str = sock.getpeername()[0]
    return f'[{numeric}]:{port}' if ':' in numeric else f'{numeric}:{port}'


def _connect(
    link: _link.Link,
    address: str,
    path: _lun.Path,
    waiter: waiting.Waiter,
) -> str | None:
    """Connect and log in; returns where it is sent on to."""
    handle = link.handle
    end = time.monotonic() + waiter.ctx.connect_timeout
    where = f'{waiter.where}: portal {path.portal}'

    def step(
        begin: Callable[[Callable[[libiscsi.Outcome], None]], bool],
    ) -> int:
        outcomes: list[libiscsi.Outcome] = []
        if not begin(outcomes.append) or not link.adopt():
            raise failures.Broken(f'{where}: it cannot be connected to')
        alive = True
        while not outcomes:
            if not alive:
                raise failures.Broken(f'{where}: it hung up during the login')
            waiter.check()
            left = end - time.monotonic()
            if left <= 0:
                raise failures.Broken(
                    f'{where}: it did not log us in within '
                    f'{waiter.ctx.connect_timeout:g} seconds'
                )
            alive = link.turn(min(left, _context.TICK))
        return outcomes[0].status

    if step(lambda done: handle.connect(address, done)) != libiscsi.GOOD:
        raise failures.Broken(f'{where}: it cannot be connected to')
    status = step(handle.login)
    if status == libiscsi.GOOD:
        return None
    if status == libiscsi.REDIRECT or _MOVED in handle.error:
        return handle.redirected_to
    raise _refusal(handle.error, path, where)


def _refusal(
    text: str, path: _lun.Path, where: str
) -> exceptions.TransferError:
    """Why a login was not taken, from the library's words."""
    found = _STATUS.search(text)
    status = int(found.group(2)) if found else None
    if status in _NO_TARGET:
        return exceptions.NotFound(f'{where}: it has no target {path.iqn}')
    if status in _DENIED:
        return exceptions.AccessDenied(
            f'{where}: the target lets nobody in with this CHAP user name '
            f'and secret, or this name of the initiator'
        )
    if status is None and re.search('CHAP|Authentication', text):
        return exceptions.AccessDenied(
            f'{where}: CHAP failed: the target asks for a login where none '
            f'was given, or could not prove who it is'
        )
    reason = found.group(1).strip() if found else 'it hung up'
    return failures.Broken(f'{where}: the login failed ({reason})')
