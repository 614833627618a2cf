# SPDX-License-Identifier: Apache-2.0
"""What each driver owes, whatever it can do."""

from __future__ import annotations

from collections.abc import Callable
import inspect
import re

from oslo_config import cfg

from oslo_transfer import _loader
from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import attach_suite
from oslo_transfer.testing import fill_suite
from oslo_transfer.testing import filling_suite
from oslo_transfer.testing import harness
from oslo_transfer.testing import sink_suite
from oslo_transfer.testing import source_suite
from oslo_transfer.testing import waiting_suite

Capability = base.Capability

_FILLS = Capability.CLONE | Capability.LOCAL_FILL

# The methods of a driver, and the flags of which any one brings them.
_METHODS = {
    'open_source': Capability.READ,
    'open_sink': Capability.WRITE,
    'attach': Capability.ATTACH,
    'detach': Capability.ATTACH,
    'fill': _FILLS,
    'local_path': Capability.LOCAL_PATH,
}
_SUITES = {
    source_suite.SourceConformance: Capability.READ,
    sink_suite.SinkConformance: Capability.WRITE,
    attach_suite.AttachConformance: Capability.ATTACH,
    fill_suite.FillConformance: _FILLS,
    filling_suite.FillingConformance: Capability.FILL,
}
# What a peer can do, as hooks.
_SOURCE_FAULTS = (
    'stalled',
    'silent',
    'unreachable',
    'denied',
    'nonsense',
    'vanish',
)
_SINK_FAULTS = ('sink_nowhere', 'denied_sink', 'stalled_sink', 'broken_sink')


class DriverConformance(harness.Harness):
    """The driver's class keeps the contract."""

    def unusable(self) -> str | None:
        """A URL with a path that cannot be used; for LOCAL_PATH."""
        return None

    def _overridden(self, method: str) -> bool:
        cls = type(self.driver)
        return getattr(cls, method) is not getattr(base.Driver, method)

    def test_methods_and_capabilities_agree(self) -> None:
        """A method is there if a flag says so, and only then."""
        for method, flags in _METHODS.items():
            with self.subTest(method=method):
                self.assertEqual(
                    bool(self.driver.capabilities & flags),
                    self._overridden(method),
                )

    def test_suites_are_bound(self) -> None:
        """Whatever a driver declares is tested with it."""
        for suite, flags in _SUITES.items():
            if self.driver.capabilities & flags:
                self.assertIsInstance(self, suite, 'bind this suite, too')

    def test_faults_are_bound(self) -> None:
        """A driver that connects to a peer has to stand what it does."""
        if Capability.POLICED not in self.driver.capabilities:
            return
        hooks: dict[str, Callable[[], object]] = {}
        if isinstance(self, waiting_suite.WaitingConformance):
            hooks.update(
                (each, getattr(self, each)) for each in _SOURCE_FAULTS
            )
            broken = self.broken
            hooks['broken'] = lambda: broken(b'data', 1)
        if isinstance(self, sink_suite.SinkConformance):
            hooks.update((each, getattr(self, each)) for each in _SINK_FAULTS)
        for name, hook in hooks.items():
            with self.subTest(hook=name):
                self.assertTrue(hook())

    def test_undeclared_methods_raise(self) -> None:
        """What was not declared is CapabilityMissing, at once."""
        user, password, token = harness.SECRETS
        endpoint = _endpoint.Endpoint(
            self.driver.schemes[0],
            'conformance.invalid',
            path='/x',
            query=token,
            username=user,
            password=password,
        )
        ctx = self.context()
        attachment = base.Attachment(
            id='x', driver='x', source='x', form='path', path='x', size=0
        )
        calls: dict[str, Callable[[], object]] = {
            'open_source': lambda: self.driver.open_source(endpoint, ctx),
            'open_sink': lambda: self.driver.open_sink(
                endpoint, ctx, size=None
            ),
            'attach': lambda: self.driver.attach(
                endpoint, ctx, lambda _details: None
            ),
            'detach': lambda: self.driver.detach(attachment, ctx, True),
            'fill': lambda: self.driver.fill(endpoint, '/nonexistent', ctx),
            'local_path': lambda: self.driver.local_path(endpoint),
        }
        self.assertEqual(set(_METHODS), set(calls))
        for method, call in calls.items():
            if self.driver.capabilities & _METHODS[method]:
                continue
            with self.subTest(method=method):
                error = self.assert_fails(exceptions.CapabilityMissing, call)
                self.assertIn(self.driver.name, str(error))

    def test_names(self) -> None:
        """Name and schemes fit option groups, extras and URLs."""
        self.assertRegex(self.driver.name, r'^[a-z][a-z0-9_]*$')
        self.assertTrue(self.driver.schemes)
        for scheme in self.driver.schemes:
            self.assertRegex(scheme, r'^[a-z][a-z0-9.-]*$')
            url = f'{scheme}://localhost/name'
            self.assertEqual(scheme, _endpoint.parse(url).scheme)

    def test_registered(self) -> None:
        """Each scheme leads to the driver, and to nothing else."""
        for scheme in self.driver.schemes:
            found = _loader.driver_class(scheme)
            self.assertIs(self.driver_class, found)
            made = _loader.driver(scheme, self.conf)
            self.assertIs(self.driver_class, type(made))
            self.assertIs(self.conf, made.conf)

    def test_documented(self) -> None:
        """An operator can read what it is."""
        text = inspect.getdoc(self.driver_class)
        self.assertTrue(text, 'the class has no docstring')

    def test_options(self) -> None:
        """Options have a help text, numbers have bounds, all may repeat."""
        group = f'oslo_transfer_{self.driver.name}'
        for _ in range(2):
            self.conf.register_opts(self.driver.OPTIONS, group=group)
        for option in self.driver.OPTIONS:
            with self.subTest(option=option.name):
                self.assertTrue((option.help or '').endswith('.'))
                self.assertIsNotNone(
                    re.fullmatch('[a-z][a-z0-9_]*', option.name)
                )
                if isinstance(option, cfg.IntOpt | cfg.FloatOpt):
                    self.assertIsNotNone(getattr(option.type, 'min', None))
                if re.search('passw|token|secret', option.name):
                    self.assertTrue(option.secret)

    def test_stateless(self) -> None:
        """A driver has its configuration, and remembers nothing."""
        before = dict(vars(self.driver))
        for url in (self.missing(), self.put(b'data')):
            endpoint = _endpoint.parse(url)
            try:
                if Capability.READ in self.driver.capabilities:
                    with self.driver.open_source(
                        endpoint, self.context()
                    ) as source:
                        self.read(source)
            except exceptions.NotFound as exc:
                self.assert_presentable(exc)
        self.assertEqual(before, dict(vars(self.driver)))
        self.assertEqual(set(vars(self.make_driver())), set(vars(self.driver)))

    def test_local_path(self) -> None:
        """LOCAL_PATH: it is absolute, and that of the object."""
        if Capability.LOCAL_PATH not in self.driver.capabilities:
            return  # test_undeclared_methods_raise has it.
        data = harness.pattern(1000)
        path = self.driver.local_path(_endpoint.parse(self.put(data)))
        self.assertRegex(path, '^/')
        with open(path, 'rb') as file:
            self.assert_same(data, file.read())
        url = self.unusable()
        if url is not None:
            self.assert_fails(
                exceptions.InvalidEndpoint,
                self.driver.local_path,
                _endpoint.parse(url),
            )
