# SPDX-License-Identifier: Apache-2.0
"""The SFTP driver keeps the contract with a server of the real world."""

from __future__ import annotations

import itertools
import os
import pathlib
import tempfile
import unittest


from oslo_transfer.drivers.sftp import driver
from oslo_transfer.testing import conformance
from tests import groups
from tests.servers import openssh
from tests.servers import scripted_ssh
from tests.servers import sftp_session

pytestmark = groups.marks('sftp', openssh.OpenSSH.found() is not None)


class OpenSSHHooks(conformance.Harness):
    """Files that sshd serves, by a relay that can be taken away."""

    driver_class = driver.SFTPDriver
    # sshd starts two processes for a connection.
    open_seconds = 0.8

    root: pathlib.Path
    server: openssh.OpenSSH
    names: itertools.count

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        directory = cls.enterClassContext(tempfile.TemporaryDirectory())
        cls.root = pathlib.Path(directory)
        cls.server = cls.enterClassContext(openssh.OpenSSH())
        cls.known_hosts = cls.root / 'known_hosts'
        cls.names = itertools.count()

    def setUp(self):
        super().setUp()
        # The port is part of the name of a host that is no standard one.
        self.relay = self.enterContext(scripted_ssh.Relay(self.server.port))
        self.know(self.server.known_hosts, self.server.port)
        for name, value in {
            'known_hosts_file': str(self.known_hosts),
            'private_key_file': str(self.server.key),
            'username': self.server.user,
        }.items():
            self.conf.set_override(name, value, group='oslo_transfer_sftp')

    def know(self, text, port):
        """Let the driver know one server, and no other."""
        self.known_hosts.write_text(
            text.replace(f':{port} ', f':{self.relay.port} ')
        )

    def url(self):
        return self.url_of(self.root / f'file{next(self.names)}')

    def url_of(self, path):
        return f'sftp://{self.server.host}:{self.relay.port}{path}'

    def path(self, url):
        return self.root / url.rpartition('/')[2]

    def put(self, data):
        url = self.url()
        self.path(url).write_bytes(data)
        return url

    def missing(self):
        return self.url_of(self.root / 'missing')

    def change(self, url, data):
        path = self.path(url)
        before = path.stat().st_mtime
        # A new file: what is being sent is the old one to its end.
        new = self.root / 'new'
        new.write_bytes(data)
        os.utime(new, (before + 1, before + 1))
        os.replace(new, path)

    def big_sparse(self, size, runs):
        url = self.url()
        with open(self.path(url), 'xb') as sparse:
            sparse.truncate(size)
            for offset, run in runs.items():
                sparse.seek(offset)
                sparse.write(run)
        return url

    def sink_url(self):
        return self.url()

    def read_sink(self, url):
        try:
            return self.path(url).read_bytes()
        except FileNotFoundError:
            return None

    def write_sink(self, url, data):
        self.path(url).write_bytes(data)


class Faults(OpenSSHHooks):
    """What a server can do wrong; a real one has to be replaced for it."""

    def scripted(self, session, data=b'', **options):
        """A server that overrides something."""
        store = sftp_session.Store(data)
        server = scripted_ssh.SSHServer(store.subsystem(session), **options)
        self.enterContext(server)
        with open(self.known_hosts, 'a') as file:
            file.write(server.known_hosts)
        return server

    def stalled(self):
        class Stalled(sftp_session.Session):
            def read_data(self, request, data, offset, length):
                if offset:
                    self.hang()
                self.data(request, data[:1000])

        return self.scripted(Stalled, conformance.pattern(1 << 20)).url()

    def silent(self):
        server = self.enterContext(
            scripted_ssh.TCPServer(lambda _sock, closing: closing.wait())
        )
        return server.url()

    def unreachable(self):
        return f'sftp://127.0.0.1:{scripted_ssh.dead_port()}/file'

    def denied(self):
        return self.scripted(None, logins=()).url()

    def broken(self, data, at):
        class Broken(sftp_session.Session):
            batches = True
            over = False

            def read_data(self, request, data, offset, length):
                if not self.over:
                    self.data(request, data[: at - offset])
                    self.over = offset + len(data) >= at

            def idle(self):
                # Not before the stream is there: it must not fail itself.
                if self.over:
                    self.connection.reset()

        return self.scripted(Broken, data).url()

    def nonsense(self):
        class Nonsense(sftp_session.Session):
            def read_data(self, request, data, offset, length):
                if offset:
                    self.send(b'nonsense' * 100)
                else:
                    self.data(request, data[:1000])

        return self.scripted(Nonsense, conformance.pattern(1 << 20)).url()

    def vanish(self):
        self.relay.close()
        return True

    def sink_nowhere(self):
        return self.url_of(self.root / 'nowhere' / 'file')

    def denied_sink(self):
        class Denied(sftp_session.Session):
            def on_open(self, request):
                self.status(request, sftp_session.PERMISSION_DENIED)

        return self.scripted(Denied).url('/new')

    def small_sink(self, capacity):
        class Small(sftp_session.Session):
            def on_write(self, request):
                if sum(each[2] for each in self.store.log) > capacity:
                    self.status(request, sftp_session.NO_SPACE)
                else:
                    super().on_write(request)

        return self.scripted(Small).url('/new')

    def stalled_sink(self):
        class Stalled(sftp_session.Session):
            def on_write(self, request):
                self.hang()

        return self.scripted(Stalled).url('/new')

    def broken_sink(self):
        class Broken(sftp_session.Session):
            def on_write(self, request):
                self.connection.reset()

        return self.scripted(Broken).url('/new')


class TestOpenSSH(
    Faults,
    conformance.DriverConformance,
    conformance.SourceConformance,
    conformance.SinkConformance,
    unittest.TestCase,
):
    """As it comes."""
