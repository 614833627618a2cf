# SPDX-License-Identifier: Apache-2.0
"""Every error is one of ours, survives pickling, and tells no secret."""

from __future__ import annotations

import builtins
import copy
import importlib
import inspect
import pathlib
import pickle
import traceback

import pytest

import oslo_transfer
from oslo_transfer import exceptions
from oslo_transfer import result

#: How to make those that take more than a message.
ARGUMENTS = {
    'SizeMismatch': (10, 5, 'http://***@host/image'),
    'DigestMismatch': ('sha256', 'aa', 'bb', 'http://***@host/image'),
    'DetachError': ('it is in use', ('/dev/sdx', 'session 3')),
}
ATTEMPT = result.Attempt('full_copy', '/image', 'why', 'Unavailable', True)


def modules():
    """All modules of the package.

    Apart from the command line, the suites, and what brings eventlet with
    it, which would stay in the process for all other tests.
    """
    root = pathlib.Path(oslo_transfer.__file__).parent
    for path in sorted(root.rglob('*.py')):
        name = '.'.join(path.relative_to(root.parent).with_suffix('').parts)
        if not name.startswith(
            (
                'oslo_transfer.cli',
                'oslo_transfer.privileged',
                'oslo_transfer.testing',
            )
        ):
            yield importlib.import_module(name.removesuffix('.__init__'))


def walk(cls):
    """A class and all that derive from it."""
    yield cls
    for each in cls.__subclasses__():
        yield from walk(each)


MODULES = list(modules())
OURS = sorted(
    {
        cls
        for cls in walk(exceptions.TransferError)
        if cls.__module__.startswith('oslo_transfer.')
    },
    key=lambda cls: cls.__name__,
)
each_class = pytest.mark.parametrize(
    'cls', OURS, ids=[cls.__name__ for cls in OURS]
)


def make(cls):
    """An error, as full as it can be."""
    error = cls(*ARGUMENTS.get(cls.__name__, ('what went wrong',)))
    error.attempts = (ATTEMPT,)
    error.retry_after = 3.5
    return error


def test_there_is_one_root():
    roots = {
        cls
        for module in MODULES
        for _name, cls in inspect.getmembers(module, inspect.isclass)
        if issubclass(cls, BaseException)
        and cls.__module__.startswith('oslo_transfer.')
        and not issubclass(cls, exceptions.TransferError)
        and not cls.__name__.startswith('_')
    }
    # Control flow inside of drivers and exports that never leaves them.
    assert {cls.__name__ for cls in roots} == {
        'Broken',
        'Continue',
        'Garbage',
        'News',
        'NotDirect',
        'Refused',
        'SenseError',
    }
    assert issubclass(exceptions.TransferError, Exception)


def test_root_is_public():
    assert oslo_transfer.TransferError is exceptions.TransferError


@each_class
def test_no_builtin_is_shadowed(cls):
    assert not hasattr(builtins, cls.__name__)


@each_class
def test_docstring(cls):
    assert inspect.getdoc(cls).splitlines()[0].endswith('.')


@each_class
def test_message_is_kept(cls):
    error = make(cls)
    assert str(error)
    assert str(error) in ''.join(traceback.format_exception_only(error))
    if cls.__name__ not in ARGUMENTS:
        assert str(error) == 'what went wrong'


@each_class
@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
def test_pickle(cls, protocol):
    error = make(cls)
    again = pickle.loads(pickle.dumps(error, protocol))
    assert type(again) is cls
    assert str(again) == str(error)
    assert repr(again) == repr(error)
    assert vars(again) == vars(error)
    assert again.retryable == error.retryable
    assert again.attempts == (ATTEMPT,)
    assert again.retry_after == 3.5


@each_class
def test_copy(cls):
    error = make(cls)
    assert str(copy.copy(error)) == str(copy.deepcopy(error)) == str(error)


@each_class
def test_defaults(cls):
    error = cls(*ARGUMENTS.get(cls.__name__, ('message',)))
    assert isinstance(error.retryable, bool)
    assert error.attempts == ()
    assert error.retry_after is None


def test_what_may_be_tried_again():
    retryable = {cls.__name__ for cls in OURS if cls.retryable}
    assert retryable == {
        'Broken',
        'Busy',
        'Elsewhere',
        'NotResumable',
        'SourceChanged',
        'Stalled',
        'Unavailable',
    }


def test_all_sources_failed_is_retryable_if_a_reason_was():
    assert exceptions.AllSourcesFailed('x', retryable=True).retryable
    assert not exceptions.AllSourcesFailed('x').retryable
    again = pickle.loads(
        pickle.dumps(exceptions.AllSourcesFailed('x', retryable=True))
    )
    assert again.retryable
    assert str(again) == 'x'


@pytest.mark.parametrize(
    ('narrow', 'wide'),
    [
        ('SizeMismatch', 'IntegrityError'),
        ('DigestMismatch', 'IntegrityError'),
        ('Stalled', 'TransferTimedOut'),
        ('DeadlineExceeded', 'TransferTimedOut'),
    ],
)
def test_groups(narrow, wide):
    assert issubclass(getattr(exceptions, narrow), getattr(exceptions, wide))


def test_malformed_endpoint_is_a_value_error():
    assert issubclass(exceptions.InvalidEndpoint, ValueError)


def test_size_mismatch_tells_both_sizes():
    error = make(exceptions.SizeMismatch)
    assert (error.expected, error.actual) == (10, 5)
    assert '10' in str(error)
    assert '5' in str(error)
    assert 'http://***@host/image' in str(error)
    assert str(exceptions.SizeMismatch(1, 2)) == ('expected 1 bytes, found 2')


def test_digest_mismatch_tells_both_digests():
    error = make(exceptions.DigestMismatch)
    assert (error.algorithm, error.expected, error.actual) == (
        'sha256',
        'aa',
        'bb',
    )
    assert all(text in str(error) for text in ('sha256', 'aa', 'bb'))


def test_detach_error_tells_what_is_left():
    error = make(exceptions.DetachError)
    assert error.leftovers == ('/dev/sdx', 'session 3')
    assert '/dev/sdx, session 3' in str(error)
    assert str(exceptions.DetachError('message')) == 'message'


def test_every_class_can_be_looked_up():
    names = {
        name
        for name, value in vars(exceptions).items()
        if inspect.isclass(value)
        and issubclass(value, exceptions.TransferError)
    }
    assert names == {
        cls.__name__
        for cls in OURS
        if cls.__module__ == 'oslo_transfer.exceptions'
    }
