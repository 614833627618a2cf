# SPDX-License-Identifier: Apache-2.0
"""Runs qemu-img(1) where nothing does it better."""

from __future__ import annotations

import functools
import json
import re
import typing

from oslo_transfer import children
from oslo_transfer import context as _context
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer import nbd_uri

# A hostile image can have qemu-img use up both (CVE-2015-5162).
_ADDRESS_SPACE = 1 << 30  # bytes
_CPU = 30  # seconds
_TIMEOUT = 60.0


def create_overlay(
    path: str,
    backing: str,
    backing_format: str,
    virtual_size: int,
    ctx: _context.Context,
) -> None:
    """Make a qcow2 image whose unwritten parts are those of another.

    Opens nothing but the overlay itself. Blocks for well under a second.

    :param path: the overlay; what is there is replaced
    :param backing: an absolute path, or what :func:`nbd_backing` returns
    :param backing_format: its format; it is never guessed
    :param virtual_size: in bytes
    :param ctx: ends it
    :raises CapabilityMissing: qemu-img is not installed
    :raises StorageError: it did not work; the message is qemu-img's
    """
    command = [
        *_limited(),
        *('create', '-q', '-f', 'qcow2', '-u'),
        *('-b', backing, '-F', backing_format, path, str(virtual_size)),
    ]
    status, told = ctx.call(
        functools.partial(children.run, command, _TIMEOUT), f'making {path}'
    )
    if status:
        raise exceptions.StorageError(f'making {path}: {told.strip()}')


def _limited() -> list[str]:
    program = children.find('qemu-img', 'qemu-utils')
    limits = children.find('prlimit', 'util-linux')
    return [
        *(limits, f'--as={_ADDRESS_SPACE}', f'--cpu={_CPU}', '--'),
        program,
    ]


def rebase(path: str, backing: str, backing_format: str) -> None:
    """Have an overlay lead to another image with the same content.

    Nothing but the overlay's header is changed.

    :raises DetachError: it is in use
    :raises CapabilityMissing: qemu-img is not installed
    :raises StorageError: it did not work; the message is qemu-img's
    """
    status, said = children.run(
        [
            *_limited(),
            *('rebase', '-q', '-u', '-f', 'qcow2', '-b', backing),
            *('-F', backing_format, path),
        ],
        _TIMEOUT,
    )
    if status and re.search('Failed to get (shared )?"write" lock', said):
        raise exceptions.DetachError(f'{path} is in use', (path,))
    if status:
        raise exceptions.StorageError(f'changing {path}: {said.strip()}')


def nbd_backing(uri: str, reconnect_delay: int) -> str:
    """How QEMU is told to read an NBD export under an overlay.

    A plain URI has it fail what a guest reads as soon as the connection
    breaks, and for good (qemu-block-drivers(7), ``reconnect-delay``).
    Without a driver at the top it is what libvirt can read, too.

    :param reconnect_delay: seconds for which requests wait for an export
        that is gone
    :raises CapabilityMissing: QEMU cannot read it in this way
    """
    endpoint = _endpoint.parse(uri)
    name = nbd_uri.name_of(endpoint)
    if name.tls:
        raise exceptions.CapabilityMissing(
            f'{endpoint}: an overlay cannot tell QEMU the credentials of TLS'
        )
    server: dict[str, typing.Any]
    if name.socket is not None:
        server = {'type': 'unix', 'path': name.socket}
    else:
        port = endpoint.port or _endpoint.DEFAULT_PORTS[endpoint.scheme]
        host = endpoint.host.strip('[]')
        server = {'type': 'inet', 'host': host, 'port': str(port)}
    file = {
        'driver': 'nbd',
        'server': server,
        'export': name.export.decode(errors='surrogateescape'),
        'reconnect-delay': reconnect_delay,
    }
    text = json.dumps({'file': file}, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:
        raise exceptions.CapabilityMissing(
            f'{endpoint}: QEMU reads names in UTF-8 only'
        ) from None
    return f'json:{text}'
