#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Compare this checkout with the tools that a user would pick instead, in a
# virtual environment of its own. See doc/source/performance/index.rst.
#
#   tools/bench.sh [--json FILE] [--runs N] [--size MIB] [NAME ...]
#
# As root on Debian, peers that are missing are installed. Without them some
# rows are left out.
#
#   PYTHON    the interpreter to use; otherwise a suitable one is looked for

set -euo pipefail
here=$PWD
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. tools/demo/environment.sh

readonly VENV=$PWD/.venv-bench

make_venv "$VENV" 'bindep>=2.11'
# bindep lists what is missing, and fails then.
mapfile -t missing < <("$VENV/bin/bindep" --brief bench)
if ((${#missing[@]})); then
    if is_root_on_debian; then
        apt_install "${missing[@]}" || true
    else
        echo "rows will be left out for want of: ${missing[*]}"
    fi
fi

# Benchmarks use servers of the tests. Paths are those of the caller.
export PYTHONPATH=$PWD/tools:$PWD PYTHONSAFEPATH=1
cd "$here"
exec "$VENV/bin/python" -m bench "$@"
