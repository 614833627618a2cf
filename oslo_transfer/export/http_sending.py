# SPDX-License-Identifier: Apache-2.0
"""What goes out on a connection: an answer's text, and bytes of an image."""

from __future__ import annotations

from collections.abc import Callable
from collections.abc import Hashable
from collections.abc import Iterator
import errno
import logging
import typing

from oslo_transfer.export import exported
from oslo_transfer.export import http_answer
from oslo_transfer.export import http_channel
from oslo_transfer.export import http_host
from oslo_transfer.export import http_pages

LOG = logging.getLogger(__name__)

#: The most bytes that one claims, and about what it sends before it is
#: another's turn.
SLICE = 1 << 20
# What is asked for at once where it is missing, and brought in vain for one
# who has gone; a reader asks further ahead by itself.
_RUN = 1 << 20
# A buffer of one who reads what cannot be kept.
_UNKEPT = 64 * 1024
# Text that a socket may not take at once.
_LONG = 16 * 1024
# How often a block may have gone again before it was sent.
_MOST_VAIN = 3

#: All is sent;
DONE: typing.Final = 'done'
#: the socket takes nothing now;
FULL: typing.Final = 'full'
#: there is more, but it is another's turn.
TURN: typing.Final = 'turn'


class Job(typing.NamedTuple):
    """What has to be waited for, in another thread, before it goes on.

    :ivar run: returns what :meth:`Sending.resume` takes
    :ivar whose: see :meth:`oslo_transfer.export.workers.Workers.do`
    """

    run: Callable[[], bytes]
    whose: Hashable


class Sending:
    """Sends one answer after the other; used by one thread at a time.

    :param channel: not owned
    :param host: the loop
    """

    def __init__(
        self, channel: http_channel.Channel, host: http_host.Host
    ) -> None:
        self._channel = channel
        self._host = host
        #: The image that it reads.
        self.image: exported.Exported | None = None
        self._reader: exported.Reader | None = None
        # Whether it can be told what of the image is in memory.
        self._asks = True
        #: Whether any of the answer went out, or may.
        self.begun = False
        #: Bytes of the image that went out with it.
        self.sent = 0
        #: When something last went out.
        self.moved = host.now
        # Still to go out: text, bytes of the image, the other parts.
        self._text: bytes | memoryview = b''
        self._offset = self._end = 0
        # Up to where the reader claims it: a slice at most.
        self._claimed = 0
        self._parts: Iterator[http_answer.Part] = iter(())
        self._vain = 0
        # What has to be waited for.
        self._job: Job | None = None

    def start(self, answer: http_answer.Answer) -> None:
        """Have an answer to send.

        :raises TransferError: its image cannot be read
        """
        image = answer.image
        if image is not None and image is not self.image:
            self.close()
            self._reader, self.image = image.reader(), image
            self._asks = True
        self._parts = iter(answer.parts)
        self._text, self._offset, self._end = next(self._parts)
        self.begun = False
        self._claimed = self.sent = self._vain = 0
        self.moved = self._host.now

    def release(self) -> None:
        """Nothing is sent now."""
        if self._reader is not None:
            self._reader.release()

    def close(self) -> None:
        """Let go of the image; idempotent."""
        reader, self._reader, self.image = self._reader, None, None
        if reader is None:
            return
        try:
            reader.close()
        except Exception:
            LOG.exception('closing a reader')

    def go(self) -> str | Job:
        """Send what goes without waiting, for one turn.

        :returns: why it ended; with a job it goes on after :meth:`resume`
        :raises OSError: the connection broke
        """
        left = SLICE
        while left > 0:
            if self._offset < self._end:
                sent = self._send_image()
                if not sent:
                    job, self._job = self._job, None
                    return job or FULL
                left -= sent
            elif self._text:
                if not self._send_text(more=False):
                    return FULL
            else:
                part = next(self._parts, None)
                if part is None:
                    return DONE
                self._text, self._offset, self._end = part
                self._claimed = 0
        return TURN

    def resume(self, found: bytes) -> None:
        """Go on with what a job returned."""
        self.moved = self._host.now
        if found:
            # It is here already, and goes out before any more is.
            self.begun = True
            self._text = bytes(self._text) + found
            self._offset += len(found)
            self.sent += len(found)
            self._host.counts.bytes_sent += len(found)

    def _send_text(self, *, more: bool) -> bool:
        """Send text; False where it has to wait."""
        self.begun = True
        if len(self._text) > _LONG:
            # Of what is long, no copy is made for each piece that goes.
            self._text = memoryview(self._text)
        while self._text:
            sent = self._channel.send(self._text, more)
            if sent is None:
                return False
            self._text = self._text[sent:]
            self.moved = self._host.now
        return True

    def _send_image(self) -> int:
        """Send some of the image; 0 where that has to wait."""
        reader = self._reader
        assert reader is not None
        offset = self._offset
        if self.begun and self._text and not self._send_text(more=True):
            return 0
        if offset >= self._claimed:
            count = reader.claim(offset, min(self._end - offset, SLICE))
            if not count:
                self._fetch(reader)
                return 0
            self._claimed = offset + count
            if self._asks:
                found = http_pages.is_cached(reader.fd, self._claimed - 1)
                self._asks = found is not None
                if found is False:
                    self._load(reader.fd)
                    return 0
        try:
            sent = self._send_claimed(reader.fd)
        except OSError as exc:
            if exc.errno != errno.EIO:
                raise
            sent = 0
        if sent is None:
            return 0
        if not sent:
            # The disk has lost it: there is another way.
            self._vain = _MOST_VAIN
            self._fetch(reader)
            return 0
        self._vain = 0
        self._offset = offset + sent
        self.sent += sent
        self.moved = self._host.now
        self._host.counts.bytes_sent += sent
        return sent

    def _send_claimed(self, fd: int) -> int | None:
        """Send text, and some of what is claimed; None where it has to wait.

        :returns: bytes of the image; 0 where the file has none of them
        """
        channel, text, offset = self._channel, self._text, self._offset
        count = self._claimed - offset
        assert self.image is not None
        if self.image.stays or channel.copies:
            if text and not self._send_text(more=True):
                return None
            return channel.send_file(fd, offset, count)
        # Of what may be evicted the socket gets a copy: it would keep pages
        # of the file for longer than the claim lasts.
        self.begun = True
        sent = channel.send_copy(text, fd, offset, count, self._host.room)
        if sent is None:
            return None
        self._text = text[sent:]
        if self._text:
            self.moved = self._host.now
            return self._send_claimed(fd)
        return sent - len(text)

    # What is missing

    def _load(self, fd: int) -> None:
        """Have another thread wait for the disk."""
        self._host.counts.loaded += 1
        offset, length = self._offset, self._claimed - self._offset
        ahead = min(self._end - self._claimed, SLICE)

        def load() -> bytes:
            http_pages.load(fd, offset, length, ahead)
            return b''

        self._job = Job(load, ('disk', id(self.image)))

    def _fetch(self, reader: exported.Reader) -> None:
        """Have another thread fetch what comes next."""
        offset, left = self._offset, self._end - self._offset
        self._claimed = 0
        self._host.counts.missed += 1
        self._vain += 1
        in_vain = self._vain > _MOST_VAIN

        def bring() -> bytes:
            if not in_vain and reader.bring(offset, min(left, _RUN)):
                return b''
            buffer = bytearray(min(left, _UNKEPT))
            reader.read(memoryview(buffer), offset)
            return bytes(buffer)

        self._job = Job(bring, ('origin', id(self.image)))
