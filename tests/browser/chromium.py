# SPDX-License-Identifier: Apache-2.0
"""Chromium without a screen, asked over the DevTools protocol.

https://chromedevtools.github.io/devtools-protocol/ says what can be asked.
Messages go through a pipe, so nobody else can ask.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from collections.abc import Mapping
import contextlib
import json
import os
import pathlib
import select
import shutil
import signal
import subprocess
import tempfile
import time
import typing

from tests import waiting

PROGRAM = 'chromium'
_PATIENCE = 60.0
_FLAGS = (
    '--headless',
    '--remote-debugging-pipe',
    '--disable-gpu',
    '--disable-dev-shm-usage',
    '--disable-extensions',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--force-device-scale-factor=1',
    '--hide-scrollbars',
    '--lang=en',
    '--no-default-browser-check',
    '--no-first-run',
    '--no-proxy-server',
    # There is no internet.
    '--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1',
)
# It reads from 3 and writes to 4.
_PIPE = 'exec "$@" 3<&0 4>&1 0</dev/null 1>&2'
# Runs before any script of the page does.
_WATCH = """
    window.violations = [];
    document.addEventListener('securitypolicyviolation', (event) =>
        violations.push(`${event.effectiveDirective} ${event.blockedURI}`));
"""

Json = dict[str, typing.Any]


def is_installed() -> bool:
    """Whether there is one."""
    return shutil.which(PROGRAM) is not None


class Chromium:
    """A browser with a profile of its own, while it is entered.

    For one thread.
    """

    def __init__(self) -> None:
        self._stack = contextlib.ExitStack()
        self._buffer = b''
        self._number = 0
        self.events: list[Json] = []

    def __enter__(self) -> typing.Self:
        with contextlib.ExitStack() as stack:
            profile = stack.enter_context(
                tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
            )
            self._log = pathlib.Path(profile, 'log')
            command = ['sh', '-c', _PIPE, 'sh', PROGRAM, *_FLAGS]
            command.append(f'--user-data-dir={profile}')
            if os.geteuid() == 0:
                # Its sandbox is not for root.
                command.append('--no-sandbox')
            if setpriv := shutil.which('setpriv'):
                command = [setpriv, '--pdeathsig', 'KILL', *command]
            with open(self._log, 'wb') as log:
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    # Caches stay in the profile.
                    env={**os.environ, 'HOME': profile},
                    start_new_session=True,
                )
            stack.callback(self._end)
            self.call('Browser.getVersion')
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_exc: object) -> None:
        self._stack.close()

    def _end(self) -> None:
        with contextlib.suppress(OSError, EOFError, TimeoutError):
            self.call('Browser.close')
        try:
            self._process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(BrokenPipeError):
                pipe.close()

    def call(
        self,
        method: str,
        params: Mapping[str, typing.Any] | None = None,
        session: str | None = None,
    ) -> Json:
        """Ask for something, and wait for the answer.

        :raises RuntimeError: it says what is wrong
        :raises TimeoutError: there is no answer
        """
        self._number += 1
        message = {'id': self._number, 'method': method}
        message['params'] = params or {}
        if session:
            message['sessionId'] = session
        pipe = self._process.stdin
        assert pipe is not None
        pipe.write(json.dumps(message).encode() + b'\0')
        pipe.flush()
        end = time.monotonic() + _PATIENCE
        while (answer := self._receive(end)).get('id') != self._number:
            self.events.append(answer)
        if 'error' in answer:
            raise RuntimeError(f'{method}: {answer["error"]}')
        result: Json = answer['result']
        return result

    def _receive(self, end: float) -> Json:
        pipe = self._process.stdout
        assert pipe is not None
        while b'\0' not in self._buffer:
            left = max(0.0, end - time.monotonic())
            if not select.select([pipe], [], [], left)[0]:
                raise TimeoutError('Chromium does not answer')
            data = os.read(pipe.fileno(), 1 << 20)
            if not data:
                raise EOFError(self._log.read_text(errors='replace'))
            self._buffer += data
        message, _, self._buffer = self._buffer.partition(b'\0')
        found: Json = json.loads(message)
        return found

    @contextlib.contextmanager
    def page(self, width: int = 1100, height: int = 900) -> Iterator[Page]:
        """A window that shares nothing with others."""
        context = self.call('Target.createBrowserContext')['browserContextId']
        try:
            target = self.call(
                'Target.createTarget',
                {'url': 'about:blank', 'browserContextId': context},
            )['targetId']
            session = self.call(
                'Target.attachToTarget', {'targetId': target, 'flatten': True}
            )['sessionId']
            self.events.clear()
            page = Page(self, session)
            for name in ('Page', 'Runtime', 'Log', 'Network'):
                page.call(f'{name}.enable')
            page.call('Page.addScriptToEvaluateOnNewDocument', source=_WATCH)
            page.resize(width, height)
            yield page
        finally:
            self.call(
                'Target.disposeBrowserContext', {'browserContextId': context}
            )


class Page:
    """What a window shows."""

    def __init__(self, browser: Chromium, session: str) -> None:
        self._browser = browser
        self._session = session

    def call(self, method: str, **params: typing.Any) -> Json:
        """Ask for something of this window, see :class:`Chromium`."""
        return self._browser.call(method, params, self._session)

    def resize(self, width: int, height: int) -> None:
        """Be as large as a window of so many pixels."""
        self.call(
            'Emulation.setDeviceMetricsOverride',
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=False,
        )

    def prefer(self, **features: str) -> None:
        """Be a person's who prefers something, as ``color_scheme='dark'``."""
        self.call(
            'Emulation.setEmulatedMedia',
            features=[
                {'name': f'prefers-{name.replace("_", "-")}', 'value': value}
                for name, value in features.items()
            ],
        )

    def open(self, url: str) -> None:
        """Go somewhere, and wait for it."""
        failed = self.call('Page.navigate', url=url).get('errorText')
        assert not failed, f'{url}: {failed}'
        self.wait('document.readyState === "complete"')

    def evaluate(self, script: str) -> typing.Any:
        """The value of an expression; of a promise, what it is kept with.

        :raises RuntimeError: it throws
        """
        answer = self.call(
            'Runtime.evaluate',
            expression=script,
            awaitPromise=True,
            returnByValue=True,
            # By default the policy of the page would not count.
            allowUnsafeEvalBlockedByCSP=False,
        )
        if 'exceptionDetails' in answer:
            raise RuntimeError(f'{script}: {answer["exceptionDetails"]}')
        return answer['result'].get('value')

    def wait(self, script: str) -> None:
        """Wait until an expression is true."""
        waiting.until(lambda: self.evaluate(script))

    def shows(self, selector: str, text: str = '') -> None:
        """Wait until a text is to be read somewhere, or any text."""
        waiting.until(lambda: text in (found := self.text(selector)) and found)

    def text(self, selector: str) -> str:
        """What is to be read somewhere; '' where there is nothing."""
        found: str = self.evaluate(
            f'document.querySelector({json.dumps(selector)})?.innerText ?? ""'
        )
        return found

    def write(self, selector: str, text: str) -> None:
        """Type into a field."""
        self.evaluate(
            f'document.querySelector({json.dumps(selector)}).focus()'
        )
        self.call('Input.insertText', text=text)

    def press(self, key: str, code: int, text: str = '') -> None:
        """Press a key and let it go."""
        for kind in ('keyDown', 'keyUp'):
            self.call(
                'Input.dispatchKeyEvent',
                type=kind,
                key=key,
                code=key,
                windowsVirtualKeyCode=code,
                text=text if kind == 'keyDown' else '',
            )

    def click(self, selector: str) -> None:
        """Click on what can be clicked on."""
        self.evaluate(
            f'document.querySelector({json.dumps(selector)}).click()'
        )

    def happened(self, method: str) -> list[Json]:
        """What the browser told of this window."""
        # So that all is here that was told before.
        self.evaluate('0')
        return [
            event['params']
            for event in self._browser.events
            if event.get('method') == method
            and event.get('sessionId') == self._session
        ]

    def complaints(self) -> list[typing.Any]:
        """Errors of scripts, and what the policy of the page forbade."""
        entries = [e['entry'] for e in self.happened('Log.entryAdded')]
        return [
            *self.happened('Runtime.exceptionThrown'),
            *self.happened('Runtime.consoleAPICalled'),
            # An answer that is an error is no error of the page.
            *(
                entry
                for entry in entries
                if entry['source'] != 'network' and entry['level'] == 'error'
            ),
            *self.evaluate('violations'),
        ]

    def requests(self) -> list[Json]:
        """What the page asked for, as the protocol has it."""
        events = self.happened('Network.requestWillBeSent')
        return [event['request'] for event in events]

    def names(self, role: str) -> list[str]:
        """What a screen reader calls all elements of a role."""
        nodes = self.call('Accessibility.getFullAXTree')['nodes']
        return [
            node['name']['value']
            for node in nodes
            if not node['ignored'] and node['role']['value'] == role
        ]

    def screenshot(self, path: pathlib.Path) -> None:
        """Keep a picture of what the window shows, as PNG."""
        data = self.call('Page.captureScreenshot', format='png')['data']
        path.write_bytes(base64.b64decode(data))
