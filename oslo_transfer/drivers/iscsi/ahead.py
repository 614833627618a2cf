# SPDX-License-Identifier: Apache-2.0
"""Has the target read on while the caller is busy with what it has got.

The next blocks are asked for over a session that nobody takes anything in
from before the caller comes with a buffer for them; until then they wait in
the socket. So they need no buffer here, and no copy.
"""

from __future__ import annotations

import collections
import typing

from oslo_transfer.drivers.iscsi import blocks as _blocks
from oslo_transfer.drivers.iscsi import failures
from oslo_transfer.drivers.iscsi import pool as _pool
from oslo_transfer.drivers.iscsi import session as _session
from oslo_transfer.drivers.iscsi import waiting

# So many runs are on their way at once.
_DEPTH = 2
# What is asked for is as long as this, and nothing is ever written to it.
_NOWHERE = memoryview(bytearray(_blocks.MOST))


class _Asked(typing.NamedTuple):
    """What is on its way."""

    session: _session.Session
    batch: _session.Batch
    offset: int
    length: int


class Ahead:
    """Reads ahead for one stream, a run of whole blocks at a time.

    :param pool: sessions with the unit
    :param blocks: its blocks
    """

    def __init__(self, pool: _pool.Pool, blocks: _blocks.Blocks) -> None:
        self._pool = pool
        self._blocks = blocks
        self._asked: collections.deque[_Asked] = collections.deque()

    @property
    def full(self) -> bool:
        """Whether enough was asked for."""
        return len(self._asked) >= _DEPTH

    def end(self, offset: int) -> int:
        """Up to where it was asked for."""
        if not self._asked:
            return offset
        return self._asked[-1].offset + self._asked[-1].length

    def ask(self, offset: int, length: int, waiter: waiting.Waiter) -> bool:
        """Ask for whole blocks, if there is a session to spare."""
        session = self._pool.spare(waiter)
        if session is None:
            return False
        try:
            batch = session.start(
                [*self._blocks.reads(_NOWHERE[:length], offset)]
            )
        except failures.Broken:
            self._pool.give_back_spare(session)
            return False
        except BaseException:
            session.close()
            self._pool.give_back_spare(session)
            raise
        self._asked.append(_Asked(session, batch, offset, length))
        return True

    def there(self, offset: int) -> int:
        """How many bytes were asked for from an offset on.

        What was asked for elsewhere is forgotten: nobody wants it.
        """
        if self._asked and self._asked[0].offset != offset:
            self.drop()
        return self._asked[0].length if self._asked else 0

    def take(self, view: memoryview, waiter: waiting.Waiter) -> bool:
        """Fill a buffer with what was asked for first; as long as that.

        :returns: whether it came
        """
        asked = self._asked.popleft()
        try:
            asked.session.redirect(asked.batch, self._blocks.pieces(view))
            outcomes = asked.session.finish(asked.batch, waiter)
        except (failures.Broken, failures.SenseError, failures.News) as exc:
            # Reading it again by the usual way tells what it is.
            if isinstance(exc, failures.Broken):
                self._pool.note(asked.session.path)
            asked.session.close()
            return False
        finally:
            self._pool.give_back_spare(asked.session)
        self._blocks.check(asked.batch.commands, outcomes)
        return True

    def drop(self) -> None:
        """Forget what was asked for, and the session with it."""
        while self._asked:
            asked = self._asked.popleft()
            asked.session.close()
            self._pool.give_back_spare(asked.session)
