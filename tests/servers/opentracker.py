# SPDX-License-Identifier: Apache-2.0
"""opentracker as an honest tracker, by HTTP and by UDP."""

from __future__ import annotations

import getpass
import os
import socket
import struct
import urllib.parse
import urllib.request

from tests.servers import child
from tests.servers import torrents

# See BEP 15.
_MAGIC = 0x41727101980
_NOBODY = '65534'


class OpenTracker(child.Child):
    """A tracker of some torrents while it is entered.

    :param host: the address to listen at
    """

    program = 'opentracker'

    def __init__(
        self, *tracked: torrents.Torrent, host: str = '127.0.0.1'
    ) -> None:
        super().__init__()
        self.host = host
        self.tracked = tracked

    def __enter__(self) -> OpenTracker:
        self.start()
        return self

    def __exit__(self, kind: object, value: object, trace: object) -> None:
        self.stop()

    def url(self, scheme: str = 'http') -> str:
        """Return the announce URL; the scheme may be udp."""
        return f'{scheme}://{self.host}:{self.port}/announce'

    def command(self) -> list[str]:
        """Write the list of torrents; return the command."""
        # As Debian builds it, it serves no others.
        (self.directory / 'whitelist').write_text(
            ''.join(f'{each.wire_hash.hex()}\n' for each in self.tracked)
        )
        self.directory.chmod(0o755)
        port = str(self.port)
        command = [
            *(self.found() or self.program, '-i', self.host),
            *('-p', port, '-P', port, '-u', getpass.getuser()),
            *('-d', str(self.directory), '-w', 'whitelist'),
        ]
        if os.geteuid() == 0:
            # It does not run as root; and if it is the one to change the
            # user, it outlives a parent that gets killed.
            user = ('--reuid', _NOBODY, '--regid', _NOBODY, '--clear-groups')
            return ['setpriv', *user, '--pdeathsig', 'KILL', *command]
        return command

    def ready(self) -> bool:
        """Return whether it answers on both protocols."""
        try:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.settimeout(1)
                sock.connect((self.host, self.port))
                sock.send(struct.pack('>QII', _MAGIC, 0, 7))
                return sock.recv(16)[:8] == struct.pack('>II', 0, 7)
        except OSError:
            return False

    def announce(
        self, torrent: torrents.Torrent, port: int, left: int = 0
    ) -> bytes:
        """Announce a peer on this host; return the answer."""
        query = urllib.parse.urlencode(
            {
                'info_hash': torrent.wire_hash,
                'peer_id': f'-EV0001-{port:012}',
                'port': port,
                'uploaded': 0,
                'downloaded': 0,
                'left': left,
                'compact': 1,
                'event': 'started',
            }
        )
        url = f'{self.url()}?{query}'
        with urllib.request.urlopen(url, timeout=5) as answer:  # noqa: S310
            body: bytes = answer.read()
            return body
