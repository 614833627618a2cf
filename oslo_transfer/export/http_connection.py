# SPDX-License-Identifier: Apache-2.0
"""One connection: takes requests one after the other, and answers them."""

from __future__ import annotations

from collections.abc import Iterator
import errno
import logging
import select
import typing

from oslo_transfer import exceptions
from oslo_transfer.export import exported
from oslo_transfer.export import http_answer
from oslo_transfer.export import http_channel
from oslo_transfer.export import http_host
from oslo_transfer.export import http_message
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
# How often a block may have gone again before it was sent.
_MOST_VAIN = 3
_GONE = select.EPOLLHUP | select.EPOLLERR
# What is taken and dropped of one whose connection is to end.
_MOST_DROPPED = 1 << 20


#: What a connection does. It waits for a request, or for the rest of one;
READING: typing.Final = 'reading'
#: sends an answer;
SENDING: typing.Final = 'sending'
#: waits for another thread, which has the reader, and fetches;
WAITING: typing.Final = 'waiting'
#: has sent all, and waits for the client to close, too.
ENDING: typing.Final = 'ending'
CLOSED: typing.Final = 'closed'


class Connection:
    """Used by the thread of the loop.

    :param channel: owned from now on
    :param host: the loop
    """

    def __init__(
        self, channel: http_channel.Channel, host: http_host.Host
    ) -> None:
        self.channel = channel
        self._host = host
        self.state: str = READING
        #: It will have another turn.
        self.queued = False
        #: When what it does began, or last went on.
        self.since = host.now
        #: The image that it reads.
        self.image: exported.Exported | None = None
        self._reader: exported.Reader | None = None
        # Whether it can be told what of the image is in memory.
        self._asks = True
        self._received = bytearray()
        self._request: http_message.Head | None = None
        self._keep = True
        # Still to go out: text, bytes of the image, the other parts.
        self._text = b''
        self._offset = self._end = 0
        # Up to where the reader claims it: a slice at most.
        self._claimed = 0
        self._parts: Iterator[http_answer.Part] = iter(())
        # Whether any of the answer went out, or may.
        self._begun = False
        self._vain = 0
        self._dropped = 0

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests."""
        return self.state is READING and not self._received

    def on_event(self, mask: int) -> None:
        """Something can be read, or written, or the peer has gone."""
        if mask & _GONE:
            # Nobody is there to take an answer.
            self.close()
            return
        self.channel.readable = True
        if mask & select.EPOLLRDHUP:
            # He has ended his side, and may still want the answer.
            self.channel.ended = True
        if not self.queued:
            self.go()

    def go(self) -> None:
        """Go on as far as that goes without waiting, for one turn."""
        try:
            if self.state is READING:
                self._read()
            if self.state is SENDING:
                self._send()
            elif self.state is ENDING:
                self._drain()
        except OSError as exc:
            LOG.debug('a client has gone: %s', exc)
            self.close()
        except Exception:
            LOG.exception('answering %s', self._request)
            self.close()

    # Requests

    def _read(self) -> None:
        received = self._received
        while True:
            if received:
                try:
                    request = http_message.take(received)
                except http_message.Refused as why:
                    self._refuse(why)
                    return
                if request is not None:
                    self._begin(request)
                    return
            if not self.channel.readable:
                return
            data = self.channel.recv()
            if data is None:
                return
            if not data:
                self.close()
                return
            if not received:
                # Not by later bytes: a head has to come soon as a whole.
                self.since = self._host.now
            received += data

    def _begin(self, request: http_message.Request) -> None:
        self._request = request.head
        answer = http_answer.answer(request, self._host.find)
        try:
            self._take_image(answer.image)
        except exceptions.TransferError as exc:
            answer = self._failure(exc)
        self._start(answer)

    def _take_image(self, image: exported.Exported | None) -> None:
        """Have a reader of the image that is to be sent."""
        if image is None or image is self.image:
            return
        self._drop_reader()
        self._reader, self.image = image.reader(), image
        self._asks = True

    def _drop_reader(self) -> None:
        reader, self._reader, self.image = self._reader, None, None
        if reader is None:
            return
        try:
            reader.close()
        except Exception:
            LOG.exception('closing a reader')

    def _start(self, answer: http_answer.Answer) -> None:
        self._keep = answer.keep
        self._parts = iter(answer.parts)
        self._text, self._offset, self._end = next(self._parts)
        self._claimed = 0
        self._begun = False
        self._vain = 0
        self.state = SENDING
        self.since = self._host.now

    def _refuse(self, why: http_message.Refused) -> None:
        self._request = None
        self._start(http_answer.error(why.status, str(why), None))

    def _failure(self, exc: exceptions.TransferError) -> http_answer.Answer:
        assert self._request is not None
        LOG.warning('%s: %s', self._request.path, exc)
        return http_answer.failed(exc, self._request)

    # Answers

    def _send(self) -> None:
        left = SLICE
        while left > 0:
            if self._offset < self._end:
                sent = self._send_image()
                if not sent:
                    return
                left -= sent
            elif self._text:
                if not self._send_text(more=False):
                    return
            else:
                part = next(self._parts, None)
                if part is None:
                    self._done()
                    return
                self._text, self._offset, self._end = part
                self._claimed = 0
        self._host.again(self)

    def _send_text(self, *, more: bool) -> bool:
        """Send text; False where it has to wait."""
        self._begun = True
        while self._text:
            sent = self.channel.send(self._text, more)
            if sent is None:
                return False
            self._text = self._text[sent:]
            self.since = self._host.now
        return True

    def _send_image(self) -> int:
        """Send some of the image; 0 where that has to wait."""
        reader, host = self._reader, self._host
        assert reader is not None
        offset = self._offset
        if self._begun and self._text and not self._send_text(more=True):
            return 0
        if offset >= self._claimed:
            count = reader.claim(offset, min(self._end - offset, SLICE))
            if not count:
                self._fetch()
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
            self._fetch()
            return 0
        self._vain = 0
        self._offset = offset + sent
        self.since = host.now
        host.counts.bytes_sent += sent
        return sent

    def _send_claimed(self, fd: int) -> int | None:
        """Send text, and some of what is claimed; None where it has to wait.

        :returns: bytes of the image; 0 where the file has none of them
        """
        channel, text, offset = self.channel, self._text, self._offset
        count = self._claimed - offset
        assert self.image is not None
        if self.image.stays or channel.copies:
            if text and not self._send_text(more=True):
                return None
            return channel.send_file(fd, offset, count)
        # Of what may be evicted the socket gets a copy: it would keep pages
        # of the file for longer than the claim lasts.
        self._begun = True
        sent = channel.send_copy(text, fd, offset, count, self._host.room)
        if sent is None:
            return None
        self._text = text[sent:]
        if self._text:
            self.since = self._host.now
            return self._send_claimed(fd)
        return sent - len(text)

    def _load(self, fd: int) -> None:
        """Have another thread wait for the disk."""
        self.state = WAITING
        self._host.counts.loaded += 1
        offset, length = self._offset, self._claimed - self._offset
        ahead = min(self._end - self._claimed, SLICE)

        def load() -> bytes:
            http_pages.load(fd, offset, length, ahead)
            return b''

        self._host.work(load, self._fetched, ('disk', id(self.image)))

    def _done(self) -> None:
        if self._reader is not None:
            self._reader.release()
        self.since = self._host.now
        self._host.counts.requests += 1
        if not self._keep:
            self.channel.finish()
            self.state = ENDING
        else:
            self.state = READING
        if self._received or self.channel.readable:
            self._host.again(self)

    def _drain(self) -> None:
        if not self.channel.readable:
            return
        count = self.channel.drain()
        if count is None:
            return
        self._dropped += count
        if count and self._dropped < _MOST_DROPPED:
            self._host.again(self)
        else:
            self.close()

    # What is missing

    def _fetch(self) -> None:
        reader, offset = self._reader, self._offset
        assert reader is not None
        left = self._end - offset
        self.state = WAITING
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

        self._host.work(bring, self._fetched, ('origin', id(self.image)))

    def _fetched(self, found: bytes | Exception) -> None:
        if self.state is CLOSED:
            self._drop_reader()
            self._host.gone(self)
            return
        self.state = SENDING
        self.since = self._host.now
        if isinstance(found, bytes):
            if found:
                # It is here already, and goes out before any more is.
                self._begun = True
                self._text += found
                self._offset += len(found)
                self._host.counts.bytes_sent += len(found)
            self.go()
        elif isinstance(found, exceptions.TransferError) and not self._begun:
            self._start(self._failure(found))
            self.go()
        else:
            # Fewer bytes than the headers say: the client sees that.
            LOG.warning('an answer ends early: %s', found)
            self.close()

    # The end

    def close(self) -> None:
        """End it, whatever it does; idempotent."""
        if self.state is CLOSED:
            return
        if self.state in (SENDING, WAITING):
            self._host.counts.broken += 1
        waiting = self.state is WAITING
        self.state = CLOSED
        self.channel.close()
        if not waiting:
            # Otherwise the other thread has it still.
            self._drop_reader()
        self._host.gone(self)

    def expire(self, limits: http_host.Limits) -> None:
        """End what has taken too long."""
        age = self._host.now - self.since
        if self.state is ENDING:
            if age > limits.ending:
                self.close()
        elif self.state is SENDING:
            if age > limits.sending:
                LOG.info('a client takes nothing any more')
                self.close()
        elif self.state is READING:
            if self._received and age > limits.head:
                self._refuse(
                    http_message.Refused(408, 'the request takes too long')
                )
                self.go()
            elif age > limits.idle:
                self.close()
