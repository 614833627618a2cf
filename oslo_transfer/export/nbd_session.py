# SPDX-License-Identifier: Apache-2.0
"""Transmission: answers the requests of one connection.

Its thread reads requests, as many at once as there are, and sends replies;
while they are easy another one does so for many (:mod:`nbd_lot`). What is
there is answered at once, in whatever order: small reads are copied into one
buffer that goes out by one call, large ones go by sendfile(2). What has to be
fetched waits elsewhere (:mod:`nbd_misses`), and is answered when it is there.
What the client has not taken stays where it is: in the file.

A read that fails is answered with an error, and the connection goes on.
Only where bytes were promised already, and the reply is a simple one, there
is no other way than to end it (proto.md, "Structured reply chunk message").
"""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import select
import socket
import ssl

from oslo_transfer import exceptions
from oslo_transfer.export import nbd_lot
from oslo_transfer.export import nbd_misses
from oslo_transfer.export import nbd_options
from oslo_transfer.export import nbd_outlet
from oslo_transfer.export import nbd_requests
from oslo_transfer.export import nbd_vigil
from oslo_transfer import nbd_wire as wire

Command = wire.Command
Error = wire.Error

# Copying costs less than two calls do, up to here. Measured.
_SMALL = 16 * 1024
_REQUESTS = 256
# Reads of so many bytes are worth a look for holes of so many.
_LOOK = 128 * 1024
_HOLE = 64 * 1024
_MOST_LOOKED = 64
# More requests are not read while so many wait.
_MOST_WAITING = 256
# How often a block may have gone again before it was sent.
_MOST_VAIN = 3
# Parts of replies end where pages do.
_PAGE = 4096
_GONE = select.POLLRDHUP | select.POLLHUP | select.POLLERR

# After so many turns with nothing but small reads of what is there it is
# left to the one that serves such connections.
_CALM = 16

_HEAD = wire.REQUEST.size
_NOW = int(socket.MSG_DONTWAIT)


class Garbage(Exception):
    """The client breaks the protocol, and is not to be answered."""


class Counts:
    """What was done since the start.

    :ivar requests: that came
    :ivar bytes_sent: with what is around them
    :ivar missed: reads of what had to be fetched first
    :ivar failed: requests that ended in an error
    """

    def __init__(self) -> None:
        self.requests = self.bytes_sent = self.missed = self.failed = 0


class Session:
    """One connection in transmission; one thread runs it.

    :param sock: it blocks
    :param agreement: what was negotiated
    :param workers: who fetches what is missing
    :param budget: for what the cache does not keep
    :param lot: where it waits while that is easy
    :raises TransferError: the image cannot be read
    """

    def __init__(
        self,
        sock: socket.socket,
        agreement: nbd_options.Agreement,
        workers: nbd_misses.Workers,
        budget: nbd_misses.Budget,
        lot: nbd_lot.Lot,
    ) -> None:
        self._sock = sock
        self._lot = lot
        self._structured = agreement.structured
        self._context = agreement.context
        self._size = agreement.image.size
        # It sees each request once, and so whether they are in order.
        self._reader = agreement.image.reader()
        # Of what was fetched.
        self._second = agreement.image.reader()
        self._outlet = nbd_outlet.Outlet(
            sock, agreement.image, self._reader, agreement.structured
        )
        self._misses = nbd_misses.Misses(agreement.image, workers, budget)
        self._in = memoryview(bytearray(_HEAD * _REQUESTS))
        # Bytes of requests that are in there.
        self._have = 0
        self._plain = not isinstance(sock, ssl.SSLSocket)
        self._vigil = nbd_vigil.Vigil(self._receive_now, sock.recv_into)
        self._poll = select.poll()
        self._watched = False
        self._at_once = os.RWF_NOWAIT
        # Bytes of a WRITE that are to be thrown away.
        self._skip = 0
        self._requests = self._missed = self._rare = 0

    def run(self) -> None:
        """Serve until the client leaves; blocks.

        :raises Garbage: it sends something else
        :raises OSError: it is gone
        """
        calm = 0
        while True:
            if self._have < _HEAD:
                if self._misses.waiting:
                    calm = 0
                    if not self._wait():
                        continue
                elif self._lot.crowded and calm >= _CALM and self._plain:
                    calm = 0
                    self._lot.park(self, self._sock.fileno())
                    self._outlet.flush()
                    continue
                count = self._receive(self._in[self._have :])
                if not count:
                    return
                self._have += count
            rare = self._rare
            if not self._serve():
                return
            calm = calm + 1 if rare == self._rare else 0

    def glance(self) -> bool:
        """Answer small reads of what is there, if there are only such.

        Called in the place of :meth:`run`, and never waits.
        """
        try:
            count = self._sock.recv_into(self._in[self._have :], 0, _NOW)
            self._have += count
            self._serve(False)
            sent = self._outlet.flush_now()
        except BlockingIOError:
            return True
        except OSError:
            return False  # It shows again.
        return sent and bool(count) and self._have < _HEAD

    def _receive(self, view: memoryview) -> int:
        if self._plain:
            return self._vigil.wait(view)
        return self._sock.recv_into(view)

    def _receive_now(self, view: memoryview) -> int | None:
        try:
            return self._sock.recv_into(view, 0, _NOW)
        except BlockingIOError:
            return None

    def close(self) -> None:
        """Let go of everything but the socket."""
        self._misses.close()
        self._reader.close()
        self._second.close()

    def add_to(self, counts: Counts) -> None:
        """Sum up what was done."""
        counts.requests += self._requests
        counts.missed += self._missed
        counts.bytes_sent += self._outlet.sent
        counts.failed += self._outlet.failed

    def _serve(self, patient: bool = True) -> bool:
        """Answer all requests that are complete.

        :param patient: wait for the client to take the answers; otherwise
            only small reads of what is there are gathered, up to the first
            request that is something else
        :returns: False where the client says goodbye
        """
        # What is in this loop is what a read of some bytes costs.
        outlet, size = self._outlet, self._size
        view, room, most = outlet.view, outlet.room, nbd_outlet.ROOM
        claim, fd, preadv = self._reader.claim, self._reader.fd, os.preadv
        structured = self._structured
        if structured:
            pack, head = nbd_outlet.DATA.pack_into, nbd_outlet.DATA.size
        else:
            pack, head = wire.SIMPLE.pack_into, wire.SIMPLE.size
        right, data = wire.STRUCTURED_MAGIC, int(wire.Chunk.OFFSET_DATA)
        known, simple = wire.REQUEST_MAGIC, wire.SIMPLE_MAGIC
        how = 0 if patient else self._at_once
        used, at, stays = 0, outlet.at, True
        whole = self._have - self._have % _HEAD
        for request in wire.REQUEST.iter_unpack(self._in[:whole]):
            magic, flags, kind, cookie, offset, length = request
            if (
                # 0 is READ.
                kind == flags == 0
                and magic == known
                and 0 < length <= _SMALL
                and offset + length <= size
                and claim(offset, length) == length
                and (patient or at + head + length <= most)
            ):
                start = at + head
                end = start + length
                if end > most:
                    outlet.at = at
                    outlet.empty()
                    at, start, end = 0, head, head + length
                if structured:
                    pack(room, at, right, 1, data, cookie, length + 8, offset)
                else:
                    pack(room, at, simple, 0, cookie)
                try:
                    if preadv(fd, (view[start:end],), offset, how) == length:
                        used += _HEAD
                        at = end
                        continue
                except OSError as exc:
                    # There is another way. Where the system cannot tell
                    # whether it would wait (tmpfs), it is not asked again.
                    if exc.errno == errno.EOPNOTSUPP:
                        self._at_once = 0
            if not patient:
                break
            used += _HEAD
            outlet.at = at
            stays = self._answer(*request)
            at = outlet.at
            if self._skip or not stays:
                break
        self._requests += used // _HEAD
        outlet.at = at
        if patient:
            outlet.flush()
            if self._skip:
                used = self._pass_over(used)
        self._have -= used
        if self._have:
            self._in[: self._have] = self._in[used : used + self._have]
        return stays

    def _answer(
        self,
        magic: int,
        flags: int,
        kind: int,
        cookie: int,
        offset: int,
        length: int,
    ) -> bool:
        """Answer any request.

        :returns: False where the client says goodbye
        """
        self._rare += 1
        if magic != wire.REQUEST_MAGIC:
            raise Garbage('no request')
        if kind == Command.DISC:
            return False
        if (
            kind
            or flags
            or not 0 < length < _LOOK
            or offset + length > self._size
        ):
            self._other(flags, kind, cookie, offset, length)
            return True
        there = self._reader.claim(offset, length) == length
        if there and length > _SMALL:
            self._outlet.whole(cookie, offset, length)
            return True
        miss = nbd_misses.Miss(0, cookie, offset, length, not self._structured)
        if there:
            # It could not be read in the simple way.
            self._outlet.read_through(miss)
        else:
            self._read(miss)
        return True

    def _wait(self) -> bool:
        """Until there is a request to be read, or something was fetched.

        :returns: whether there is one
        """
        misses, sock = self._misses, self._sock
        if not self._watched:
            self._watched = True
            self._poll.register(misses.fd, select.POLLIN)
        takes = misses.waiting < _MOST_WAITING
        # TLS may have decrypted one already.
        if takes and isinstance(sock, ssl.SSLSocket) and sock.pending():
            return True
        self._poll.register(sock, select.POLLIN if takes else select.POLLRDHUP)
        found = dict(self._poll.poll())
        state = found.get(sock.fileno(), 0)
        if not takes and state & _GONE:
            raise ConnectionResetError
        if misses.fd in found:
            self._outlet.reader = self._second
            for miss in misses.taken():
                self._arrived(miss)
            self._outlet.flush()
            self._outlet.reader = self._reader
        return bool(takes and state)

    def _pass_over(self, used: int) -> int:
        """Throw away what a WRITE brings; returns bytes that are used."""
        step = min(self._skip, self._have - used)
        self._skip -= step
        view = self._outlet.view
        while self._skip:
            count = self._sock.recv_into(view[: self._skip])
            if not count:
                raise ConnectionResetError
            self._skip -= count
        return used + step

    def _other(
        self, flags: int, kind: int, cookie: int, offset: int, length: int
    ) -> None:
        """Answer what is no small read of what is there."""
        outlet = self._outlet
        refusal = nbd_requests.refusal(
            *(flags, kind, offset, length, self._size),
            structured=self._structured,
            context=self._context,
        )
        if refusal is not None:
            outlet.fail(cookie, *refusal)
        elif kind == Command.FLUSH:
            outlet.succeed(cookie)
        elif kind == Command.BLOCK_STATUS:
            try:
                outlet.extents(
                    cookie,
                    self._reader.extents(offset, length),
                    bool(flags & wire.RequestFlag.REQ_ONE),
                )
            except exceptions.TransferError as exc:
                outlet.fail(cookie, Error.EIO, nbd_misses.told_of(exc))
        else:
            whole = not self._structured or bool(flags & wire.RequestFlag.DF)
            miss = nbd_misses.Miss(kind, cookie, offset, length, whole)
            if kind == Command.CACHE:
                self._misses.add(miss)
            else:
                self._read(miss)
        if kind == Command.WRITE:
            self._skip = length

    def _arrived(self, miss: nbd_misses.Miss) -> None:
        """Go on with what was fetched."""
        if miss.error is not None:
            self._outlet.fail(miss.cookie, Error.EIO, miss.error, miss.offset)
        elif miss.kind == Command.CACHE:
            self._outlet.succeed(miss.cookie)
        else:
            data, miss.data = miss.data, None
            if data is not None:
                self._outlet.data(miss, data)
                self._misses.let_go(data)
            self._read(miss)

    def _read(self, miss: nbd_misses.Miss) -> None:
        """Send what is there, and have the rest fetched."""
        while miss.length:
            limit = miss.length
            if not miss.whole and limit >= _LOOK:
                limit, is_zero = self._look(miss.offset, limit)
                if is_zero:
                    cookie, offset = miss.cookie, miss.offset
                    miss.advance(limit)
                    last = not miss.length
                    self._outlet.hole(cookie, offset, limit, last)
                    continue
            if miss.unkept or miss.vain > _MOST_VAIN:
                self._outlet.read_through(miss)
                return
            count = self._outlet.reader.claim(miss.offset, limit)
            if count < limit:
                count -= (miss.offset + count) % _PAGE
                if miss.whole or count < nbd_misses.PART:
                    self._miss(miss)
                    return
            self._outlet.claimed(miss, count)

    def _miss(self, miss: nbd_misses.Miss) -> None:
        self._outlet.reader.release()
        self._missed += 1
        miss.vain += 1
        self._misses.add(miss)

    def _look(self, offset: int, length: int) -> tuple[int, bool]:
        """How far a run goes of zeros, or of something else.

        Short runs of zeros are no better than data.
        """
        total = 0
        found = itertools.islice(
            self._reader.extents(offset, length), _MOST_LOOKED
        )
        with contextlib.suppress(exceptions.TransferError):
            for count, is_zero in found:
                if is_zero and count >= _HOLE:
                    return (total, False) if total else (count, True)
                total += count
        return length, False
