# SPDX-License-Identifier: Apache-2.0
"""vsftpd as an honest and strict server of a directory."""

from __future__ import annotations

import getpass
import os
import pathlib
import secrets
import socket

from tests.servers import child

CONFIG = """
listen=YES
listen_address={host}
listen_port={port}
background=NO
run_as_launching_user=YES
ftp_username={user}
secure_chroot_dir={directory}/empty
seccomp_sandbox=NO
isolate=NO
isolate_network=NO
anonymous_enable=YES
local_enable=NO
no_anon_password=YES
anon_root={root}
allow_writeable_chroot=YES
anon_world_readable_only=NO
anon_umask=022
write_enable=YES
anon_upload_enable=YES
anon_mkdir_write_enable=YES
anon_other_write_enable=YES
ftpd_banner={token}
max_per_ip=0
xferlog_enable=YES
vsftpd_log_file={directory}/vsftpd.log
log_ftp_protocol=YES
pasv_address={host}
use_localtime=NO
{lines}
"""
#: Both connections in TLS, and the second one with the first one's session.
TLS = """
ssl_enable=YES
allow_anon_ssl=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
force_local_logins_ssl=YES
force_local_data_ssl=YES
require_ssl_reuse=YES
strict_ssl_read_eof=YES
strict_ssl_write_shutdown=NO
ssl_ciphers=HIGH
rsa_cert_file={certificate}
rsa_private_key_file={key}
"""


class Vsftpd(child.Child):
    """Serves a directory to anonymous logins while it is entered.

    They are whoever runs it: it changes no user and locks nobody up.

    :param root: the directory of the login
    :param certificate: files of certificate and key: TLS only
    :param lines: further lines of the configuration
    """

    program = 'vsftpd'

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        certificate: tuple[str, str] | None = None,
        lines: tuple[str, ...] = (),
    ) -> None:
        super().__init__()
        self.root = pathlib.Path(root).resolve()
        self.certificate = certificate
        self.lines = lines
        self._token = secrets.token_hex(16)

    def __enter__(self) -> Vsftpd:
        self.start()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.stop()

    def url(self, name: str) -> str:
        """Return the URL of a file below the root."""
        scheme = 'ftps' if self.certificate else 'ftp'
        return f'{scheme}://{self.host}:{self.port}/{name}'

    def command(self) -> list[str]:
        """Write the configuration; return the command."""
        lines = list(self.lines)
        if self.certificate:
            certificate, key = self.certificate
            lines.append(TLS.format(certificate=certificate, key=key))
        (self.directory / 'empty').mkdir(exist_ok=True)
        config = self.directory / 'vsftpd.conf'
        config.write_text(
            CONFIG.format(
                directory=self.directory,
                host=self.host,
                port=self.port,
                root=self.root,
                token=self._token,
                user=getpass.getuser(),
                lines='\n'.join(lines),
            )
        )
        return [self.found() or self.program, str(config)]

    def ready(self) -> bool:
        """Return whether this vsftpd answers, and no other server."""
        try:
            with socket.create_connection((self.host, self.port), 1) as sock:
                return self._token.encode() in sock.recv(100)
        except OSError:
            return False

    def _refused(self) -> bool:
        return super()._refused() or 'could not bind' in self.log()
