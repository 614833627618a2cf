# SPDX-License-Identifier: Apache-2.0
"""Work with the guest by hand: python -m tests.guest_lab --help."""

from __future__ import annotations

import argparse
import sys

from tests.guest_lab import image
from tests.guest_lab import machine

_SILENCE = 300.0
_HELP = """
Without a command it is a prompt: each line is run by bash in the guest,
"test FILE..." runs tests there, and the checkout is taken anew for each.
"""


def main() -> int:
    parser = argparse.ArgumentParser(
        prog='python -m tests.guest_lab', description=_HELP
    )
    parser.add_argument('action', choices=['build', 'run', 'shell'])
    parser.add_argument('command', nargs='*')
    told = parser.parse_args()
    if lacks := image.missing():
        parser.error(lacks)
    if told.action == 'build':
        print(image.ensure())
        return 0
    with machine.Machine() as guest:
        try:
            _until_done(guest, 'ready')
            if told.action == 'run':
                return _do(guest, ' '.join(told.command))
            while line := _ask():
                _do(guest, line)
        except machine.GuestDied as exc:
            print(exc, file=sys.stderr)
            return 1
    return 0


def _ask() -> str:
    try:
        return input('guest# ') or ':'
    except EOFError:
        return ''


def _do(guest: machine.Machine, line: str) -> int:
    words = line.split()
    if words[0] == 'test':
        line = 'python3 -m pytest -p no:cacheprovider ' + ' '.join(words[1:])
    guest.update()
    guest.send(script=line, update=True)
    status = _until_done(guest, 'done')
    print(f'exit status {status}')
    return status


def _until_done(guest: machine.Machine, end: str) -> int:
    for message in guest.messages(_SILENCE):
        if message['event'] == 'output':
            print(message['text'], end='', flush=True)
        elif message['event'] == end:
            return int(message.get('status', 0))
    return 1


if __name__ == '__main__':
    sys.exit(main())
