# SPDX-License-Identifier: Apache-2.0
"""Users and groups of this host, as options name them."""

from __future__ import annotations

import grp
import os
import pwd

from oslo_transfer import exceptions


def uid_of(user: str | None, option: str) -> int | None:
    """The number of a user, or None for none.

    :param user: name or number
    :param option: what named it, for the message
    :raises ConfigurationError: there is none
    """
    if not user:
        return None
    if user.isascii() and user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        raise exceptions.ConfigurationError(
            f'{option}: there is no user "{user}"'
        ) from None


def gid_of(group: str | None, option: str) -> int | None:
    """The number of a group, or None for none.

    :param group: name or number
    :param option: what named it, for the message
    :raises ConfigurationError: there is none
    """
    if not group:
        return None
    if group.isascii() and group.isdigit():
        return int(group)
    try:
        return grp.getgrnam(group).gr_gid
    except KeyError:
        raise exceptions.ConfigurationError(
            f'{option}: there is no group "{group}"'
        ) from None


def give(path: str | int, uid: int | None, gid: int | None) -> None:
    """Give a file to a user, to a group, or to both; None keeps either.

    :param path: or a descriptor
    :raises OSError: this process may not
    """
    if uid is not None or gid is not None:
        os.chown(path, -1 if uid is None else uid, -1 if gid is None else gid)
