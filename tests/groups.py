# SPDX-License-Identifier: Apache-2.0
"""Functional tests come in groups, by what has to be installed for them."""

from __future__ import annotations

import os

import pytest


def is_chosen(group: str, here: bool) -> bool:
    """Whether the tests of a group are to run.

    :param here: what they need is installed; it is asked only where nobody
        has chosen groups, as ``tools/test.sh`` does
    """
    chosen = os.environ.get('OSLO_TRANSFER_TEST_GROUPS')
    return here if chosen is None else group in chosen.split()


def marks(group: str, here: bool) -> list[pytest.MarkDecorator]:
    """What marks tests of a group, see :func:`is_chosen`."""
    return [
        pytest.mark.functional,
        pytest.mark.skipif(
            not is_chosen(group, here),
            reason=f'the group "{group}" is left out',
        ),
    ]
