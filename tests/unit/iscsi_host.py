# SPDX-License-Identifier: Apache-2.0
"""A host with an iSCSI initiator, made of files and dictionaries.

It answers the commands that os-brick runs, has a ``/sys`` tree, and a
connector that does what os-brick's does, command by command.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import pathlib
import shutil
import types

from oslo_concurrency import processutils

from oslo_transfer.drivers.iscsi import commands
from oslo_transfer.drivers.iscsi import detaching
from oslo_transfer.drivers.iscsi import identity
from oslo_transfer.drivers.iscsi import osbrick
from oslo_transfer.drivers.iscsi import sysfs
from oslo_transfer import exceptions

MIB = 1 << 20
_View = sysfs.Sysfs


class VolumeDeviceNotFound(Exception):
    """As os-brick's."""


class ExceptionChainer(Exception):
    """As os-brick's: its text is tracebacks."""

    def __init__(self):
        self._exceptions = []

    def __str__(self):
        return 'Chained Exception #1 Traceback (most recent call last): ...'

    @contextlib.contextmanager
    def context(self, catch):
        try:
            yield
        except Exception as exc:
            self._exceptions.append((type(exc), exc, exc.__traceback__))
            if not catch:
                raise


@dataclasses.dataclass
class Disk:
    """A LUN behind a target."""

    name: str
    serial: str = 'serial-1'
    names: tuple = ('6001405aaaa',)
    size: int = 8 * MIB


class Host:
    """The initiator, the kernel and udev."""

    def __init__(self, root: pathlib.Path) -> None:
        self.root = root
        self.sys = root / 'sys'
        #: (portal, iqn) -> settings, as iscsiadm's database.
        self.nodes: dict = {}
        #: sid -> (portal, iqn)
        self.sessions: dict = {}
        #: (portal, iqn, lun) -> Disk
        self.luns: dict = {}
        #: portal -> exit code of a login there
        self.refuses: dict = {}
        #: Each command that was run.
        self.commands: list = []
        #: Called with each command before it takes effect; may raise.
        self.before = lambda command: None
        self.read_only: dict = {}
        self.users: dict = {}
        self.running_multipath = False
        self.dead_hosts: set = set()
        self._sids = 0

    # What the target and others do.

    def state(self) -> tuple:
        """All that attaching changes and detaching has to set back."""
        return (
            {node: dict(each) for node, each in self.nodes.items()},
            sorted(self.sessions.values()),
            sorted(path.name for path in self._block().glob('*')),
        )

    def add_node(self, portal, iqn, **settings):
        self.nodes[portal, iqn] = {
            'node.session.scan': 'auto',
            'node.session.auth.authmethod': 'None',
            'node.startup': 'manual',
            **settings,
        }

    def log_in(self, portal, iqn):
        self._sids += 1
        sid = self._sids
        self.sessions[sid] = portal, iqn
        where = self.sys / f'class/iscsi_session/session{sid}'
        self._write(where / 'targetname', iqn)
        (where / 'device').mkdir()
        address, _colon, port = portal.rpartition(':')
        where = self.sys / f'class/iscsi_connection/connection{sid}:0'
        for kind in ('', 'persistent_'):
            self._write(where / f'{kind}address', address.strip('[]'))
            self._write(where / f'{kind}port', port)
        return sid

    def log_out(self, portal, iqn):
        for sid, node in list(self.sessions.items()):
            if node == (portal, iqn):
                for name in self.disks(sid):
                    self.remove(name)
                del self.sessions[sid]
                shutil.rmtree(self.sys / f'class/iscsi_session/session{sid}')
                shutil.rmtree(
                    self.sys / f'class/iscsi_connection/connection{sid}:0'
                )

    def scan(self, sid, lun):
        disk = self.luns.get((*self.sessions[sid], lun))
        if disk is None:
            return None
        address = f'{sid}:0:0:{lun}'
        target = (
            self.sys
            / f'class/iscsi_session/session{sid}/device/target{sid}:0:0'
        )
        (target / address / 'block' / disk.name).mkdir(parents=True)
        self.add_disk(disk.name, disk.size)
        return disk.name

    def add_disk(self, name, size=8 * MIB):
        block = self._block() / name
        (block / 'holders').mkdir(parents=True)
        (block / 'slaves').mkdir()
        self._write(block / 'size', str(size // 512))
        self._write(block / 'dev', f'8:{len(name) + ord(name[-1])}')
        self._write(block / 'ro', '0')

    def add_map(self, name, uuid, *slaves):
        self.add_disk(name)
        self._write(self._block() / name / 'dm/uuid', uuid)
        self._write(self._block() / name / 'dm/name', uuid.partition('-')[2])
        for slave in slaves:
            (self._block() / slave / 'holders' / name).touch()
            (self._block() / name / 'slaves' / slave).touch()

    def remove(self, name):
        shutil.rmtree(self._block() / name)
        for path in self.sys.glob(f'class/block/*/slaves/{name}'):
            path.unlink()
        for path in self.sys.glob(f'class/block/*/holders/{name}'):
            path.unlink()
        for path in self.sys.glob(
            f'class/iscsi_session/*/device/target*/*/block/{name}'
        ):
            shutil.rmtree(path.parent.parent)

    def disks(self, sid, lun=None):
        return _View(str(self.sys)).devices(sid, lun)

    def disk(self, name):
        return next(each for each in self.luns.values() if each.name == name)

    def _block(self):
        return self.sys / 'class/block'

    @staticmethod
    def _write(path, text):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f'{text}\n')

    # Commands.

    def execute(self, *command, check_exit_code=0, **_how):
        """Run a command, as os-brick has it run."""
        self.before(command)
        self.commands.append(command)
        code, out = self._run(command)
        allowed = check_exit_code
        if allowed is not False and code not in (
            allowed if isinstance(allowed, tuple | list) else (allowed,)
        ):
            raise processutils.ProcessExecutionError(
                exit_code=code, cmd=' '.join(command), stderr='it fails'
            )
        return out, 'no records' if code == 21 else ''

    def _run(self, command):
        if command[0] == 'multipath':
            for name in _View(str(self.sys)).maps(f'mpath-{command[2]}'):
                self.remove(name)
            return 0, ''
        if command[0] != 'iscsiadm':
            return 0, ''
        if command[2] == 'discovery':
            lines = [
                f'{portal},1 {iqn}\n'
                for portal, iqn in sorted({key[:2] for key in self.luns})
            ]
            return 0, ''.join(lines)
        if '-T' not in command:
            lines = [f'{portal},1 {iqn}\n' for portal, iqn in self.nodes]
            return (0 if lines else 21), ''.join(lines)
        return self._node((command[6], command[4]), command[7:])

    def _node(self, node, action):
        if action == ('--interface', 'default', '--op', 'new'):
            self.add_node(*node)
        elif node not in self.nodes:
            return 21, ''
        elif not action:
            lines = (f'{k} = {v}\n' for k, v in self.nodes[node].items())
            return 0, ''.join(lines)
        elif action == ('--login',):
            code = self.refuses.get(node[0], 0)
            if code:
                return code, ''
            self.log_in(*node)
        elif action == ('--logout',):
            self.log_out(*node)
        elif action[:2] == ('--op', 'update'):
            names, values = action[3::4], action[5::4]
            self.nodes[node].update(zip(names, values))
        elif action == ('--op', 'delete'):
            del self.nodes[node]
        return 0, ''


class Connector:
    """Does what os-brick's does, in its order (7.1.1)."""

    def __init__(self, host, _root_helper, *, execute, device_scan_attempts):
        self.host = host
        self.run = execute
        self.use_multipath = False

    def supports_multipath(self):
        return self.host.running_multipath

    def _iscsiadm(self, target, *action, codes=(0, 21, 255)):
        return self.run(
            *('iscsiadm', '-m', 'node', '-T', target[1], '-p', target[0]),
            *action,
            run_as_root=True,
            check_exit_code=codes,
        )

    def _update(self, target, name, value):
        self._iscsiadm(target, '--op', 'update', '-n', name, '-v', value)

    @staticmethod
    def _targets(properties):
        return list(
            zip(
                properties['target_portals'],
                properties['target_iqns'],
                properties['target_luns'],
            )
        )

    def _sid(self, target):
        for sid, node in self.host.sessions.items():
            if node == target[:2]:
                return sid
        return None

    def connect_volume(self, properties):
        found = []
        for target in self._targets(properties):
            name = self._connect(target, properties)
            if name:
                found.append(name)
                if not self.use_multipath:
                    return
        if not found:
            for target in self._targets(properties):
                with contextlib.suppress(exceptions.TransferError):
                    self._disconnect(target)
            raise VolumeDeviceNotFound()
        self.host.add_map('dm-0', 'mpath-36001405aaaa', *found)

    def _connect(self, target, properties):
        _out, error = self._iscsiadm(target)
        if error:
            self._iscsiadm(target, '--interface', 'default', '--op', 'new')
        self._update(target, 'node.session.scan', 'manual')
        if properties.get('auth_method'):
            for name in ('method', 'username', 'password'):
                key = 'authmethod' if name == 'method' else name
                value = properties[f'auth_{name}']
                self._update(target, f'node.session.auth.{key}', value)
        if self._sid(target) is None:
            try:
                self._iscsiadm(target, '--login', codes=(0, 15, 255))
            except processutils.ProcessExecutionError:
                return None
            self._update(target, 'node.startup', 'automatic')
        sid = self._sid(target)
        address = f'/sys/class/scsi_host/host{sid}/scan'
        self.run('tee', '-a', address, process_input=f'0 0 {target[2]}')
        return self.host.scan(sid, target[2])

    def disconnect_volume(self, properties, device_info, force):
        chain = ExceptionChainer()
        for target in self._targets(properties):
            sid = self._sid(target)
            for name in self.host.disks(sid, target[2]) if sid else ():
                top = _View(str(self.host.sys)).multipath([name])
                if top:
                    with chain.context(force):
                        self.run('multipath', '-f', '36001405aaaa')
                with chain.context(force):
                    self.run('blockdev', '--flushbufs', f'/dev/{name}')
                self.host.remove(name)
            with chain.context(force):
                self._disconnect(target)
        if chain._exceptions:
            raise chain

    def _disconnect(self, target):
        sid = self._sid(target)
        if sid is None and target[:2] not in self.host.nodes:
            return
        if sid is not None and self.host.disks(sid):
            return
        self._update(target, 'node.startup', 'manual')
        self._iscsiadm(target, '--logout')
        self._iscsiadm(target, '--op', 'delete')


class Network:
    """Portals answer unless they are dead."""

    def __init__(self, host):
        self._host = host

    def connect(self, name, port, ctx):
        if name in self._host.dead_hosts:
            raise exceptions.Unavailable(f'cannot connect to {name}')
        numeric = '192.0.2.9' if name == 'storage.example' else name
        sock = types.SimpleNamespace(getpeername=lambda: (numeric, port))
        return contextlib.nullcontext(sock)


def install(host, monkeypatch):
    """Have the engine work on a made host."""
    modules = {
        'os_brick.privileged.rootwrap': types.SimpleNamespace(
            execute=host.execute
        ),
        'os_brick.initiator.connectors.iscsi': types.SimpleNamespace(
            ISCSIConnector=functools.partial(Connector, host)
        ),
        'os_brick.initiator.linuxscsi': types.SimpleNamespace(
            LinuxSCSI=types.SimpleNamespace(
                lun_for_addressing=lambda lun, mode: lun + 16384
            )
        ),
    }

    def read(name, _conf):
        found = host.disk(name)
        return identity.Disk(found.serial, frozenset(found.names), found.size)

    def set_read_only(path, value, _conf):
        host.read_only[path.removeprefix('/dev/')] = value

    patch = monkeypatch.setattr
    patch(osbrick.brick, 'module', lambda name, conf: modules[name])
    patch(osbrick.brick, 'lock_path', lambda conf: str(host.root))
    patch(sysfs, 'Sysfs', functools.partial(_View, str(host.sys)))
    patch(identity, 'read', read)
    patch(osbrick.blockdev, 'set_read_only', set_read_only)
    patch(
        detaching.inuse,
        'users_of_device',
        lambda name, conf, _sysfs: host.users.get(name, []),
    )
    patch(detaching, '_TRANSIENT', 0.0)
    patch(commands, '_processutils', lambda: processutils)
