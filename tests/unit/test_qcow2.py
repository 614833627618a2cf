# SPDX-License-Identifier: Apache-2.0
"""What leads to what is read from the header, and from nowhere else."""

from __future__ import annotations

import subprocess

from hypothesis import given
from hypothesis import strategies as st
import pytest

from oslo_transfer import exceptions
from oslo_transfer import qcow2
from oslo_transfer import qemu_img


def create(path, *words):
    subprocess.run(
        ['qemu-img', 'create', '-q', '-f', 'qcow2', *words[:-1], path]
        + [words[-1]],
        check=True,
    )
    return str(path)


@pytest.mark.parametrize('compat', ['0.10', '1.1'])
@pytest.mark.parametrize('form', ['raw', 'qcow2'])
def test_an_overlay(compat, form, tmp_path):
    overlay = create(
        tmp_path / 'overlay',
        *('-u', '-o', f'compat={compat}', '-b', '/x/y z', '-F', form, '1M'),
    )
    assert qcow2.backing(overlay) == ('/x/y z', form)


def test_no_overlay(tmp_path):
    assert qcow2.backing(create(tmp_path / 'alone', '1M')) is None
    (tmp_path / 'raw').write_bytes(b'QFI' + bytes(4096))
    assert qcow2.backing(str(tmp_path / 'raw')) is None


def test_rebasing(tmp_path):
    overlay = create(
        tmp_path / 'overlay', '-u', '-b', '/old', '-F', 'raw', '1M'
    )
    qemu_img.rebase(overlay, '/new', 'raw')
    assert qcow2.backing(overlay) == ('/new', 'raw')


def test_one_that_is_in_use_is_not_rebased(tmp_path):
    overlay = create(tmp_path / 'overlay', '1M')
    with subprocess.Popen(
        ['qemu-io', '-f', 'qcow2', overlay],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as guest:
        # It has its lock once it answers.
        guest.stdin.write(b'length\n')
        guest.stdin.flush()
        assert guest.stdout.readline()
        with pytest.raises(exceptions.DetachError, match='in use'):
            qemu_img.rebase(overlay, '/new', 'raw')
        guest.communicate(b'quit\n')
    assert qcow2.backing(overlay) is None


def test_nothing_there(tmp_path):
    with pytest.raises(exceptions.NotFound):
        qcow2.backing(str(tmp_path / 'nothing'))
    with pytest.raises(exceptions.StorageError):
        qemu_img.rebase(str(tmp_path / 'nothing'), '/new', 'raw')


@given(data=st.data())
def test_whatever_stands_there(data, tmp_path_factory):
    """A header that was tampered with is refused, or leads somewhere."""
    path = tmp_path_factory.mktemp('any') / 'overlay'
    head = bytearray(b'QFI\xfb\0\0\0\3' + bytes(4088))
    for at, count in ((8, 8), (16, 4), (100, 4), (104, 64)):
        some = data.draw(st.binary(min_size=count, max_size=count))
        head[at : at + count] = some
    path.write_bytes(head)
    try:
        found = qcow2.backing(str(path))
    except exceptions.IntegrityError:
        return
    assert found is None or isinstance(found.name, str)
