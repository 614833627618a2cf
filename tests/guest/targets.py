# SPDX-License-Identifier: Apache-2.0
"""iSCSI targets that others wrote: tgt, and LIO of the kernel."""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import os
import pathlib
import socket
import typing
import uuid
import warnings

from tests.guest import network
from tests.guest import tools

PORT = 3260
MIB = 1 << 20
_START_SECONDS = 20.0
# Where tgtd takes what tgtadm says.
_SOCKET = pathlib.Path('/run/tgtd/socket.0')


@dataclasses.dataclass(frozen=True)
class Lun:
    """A LUN, and all that one has to know to use it.

    :ivar backing: the file that it is
    :ivar user: for CHAP, with password; None for no authentication
    """

    addresses: tuple[str, ...]
    iqn: str
    number: int
    backing: pathlib.Path
    size: int
    user: str | None = None
    password: str | None = None

    @property
    def portals(self) -> list[str]:
        """All portals, as iscsiadm names them."""
        return [f'{address}:{PORT}' for address in self.addresses]

    def url(self, paths: int = 1) -> str:
        """The URL by some of its portals; no credentials."""
        portals = ','.join(self.portals[:paths])
        return f'iscsi://{portals}/{self.iqn}/{self.number}'

    def data(self, paths: int = 1) -> dict[str, typing.Any]:
        """What Cinder would say (``connection_info['data']``)."""
        told: dict[str, typing.Any] = {
            'target_discovered': False,
            'target_portal': self.portals[0],
            'target_iqn': self.iqn,
            'target_lun': self.number,
            'volume_id': str(uuid.uuid5(uuid.NAMESPACE_URL, self.iqn)),
        }
        if paths > 1:
            told['target_portals'] = self.portals[:paths]
            told['target_iqns'] = [self.iqn] * paths
            told['target_luns'] = [self.number] * paths
        if self.user:
            told['auth_method'] = 'CHAP'
            told['auth_username'] = self.user
            told['auth_password'] = self.password
        return told


class _Targets:
    """Makes targets, each of one LUN, until the test is over."""

    # Where LUNs are counted from.
    first = 0

    def __init__(self, paths: network.Paths, directory: pathlib.Path) -> None:
        self._paths = paths
        self._directory = directory
        self._stack = contextlib.ExitStack()
        self._count = 0

    def lun(
        self,
        *,
        size: int = 16 * MIB,
        content: bytes = b'',
        backing: pathlib.Path | None = None,
        chap: tuple[str, str] | None = None,
        thin: bool = True,
        read_only: bool = False,
        serial: str | None = None,
    ) -> Lun:
        """Make a target with one LUN.

        :param size: in bytes, a multiple of 512
        :param content: what it starts with; the rest is a hole
        :param backing: a file or device to use instead
        :param chap: user and password that an initiator has to have
        :param thin: it tells holes, and takes UNMAP
        :param serial: its serial number, instead of one of its own
        """
        self._count += 1
        name = f'{type(self).__name__.lower()}{self._count}'
        if backing is None:
            backing = self._directory / f'{name}.raw'
            with open(backing, 'wb') as file:
                file.write(content)
                file.truncate(size)
        else:
            with open(backing, 'rb') as file:
                size = file.seek(0, os.SEEK_END)
        user, password = chap or (None, None)
        lun = Lun(
            addresses=self._paths.addresses,
            iqn=f'iqn.2026-11.org.example:{name}',
            number=self.first,
            backing=backing,
            size=size,
            user=user,
            password=password,
        )
        self._make(lun, name, thin, read_only, serial or uuid.uuid4().hex)
        return lun

    def _make(
        self, lun: Lun, name: str, thin: bool, read_only: bool, serial: str
    ) -> None:
        raise NotImplementedError

    def __enter__(self) -> typing.Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stack.close()


class Tgt(_Targets):
    """The target in user space.

    Its LUN 0 is a controller, so LUNs are 1.
    """

    first = 1

    def __enter__(self) -> typing.Self:
        portals = [
            f'portal={address}:{PORT}' for address in self._paths.addresses
        ]
        # Of several --iscsi the last one counts.
        words = ['--iscsi', ','.join(portals)]
        _SOCKET.unlink(missing_ok=True)
        log = open(self._directory / 'tgtd.log', 'wb')
        with log:
            #: The daemon.
            self.process = self._paths.host.popen(
                *('tgtd', '--foreground', *words), stdout=log, stderr=log
            )
        self._stack.callback(self.kill)
        tools.until(self._answers, 'tgtd answers', _START_SECONDS)
        return self

    @staticmethod
    def _answers() -> bool:
        with socket.socket(socket.AF_UNIX) as client:
            return client.connect_ex(str(_SOCKET)) == 0

    def kill(self) -> None:
        """End it at once, as if its host had lost power."""
        self.process.kill()
        self.process.wait()

    def admin(self, *words: str) -> str:
        """Run tgtadm."""
        return tools.run('tgtadm', '--lld', 'iscsi', *words)

    def _make(
        self, lun: Lun, name: str, thin: bool, read_only: bool, serial: str
    ) -> None:
        tid = ('--tid', str(self._count))
        unit = ('--mode', 'logicalunit', *tid, '--lun', str(lun.number))
        target = ('--mode', 'target', *tid)
        self.admin('--op', 'new', *target, '--targetname', lun.iqn)
        if lun.user:
            account = ('--mode', 'account', '--user', lun.user)
            self.admin(
                *('--op', 'new', *account, '--password', lun.password or '')
            )
            self.admin('--op', 'bind', *account, *tid)
        self.admin('--op', 'new', *unit, '--backing-store', str(lun.backing))
        parameters = {
            'thin_provisioning': int(thin),
            'readonly': int(read_only),
            'scsi_sn': serial[:16],
            'scsi_id': f'IET {serial[:16]}',
        }
        told = ','.join(f'{key}={value}' for key, value in parameters.items())
        self.admin('--op', 'update', *unit, f'--params={told}')
        self.admin('--op', 'bind', *target, '--initiator-address', 'ALL')


class Lio(_Targets):
    """The target of the kernel, by rtslib; LUNs are 0."""

    def _make(
        self, lun: Lun, name: str, thin: bool, read_only: bool, serial: str
    ) -> None:
        rtslib = importlib.import_module('rtslib_fb')
        # A portal listens in the network of who makes it. Debian's rtslib
        # uses what others deprecate.
        with self._paths.host.inside(), warnings.catch_warnings():
            warnings.simplefilter('ignore')
            storage = rtslib.FileIOStorageObject(
                name, dev=str(lun.backing), size=lun.size, wwn=serial
            )
            self._stack.callback(storage.delete)
            for attribute in ('emulate_tpu', 'emulate_tpws'):
                storage.set_attribute(attribute, int(thin))
            target = rtslib.Target(rtslib.FabricModule('iscsi'), lun.iqn)
            self._stack.callback(target.delete)
            group = rtslib.TPG(target, 1)
            for attribute, value in {
                'generate_node_acls': 1,
                'cache_dynamic_acls': 1,
                'demo_mode_write_protect': int(read_only),
                'authentication': int(lun.user is not None),
            }.items():
                group.set_attribute(attribute, value)
            if lun.user:
                group.chap_userid = lun.user
                group.chap_password = lun.password
            rtslib.LUN(group, lun.number, storage)
            for address in lun.addresses:
                rtslib.NetworkPortal(group, address, PORT)
            group.enable = True
