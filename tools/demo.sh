#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Show what the library does: copy images over every protocol that it has,
# from and to servers on this host, in a virtual environment of its own.
#
#   tools/demo.sh [--size MIB]
#
# It needs neither root nor packages of the system; a row that does says
# what it waits for. As root on Debian that is installed.
#
#   PYTHON    the interpreter to use; otherwise a suitable one is looked for

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/demo/environment.sh

readonly VENV=$PWD/.venv-demo

# cryptography makes the certificate of the servers with TLS, pyftpdlib is
# the FTP server, and has its TLS from pyopenssl.
make_venv "$VENV" 'cryptography>=43.0.0' 'pyftpdlib>=2.1.0' \
    'pyopenssl>=24.3.0'
# A file system with reflinks; a BitTorrent client and an iSCSI target that
# others wrote; what attaches; a virtual machine with a kernel's initiator.
packages=()
for pair in mkfs.xfs:xfsprogs aria2c:aria2 tgtd:tgt qemu-img:qemu-utils \
    nbdfuse:libnbd-bin fusermount3:fuse3 qemu-system-x86_64:qemu-system-x86 \
    mmdebstrap:mmdebstrap mke2fs:e2fsprogs; do
    command -v "${pair%:*}" >/dev/null || packages+=("${pair#*:}")
done
# Libraries only: qemu-block-extra is QEMU's driver, and has the other one.
compgen -G '/usr/lib/*/qemu/block-iscsi.so' >/dev/null ||
    packages+=(qemu-block-extra libiscsi7)
if is_root_on_debian && ((${#packages[@]})); then
    apt_install "${packages[@]}" || true
fi

export PYTHONPATH=$PWD/tools PYTHONSAFEPATH=1
exec "$VENV/bin/python" -m demo "$@"
