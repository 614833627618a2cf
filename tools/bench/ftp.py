# SPDX-License-Identifier: Apache-2.0
"""Downloads over FTP, with and without TLS."""

from __future__ import annotations

from collections.abc import Iterator

from bench import curl
from bench import lab
from bench import registry


@registry.benchmark('ftp')
def ftp(here: lab.Lab) -> Iterator[registry.Row]:
    """A plain download."""
    yield from curl.beside_curl(here, 'ftp', here.vsftpd.url('/image'), 0.8)


@registry.benchmark('ftps')
def ftps(here: lab.Lab) -> Iterator[registry.Row]:
    """The same with TLS on both connections, and one session."""
    url = here.vsftpd_tls.url('/image')
    # curl has ftps begin with TLS, which RFC 4217 does not know.
    theirs = url.replace('ftps:', 'ftp:')
    yield from curl.beside_curl(
        here, 'ftps', url, 1.1, '--ssl-reqd', theirs=theirs
    )
