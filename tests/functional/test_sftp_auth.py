# SPDX-License-Identifier: Apache-2.0
"""Who is trusted, and who is let in: host keys and logins with sshd."""

from __future__ import annotations

import contextlib
import logging
import pathlib
import re
import subprocess
import traceback

import paramiko
import pytest

import oslo_transfer
from oslo_transfer import exceptions
from tests import groups
from tests.servers import openssh
from tests.servers import scripted_ssh
from tests.servers import sftp_session

pytestmark = groups.marks('sftp', openssh.OpenSSH.found() is not None)

DATA = b'some bytes of an image' * 1000
PASSPHRASE = 's3cr3t-passphrase'
PASSWORD = 's3cr3t-password'
HOST_KEYS = ('ed25519', 'ecdsa', 'rsa')
KEYS = {
    'ed25519': ('ed25519', ''),
    'ecdsa': ('ecdsa', ''),
    'rsa': ('rsa', ''),
    'encrypted': ('ed25519', PASSPHRASE),
    'stranger': ('ed25519', ''),
}


@pytest.fixture(scope='module')
def sshd():
    """An sshd that tells all logins in its log."""
    with openssh.OpenSSH(
        host_keys=HOST_KEYS, log_level='DEBUG', lines=['MaxAuthTries 6']
    ) as server:
        yield server


@pytest.fixture(scope='module')
def keys(sshd, tmp_path_factory):
    """Client keys by name; the stranger is not let in."""
    directory = tmp_path_factory.mktemp('keys')
    made = {
        name: openssh.make_key(directory / name, *how)
        for name, how in KEYS.items()
    }
    for name, path in made.items():
        if name != 'stranger':
            sshd.allow(path)
    return made


class Client:
    """Copies a file from a server, with options of its own."""

    def __init__(self, conf, directory):
        self._conf = conf
        self.directory = directory
        self.src = directory / 'src'
        self.src.write_bytes(DATA)
        self.dst = directory / 'dst'
        self.known_hosts = directory / 'known_hosts'

    def know(self, text):
        self.known_hosts.write_text(text)
        self.set(known_hosts_file=str(self.known_hosts))

    def set(self, **options):
        for name, value in options.items():
            self._conf.set_override(name, value, group='oslo_transfer_sftp')

    def copy(self, url):
        """Copy, see that it has arrived, and forget it."""
        oslo_transfer.copy(url, self.dst, conf=self._conf)
        assert self.dst.read_bytes() == DATA
        self.dst.unlink()

    def refused(self, url, kind=exceptions.AccessDenied):
        """Return the error's text, which tells no secret."""
        with pytest.raises(kind) as caught:
            oslo_transfer.copy(url, self.dst, conf=self._conf)
        assert not self.dst.exists()
        told = ''.join(traceback.format_exception(caught.value))
        for secret in (PASSPHRASE, PASSWORD):
            assert secret not in told
        return str(caught.value)


@pytest.fixture
def client(conf, tmp_path, sshd, keys, caplog, nothing_left):
    """A client that knows the server, and has no way to log in yet."""
    caplog.set_level(logging.DEBUG)
    made = Client(conf, tmp_path)
    made.know(sshd.known_hosts)
    made.set(username=sshd.user)
    yield made
    for secret in (PASSPHRASE, PASSWORD):
        assert secret not in caplog.text


@pytest.fixture
def url(client, sshd):
    return sshd.url(client.src)


@pytest.fixture
def attempts(sshd):
    """A function that tells the logins that sshd has seen meanwhile."""
    before = len(sshd.log())

    def found():
        return re.findall(
            r'userauth-request for user \S+ service \S+ method (\S+)',
            sshd.log()[before:],
        )

    return found


# Keys


@pytest.mark.parametrize('name', ['ed25519', 'ecdsa', 'rsa'])
def test_key(name, client, url, keys):
    client.set(private_key_file=str(keys[name]))
    client.copy(url)


def test_encrypted_key(client, url, keys, attempts):
    client.set(private_key_file=str(keys['encrypted']))
    text = client.refused(url, exceptions.ConfigurationError)
    assert 'private_key_passphrase' in text
    client.set(private_key_passphrase='s3cr3t-wrong')
    text = client.refused(url, exceptions.ConfigurationError)
    assert 's3cr3t-wrong' not in text
    assert attempts() == []
    client.set(private_key_passphrase=PASSPHRASE)
    client.copy(url)


@pytest.mark.parametrize('content', [None, '', 'no key', 'PUBLIC'])
def test_unusable_key(content, client, url, keys, tmp_path, attempts):
    path = tmp_path / 'key'
    if content == 'PUBLIC':
        content = keys['rsa'].with_name('rsa.pub').read_text()
    if content is not None:
        path.write_text(content)
    client.set(private_key_file=str(path))
    text = client.refused(url, exceptions.ConfigurationError)
    assert str(path) in text
    assert attempts() == []


def test_key_of_a_stranger(client, url, keys, attempts):
    client.set(private_key_file=str(keys['stranger']))
    client.refused(url)
    # Asked once what it allows, and shown the key: no more.
    assert attempts() in (['none', 'publickey'], ['publickey'])


def test_user_of_the_url(client, sshd, keys):
    client.set(private_key_file=str(keys['ed25519']), username='nobody')
    client.copy(sshd.url(client.src, sshd.user))
    client.refused(sshd.url(client.src))


def test_key_is_not_for_untrusted_urls(conf, client, sshd, keys, attempts):
    client.set(private_key_file=str(keys['ed25519']), use_agent=True)
    for name, value in {
        'untrusted_schemes': ['sftp'],
        'untrusted_ports': [sshd.port],
        'untrusted_networks': ['127.0.0.0/8'],
    }.items():
        conf.set_override(name, value, group='oslo_transfer')
    location = oslo_transfer.Location(sshd.url(client.src), trusted=False)
    client.refused(location)
    assert 'publickey' not in attempts()


# What is offered without being asked for


@contextlib.contextmanager
def agent(monkeypatch, directory, *keys):
    """A real ssh-agent that holds keys."""
    path = str(directory / 'agent')
    process = subprocess.Popen(
        ['ssh-agent', '-D', '-a', path],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    try:
        # It writes where its socket is when that is there.
        assert b'SSH_AUTH_SOCK' in process.stdout.readline()
        monkeypatch.setenv('SSH_AUTH_SOCK', path)
        for key in keys:
            subprocess.run(['ssh-add', '-q', str(key)], check=True)
        yield
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


def test_agent(client, url, keys, monkeypatch, tmp_path, attempts):
    with agent(monkeypatch, tmp_path, keys['stranger'], keys['ecdsa']):
        client.refused(url)
        assert 'publickey' not in attempts()
        client.set(use_agent=True)
        client.copy(url)


def test_agent_with_many_keys(
    client, url, keys, monkeypatch, tmp_path, attempts
):
    """The server does not hang up before it is told why."""
    many = [openssh.make_key(tmp_path / f'many{n}') for n in range(8)]
    client.set(use_agent=True)
    with agent(monkeypatch, tmp_path, *many):
        client.refused(url)
    assert 1 <= attempts().count('publickey') <= 5


# paramiko leaves the socket to the garbage collector.
@pytest.mark.filterwarnings('ignore::pytest.PytestUnraisableExceptionWarning')
def test_no_agent(client, url, monkeypatch, tmp_path):
    client.set(use_agent=True)
    monkeypatch.delenv('SSH_AUTH_SOCK', raising=False)
    client.refused(url)
    monkeypatch.setenv('SSH_AUTH_SOCK', str(tmp_path / 'nothing'))
    client.refused(url)


def test_keys_at_home_are_not_used(
    client, url, keys, monkeypatch, tmp_path, attempts
):
    home = tmp_path / 'home' / '.ssh'
    home.mkdir(parents=True)
    for kind in ('rsa', 'ecdsa', 'ed25519'):
        (home / f'id_{kind}').write_bytes(keys[kind].read_bytes())
        (home / f'id_{kind}').chmod(0o600)
    (home / 'config').write_text(
        f'Host *\n  IdentityFile {keys["ed25519"]}\n'
        f'  StrictHostKeyChecking no\n'
    )
    monkeypatch.setenv('HOME', str(home.parent))
    client.refused(url)
    assert 'publickey' not in attempts()


# Passwords: sshd itself would need those of the system


@pytest.fixture
def logins(client):
    """A server that takes one password, or the same by a question."""
    store = sftp_session.Store(DATA)

    class Asking(scripted_ssh.Connection):
        def check_auth_interactive(self, username, submethods):
            return paramiko.InteractiveQuery('', '', ('Password: ', False))

        def check_auth_interactive_response(self, responses):
            return self._attempt('interactive', 'user', ''.join(responses))

    with scripted_ssh.SSHServer(
        store.subsystem(sftp_session.Session), connection=Asking
    ) as server:
        client.know(server.known_hosts)
        client.set(username='user')
        yield server


def test_password_of_the_url(client, logins):
    client.copy(logins.url())
    assert ('password', 'user', PASSWORD) in logins.attempts


def test_password_of_credentials(client, logins):
    url = f'sftp://127.0.0.1:{logins.port}/image'
    credentials = oslo_transfer.LoginCredentials('user', PASSWORD)
    client.copy(oslo_transfer.Location(url, credentials=credentials))
    # They come before what the URL says.
    url = url.replace('//', '//user:s3cr3t-other@')
    client.copy(oslo_transfer.Location(url, credentials=credentials))
    assert 's3cr3t-other' not in str(logins.attempts)


def test_password_by_question(client, logins):
    logins.methods = 'keyboard-interactive'
    client.copy(logins.url())


def test_wrong_password(client, logins):
    url = logins.url()
    logins.logins.clear()
    client.refused(url)
    # Refused once, it is not tried again and again.
    tries = [each for each in logins.attempts if each[2] == PASSWORD]
    assert len(tries) <= 2


def test_no_password(client, logins):
    client.refused(f'sftp://127.0.0.1:{logins.port}/image')
    assert {each[0] for each in logins.attempts} <= {'none'}


# Host keys


@pytest.fixture
def at_home(client, keys):
    """A client that can log in."""
    client.set(private_key_file=str(keys['ed25519']))
    return client


@pytest.mark.parametrize('kind', HOST_KEYS)
def test_one_known_key_of_several(kind, at_home, url, sshd):
    """The server has to show the one that is known."""
    at_home.know(f'[127.0.0.1]:{sshd.port} {sshd.public_key(kind)}\n')
    at_home.copy(url)


def test_hashed(at_home, url):
    subprocess.run(
        ['ssh-keygen', '-q', '-H', '-f', str(at_home.known_hosts)],
        check=True,
        stderr=subprocess.DEVNULL,
    )
    assert '127.0.0.1' not in at_home.known_hosts.read_text()
    at_home.copy(url)


def test_among_others(at_home, url, sshd):
    at_home.know(
        '# a comment\n\n'
        f'example.org,10.0.0.1 {sshd.public_key("rsa")} a comment\n'
        f'@cert-authority *.example.org {sshd.public_key("rsa")}\n'
        f'other,[127.0.0.1]:{sshd.port} {sshd.public_key()} me@here\n'
    )
    at_home.copy(url)


@pytest.mark.parametrize(
    'name',
    [
        '127.0.0.1',
        '[127.0.0.1]:1',
        '[127.0.0.2]:{port}',
        '*,![127.0.0.1]:{port}',
        '@cert-authority [127.0.0.1]:{port}',
    ],
)
def test_unknown(name, at_home, url, sshd, attempts):
    """The port is part of the name, and an authority is no key."""
    name = name.format(port=sshd.port)
    at_home.know(f'{name} {sshd.public_key()}\n')
    text = at_home.refused(url)
    assert 'SHA256:' in text
    assert str(at_home.known_hosts) in text
    assert attempts() == []


def test_changed(at_home, url, sshd, keys, attempts):
    other = keys['stranger'].with_name('stranger.pub').read_text()
    at_home.know(f'[127.0.0.1]:{sshd.port} {other}')
    assert 'changed' in at_home.refused(url)
    assert attempts() == []


def test_changed_for_a_destination(conf, at_home, sshd, keys, attempts):
    """Each way to a server checks its key."""
    other = keys['stranger'].with_name('stranger.pub').read_text()
    at_home.know(f'[127.0.0.1]:{sshd.port} {other}')
    target = at_home.directory / 'target'
    with pytest.raises(exceptions.AccessDenied):
        oslo_transfer.copy(at_home.src, sshd.url(target), conf=conf)
    with pytest.raises(exceptions.AccessDenied):
        oslo_transfer.open_source(sshd.url(at_home.src), conf=conf)
    assert not target.exists()
    assert attempts() == []


def test_revoked(at_home, url, sshd, attempts):
    line = f'[127.0.0.1]:{sshd.port} {sshd.public_key()}\n'
    at_home.know(f'{line}@revoked * {sshd.public_key()}\n')
    assert 'revoked' in at_home.refused(url)
    assert attempts() == []


@pytest.mark.parametrize(
    'line',
    [
        'rubbish',
        '[127.0.0.1]:{port} ssh-ed25519',
        '[127.0.0.1]:{port} ssh-ed25519 !!!!',
        '[127.0.0.1]:{port} ssh-ed25519 AAAA',
        '[127.0.0.1]:{port} ssh-rsa AAAAC3NzaC1lZDI1NTE5AAAAIA==',
        '|1|bad {key}',
        '|2|c2FsdA==|aGFzaA== {key}',
        '@revoked',
    ],
)
def test_corrupt(line, at_home, url, sshd, attempts):
    """What cannot be read is not passed over: it may be a revoked key."""
    line = line.format(port=sshd.port, key=sshd.public_key())
    at_home.know(f'{sshd.known_hosts}{line}\n')
    text = at_home.refused(url, exceptions.ConfigurationError)
    assert str(at_home.known_hosts) in text
    assert attempts() == []


def test_missing_file(at_home, url):
    at_home.set(known_hosts_file=str(at_home.directory / 'missing'))
    at_home.refused(url, exceptions.ConfigurationError)


def test_file_at_home(at_home, url, sshd, monkeypatch, tmp_path):
    """Without the option it is where OpenSSH has it."""
    at_home.set(known_hosts_file=None)
    monkeypatch.setenv('HOME', str(tmp_path))
    at_home.refused(url)
    home = pathlib.Path(tmp_path / '.ssh')
    home.mkdir()
    (home / 'known_hosts').write_text(sshd.known_hosts)
    at_home.copy(url)


# Algorithms


@pytest.mark.parametrize(
    'line',
    [
        'Ciphers aes128-cbc',
        'Ciphers 3des-cbc',
        'KexAlgorithms diffie-hellman-group14-sha1',
        'HostKeyAlgorithms ssh-rsa',
    ],
)
def test_only_weak_algorithms(line, client, keys):
    client.set(private_key_file=str(keys['ed25519']))
    with openssh.OpenSSH(host_keys=HOST_KEYS, lines=[line]) as weak:
        weak.allow(keys['ed25519'])
        client.know(weak.known_hosts)
        client.refused(weak.url(client.src), exceptions.ProtocolError)


@pytest.mark.parametrize(
    'line',
    [
        'Ciphers aes256-gcm@openssh.com',
        'Ciphers aes256-ctr',
        'MACs hmac-sha2-512\nCiphers aes128-ctr',
        'KexAlgorithms diffie-hellman-group14-sha256',
        'KexAlgorithms ecdh-sha2-nistp521',
        'HostKeyAlgorithms rsa-sha2-256',
        'Compression no',
    ],
)
def test_any_good_algorithm(line, client, keys):
    client.set(private_key_file=str(keys['ed25519']))
    with openssh.OpenSSH(host_keys=HOST_KEYS, lines=[line]) as server:
        server.allow(keys['ed25519'])
        client.know(server.known_hosts)
        client.copy(server.url(client.src))
