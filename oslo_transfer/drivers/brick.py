# SPDX-License-Identifier: Apache-2.0
"""Makes os-brick ready for use inside any process.

os-brick and oslo.privsep are imported here and nowhere else, at the first
attachment that needs them. Both read their options from ``cfg.CONF``
whatever configuration the caller has.
"""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
import importlib
import importlib.util
import os
import shutil
import sys
import threading
import typing

from oslo_transfer import exceptions
from oslo_transfer import opts

if typing.TYPE_CHECKING:
    from oslo_config import cfg

_PACKAGE = 'os_brick'
_lock = threading.Lock()


def missing() -> str | None:
    """Why os-brick cannot be used, or None; imports nothing."""
    if importlib.util.find_spec(_PACKAGE) is None:
        return "os-brick is not installed (pip install 'oslo.transfer[iscsi]')"
    return None


def module(name: str, conf: cfg.ConfigOpts) -> typing.Any:
    """Import a module of os-brick, or one that uses it or oslo.privsep.

    Sets the directory of os-brick's locks, which has to be the same for all
    that attach on this host: ``[os_brick]lock_path``, or
    ``[oslo_concurrency]lock_path``, or our own state directory. For root,
    privileged functions run in this process.

    :param name: in full
    :param conf: the caller's configuration
    :raises DriverLoadError: it cannot be imported
    """
    with _lock, _without_eventlet():
        try:
            found = importlib.import_module(name)
            brick = importlib.import_module(_PACKAGE)
            contexts = _contexts()
        except ImportError as exc:
            raise exceptions.DriverLoadError(
                f"os-brick cannot be loaded ({exc}); pip install "
                f"'oslo.transfer[iscsi]'"
            ) from exc
        _read_settings(conf)
        _set_lock_path(brick, conf)
    if os.geteuid() == 0:
        for each in contexts:
            # One that has started a daemon goes on with it.
            if each.channel is None:
                each.set_client_mode(False)
    return found


def lock_path(conf: cfg.ConfigOpts) -> str:
    """The directory of os-brick's locks on this host; it is there."""
    module(_PACKAGE, conf)
    settings = importlib.import_module('oslo_config.cfg').CONF
    path: str = settings.os_brick.lock_path
    os.makedirs(path, mode=0o755, exist_ok=True)
    return path


def can_become_root() -> bool:
    """Whether there is a privileged daemon, or can be, as far as one sees."""
    loaded: typing.Any = sys.modules.get('os_brick.privileged')
    if loaded is not None and loaded.default.channel is not None:
        return True
    if shutil.which('sudo'):
        return True
    settings = importlib.import_module('oslo_config.cfg').CONF
    group = 'privsep_osbrick'
    return group in settings and bool(settings[group].helper_command)


def _contexts() -> list[typing.Any]:
    brick = importlib.import_module('os_brick.privileged')
    ours = importlib.import_module('oslo_transfer.privileged')
    return [brick.default, brick.brick_privsep_hide_output, ours.default]


def _read_settings(conf: cfg.ConfigOpts) -> None:
    """Have ``cfg.CONF`` say the same, if nobody has read anything there.

    In a service somebody has; in a command of ours nobody has.
    """
    settings = importlib.import_module('oslo_config.cfg').CONF
    if conf is settings or 'config_file' in settings:
        return
    if 'config_file' in conf:
        settings(
            [], default_config_files=conf.config_file, default_config_dirs=[]
        )


def _set_lock_path(brick: typing.Any, conf: cfg.ConfigOpts) -> None:
    settings = importlib.import_module('oslo_config.cfg').CONF
    # It registers its options when it is imported.
    importlib.import_module('oslo_concurrency.lockutils')
    if settings.os_brick.lock_path:
        return
    if settings.oslo_concurrency.lock_path:
        brick.setup(settings)
        return
    listed = importlib.import_module('oslo_concurrency.opts').list_opts()
    for group, options in listed:
        conf.register_opts(options, group=group)
    path = conf.oslo_concurrency.lock_path
    if not path:
        state = conf.oslo_transfer.state_path or opts.default_state_path()
        path = os.path.join(state, 'locks')
    settings.set_default('lock_path', path, group='os_brick')


@contextlib.contextmanager
def _without_eventlet() -> Iterator[None]:
    """Have oslo.privsep do without eventlet where nobody else uses it.

    It imports it where it can, only to see whether it has patched anything.
    In a process of native threads that is a warning, or an error.
    """
    if 'eventlet' in sys.modules:
        yield
        return
    # An import of it then fails like one of what is not installed.
    sys.modules['eventlet'] = typing.cast(typing.Any, None)
    try:
        yield
    finally:
        sys.modules.pop('eventlet', None)
