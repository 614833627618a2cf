# SPDX-License-Identifier: Apache-2.0
"""A download by this library, and the same one by curl."""

from __future__ import annotations

from collections.abc import Iterator

from bench import lab
from bench import measure
from bench import registry


def beside_curl(
    here: lab.Lab,
    name: str,
    url: str,
    target: float,
    *arguments: str,
    theirs: str = '',
) -> Iterator[registry.Row]:
    """Copy the image in both ways.

    :param arguments: more of curl's
    :param theirs: curl's URL, if it is another
    """
    image, result = here.image, here.memory / 'result'
    options = {}
    if name != 'ftp':
        group = 'http' if name == 'https' else 'ftp'
        options[f'oslo_transfer_{group}.ca_file'] = here.ca_file
        arguments += ('--cacert', here.ca_file)
    found = measure.alternate(
        [
            measure.Contestant(
                'copy()',
                here.worker.job(
                    'copy', src=url, dst=str(result), options=options
                ),
                result,
                image,
                ours=True,
            ),
            measure.Contestant(
                'curl -o',
                measure.program(
                    *('curl', '-q', '-sS', *arguments),
                    *('-o', result, theirs or url),
                ),
                result,
                image,
            ),
        ],
        here.runs,
    )
    if 'curl -o' in found:
        yield registry.Row(
            name, found['copy()'], found['curl -o'], 'curl -o', target
        )
