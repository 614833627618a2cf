# SPDX-License-Identifier: Apache-2.0
"""The few things that need root and that os-brick does not do.

Each is one function with arguments that it checks itself: nothing runs a
command, and nothing takes a path outside ``/dev`` but to unmount it. They
run in a daemon that oslo.privsep starts by sudo or oslo.rootwrap and that
keeps the capabilities named here only; in the process itself if that is
root's.

Imported by :mod:`oslo_transfer.drivers.brick` alone.
"""

from __future__ import annotations

from oslo_privsep import capabilities
from oslo_privsep import priv_context

#: ``CAP_SYS_ADMIN`` to set a device read-only and to unmount,
#: ``CAP_SYS_PTRACE`` and ``CAP_DAC_READ_SEARCH`` to see what the processes
#: of other users have open.
default = priv_context.PrivContext(
    __name__,
    cfg_section='privsep_oslo_transfer',
    pypath=f'{__name__}.default',
    capabilities=[
        capabilities.CAP_SYS_ADMIN,
        capabilities.CAP_SYS_PTRACE,
        capabilities.CAP_DAC_READ_SEARCH,
    ],
    # Seconds for a call: opening a device may wait for its storage.
    timeout=120,
)
