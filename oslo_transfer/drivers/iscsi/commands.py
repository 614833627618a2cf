# SPDX-License-Identifier: Apache-2.0
"""What runs the commands of os-brick: within limits, and only on what is ours.

os-brick takes a function to run commands with (``execute=``). It loops until
a command says what it waits for, allows most of them ten minutes, and tries
three times again; it logs sessions out and deletes records of nodes whoever
made them. This function ends all of that.
"""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Mapping
import threading
import time
import typing

from oslo_transfer import exceptions

if typing.TYPE_CHECKING:
    from oslo_transfer import context as _context

# Exit codes of iscsiadm(8).
_SESSION_EXISTS = 15
_NO_RECORDS = 21
#: Why a login fails, as far as iscsiadm tells.
_REASONS: Mapping[int, tuple[type[exceptions.TransferError], str]] = {
    5: (exceptions.Unavailable, 'it broke the login off'),
    8: (exceptions.Unavailable, 'it did not answer in time'),
    19: (
        exceptions.NotFound,
        'it has no such target, or does not let this host in',
    ),
    20: (exceptions.Unavailable, 'iscsid does not run on this host'),
    24: (
        exceptions.AccessDenied,
        'it refused user name or password (CHAP)',
    ),
}

Node = tuple[str, str]


class Commands:
    """Runs commands for os-brick; thread-safe.

    :param execute: what really runs them
    :param ctx: ends them
    :param seconds: for all of them together
    :param kept: sessions, as (portal, target), that are not logged out
    :param nodes: records of nodes that others have made: they stay, and
        keep what they say but for the given settings
    :param settings: for the records of our own, before their login
    """

    def __init__(
        self,
        execute: Callable[..., tuple[str, str]],
        ctx: _context.Context,
        seconds: float,
        kept: frozenset[Node] = frozenset(),
        nodes: Mapping[Node, Mapping[str, str]] | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._execute = execute
        self._ctx = ctx
        self._seconds = seconds
        self._end = time.monotonic() + seconds
        self._kept = kept
        self._nodes = nodes or {}
        self._settings = settings or {}
        self._lock = threading.Lock()
        self._tried: set[Node] = set()
        #: Whether the time was up when a command was to run.
        self.expired = False
        #: What each login that failed has failed with.
        self.failed: dict[Node, exceptions.TransferError] = {}

    def __call__(self, *command: str, **how: typing.Any) -> tuple[str, str]:
        """Run a command as os-brick wants it.

        :returns: its standard output and standard error
        :raises oslo_concurrency.processutils.ProcessExecutionError: it
            failed
        :raises Unavailable: all of them together took too long
        :raises TransferCancelled: the context says stop
        """
        self._ctx.check()
        left = self._end - time.monotonic()
        if left <= 0:
            self.expired = True
            raise exceptions.Unavailable(
                f'attaching or detaching took more than {self._seconds:g} '
                f'seconds'
            )
        how['timeout'] = max(1, min(left, how.get('timeout', left)))
        how.pop('attempts', None)
        how.pop('delay_on_retry', None)
        how.pop('interval', None)
        if command[:3] != ('iscsiadm', '-m', 'node') or '-T' not in command:
            return self._execute(*command, **how)
        node = command[6], command[4]
        action = command[7:]
        if action == ('--login',):
            return self._login(node, command, how)
        if not self._allowed(node, action):
            return '', ''
        if node in self.failed and not {'--logout', 'delete'} & set(action):
            raise self._again()
        return self._execute(*command, **how)

    def _allowed(self, node: Node, action: tuple[str, ...]) -> bool:
        if action == ('--logout',):
            return node not in self._kept
        if action == ('--op', 'delete'):
            return node not in self._kept and node not in self._nodes
        if action[:2] == ('--op', 'update'):
            name = action[3]
            # What was attached before a boot is not wanted after it.
            if name == 'node.startup' or node in self._kept:
                return False
            return node not in self._nodes or name in CHANGED
        return True

    def _login(
        self, node: Node, command: tuple[str, ...], how: dict[str, typing.Any]
    ) -> tuple[str, str]:
        """Log in once: iscsid tries several times by itself."""
        processutils = _processutils()
        with self._lock:
            again = node in self._tried
            self._tried.add(node)
        if again:
            raise self._again()
        if self._settings and node not in self._nodes:
            self.update(node, self._settings)
        try:
            # os-brick takes 255, an error of any kind, for a login.
            return self._execute(
                *command, **{**how, 'check_exit_code': (0, _SESSION_EXISTS)}
            )
        except processutils.ProcessExecutionError as exc:
            kind, reason = _REASONS.get(
                exc.exit_code,
                (
                    exceptions.Unavailable,
                    f'iscsiadm ended with code {exc.exit_code}',
                ),
            )
            self.failed[node] = kind(
                f'logging in to {node[1]} at {node[0]}: {reason}'
            )
            raise

    @staticmethod
    def _again() -> Exception:
        """Ends what os-brick tries again: iscsid has done so already."""
        error: Exception = _processutils().ProcessExecutionError(
            exit_code=1, description='the login was tried before'
        )
        return error

    def update(self, node: Node, settings: Mapping[str, str]) -> None:
        """Change the record of a node."""
        if not settings:
            return
        portal, iqn = node
        words = [
            word
            for name, value in settings.items()
            for word in ('-n', name, '-v', value)
        ]
        self._execute(
            *('iscsiadm', '-m', 'node', '-T', iqn, '-p', portal),
            *('--op', 'update', *words),
            run_as_root=True,
            timeout=max(1.0, self._end - time.monotonic()),
            check_exit_code=(0, _NO_RECORDS),
        )

    def delete(self, node: Node) -> None:
        """Delete the record of a node."""
        portal, iqn = node
        self(
            *('iscsiadm', '-m', 'node', '-T', iqn, '-p', portal),
            *('--op', 'delete'),
            run_as_root=True,
            check_exit_code=(0, _NO_RECORDS),
        )

    def records(self) -> set[Node]:
        """The nodes that iscsiadm has records of."""
        out, _error = self(
            *('iscsiadm', '-m', 'node'),
            run_as_root=True,
            check_exit_code=(0, _NO_RECORDS),
        )
        return set(_nodes(out))

    def settings_of(self, node: Node) -> dict[str, str]:
        """What the record of a node says; secrets come masked."""
        portal, iqn = node
        out, _error = self(
            *('iscsiadm', '-m', 'node', '-T', iqn, '-p', portal),
            run_as_root=True,
            check_exit_code=(0, _NO_RECORDS),
        )
        lines = (line.split(' = ', 1) for line in out.splitlines())
        return {each[0]: each[1] for each in lines if len(each) == 2}

    def discover(self, portal: str) -> list[Node]:
        """Ask a portal for all targets and portals; notes nothing."""
        out, _error = self(
            *('iscsiadm', '-m', 'discovery', '-t', 'sendtargets'),
            *('-o', 'nonpersistent', '-p', portal),
            run_as_root=True,
            timeout=2 * self._ctx.connect_timeout,
            check_exit_code=(0, _NO_RECORDS),
        )
        return _nodes(out)

    def flush_map(self, name: str) -> None:
        """Take away a multipath device that has lost its paths."""
        self('multipath', '-f', name, run_as_root=True)

    def stop_queueing(self, name: str) -> None:
        """Have a multipath device without paths fail, and not wait."""
        self(
            *('multipathd', 'disablequeueing', 'map', name),
            run_as_root=True,
            check_exit_code=False,
        )


#: What os-brick has to change in the record of a node to log in with it.
CHANGED = (
    'node.session.scan',
    'node.session.auth.authmethod',
    'node.session.auth.username',
    'node.session.auth.password',
)


def _nodes(out: str) -> list[Node]:
    """Lines like ``192.0.2.1:3260,1 iqn.2010-10.org.openstack:volume``."""
    found = []
    for line in out.splitlines():
        portal, _space, iqn = line.partition(' ')
        if iqn:
            found.append((portal.rpartition(',')[0], iqn.strip()))
    return found


def _processutils() -> typing.Any:
    # It comes with os-brick, which may be absent where this is imported.
    from oslo_concurrency import processutils

    return processutils
