# SPDX-License-Identifier: Apache-2.0
"""``oslo-transfer serve``."""

from __future__ import annotations

import argparse
import logging

from oslo_transfer.cli import base
from oslo_transfer.service import daemon


class Serve(base.Command):
    """Run the service of this host, until SIGTERM or SIGINT.

    There is one for each host. It does what has to outlive the copies of
    other processes; what that is, its roles say:

      attach  holds attachments that outlive whoever has made them: iSCSI
              LUNs as NBD exports on unix sockets, without privileges and
              without the initiator of the kernel

      cache   serves images that arrive as they are read, block by block,
              by NBD or as files, and makes files of them once they are
              complete; see the strategy copy_on_read

      proxy   fetches what is asked of it from other datacenters once, keeps
              it, and serves it to all hosts of this one by HTTP and NBD; see
              [oslo_transfer_proxy]

      seed    sends finished files to other hosts by BitTorrent, from where
              they are, until [oslo_transfer_seed] seed_ratio or
              seed_seconds is reached, or the file changes or goes

    It stays in the foreground, logs to stderr, and is asked over the unix
    socket [oslo_transfer_service] control_socket, in HTTP and JSON. SIGHUP
    rereads the configuration. What it does is kept under state_path, so it
    can be killed and started again at any time.
    """

    examples = """\
Examples::

  oslo-transfer serve --role seed

  curl --unix-socket /run/oslo-transfer/control.sock \\
      http://localhost/v1/status
"""

    def get_parser(self, prog_name: str) -> argparse.ArgumentParser:
        """Make the parser of its arguments."""
        parser = super().get_parser(prog_name)
        parser.add_argument(
            '--role',
            action='append',
            dest='roles',
            default=[],
            choices=sorted(daemon.ROLES),
            help='what to do; may be repeated (default: the option roles of '
            '[oslo_transfer_service])',
        )
        return parser

    def take_action(self, parsed_args: argparse.Namespace) -> None:
        """Serve."""
        if not self.app.options.quiet and self.app.verbosity == 0:
            logging.getLogger().setLevel(logging.INFO)
        daemon.run(self.app.conf(), parsed_args.roles)
