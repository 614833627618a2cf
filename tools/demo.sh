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
# A file system with reflinks, and a BitTorrent client that others wrote.
packages=()
command -v mkfs.xfs >/dev/null || packages+=(xfsprogs)
command -v aria2c >/dev/null || packages+=(aria2)
if is_root_on_debian && ((${#packages[@]})); then
    apt_install "${packages[@]}" || true
fi

export PYTHONPATH=$PWD/tools PYTHONSAFEPATH=1
exec "$VENV/bin/python" -m demo "$@"
