# SPDX-License-Identifier: Apache-2.0
"""Install pip into the virtual environment of the running interpreter.

For systems whose Python comes without ensurepip, and users who cannot
install it: a wheel of pip can be run as it is, and installs itself.
"""

from __future__ import annotations

import hashlib
import html
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import urllib.parse
import urllib.request

_INDEX = os.environ.get('PIP_INDEX_URL', 'https://pypi.org/simple')
_LINK = re.compile(r'href="([^"]+?/(pip-([0-9.]+)-py3-none-any\.whl)[^"]*)"')


def _fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=60) as answer:
        content: bytes = answer.read()
    return content


def main() -> None:
    """Fetch the newest wheel, check it, run it."""
    page = urllib.parse.urljoin(_INDEX.rstrip('/') + '/', 'pip/')
    found = _LINK.findall(_fetch(page).decode())
    if not found:
        sys.exit(f'{page} has no pip; install the package python3-venv')
    link, name, _version = max(
        found, key=lambda each: [int(part) for part in each[2].split('.')]
    )
    url = urllib.parse.urljoin(page, html.unescape(link))
    content = _fetch(url)
    expected = urllib.parse.urlsplit(url).fragment.partition('sha256=')[2]
    if hashlib.sha256(content).hexdigest() != expected:
        sys.exit(f'{name} has not the digest that {page} gives')
    with tempfile.TemporaryDirectory() as directory:
        wheel = pathlib.Path(directory) / name
        wheel.write_bytes(content)
        subprocess.run(
            [
                *(sys.executable, str(wheel / 'pip'), 'install', '--quiet'),
                *('--no-index', str(wheel)),
            ],
            check=True,
        )


main()
