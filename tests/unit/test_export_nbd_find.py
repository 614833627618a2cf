# SPDX-License-Identifier: Apache-2.0
"""NBD clients get images that nobody has listed, or learn why not."""

from __future__ import annotations

import threading
import time

import pytest

from oslo_transfer import exceptions
from oslo_transfer.export import listening
from oslo_transfer.export import nbd
from oslo_transfer import nbd_wire as wire
from tests.servers import nbd_client
from tests.servers import resource
from tests.servers import scripted_image
from tests import waiting

DATA = resource.pattern(5 * scripted_image.BLOCK)
NAME = 'http://far.example/gr\xf6\xdfe.raw?token=x'
pytestmark = pytest.mark.usefixtures('nothing_left')


@pytest.fixture
def image():
    with scripted_image.ScriptedImage(DATA, there=True) as made:
        yield made


class Finder:
    """Knows one image by its name."""

    def __init__(self, image):
        self.image = image
        self.asked = []
        self.on_find = lambda: None

    def __call__(self, name):
        self.asked.append(name)
        self.on_find()
        if name != NAME:
            raise exceptions.PolicyRefused(f'"{name}" is none of the origins')
        return self.image


@pytest.fixture
def finder(image):
    return Finder(image)


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / 'nbd.sock')


@pytest.fixture
def server(finder, path):
    with nbd.NbdServer(
        {'listed': finder.image},
        listening.Address(path=path),
        find=finder,
        handshake_seconds=0.5,
    ) as running:
        yield running


def test_an_image_that_is_not_listed(finder, server, path):
    """It is asked for once by each client, and read like any other."""
    for count in (1, 2):
        with nbd_client.Client(path) as client:
            assert client.go(NAME) == len(DATA)
            assert client.read(0, len(DATA)) == DATA
        assert finder.asked == [NAME] * count


def test_one_that_is_listed(finder, server, path):
    with nbd_client.Client(path) as client:
        client.greet()
        found = client.option(wire.Option.LIST)
        assert [data[4:] for _, data in found] == [b'listed', b'']
    with nbd_client.Client(path) as client:
        assert client.go('listed') == len(DATA)
    assert not finder.asked


def test_one_that_nobody_may_have(server, path):
    """The client is told, and may ask for another one."""
    with nbd_client.Client(path) as client:
        client.greet()
        ((reply, text),) = client.option(
            wire.Option.GO, wire.go(b'http://other/')
        )
        assert reply == wire.OptionReply.ERR_POLICY
        assert text == b'"http://other/" is none of the origins'
        found = client.option(wire.Option.GO, wire.go(NAME.encode()))
        assert found[-1] == (wire.OptionReply.ACK, b'')
        assert client.read(5, 9) == DATA[5:14]


def test_a_bug_in_who_finds(finder, server, path, caplog):
    """It is the end of one client."""

    def fail():
        raise ZeroDivisionError('a bug')

    finder.on_find = fail
    with nbd_client.Client(path) as client:
        client.greet()
        with pytest.raises(EOFError):
            client.option(wire.Option.GO, wire.go(NAME.encode()))
    assert 'ZeroDivisionError' in caplog.text
    with nbd_client.Client(path) as client:
        assert client.go('listed') == len(DATA)


def test_an_origin_takes_longer_than_a_client_may(finder, server, path):
    """What it takes is not the client's fault; and nobody else waits."""
    asks, go_on = threading.Event(), threading.Event()

    def wait():
        asks.set()
        assert go_on.wait(20)

    finder.on_find = wait
    found = []

    def read():
        with nbd_client.Client(path, 20) as client:
            client.go(NAME)
            found.append(client.read(0, len(DATA)))

    reads = threading.Thread(target=read)
    reads.start()
    assert asks.wait(20)
    with nbd_client.Client(path) as client:
        client.greet()
        # One who says nothing is thrown out meanwhile.
        assert client.at_end()
    with nbd_client.Client(path) as client:
        assert client.go('listed') == len(DATA)
    go_on.set()
    reads.join()
    assert found == [DATA]


def test_the_end_while_somebody_is_asked(finder, server, path):
    asks, go_on = threading.Event(), threading.Event()

    def wait():
        asks.set()
        assert go_on.wait(20)

    finder.on_find = wait
    with nbd_client.Client(path) as client:
        client.greet()
        name = NAME.encode()
        data = wire.go(name)
        client.sock.sendall(
            wire.OPTION_MAGIC
            + int(wire.Option.GO).to_bytes(4, 'big')
            + len(data).to_bytes(4, 'big')
            + data
        )
        assert asks.wait(20)
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 2
        assert client.at_end()
    go_on.set()
    waiting.until(lambda: not server.connections)


def test_an_image_that_is_dropped(finder, image, server, path):
    """Who reads it is cut off, and can come again."""
    with nbd_client.Client(path) as client, nbd_client.Client(path) as other:
        client.go(NAME)
        other.greet()
        # One that only knows of it so far is cut off as well.
        other.option(wire.Option.INFO, wire.go(NAME.encode()))
        server.drop(image)
        assert client.at_end()
        assert other.at_end()
        assert not image.readers
    with nbd_client.Client(path) as client:
        client.go(NAME)
        assert client.read(0, 9) == DATA[:9]
