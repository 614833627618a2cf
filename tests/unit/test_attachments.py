# SPDX-License-Identifier: Apache-2.0
"""An attachment is recorded before it is made, and found by anybody."""

from __future__ import annotations

import json
import os
import stat
import threading

import pytest

import oslo_transfer
from oslo_transfer import _loader
from oslo_transfer.drivers import base
from oslo_transfer import exceptions
from oslo_transfer.testing import fixtures
from tests.unit import plugins

# Attaches by making a directory, so that every process can see it.
SOURCE = """
    import os
    from oslo_transfer.drivers import base
    from oslo_transfer import exceptions

    class Driver(base.Driver):
        name = 'shelf'
        schemes = ('shelf',)
        capabilities = base.Capability.ATTACH

        def attach(self, endpoint, ctx, record):
            record({'directory': endpoint.path})
            os.mkdir(endpoint.path)
            if endpoint.host == 'dies':
                os._exit(0)
            return base.Attachment(
                id='',
                driver=self.name,
                source=str(endpoint),
                form='path',
                path=endpoint.path,
                size=None,
                details={'directory': endpoint.path},
            )

        def detach(self, attachment, ctx, force):
            try:
                os.rmdir(attachment.details['directory'])
            except FileNotFoundError:
                pass
"""
POINTS = {_loader.DRIVERS: ['shelf = shelf_plugin:Driver']}
CONF = """
from oslo_config import cfg
import oslo_transfer
import sys
conf = cfg.ConfigOpts()
conf([], default_config_files=[], default_config_dirs=[])
oslo_transfer.register_opts(conf)
conf.set_override('state_path', sys.argv[1], group='oslo_transfer')
"""


class Shelf(base.Driver):
    """Attaches whatever it is asked to, and notes the calls."""

    name = 'shelf'
    schemes = ('shelf',)
    capabilities = base.Capability.ATTACH
    calls: list = []
    contexts: list = []
    error: Exception | None = None
    #: Called between the record and what it stands for.
    between = staticmethod(lambda: None)

    def attach(self, endpoint, ctx, record):
        self.calls.append('attach')
        self.contexts.append(ctx)
        record({'lun': 3})
        self.between()
        if self.error is not None:
            raise self.error
        return base.Attachment(
            id='',
            driver=self.name,
            source=str(endpoint),
            form='device',
            path='/dev/sdx',
            size=4096,
            details={'lun': 3},
        )

    def detach(self, attachment, ctx, force):
        ctx.check()
        self.calls.append(f'detach {attachment.details["lun"]} {force}')


@pytest.fixture
def state(tmp_path, conf):
    path = tmp_path / 'state'
    conf.set_override('state_path', str(path), group='oslo_transfer')
    return path


@pytest.fixture
def shelf(monkeypatch, state):
    for name in ('calls', 'contexts'):
        monkeypatch.setattr(Shelf, name, [])
    monkeypatch.setattr(Shelf, 'error', None)
    monkeypatch.setattr(Shelf, 'between', staticmethod(lambda: None))
    with fixtures.registered(Shelf):
        yield Shelf


def records(state):
    """The records on the disk."""
    directory = state / 'attachments'
    if not directory.exists():
        return []
    return [
        json.loads((directory / name).read_text())
        for name in sorted(os.listdir(directory))
    ]


def put_record(state, text, name='a'):
    """Leave a record behind, as it is."""
    directory = state / 'attachments'
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f'{name}.json'
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def test_attach_and_detach(conf, state, shelf):
    attachment = oslo_transfer.attach('shelf://host/a', conf=conf)
    assert attachment.path == '/dev/sdx'
    assert attachment.driver == 'shelf'
    assert attachment.id
    (record,) = records(state)
    assert record['version'] == 1
    assert record['id'] == attachment.id
    assert record['details'] == {'lun': 3}
    attachment.detach()
    assert shelf.calls == ['attach', 'detach 3 False']
    assert records(state) == []


def test_context_manager_detaches(conf, state, shelf):
    with oslo_transfer.attach('shelf://host/a', conf=conf):
        assert len(oslo_transfer.attachments(conf)) == 1
    assert shelf.calls[-1] == 'detach 3 False'
    assert oslo_transfer.attachments(conf) == []


def test_detaching_twice_is_no_error(conf, state, shelf):
    attachment = oslo_transfer.attach('shelf://host/a', conf=conf)
    attachment.detach()
    attachment.detach()
    assert records(state) == []


def test_record_is_there_before_anything_is_done(conf, state, shelf):
    seen = []
    shelf.between = staticmethod(lambda: seen.extend(records(state)))
    oslo_transfer.attach('shelf://host/a', conf=conf)
    (record,) = seen
    assert record['driver'] == 'shelf'
    assert record['details'] == {'lun': 3}


def test_record_is_only_for_its_owner(conf, state, shelf):
    oslo_transfer.attach('shelf://host/a', conf=conf)
    directory = state / 'attachments'
    (name,) = os.listdir(directory)
    assert stat.S_IMODE(os.stat(directory).st_mode) == 0o700
    assert stat.S_IMODE(os.stat(directory / name).st_mode) == 0o600


def test_record_holds_no_secret(conf, state, shelf):
    oslo_transfer.attach(
        oslo_transfer.Location(
            'shelf://user:s3cr3t@host/a?s3cr3t',
            credentials=oslo_transfer.LoginCredentials('s3cr3t', 's3cr3t'),
            connection_info={'auth_password': 's3cr3t'},
        ),
        conf=conf,
    )
    assert 's3cr3t' not in json.dumps(records(state))
    assert 's3cr3t' not in repr(oslo_transfer.attachments(conf))


@pytest.mark.parametrize(
    'error', [exceptions.AttachError('no target'), KeyboardInterrupt()]
)
def test_attach_that_fails_leaves_no_record(conf, state, shelf, error):
    shelf.error = error
    with pytest.raises(type(error)):
        oslo_transfer.attach('shelf://host/a', conf=conf)
    assert records(state) == []
    assert oslo_transfer.attachments(conf) == []


def test_what_an_attach_that_fails_leaves_is_listed(conf, state, shelf):
    """Else nobody could take it away."""
    shelf.error = exceptions.AttachError('no device', ('a session',))
    with pytest.raises(exceptions.AttachError, match='left: a session'):
        oslo_transfer.attach('shelf://host/a', conf=conf)
    (left,) = oslo_transfer.attachments(conf)
    assert left.path == ''
    left.detach()
    assert shelf.calls[-1].startswith('detach')
    assert oslo_transfer.attachments(conf) == []


def test_attachment_that_cannot_be_recorded_is_taken_away(conf, state, shelf):
    """The record of the beginning fits on the disk, the final one not."""

    def block():
        directory = state / 'attachments'
        (name,) = os.listdir(directory)
        # Where the next one would be written.
        (directory / f'{name}.new').mkdir()

    shelf.between = staticmethod(block)
    with pytest.raises(oslo_transfer.TransferError):
        oslo_transfer.attach('shelf://host/a', conf=conf)
    assert shelf.calls == ['attach', 'detach 3 True']
    assert oslo_transfer.attachments(conf) == []


def test_state_that_cannot_be_written_stops_it_in_time(conf, state, shelf):
    state.write_text('no directory')
    done = []
    shelf.between = staticmethod(lambda: done.append('too late'))
    with pytest.raises(oslo_transfer.TransferError):
        oslo_transfer.attach('shelf://host/a', conf=conf)
    assert done == []


def test_limits_of_the_call_do_not_stop_the_detach(conf, state, shelf):
    cancel = threading.Event()
    with oslo_transfer.attach(
        'shelf://host/a', conf=conf, cancel=cancel, deadline=0.5
    ):
        ctx = shelf.contexts[0]
        assert ctx.deadline is not None
        cancel.set()
        assert ctx.cancel.is_set()
    assert records(state) == []


def test_untrusted_url_is_not_attached(conf, state, shelf):
    conf.set_override('untrusted_schemes', ['shelf'], group='oslo_transfer')
    with pytest.raises(exceptions.PolicyRefused):
        oslo_transfer.attach(
            oslo_transfer.Location('shelf://host/a', trusted=False), conf=conf
        )
    assert shelf.calls == []
    assert records(state) == []


def test_driver_without_attach_says_so(conf, state, server):
    with pytest.raises(exceptions.CapabilityMissing):
        oslo_transfer.attach(server.put('/image', b'data'), conf=conf)
    assert records(state) == []


def test_local_file_is_attached_as_it_is(conf, state, tmp_path):
    (tmp_path / 'image').write_bytes(b'data')
    with oslo_transfer.attach(tmp_path / 'image', conf=conf) as attachment:
        assert attachment.form == 'path'
        assert attachment.path == str(tmp_path / 'image')
        assert attachment.size == 4
    assert (tmp_path / 'image').exists()
    assert records(state) == []


def test_nothing_is_attached_yet(conf, state):
    assert oslo_transfer.attachments(conf) == []
    assert not state.exists()


def test_detach_by_id(conf, state, shelf):
    ids = [
        oslo_transfer.attach('shelf://host/a', conf=conf).id for _ in range(3)
    ]
    oslo_transfer.detach(ids[1], conf=conf, force=True)
    assert shelf.calls[-1] == 'detach 3 True'
    left = {each.id for each in oslo_transfer.attachments(conf)}
    assert left == {ids[0], ids[2]}


def test_detach_of_what_is_not_there(conf, state, shelf):
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.detach('nothing', conf=conf)


def test_detach_that_fails_keeps_the_record(conf, state, shelf):
    attachment = oslo_transfer.attach('shelf://host/a', conf=conf)

    class Busy(Shelf):
        def detach(self, attachment, ctx, force):
            raise exceptions.DetachError('busy', ('/dev/sdx',))

    with fixtures.registered(Busy):
        with pytest.raises(exceptions.DetachError) as caught:
            oslo_transfer.detach(attachment.id, conf=conf)
    assert caught.value.leftovers == ('/dev/sdx',)
    (found,) = oslo_transfer.attachments(conf)
    assert found == attachment


def test_detach_that_loses_data_keeps_no_record(conf, state, shelf):
    """Nothing is left that could be detached again; but it is told."""
    attachment = oslo_transfer.attach('shelf://host/a', conf=conf)

    class Lossy(Shelf):
        def detach(self, attachment, ctx, force):
            raise exceptions.DetachError('what was written may be lost')

    with fixtures.registered(Lossy):
        with pytest.raises(exceptions.DetachError, match='may be lost'):
            oslo_transfer.detach(attachment.id, conf=conf)
    assert oslo_transfer.attachments(conf) == []


# Other processes


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / 'plugin'
    plugins.install(path, 'shelf_plugin', POINTS, SOURCE)
    return path


def test_another_process_lists_and_detaches(state, plugin, tmp_path):
    url = f'shelf://host{tmp_path}/made'
    made = plugins.run(
        CONF + 'print(oslo_transfer.attach(sys.argv[2], conf=conf).id)',
        state,
        url,
        path=plugin,
    ).strip()
    assert (tmp_path / 'made').is_dir()
    told = plugins.run(
        CONF
        + """
for each in oslo_transfer.attachments(conf):
    print(each.id, each.path)
    oslo_transfer.detach(each.id, conf=conf)
print(len(oslo_transfer.attachments(conf)))
""",
        state,
        path=plugin,
    )
    assert told.split() == [made, f'{tmp_path}/made', '0']
    assert not (tmp_path / 'made').exists()
    assert records(state) == []


def test_attach_that_dies_half_way_is_listed_and_detached(
    state, plugin, tmp_path
):
    url = f'shelf://dies{tmp_path}/made'
    plugins.run(
        CONF + 'oslo_transfer.attach(sys.argv[2], conf=conf)',
        state,
        url,
        path=plugin,
    )
    assert (tmp_path / 'made').is_dir()
    told = plugins.run(
        CONF
        + """
(found,) = oslo_transfer.attachments(conf)
print(found.source, repr(found.form), found.details)
found.detach()
found.detach()
""",
        state,
        path=plugin,
    )
    assert told.startswith(url)
    assert not (tmp_path / 'made').exists()
    assert records(state) == []


# Records that somebody else wrote, or that are damaged


GOOD = {
    'version': 1,
    'id': 'a',
    'driver': 'shelf',
    'source': 'shelf://host/a',
    'form': 'device',
    'path': '/dev/sdx',
    'size': None,
    'read_only': True,
    'details': {'lun': 3},
}


def test_record_that_is_good(conf, state, shelf):
    put_record(state, json.dumps(GOOD))
    (found,) = oslo_transfer.attachments(conf)
    assert (found.id, found.path) == ('a', '/dev/sdx')


@pytest.mark.parametrize(
    'text',
    [
        '',
        'null',
        '5',
        '"text"',
        '[]',
        '{}',
        '{',
        '[' * 100_000,
        b'\xff\xfe',
        b'\x00' * 4096,
        json.dumps({**GOOD, 'version': 2}),
        json.dumps({**GOOD, 'version': 0}),
        json.dumps({**GOOD, 'version': '1'}),
        json.dumps({**GOOD, 'version': None}),
        json.dumps({**GOOD, 'more': 1}),
        json.dumps({**GOOD, 'driver': 'removed'}),
        json.dumps({**GOOD, 'driver': ['shelf']}),
        json.dumps({key: GOOD[key] for key in GOOD if key != 'path'}),
        json.dumps({key: GOOD[key] for key in GOOD if key != 'version'}),
        json.dumps(GOOD)[:-10],
    ],
    ids=lambda text: ascii(text[:30]),
)
def test_record_that_cannot_be_used_is_told_and_left_alone(
    conf, state, shelf, caplog, text
):
    path = put_record(state, text)
    before = path.read_bytes()
    good = put_record(state, json.dumps({**GOOD, 'id': 'b'}), 'b')
    # The others still work.
    (found,) = oslo_transfer.attachments(conf)
    assert found.id == 'b'
    assert str(path) in caplog.text
    with pytest.raises(exceptions.NotFound):
        oslo_transfer.detach('a', conf=conf)
    oslo_transfer.detach('b', conf=conf)
    assert path.read_bytes() == before
    assert not good.exists()


def test_record_that_may_not_be_read(conf, state, shelf, caplog):
    directory = state / 'attachments' / 'a.json'
    directory.mkdir(parents=True)
    assert oslo_transfer.attachments(conf) == []
    assert str(directory) in caplog.text


def test_what_is_no_record_is_left_alone(conf, state, shelf, caplog):
    put_record(state, json.dumps(GOOD))
    other = state / 'attachments' / 'README'
    other.write_text('hello')
    assert len(oslo_transfer.attachments(conf)) == 1
    assert caplog.text == ''
    assert other.exists()


# One object, several attachments


class Rack(Shelf):
    """All that it attaches from one host is one device."""

    #: What joining raises.
    gone: Exception | None = None

    def sharing(self, endpoint, ctx):
        return f'rack {endpoint.host}'

    def join(self, attachment, ctx):
        self.calls.append(f'join {attachment.details["lun"]}')
        if self.gone is not None:
            raise self.gone


@pytest.fixture
def rack(shelf, monkeypatch):
    monkeypatch.setattr(Rack, 'gone', None)
    with fixtures.registered(Rack):
        yield Rack


def test_second_attachment_joins_and_the_last_takes_it_away(conf, rack, state):
    first = oslo_transfer.attach('shelf://one/a', conf=conf)
    second = oslo_transfer.attach('shelf://one/b', conf=conf)
    other = oslo_transfer.attach('shelf://two/a', conf=conf)
    assert rack.calls == ['attach', 'join 3', 'attach']
    assert second.id != first.id
    assert (second.path, second.size) == (first.path, first.size)
    assert second.source == 'shelf://one/b'
    first.detach()
    assert len(rack.calls) == 3
    assert {each.id for each in oslo_transfer.attachments(conf)} == {
        second.id,
        other.id,
    }
    second.detach()
    assert rack.calls[3:] == ['detach 3 False']
    # Also if it is said twice.
    second.detach()
    assert len(rack.calls) == 4
    other.detach()


def test_what_cannot_be_joined_is_an_error(conf, rack, state):
    first = oslo_transfer.attach('shelf://one/a', conf=conf)
    rack.gone = exceptions.AttachError('the device is gone')
    with pytest.raises(exceptions.AttachError, match='gone'):
        oslo_transfer.attach('shelf://one/a', conf=conf)
    assert [each.id for each in oslo_transfer.attachments(conf)] == [first.id]


def test_reading_and_writing_do_not_mix(conf, rack, state):
    first = oslo_transfer.attach('shelf://one/a', conf=conf)
    writing = rack.contexts[0].replace(writing=True)
    with pytest.raises(exceptions.AttachError, match=first.id):
        writing.attach(
            rack(conf), oslo_transfer.Location('shelf://one/a').endpoint
        )
    assert rack.calls == ['attach']


def test_attempt_that_was_cut_short_is_cleaned_up_first(conf, rack, state):
    made = oslo_transfer.attach('shelf://one/a', conf=conf)
    (record,) = records(state)
    # As the process would have left it between login and the end.
    put_record(state, json.dumps({**record, 'path': '', 'form': ''}), made.id)
    again = oslo_transfer.attach('shelf://one/a', conf=conf)
    assert rack.calls == ['attach', 'detach 3 False', 'attach']
    assert [each.id for each in oslo_transfer.attachments(conf)] == [again.id]


def test_attachment_of_an_earlier_boot_is_not_joined(conf, rack, state):
    made = oslo_transfer.attach('shelf://one/a', conf=conf)
    (record,) = records(state)
    put_record(state, json.dumps({**record, 'boot': 'before'}), made.id)
    again = oslo_transfer.attach('shelf://one/a', conf=conf)
    assert rack.calls == ['attach', 'attach']
    # Nor does it keep the new one.
    again.detach()
    assert rack.calls[2:] == ['detach 3 False']


def test_attaching_the_same_waits(conf, rack, state):
    begun, go_on = threading.Event(), threading.Event()

    def between():
        begun.set()
        assert go_on.wait(5)

    rack.between = staticmethod(between)
    made = []
    threads = [
        threading.Thread(
            target=lambda: made.append(
                oslo_transfer.attach('shelf://one/a', conf=conf)
            )
        )
        for _ in range(2)
    ]
    threads[0].start()
    assert begun.wait(5)
    threads[1].start()
    with pytest.raises(exceptions.DeadlineExceeded):
        oslo_transfer.attach('shelf://one/a', conf=conf, deadline=0.3)
    assert rack.calls == ['attach']
    go_on.set()
    for thread in threads:
        thread.join(5)
    assert rack.calls == ['attach', 'join 3']
    for each in made:
        each.detach()
    assert rack.calls[2:] == ['detach 3 False']
    assert os.listdir(state / 'attachments') == []
