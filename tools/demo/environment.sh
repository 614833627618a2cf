# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash
#
# Sourced by tools/demo.sh and tools/bench.sh: makes a virtual environment
# with the package of this checkout, and installs packages of Debian.

export PIP_DISABLE_PIP_VERSION_CHECK=1
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

readonly POLICY=/usr/sbin/policy-rc.d
made_policy=

remove_policy() {
    if [[ $made_policy ]]; then
        rm -f "$POLICY"
        made_policy=
    fi
}
trap remove_policy EXIT

die() {
    echo "$0: $*" >&2
    exit 1
}

# Show the output of a command only if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    if ((status)); then
        cat "$log" >&2
    fi
    rm -f "$log"
    return "$status"
}

is_root_on_debian() {
    [[ $(id -u) == 0 && -e /etc/debian_version ]] && command -v apt-get \
        >/dev/null
}

apt_install() {
    # No package starts its daemon meanwhile.
    if [[ ! -e $POLICY ]]; then
        made_policy=1
        printf '#!/bin/sh\nexit 101\n' >"$POLICY"
        chmod +x "$POLICY"
    fi
    export DEBIAN_FRONTEND=noninteractive
    echo "installing: $*"
    local status=0
    quietly apt-get -q -o Acquire::Retries=3 update &&
        quietly apt-get -q -y -o Acquire::Retries=3 install \
            --no-install-recommends "$@" || status=$?
    remove_policy
    return "$status"
}

# Whether an interpreter works, is new enough and has the given modules.
python_has() {
    local python=$1
    shift
    "$python" -c "
import importlib, sys
if sys.version_info < (3, 11):
    sys.exit(1)
for name in sys.argv[1:]:
    importlib.import_module(name)
" "$@" >/dev/null 2>&1
}

find_python() {
    local modules python
    if [[ ${PYTHON:-} ]]; then
        python_has "$PYTHON" || die "PYTHON=$PYTHON is not Python >= 3.11"
        echo "$PYTHON"
        return
    fi
    for modules in 'ensurepip venv' venv ''; do
        for python in python3.13 python3.12 python3.11 python3; do
            # shellcheck disable=SC2086
            if python_has "$python" $modules; then
                echo "$python"
                return
            fi
        done
    done
    die 'no Python >= 3.11 found; set PYTHON'
}

# Debian has ensurepip in a package of its own: install that, or do without.
new_venv() {
    local python=$1 venv=$2
    if ! python_has "$python" ensurepip venv && is_root_on_debian; then
        apt_install python3-venv || true
    fi
    if python_has "$python" ensurepip venv; then
        "$python" -m venv --clear "$venv"
    elif python_has "$python" venv; then
        "$python" -m venv --clear --without-pip "$venv"
        "$venv/bin/python" tools/demo/get_pip.py
    else
        die "$python cannot make virtual environments; install python3-venv"
    fi
}

# Make a virtual environment with the package, if it is not there already.
#
#   make_venv DIRECTORY [further requirement ...]
make_venv() {
    local venv=$1 python stamp
    shift
    python=$(find_python)
    stamp=$(
        "$python" -c 'import sys; print(sys.version, sys.base_prefix)'
        echo "$PWD $*"
        sha256sum pyproject.toml setup.cfg requirements.txt
    )
    if [[ -e $venv/stamp && $(<"$venv/stamp") == "$stamp" ]]; then
        return
    fi
    echo "making $venv with $("$python" --version)"
    new_venv "$python" "$venv"
    # Without isolation a build needs pbr and setuptools here, and is faster.
    quietly "$venv/bin/python" -m pip install --quiet --upgrade pip \
        'pbr>=6.1.1' 'setuptools>=77.0.3'
    quietly "$venv/bin/python" -m pip install --quiet \
        --no-build-isolation --editable '.[all]' "$@"
    echo "$stamp" >"$venv/stamp"
}
