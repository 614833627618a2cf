# SPDX-License-Identifier: Apache-2.0
"""Options of the SFTP driver; apart, so that listing them imports less."""

from __future__ import annotations

from oslo_config import cfg

GROUP = 'oslo_transfer_sftp'

OPTIONS: tuple[cfg.Opt, ...] = (
    cfg.StrOpt(
        'username',
        help='User name where neither the URL nor the credentials of a '
        'location have one. Unset means the name of the user that the '
        'process runs as.',
    ),
    cfg.StrOpt(
        'private_key_file',
        help='File with a private key to log in with. It is not used for '
        'untrusted URLs. Unset means no key: those in the home directory '
        'are never used by themselves.',
    ),
    cfg.StrOpt(
        'private_key_passphrase',
        secret=True,
        help='Passphrase of private_key_file, if it is encrypted.',
    ),
    cfg.BoolOpt(
        'use_agent',
        default=False,
        help='Offer the keys of the SSH agent that SSH_AUTH_SOCK names. '
        'They are not offered for untrusted URLs.',
    ),
    cfg.StrOpt(
        'known_hosts_file',
        help='File with the host keys of servers, as OpenSSH writes it. A '
        'server whose key is not in it is refused. Unset means '
        '~/.ssh/known_hosts of the user that the process runs as, and '
        '/etc/ssh/ssh_known_hosts.',
    ),
)
