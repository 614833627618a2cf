#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Check style and types, with the tools found in PATH. All checks are run,
# also if one of them fails.

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

failed=()
check() {
    echo "+ $*"
    "$@" || failed+=("$1")
}

check ruff check --quiet
check ruff format --check --quiet
check flake8
check doc8 --quiet README.rst CONTRIBUTING.rst HACKING.rst doc/source \
    releasenotes/source
check mypy --no-error-summary

if ((${#failed[@]})); then
    echo "lint: failed: ${failed[*]}" >&2
    exit 1
fi
