# SPDX-License-Identifier: Apache-2.0
"""Moves bulk data between URLs by the deployer's protocol and strategy."""

from oslo_transfer.api import attach
from oslo_transfer.api import attachments
from oslo_transfer.api import copy
from oslo_transfer.api import detach
from oslo_transfer.api import explain
from oslo_transfer.api import open_cached
from oslo_transfer.api import open_source
from oslo_transfer.credentials import Credentials
from oslo_transfer.credentials import LoginCredentials
from oslo_transfer.credentials import TokenCredentials
from oslo_transfer.drivers.base import Attachment
from oslo_transfer.exceptions import TransferError
from oslo_transfer.explanation import Explanation
from oslo_transfer.location import Location
from oslo_transfer.opts import register_opts
from oslo_transfer.result import Attempt
from oslo_transfer.result import TransferResult

__all__ = (
    'Attachment',
    'Attempt',
    'Credentials',
    'Explanation',
    'Location',
    'LoginCredentials',
    'TokenCredentials',
    'TransferError',
    'TransferResult',
    'attach',
    'attachments',
    'copy',
    'detach',
    'explain',
    'open_cached',
    'open_source',
    'register_opts',
)
