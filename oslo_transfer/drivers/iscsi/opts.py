# SPDX-License-Identifier: Apache-2.0
"""Options of the iSCSI driver; apart, so that listing them imports less."""

from __future__ import annotations

from oslo_config import cfg

GROUP = 'oslo_transfer_iscsi'

OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        'engine',
        default='auto',
        choices=[
            ('auto', 'os_brick where it can run on this host, else libiscsi'),
            (
                'os_brick',
                'the initiator of the kernel, by os-brick: a LUN becomes a '
                'block device; needs privileges',
            ),
            (
                'libiscsi',
                'the C library libiscsi in this process: no privileges, and '
                'nothing on the host changes',
            ),
        ],
        help='What speaks iSCSI.',
    ),
    cfg.StrOpt(
        'initiator_name',
        help='Name of this host for targets, as in '
        'iqn.2010-10.org.openstack:host1, with the engine libiscsi. Unset '
        'means the one in /etc/iscsi/initiatorname.iscsi, or one made of '
        'the name of the host where there is no such file.',
    ),
    cfg.IntOpt(
        'sessions',
        default=4,
        min=1,
        max=32,
        help='How many sessions the engine libiscsi opens to one LUN at '
        'most, spread over its portals. Each is a TCP connection; more of '
        'them help where one does not fill the network.',
    ),
    cfg.IntOpt(
        'command_timeout',
        default=60,
        min=1,
        max=3600,
        help='Seconds that the engine libiscsi waits for the answer to one '
        'SCSI command. Then the session is given up, and another portal or '
        'a later try takes over.',
    ),
    cfg.StrOpt(
        'mutual_chap_username',
        help='Name by which targets have to prove their identity (mutual '
        'CHAP), where the LUN is logged in to with CHAP. Unset means that '
        'they do not have to. For the engine libiscsi.',
    ),
    cfg.StrOpt(
        'mutual_chap_password',
        secret=True,
        help='Secret by which targets prove their identity.',
    ),
    cfg.BoolOpt(
        'multipath',
        default=True,
        help='With the engine os_brick: log in to all portals that are '
        'given, and make one device of all paths (device-mapper multipath, '
        'where multipathd runs). Without it one path is used, and a further '
        'portal only if the login to the one before it fails.',
    ),
    cfg.IntOpt(
        'attach_timeout',
        default=60,
        min=5,
        max=3600,
        help='Seconds that attaching, and detaching, may take with the '
        'engine os_brick.',
    ),
    cfg.IntOpt(
        'path_timeout',
        default=120,
        min=1,
        max=3600,
        help='Seconds that a session which the engine os_brick has opened '
        'may be interrupted before reads and writes on it fail '
        '(node.session.timeo.replacement_timeout). Where there is another '
        'path multipathd decides.',
    ),
)
