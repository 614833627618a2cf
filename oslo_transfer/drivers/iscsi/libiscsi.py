# SPDX-License-Identifier: Apache-2.0
"""All calls of the C library libiscsi, and no policy.

Only its asynchronous calls are used: they queue, and
:meth:`Handle.service` sends and receives what a socket that does not block
will take and give, and nothing else ever touches a caller's buffer. So
whoever stops to call it has stopped the transfer, within no time and in any
state; the synchronous calls (``lib/sync.c``) sleep in C until an answer
comes.

Not thread-safe: a handle belongs to one thread at a time.

Sources: ``include/iscsi.h`` and ``include/scsi-lowlevel.h`` of libiscsi.
"""

from __future__ import annotations

from collections.abc import Callable
import ctypes
import itertools
import secrets
import typing

from oslo_transfer.drivers.iscsi import abi

# include/iscsi.h
_NORMAL_SESSION = 2
GOOD = 0
CHECK_CONDITION = 0x02
BUSY = 0x08
RESERVATION_CONFLICT = 0x18
TASK_SET_FULL = 0x28
REDIRECT = 0x101
# From here on it is the library that speaks, and not the target.
LOCAL = 0x0F000000
# enum scsi_residual
_UNDERFLOW = 1
# poll(2)
POLLIN, POLLOUT = 0x001, 0x004
# Include/cpython/object.h
_PYBUF_WRITABLE = 1


class _PyBuffer(ctypes.Structure):
    """``Py_buffer``, part of the stable ABI since Python 3.11."""

    _fields_ = (
        ('buf', ctypes.c_void_p),
        ('obj', ctypes.c_void_p),
        ('len', ctypes.c_ssize_t),
        ('itemsize', ctypes.c_ssize_t),
        ('readonly', ctypes.c_int),
        ('ndim', ctypes.c_int),
        ('format', ctypes.c_char_p),
        ('shape', ctypes.c_void_p),
        ('strides', ctypes.c_void_p),
        ('suboffsets', ctypes.c_void_p),
        ('internal', ctypes.c_void_p),
    )


class Outcome(typing.NamedTuple):
    """What came of a request.

    :ivar status: ``GOOD``, another SCSI status, or a number of the library
    :ivar moved: bytes that came or went
    :ivar key: sense key after CHECK CONDITION
    :ivar code: additional sense code and qualifier, as one number
    """

    status: int
    moved: int = 0
    key: int = 0
    code: int = 0


class _Pin:
    """The address of a buffer, which cannot go or shrink meanwhile."""

    def __init__(self, buffer: typing.Any, writable: bool) -> None:
        self._buffer = _PyBuffer()
        self._hold(buffer, writable)
        # C code has the address of this one.
        self.iovec = abi.Iovec(self._buffer.buf, self._buffer.len)
        self.length: int = self._buffer.len

    def _hold(self, buffer: typing.Any, writable: bool) -> None:
        ctypes.pythonapi.PyObject_GetBuffer(
            ctypes.py_object(buffer),
            ctypes.byref(self._buffer),
            ctypes.c_int(_PYBUF_WRITABLE if writable else 0),
        )

    def move(self, buffer: typing.Any) -> None:
        """Point to another buffer that can be written, as long."""
        self.release()
        self._hold(buffer, True)
        assert self._buffer.len == self.length
        self.iovec.base = self._buffer.buf

    def release(self) -> None:
        ctypes.pythonapi.PyBuffer_Release(ctypes.byref(self._buffer))


class _Request(typing.NamedTuple):
    """What C code points to until the answer comes."""

    done: Callable[[Outcome], None]
    task: typing.Any = None
    pin: _Pin | None = None


class Handle:
    """One context of the library: one session at most.

    ``done`` is called from :meth:`service` or :meth:`destroy` and MUST NOT
    raise.

    :param initiator: name of this host
    :param target: name of the target
    :raises DriverLoadError: the library is missing
    """

    def __init__(self, initiator: str, target: str) -> None:
        self._library = abi.load()
        self._context: int | None = self._library.iscsi_create_context(
            initiator.encode()
        )
        if not self._context:
            raise MemoryError('iscsi_create_context')
        self._tokens = itertools.count(1)
        self._requests: dict[int, _Request] = {}
        # Kept as long as C code may call it.
        self._callback = abi.Callback(self._called)
        library, context = self._library, self._context
        library.iscsi_set_session_type(context, _NORMAL_SESSION)
        library.iscsi_set_targetname(context, target.encode())
        # A session that broke is an error, and nothing is sent twice.
        library.iscsi_set_noautoreconnect(context, 1)
        # The library's own random numbers are the same in forked
        # processes, and equal names would take sessions from each other.
        library.iscsi_set_isid_random(
            context, secrets.randbits(24), secrets.randbits(16)
        )

    def log_in_as(self, username: str, password: str) -> None:
        """Use CHAP."""
        self._library.iscsi_set_initiator_username_pwd(
            self._context, username.encode(), password.encode()
        )

    def expect(self, username: str, password: str) -> None:
        """Have the target prove its identity by CHAP, too."""
        self._library.iscsi_set_target_username_pwd(
            self._context, username.encode(), password.encode()
        )

    def connect(self, portal: str, done: Callable[[Outcome], None]) -> bool:
        """Begin to connect; tells whether that is on its way.

        :param portal: a numeric address and a port
        """
        return self._begin(
            self._library.iscsi_connect_async, portal.encode(), done=done
        )

    def login(self, done: Callable[[Outcome], None]) -> bool:
        """Begin to log in; tells whether that is on its way."""
        return self._begin(self._library.iscsi_login_async, done=done)

    def logout(self, done: Callable[[Outcome], None]) -> bool:
        """Begin to log out; tells whether that is on its way."""
        return self._begin(self._library.iscsi_logout_async, done=done)

    def _begin(
        self,
        function: typing.Any,
        *arguments: typing.Any,
        done: Callable[[Outcome], None],
    ) -> bool:
        token = next(self._tokens)
        self._requests[token] = _Request(done)
        if function(self._context, *arguments, self._callback, token) == 0:
            return True
        self._requests.pop(token, None)
        return False

    def submit(
        self,
        lun: int,
        cdb: bytes,
        done: Callable[[Outcome], None],
        *,
        into: typing.Any = None,
        data: typing.Any = None,
    ) -> int:
        """Queue a command; returns what to call it, or 0 if it cannot be.

        :param into: a writable buffer for what is read, or None
        :param data: a buffer with what is written, or None; both are used
            until the answer comes
        """
        library = self._library
        pin = None
        direction, count = abi.NONE, 0
        if into is not None:
            pin, direction = _Pin(into, True), abi.READ
        elif data is not None:
            pin, direction = _Pin(data, False), abi.WRITE
        if pin is not None:
            count = pin.length
        task = library.scsi_create_task(len(cdb), cdb, direction, count)
        if not task:
            raise MemoryError('scsi_create_task')
        if pin is not None:
            set_vector = (
                library.scsi_task_set_iov_in
                if direction == abi.READ
                else library.scsi_task_set_iov_out
            )
            set_vector(task, ctypes.byref(pin.iovec), 1)
        token = next(self._tokens)
        self._requests[token] = _Request(done, task, pin)
        if (
            library.iscsi_scsi_command_async(
                self._context, lun, task, self._callback, None, token
            )
            == 0
        ):
            return token
        self._let_go(self._requests.pop(token))
        return 0

    def redirect(self, token: int, into: typing.Any) -> None:
        """Have what a command reads go to another buffer of its length.

        Only before :meth:`service` could take in anything of it.
        """
        pin = self._requests[token].pin
        assert pin is not None
        pin.move(into)

    def _called(
        self,
        _context: int | None,
        status: int,
        _data: int | None,
        token: int | None,
    ) -> None:
        request = self._requests.pop(token or 0, None)
        if request is None:
            return
        outcome = Outcome(status)
        if request.task is not None:
            found = request.task.contents
            missing = (
                found.residual if found.residual_status == _UNDERFLOW else 0
            )
            outcome = Outcome(
                status,
                max(0, found.expected - missing),
                found.sense_key,
                found.sense_code,
            )
            self._let_go(request)
        request.done(outcome)

    def _let_go(self, request: _Request) -> None:
        if request.task is not None:
            self._library.scsi_free_scsi_task(request.task)
        if request.pin is not None:
            request.pin.release()

    @property
    def pending(self) -> int:
        """Requests that were not answered yet."""
        return len(self._requests)

    @property
    def fd(self) -> int:
        """The socket, or -1."""
        return int(self._library.iscsi_get_fd(self._context))

    @property
    def events(self) -> int:
        """What to wait for: ``POLLIN``, ``POLLOUT`` or both."""
        return int(self._library.iscsi_which_events(self._context))

    @property
    def error(self) -> str:
        """The library's last words."""
        text: bytes | None = self._library.iscsi_get_error(self._context)
        return (text or b'').decode(errors='replace').strip()

    @property
    def redirected_to(self) -> str:
        """The portal that a login was sent to."""
        text: bytes | None = self._library.iscsi_get_target_address(
            self._context
        )
        return (text or b'').decode(errors='replace')

    def service(self, events: int) -> bool:
        """Send and receive what is possible now; False when it broke."""
        done: int = self._library.iscsi_service(self._context, events)
        return done >= 0

    def destroy(self) -> None:
        """Close the socket; what was not answered is cancelled.

        Idempotent.
        """
        context, self._context = self._context, None
        if context is None:
            return
        self._library.iscsi_destroy_context(context)
        for token in list(self._requests):
            self._let_go(self._requests.pop(token))
