# SPDX-License-Identifier: Apache-2.0
"""The deployer's order decides; what is passed over is told with why."""

from __future__ import annotations

import os

import pytest

import oslo_transfer
from oslo_transfer.drivers import base as drivers_base
from oslo_transfer import exceptions
from oslo_transfer.strategies import base
from oslo_transfer.testing import fixtures

pytestmark = pytest.mark.usefixtures('nothing_left')

DATA = b'data of the image' * 1000


def outcome(request, **changes):
    """What a toy strategy has done."""
    fields = {
        'driver': 'toy',
        'source': str(request.sources[0]),
        'form': 'file',
        'verified': False,
        'bytes_written': 0,
        'bytes_by_origin': {'origin': 1},
        'wasted': 0,
        'digest': None,
        'method': 'read',
        **changes,
    }
    return base.Outcome(**fields)


class Toy(base.Strategy):
    """Notes what it is asked, and fails if it is told to."""

    name = 'toy'
    forms = frozenset({'file'})
    asked: list = []
    plan_error: Exception | None = None
    run_error: Exception | None = None

    def plan(self, request):
        self.asked.append(f'plan {self.name}')
        if self.plan_error is not None:
            raise self.plan_error
        return base.Plan(strategy=self.name, sources=request.sources)

    def run(self, plan, request, landing, ctx):
        self.asked.append(f'run {self.name}')
        if self.run_error is not None:
            raise self.run_error
        return outcome(request)


def toy(name, **fields):
    """One more toy strategy."""
    return type(name, (Toy,), {'name': name, **fields})


@pytest.fixture
def asked(monkeypatch):
    found = []
    monkeypatch.setattr(Toy, 'asked', found)
    return found


@pytest.fixture
def source(tmp_path):
    path = tmp_path / 'source'
    path.write_bytes(DATA)
    return path


@pytest.fixture
def call(conf, source, tmp_path):
    """Copy in an order of strategies, with more of them installed."""

    def copy(order, *strategies, **options):
        conf.set_override('strategy_order', order, group='oslo_transfer')
        with fixtures.registered(*strategies):
            return oslo_transfer.copy(
                source, tmp_path / 'image', conf=conf, **options
            )

    return copy


def given_up(attempts):
    return [(each.strategy, each.error) for each in attempts]


def test_first_that_can_is_taken(call, asked):
    result = call(['one', 'two'], toy('one'), toy('two'))
    assert result.strategy == 'one'
    assert asked == ['plan one', 'run one']
    assert result.attempts == ()


def test_order_is_the_deployers(call, asked):
    assert call(['two', 'one'], toy('one'), toy('two')).strategy == 'two'


def test_strategy_that_is_not_in_the_order_is_not_asked(call, asked):
    call(['one'], toy('one'), toy('two'))
    assert 'plan two' not in asked


def test_each_one_passed_over_is_told_with_its_reason(call, asked):
    result = call(
        ['one', 'two', 'three', 'full_copy'],
        toy('one', plan_error=exceptions.CapabilityMissing('no reflinks')),
        toy('two', run_error=exceptions.Unavailable('nobody is there')),
    )
    assert result.strategy == 'full_copy'
    assert given_up(result.attempts) == [
        ('one', 'CapabilityMissing'),
        ('two', 'Unavailable'),
        ('three', 'StrategyNotFound'),
    ]
    assert result.attempts[0].reason == 'no reflinks'
    assert result.attempts[1].reason == 'nobody is there'
    assert result.attempts[1].retryable
    assert 'three' in result.attempts[2].reason


def test_clone_says_why_it_could_not(call):
    result = call(['clone', 'full_copy'])
    if result.strategy == 'clone':
        assert result.method == 'reflink'
        assert result.bytes_written == 0
    else:
        assert given_up(result.attempts) == [('clone', 'CapabilityMissing')]
        assert 'reflink' in result.attempts[0].reason


def test_clone_says_that_a_location_is_elsewhere(conf, server, tmp_path):
    url = server.put('/image', DATA)
    result = oslo_transfer.copy(url, tmp_path / 'image', conf=conf)
    assert result.strategy == 'full_copy'
    assert result.attempts[0].strategy == 'clone'
    assert result.attempts[0].reason == 'no location is a file on this host'


def test_named_strategy_is_the_only_one(call, asked):
    result = call(['one'], toy('one'), toy('two'), strategy='two')
    assert result.strategy == 'two'
    assert asked == ['plan two', 'run two']


@pytest.mark.parametrize('field', ['plan_error', 'run_error'])
def test_named_strategy_that_fails_is_not_replaced(call, asked, field):
    error = exceptions.CapabilityMissing('not here')
    with pytest.raises(exceptions.CapabilityMissing) as caught:
        call(
            ['one', 'full_copy'],
            toy('one'),
            toy('two', **{field: error}),
            strategy='two',
        )
    assert caught.value is error
    assert 'plan one' not in asked


def test_named_strategy_that_does_not_exist(call):
    with pytest.raises(exceptions.StrategyNotFound):
        call(['full_copy'], strategy='three')


def test_empty_order_is_an_error_of_the_configuration(call):
    with pytest.raises(exceptions.ConfigurationError, match='strategy_order'):
        call([])


@pytest.mark.parametrize(
    'error',
    [
        exceptions.TransferCancelled('x'),
        exceptions.DeadlineExceeded('x'),
        exceptions.NoSpace('x'),
        exceptions.AlreadyExists('x'),
        exceptions.ConfigurationError('x'),
    ],
    ids=lambda error: type(error).__name__,
)
def test_what_no_other_strategy_can_mend_ends_it(call, asked, error):
    with pytest.raises(type(error)) as caught:
        call(['one', 'two'], toy('one', run_error=error), toy('two'))
    assert caught.value is error
    assert 'plan two' not in asked


def test_error_that_is_not_ours_passes_through(call, asked):
    with pytest.raises(ZeroDivisionError):
        call(['one', 'two'], toy('one', run_error=ZeroDivisionError()))
    assert 'plan two' not in asked


def test_last_real_failure_is_the_answer(call, tmp_path):
    failure = exceptions.IntegrityError('wrong bytes')
    with pytest.raises(exceptions.IntegrityError) as caught:
        call(
            ['one', 'two'],
            toy('one', run_error=failure),
            toy('two', plan_error=exceptions.CapabilityMissing('not here')),
        )
    assert caught.value is failure
    assert given_up(caught.value.attempts) == [
        ('one', 'IntegrityError'),
        ('two', 'CapabilityMissing'),
    ]
    assert os.listdir(tmp_path) == ['source']


def test_where_nobody_can_the_last_says_why(call):
    with pytest.raises(exceptions.CapabilityMissing, match='second reason'):
        call(
            ['one', 'two'],
            toy('one', plan_error=exceptions.CapabilityMissing('first')),
            toy(
                'two', plan_error=exceptions.CapabilityMissing('second reason')
            ),
        )


# accept=, and strategies that return before the data has arrived


class Attaching(Toy):
    """Leaves an overlay."""

    name = 'attaching'
    attaching = True
    forms = frozenset({'overlay'})

    def run(self, plan, request, landing, ctx):
        super().run(plan, request, landing, ctx)
        attachment = drivers_base.Attachment(
            id='1',
            driver='toy',
            source='',
            form='device',
            path='/dev/sdx',
            size=1,
        )
        return outcome(request, form='overlay', attachment=attachment)


def test_attaching_strategy_is_passed_over_with_the_reason(call, asked):
    result = call(['attaching', 'one'], Attaching, toy('one'))
    assert result.strategy == 'one'
    assert asked == ['plan one', 'run one']
    (passed_over,) = result.attempts
    assert passed_over.strategy == 'attaching'
    assert 'overlay' in passed_over.reason
    assert 'accepts file' in passed_over.reason


@pytest.mark.parametrize(
    'accept', [('file', 'overlay'), ['overlay'], {'overlay', 'device'}]
)
def test_attaching_strategy_runs_where_its_form_is_accepted(
    call, asked, accept
):
    result = call(['attaching', 'one'], Attaching, toy('one'), accept=accept)
    assert result.strategy == 'attaching'
    assert result.form == 'overlay'
    assert not result.verified
    assert result.attachment.path == '/dev/sdx'


@pytest.mark.parametrize('accept', [('file', 'device'), ('path',)])
def test_attaching_strategy_does_not_run_for_another_form(call, asked, accept):
    result = call(['attaching', 'one'], Attaching, toy('one'), accept=accept)
    assert result.strategy == 'one'


def test_attaching_strategy_runs_if_it_is_named(call, asked):
    result = call(['one'], Attaching, toy('one'), strategy='attaching')
    assert result.form == 'overlay'


@pytest.mark.parametrize('accept', ['overlay', ['qcow2'], ['']])
def test_unknown_form_is_refused(call, accept):
    with pytest.raises(exceptions.ConfigurationError, match='overlay'):
        call(['full_copy'], accept=accept)


def test_error_of_an_attaching_strategy_leads_to_the_next(call, asked):
    class Fails(Attaching):
        name = 'fails'
        run_error = exceptions.AttachError('no such target')

    result = call(['fails', 'full_copy'], Fails, accept=('file', 'overlay'))
    assert result.strategy == 'full_copy'
    assert given_up(result.attempts) == [('fails', 'AttachError')]


# What a strategy has to declare


@pytest.mark.parametrize(
    'fields',
    [
        {'forms': frozenset({'file'})},
        {'name': 'x'},
        {'name': 'x', 'forms': frozenset()},
        {'name': 'x', 'forms': frozenset({'overlay'})},
        {'name': 'x', 'forms': frozenset({'file', 'path'})},
        {'name': 'x', 'attaching': True, 'forms': frozenset({'file'})},
    ],
)
def test_strategy_that_declares_what_cannot_be_is_refused(fields):
    with pytest.raises(TypeError):
        type('Wrong', (base.Strategy,), fields)


def test_plan_of_a_full_copy_reads_well(conf, source, tmp_path):
    seen = []

    class Spy(Toy):
        name = 'spy'

        def plan(self, request):
            from oslo_transfer.strategies import full_copy

            plan = full_copy.FullCopy().plan(request)
            seen.append(plan)
            raise exceptions.CapabilityMissing('seen enough')

    conf.set_override(
        'strategy_order', ['spy', 'full_copy'], group='oslo_transfer'
    )
    with fixtures.registered(Spy):
        oslo_transfer.copy(
            ['http://127.0.0.1:9/a', source], tmp_path / 'image', conf=conf
        )
    (plan,) = seen
    assert plan.strategy == 'full_copy'
    assert len(plan.sources) == 2
    assert 'read http://127.0.0.1:9/a by http' in plan.steps[0]
    assert plan.steps[1].startswith('if that fails, ')


def test_driver_that_only_writes_is_passed_over_as_a_source(
    conf, source, tmp_path
):
    class WriteOnly(drivers_base.Driver):
        name = 'writeonly'
        schemes = ('writeonly',)
        capabilities = drivers_base.Capability.WRITE

        def open_sink(self, endpoint, ctx, *, size, resume, overwrite):
            raise AssertionError

    with fixtures.registered(WriteOnly):
        result = oslo_transfer.copy(
            ['writeonly://a/', source],
            tmp_path / 'image',
            'full_copy',
            conf=conf,
        )
    (passed_over,) = result.attempts
    assert passed_over.location == 'writeonly://a/'
    assert passed_over.error == 'CapabilityMissing'


def test_driver_that_only_reads_is_no_destination(conf, source):
    class ReadOnly(drivers_base.Driver):
        name = 'readonly'
        schemes = ('readonly',)
        capabilities = drivers_base.Capability.READ

        def open_source(self, endpoint, ctx):
            raise AssertionError

    with fixtures.registered(ReadOnly):
        with pytest.raises(exceptions.CapabilityMissing, match='no WRITE'):
            oslo_transfer.copy(source, 'readonly://a/', conf=conf)
