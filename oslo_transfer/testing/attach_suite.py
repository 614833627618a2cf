# SPDX-License-Identifier: Apache-2.0
"""What a driver with ATTACH owes."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
import json
import typing

from oslo_transfer.drivers import base
from oslo_transfer import endpoint as _endpoint
from oslo_transfer import exceptions
from oslo_transfer.testing import harness

_FIELDS = (
    'id',
    'driver',
    'source',
    'form',
    'path',
    'size',
    'read_only',
    'details',
)


class _Refused(Exception):
    """Raised where a record cannot be kept."""


class AttachConformance(harness.Harness):
    """Attachments keep the contract."""

    def setUp(self) -> None:
        """Keep the records of attachments to this test."""
        super().setUp()
        self.conf.set_override(
            'state_path', self.temporary(), group='oslo_transfer'
        )

    def attachable(self, data: bytes) -> str:
        """Make an object that can be attached; return its URL."""
        return self.put(data)

    def read_attachment(
        self, attachment: base.Attachment, length: int
    ) -> bytes:
        """Read the start of what was attached."""
        self.assertIn(attachment.form, ('device', 'path'))
        with open(attachment.path, 'rb') as file:
            return file.read(length)

    def attached(self) -> list[str]:
        """What is attached on this host just now, in words.

        :returns: nothing where attaching changes nothing on the host
        """
        return []

    def hold(
        self, attachment: base.Attachment
    ) -> typing.Callable[[], None] | None:
        """Keep an attachment from being taken away.

        :returns: what lets it go again; None if nothing can keep it
        """
        return None

    def attach(
        self,
        url: str,
        record: typing.Callable[[Mapping[str, typing.Any]], None],
    ) -> base.Attachment:
        """Attach; it is detached when the test ends."""
        made = self.driver.attach(_endpoint.parse(url), self.context(), record)
        self.addCleanup(self.driver.detach, made, self.context(), True)
        return made

    def test_attach_and_detach(self) -> None:
        """It can be read where it says, and is gone afterwards."""
        data = harness.pattern(harness.MIB)
        url = self.attachable(data)
        before = self.attached()
        records: list[Mapping[str, typing.Any]] = []
        made = self.attach(url, records.append)
        self.assertTrue(records, 'attached without a record')
        self.assertIn(made.driver, (*self.driver.schemes, self.driver.name))
        self.assertIn(made.form, ('device', 'path', 'nbd'))
        self.assertIsInstance(made.read_only, bool)
        self.assertTrue(made.path)
        self.assertIn(made.size, (None, len(data)))
        self.assert_same(data, self.read_attachment(made, len(data)))
        for _ in range(2):
            self.driver.detach(made, self.context(), False)
            self.assertEqual(before, self.attached())
        self.driver.detach(made, self.context(), True)

    def test_detach_by_another_process(self) -> None:
        """What is recorded is enough, and is plain JSON."""
        url = self.attachable(harness.pattern(1000))
        before = self.attached()
        records: list[Mapping[str, typing.Any]] = []
        made = self.attach(url, records.append)
        told = json.dumps({name: getattr(made, name) for name in _FIELDS})
        again = base.Attachment(**json.loads(told))
        self.make_driver().detach(again, self.context(), False)
        self.assertEqual(before, self.attached())
        # Also what was noted before there was anything to detach.
        made = self.attach(url, records.append)
        early = base.Attachment(
            id='conformance',
            driver=made.driver,
            source=made.source,
            form='',
            path='',
            size=None,
            details=json.loads(json.dumps(dict(records[-1]))),
        )
        self.make_driver().detach(early, self.context(), False)
        self.assertEqual(before, self.attached())

    def test_nothing_without_a_record(self) -> None:
        """Where no record can be kept nothing is done."""
        url = self.attachable(harness.pattern(1000))
        before = self.attached()

        def refuse(_details: Mapping[str, typing.Any]) -> None:
            self.assertEqual(before, self.attached())
            raise _Refused

        self.assert_fails(
            (_Refused, exceptions.AttachError), self.attach, url, refuse
        )
        self.assertEqual(before, self.attached())

    def test_attach_missing(self) -> None:
        """What does not exist is an error that leaves nothing."""
        before = self.attached()
        self.assert_fails(
            (exceptions.AttachError, exceptions.NotFound),
            self.attach,
            self.missing(),
            lambda _details: None,
        )
        self.assertEqual(before, self.attached())

    def test_attach_twice(self) -> None:
        """Of two attachments of one object each can go first."""
        data = harness.pattern(1000)
        endpoint = _endpoint.parse(self.attachable(data))
        before = self.attached()
        ctx = self.context(lasting=True)
        first = ctx.attach(self.driver, endpoint)
        self.addCleanup(first.detach, True)
        second = ctx.attach(self.driver, endpoint)
        self.addCleanup(second.detach, True)
        first.detach()
        self.assert_same(data, self.read_attachment(second, len(data)))
        second.detach()
        self.assertEqual(before, self.attached())

    def test_sharing(self) -> None:
        """What is shared has one key, and is known when it is gone."""
        url = self.attachable(harness.pattern(1000))
        ctx = self.context(lasting=True)
        key = self.driver.sharing(_endpoint.parse(url), ctx)
        secret = self.driver.sharing(
            _endpoint.parse(self.with_secrets(url)), ctx
        )
        if key is None:
            self.assertIsNone(secret)
            return
        self.assertEqual(key, secret)
        made = self.attach(url, lambda _details: None)
        self.driver.join(made, ctx)
        self.driver.detach(made, ctx, False)
        self.assert_fails(exceptions.AttachError, self.driver.join, made, ctx)

    def test_detach_fails(self) -> None:
        """What cannot be taken away is told, and can be later."""
        before = self.attached()
        made = self.attach(
            self.attachable(harness.pattern(1000)), lambda _details: None
        )
        let_go = self.hold(made)
        if let_go is not None:
            self.addCleanup(let_go)
            for force in (False, True):
                error = self.assert_fails(
                    exceptions.DetachError,
                    self.driver.detach,
                    made,
                    self.context(),
                    force,
                )
                assert isinstance(error, exceptions.DetachError)
                self.assertTrue(error.leftovers)
            let_go()
        self.driver.detach(made, self.context(), False)
        self.assertEqual(before, self.attached())

    def test_attach_secrets(self) -> None:
        """No record and no repr has a login or a query in it."""
        url = self.with_secrets(self.attachable(harness.pattern(1000)))
        records: list[Mapping[str, typing.Any]] = []
        try:
            made = self.attach(url, records.append)
        except exceptions.TransferError as exc:
            self.assert_presentable(exc)
            return
        told = repr(made) + repr(dataclasses.asdict(made)) + repr(records)
        for secret in harness.SECRETS:
            self.assertNotIn(secret, told)
