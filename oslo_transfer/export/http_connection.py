# SPDX-License-Identifier: Apache-2.0
"""One connection: takes requests one after the other, and answers them.

Each request is a line of the log, with its X-Request-Id: at INFO where
somebody had to be asked, or was refused; at DEBUG where not, for those are
thousands in a second.
"""

from __future__ import annotations

import logging
import select
import typing

from oslo_transfer import exceptions
from oslo_transfer.export import exported
from oslo_transfer.export import http_answer
from oslo_transfer.export import http_asking
from oslo_transfer.export import http_channel
from oslo_transfer.export import http_host
from oslo_transfer.export import http_message
from oslo_transfer.export import http_sending

LOG = logging.getLogger(__name__)

_GONE = select.EPOLLHUP | select.EPOLLERR
# What is taken and dropped of one whose connection is to end.
_MOST_DROPPED = 1 << 20
# What he waits for who asks whether he may send a body (RFC 9110, 10.1.1).
_CONTINUE = b'HTTP/1.1 100 Continue\r\n\r\n'

#: What a connection does. It waits for a request, or for the rest of one;
READING: typing.Final = 'reading'
#: waits for another thread, which finds the answer;
ASKING: typing.Final = 'asking'
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
    :param peer: address of the client, for the log
    """

    def __init__(
        self, channel: http_channel.Channel, host: http_host.Host, peer: str
    ) -> None:
        self.channel = channel
        self._host = host
        self._peer = peer
        self.state: str = READING
        #: It will have another turn.
        self.queued = False
        #: When what it does began.
        self.since = host.now
        self._asking = http_asking.Asking(host.gate, peer)
        self._sending = http_sending.Sending(channel, host)
        self._received = bytearray()
        self._request: http_message.Request | None = None
        # The name of what is no request.
        self._refused = ''
        # Bytes of a body that is still to come, and of what is in memory.
        self._body = self._held = 0
        self._answer: http_answer.Answer | None = None
        # What its line in the log is for.
        self._level = logging.DEBUG
        # What the log takes.
        self._told = LOG.getEffectiveLevel()
        self._dropped = 0

    @property
    def image(self) -> exported.Exported | None:
        """The image that it reads."""
        return self._sending.image

    @property
    def is_idle(self) -> bool:
        """Whether it is between two requests."""
        return self.state is READING and not (self._received or self._body)

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
            LOG.debug('%s has gone: %s', self._peer, exc)
            self.close()
        except Exception:
            LOG.exception('%s: answering %s', self._name, self._shown)
            self.close()

    # Requests

    def _read(self) -> None:
        received = self._received
        while True:
            if self._body:
                if len(received) >= self._body:
                    self._ask()
                    return
            elif received:
                try:
                    request = http_message.take(received, self._host.names)
                except http_message.Refused as why:
                    self._refuse(why, None)
                    return
                if request is not None:
                    self._begin(request)
                    if not self._body or self.state is not READING:
                        return
                    continue
            if not self.channel.readable:
                return
            data = self.channel.recv()
            if data is None:
                return
            if not data:
                self.close()
                return
            if not received and not self._body:
                # Not by later bytes: a head has to come soon as a whole.
                self.since = self._host.now
            received += data

    def _begin(self, request: http_message.Request) -> None:
        self._request = request
        answer = self._asking.at_once(request)
        if answer is not None:
            self._start(answer)
        elif request.head.length:
            self._begin_body(request)
        else:
            self._ask()

    def _begin_body(self, request: http_message.Request) -> None:
        length = request.head.length
        if not self._hold(length):
            why = http_message.Refused(503, 'too much is being sent here')
            self._refuse(why, request)
            return
        self._body = length
        self.since = self._host.now
        # Whoever is idle reads: this little goes at once, or he is none.
        if 'expect' in request.head.fields and not self._received:
            sent = self.channel.send(_CONTINUE, False)
            if sent != len(_CONTINUE):
                raise BlockingIOError('he does not read')

    def _ask(self) -> None:
        """Have another thread ask the gate."""
        request, asking, host = self._request, self._asking, self._host
        assert request is not None
        body = bytes(self._received[: self._body])
        del self._received[: self._body]
        self._body = 0
        self.state = ASKING

        def ask() -> http_answer.Answer | None:
            # He may have gone while others were waited for.
            return asking.ask(request, body) if self.state is ASKING else None

        if not asking.is_page:
            self._level = logging.INFO
            host.work(host.clerks, ask, self._answered, asking.whose(request))
            return
        # Pages are looked at once a second.
        if request.head.method not in http_answer.READS:
            self._level = logging.INFO
        host.work(host.pages, ask, self._answered)

    def _answered(self, answer: http_answer.Answer) -> None:
        if self.state is not ASKING:
            self._hold(0)
            return
        # Pages may be long, and clients slow.
        if not self._hold(len(answer.parts[0].text)):
            assert self._request is not None
            answer = http_answer.busy(self._request)
        self._start(answer)
        self.go()

    def _hold(self, count: int) -> bool:
        """Have memory for so many bytes, in place of what it had."""
        self._host.hold(-self._held)
        self._held = count if self._host.hold(count) else 0
        return self._held == count

    def _refuse(
        self,
        why: http_message.Refused,
        request: http_message.Request | None,
    ) -> None:
        """Answer with an error, and end.

        :param request: None where what came is none
        """
        more = ''
        if request is None:
            self._request, self._refused = None, next(self._host.names)
            more = f'X-Request-Id: {self._refused}\r\n'
        else:
            request = request.last()
        self._start(http_answer.error(why.status, str(why), request, more))

    def _start(self, answer: http_answer.Answer) -> None:
        try:
            self._sending.start(answer)
        except exceptions.TransferError as exc:
            answer = self._failure(exc)
            self._sending.start(answer)
        self._answer = answer
        self.state = SENDING

    def _failure(self, exc: exceptions.TransferError) -> http_answer.Answer:
        assert self._request is not None
        LOG.warning('%s: %s: %s', self._name, self._shown, exc)
        return http_answer.failed(exc, self._request)

    # Answers

    def _send(self) -> None:
        outcome = self._sending.go()
        if outcome is http_sending.DONE:
            self._done()
        elif outcome is http_sending.TURN:
            self._host.again(self)
        elif isinstance(outcome, http_sending.Job):
            self.state = WAITING
            self._host.work(
                self._host.fetchers, outcome.run, self._fetched, outcome.whose
            )

    def _fetched(self, found: bytes | Exception) -> None:
        if self.state is CLOSED:
            self._sending.close()
            self._host.gone(self)
            return
        self.state = SENDING
        if isinstance(found, bytes):
            self._sending.resume(found)
            self.go()
        elif (
            isinstance(found, exceptions.TransferError)
            and not self._sending.begun
        ):
            self._start(self._failure(found))
            self.go()
        else:
            # Fewer bytes than the headers say: the client sees that.
            LOG.warning('%s: an answer ends early: %s', self._name, found)
            self.close()

    def _done(self) -> None:
        self._sending.release()
        answer, counts = self._answer, self._host.counts
        assert answer is not None
        counts.requests += 1
        if answer.status >= 400:
            counts.refused += 1
            self._level = logging.INFO
        if self._level >= self._told:
            self._note(answer, '')
        if self._held:
            self._hold(0)
        self.since = self._host.now
        if not answer.keep:
            self.channel.finish()
            self.state = ENDING
        else:
            self.state = READING
        if self._received or self.channel.readable:
            self._host.again(self)

    def _note(self, answer: http_answer.Answer, end: str) -> None:
        """Tell the log of a request."""
        LOG.log(
            self._level,
            '%s %s "%s" %d, %d bytes in %.3f s%s',
            *(self._name, self._peer, self._shown),
            *(answer.status, self._sending.sent),
            *(self._host.now - self.since, end),
        )
        self._level = logging.DEBUG

    @property
    def _name(self) -> str:
        return self._refused if self._request is None else self._request.id

    @property
    def _shown(self) -> str:
        return http_asking.shown(self._request)

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

    # The end

    def close(self) -> None:
        """End it, whatever it does; idempotent."""
        if self.state is CLOSED:
            return
        if self.state in (SENDING, WAITING) and self._answer is not None:
            self._host.counts.broken += 1
            self._level = logging.INFO
            self._note(self._answer, ', and it ended early')
        state, self.state = self.state, CLOSED
        self.channel.close()
        # Another thread may have these still.
        if state is not ASKING:
            self._hold(0)
        if state is not WAITING:
            self._sending.close()
        self._host.gone(self)

    def expire(self, limits: http_host.Limits) -> None:
        """End what has taken too long."""
        age = self._host.now - self.since
        if self.state is ENDING:
            if age > limits.ending:
                self.close()
        elif self.state is SENDING:
            if self._host.now - self._sending.moved > limits.sending:
                LOG.info('%s takes nothing any more', self._peer)
                self.close()
        elif self.state is READING:
            if not self.is_idle and age > limits.head:
                why = http_message.Refused(408, 'the request takes too long')
                self._refuse(why, self._request if self._body else None)
                self._body = 0
                self._hold(0)
                self.go()
            elif age > limits.idle:
                self.close()
