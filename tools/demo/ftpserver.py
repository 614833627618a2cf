# SPDX-License-Identifier: Apache-2.0
"""pyftpdlib as an FTP or FTPS server of a directory, for guests.

A program, see :class:`demo.program.Program`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import threading
import warnings

with warnings.catch_warnings():
    # What it is built on is deprecated; that is its authors' business.
    warnings.simplefilter('ignore')
    from pyftpdlib import authorizers
    from pyftpdlib import handlers
    from pyftpdlib import servers


def main() -> None:
    """Serve until the input ends."""
    parser = argparse.ArgumentParser()
    parser.add_argument('--certificate')
    parser.add_argument('root')
    arguments = parser.parse_args()
    # It would log all that happens, if nobody else had a use for it.
    log = logging.getLogger('pyftpdlib')
    log.addHandler(logging.NullHandler())
    log.propagate = False
    # It warns of guests who may write.
    warnings.simplefilter('ignore')
    authorizer = authorizers.DummyAuthorizer()
    authorizer.add_anonymous(arguments.root, perm='elradfmwMT')
    handler = handlers.FTPHandler
    if arguments.certificate:
        handler = handlers.TLS_FTPHandler
        handler.certfile = arguments.certificate
        handler.tls_control_required = True
        handler.tls_data_required = True
    handler.authorizer = authorizer
    server = servers.FTPServer(('127.0.0.1', 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.address[1], flush=True)
    sys.stdin.read()


if __name__ == '__main__':
    main()
