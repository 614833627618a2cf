# SPDX-License-Identifier: Apache-2.0
"""The C library libiscsi as ctypes has to know it: found, typed, checked.

Sources: ``include/iscsi.h`` and ``include/scsi-lowlevel.h`` of libiscsi.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import functools
import typing

from oslo_transfer import exceptions

# Names by which distributions have it; Debian 12's is the first.
_SONAMES = tuple(f'libiscsi.so.{number}' for number in range(7, 12))

# enum scsi_xfer_dir
NONE, READ, WRITE = 0, 1, 2


class Iovec(ctypes.Structure):
    _fields_ = (('base', ctypes.c_void_p), ('length', ctypes.c_size_t))


class Task(ctypes.Structure):
    """The start of ``struct scsi_task``, the same in all versions."""

    _fields_ = (
        ('status', ctypes.c_int),
        ('cdb_size', ctypes.c_int),
        ('direction', ctypes.c_int),
        ('expected', ctypes.c_int),
        ('cdb', ctypes.c_ubyte * 16),
        ('residual_status', ctypes.c_int),
        ('residual', ctypes.c_size_t),
        ('sense_type', ctypes.c_ubyte),
        ('sense_key', ctypes.c_int),
        ('sense_code', ctypes.c_int),
    )


Callback = ctypes.CFUNCTYPE(
    None, ctypes.c_void_p, ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p
)
_TaskPointer = ctypes.POINTER(Task)

_PROTOTYPES: dict[str, tuple[typing.Any, tuple[typing.Any, ...]]] = {
    'iscsi_create_context': (ctypes.c_void_p, (ctypes.c_char_p,)),
    'iscsi_destroy_context': (ctypes.c_int, (ctypes.c_void_p,)),
    'iscsi_set_targetname': (ctypes.c_int, (ctypes.c_void_p, ctypes.c_char_p)),
    'iscsi_set_session_type': (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    'iscsi_set_isid_random': (
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_uint32, ctypes.c_uint32),
    ),
    'iscsi_set_noautoreconnect': (None, (ctypes.c_void_p, ctypes.c_int)),
    'iscsi_set_initiator_username_pwd': (
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p),
    ),
    'iscsi_set_target_username_pwd': (
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_char_p, ctypes.c_char_p),
    ),
    'iscsi_get_error': (ctypes.c_char_p, (ctypes.c_void_p,)),
    'iscsi_get_fd': (ctypes.c_int, (ctypes.c_void_p,)),
    'iscsi_get_target_address': (ctypes.c_char_p, (ctypes.c_void_p,)),
    'iscsi_which_events': (ctypes.c_int, (ctypes.c_void_p,)),
    'iscsi_service': (ctypes.c_int, (ctypes.c_void_p, ctypes.c_int)),
    'iscsi_connect_async': (
        ctypes.c_int,
        (ctypes.c_void_p, ctypes.c_char_p, Callback, ctypes.c_void_p),
    ),
    'iscsi_login_async': (
        ctypes.c_int,
        (ctypes.c_void_p, Callback, ctypes.c_void_p),
    ),
    'iscsi_logout_async': (
        ctypes.c_int,
        (ctypes.c_void_p, Callback, ctypes.c_void_p),
    ),
    'iscsi_scsi_command_async': (
        ctypes.c_int,
        (
            ctypes.c_void_p,
            ctypes.c_int,
            _TaskPointer,
            Callback,
            ctypes.c_void_p,
            ctypes.c_void_p,
        ),
    ),
    'scsi_create_task': (
        _TaskPointer,
        (ctypes.c_int, ctypes.c_char_p, ctypes.c_int, ctypes.c_int),
    ),
    'scsi_free_scsi_task': (None, (_TaskPointer,)),
    'scsi_task_set_iov_in': (
        None,
        (_TaskPointer, ctypes.POINTER(Iovec), ctypes.c_int),
    ),
    'scsi_task_set_iov_out': (
        None,
        (_TaskPointer, ctypes.POINTER(Iovec), ctypes.c_int),
    ),
}


@functools.cache
def load() -> typing.Any:
    """Find and check the library, once.

    :raises DriverLoadError: it is not installed, or is not as expected
    """
    library: typing.Any = _open()
    try:
        for name, (result, arguments) in _PROTOTYPES.items():
            function = getattr(library, name)
            function.restype = result
            function.argtypes = arguments
        # Sending and receiving lets other threads run; the others return
        # at once, and are cheaper without.
        function = getattr(ctypes.CDLL(library._name), 'iscsi_service')
        result, arguments = _PROTOTYPES['iscsi_service']
        function.restype = result
        function.argtypes = arguments
        library.iscsi_service = function
    except AttributeError as exc:
        raise exceptions.DriverLoadError(
            f'this libiscsi cannot be used: {exc}'
        ) from exc
    _check_layout(library)
    return library


def _open() -> ctypes.PyDLL:
    for name in _SONAMES:
        with contextlib.suppress(OSError):
            return ctypes.PyDLL(name)
    found = ctypes.util.find_library('iscsi')
    if found is not None:
        with contextlib.suppress(OSError):
            return ctypes.PyDLL(found)
    raise exceptions.DriverLoadError(
        'the C library libiscsi is missing; install the package libiscsi7 '
        '(Debian, Ubuntu) or libiscsi'
    )


def _check_layout(library: typing.Any) -> None:
    """See that a task looks as described here."""
    cdb = bytes(range(10, 20))
    task = library.scsi_create_task(len(cdb), cdb, READ, 0x123456)
    if not task:
        raise MemoryError('scsi_create_task')
    found = task.contents
    fits = (
        (found.cdb_size, found.direction, found.expected)
        == (len(cdb), READ, 0x123456)
        and bytes(found.cdb[: len(cdb)]) == cdb
        and not found.residual
        and not found.sense_key
    )
    library.scsi_free_scsi_task(task)
    if not fits:
        raise exceptions.DriverLoadError(
            'this libiscsi cannot be used: its structures are others'
        )
