#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Build a wheel of this checkout and see that it has what it should."""

import configparser
import pathlib
import shutil
import subprocess
import sys
import tempfile
import tomllib
import zipfile

TOP = pathlib.Path(__file__).resolve().parent.parent


def main() -> int:
    """Print what is wrong; return the exit status."""
    # setuptools would take stale modules from an earlier build.
    shutil.rmtree(TOP / 'build', ignore_errors=True)
    with tempfile.TemporaryDirectory() as directory:
        subprocess.run(
            [
                *(sys.executable, '-m', 'pip', 'wheel', '--quiet'),
                *('--no-deps', '--no-build-isolation'),
                *('--wheel-dir', directory, str(TOP)),
            ],
            check=True,
        )
        shutil.rmtree(TOP / 'build', ignore_errors=True)
        (path,) = pathlib.Path(directory).iterdir()
        with zipfile.ZipFile(path) as wheel:
            shipped = set(wheel.namelist())
            points = configparser.ConfigParser(delimiters='=')
            points.optionxform = str  # type: ignore[assignment]
            (name,) = (n for n in shipped if n.endswith('/entry_points.txt'))
            points.read_string(wheel.read(name).decode())

    problems = []
    # What an installation puts beside the packages, as /etc.
    data = {
        name.split('.data/data/')[1]
        for name in shipped
        if '.data/data/' in name
    }
    tracked = subprocess.run(
        ['git', 'ls-files', 'oslo_transfer', 'etc'],
        cwd=TOP,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    for name in sorted(set(tracked) - shipped - data):
        problems.append(f'{name} is missing')
    for name in sorted(shipped):
        top = name.split('/', 1)[0]
        if top != 'oslo_transfer' and not top.endswith(
            ('.dist-info', '.data')
        ):
            problems.append(f'{name} does not belong there')

    project = tomllib.loads((TOP / 'pyproject.toml').read_text())['project']
    groups = dict(project['entry-points'])
    groups['console_scripts'] = project['scripts']
    for group, entries in groups.items():
        for name in entries:
            if not points.has_option(group, name):
                problems.append(f'entry point {name} of {group} is missing')

    for problem in problems:
        print(f'{path.name}: {problem}', file=sys.stderr)
    return 1 if problems else 0


if __name__ == '__main__':
    sys.exit(main())
