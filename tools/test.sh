#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# All checks and all tests of this checkout, in a virtual environment of its
# own. See doc/source/contributor/testing.rst.
#
#   tools/test.sh [--campaign] [argument of pytest ...]
#
# With arguments that select tests (a path, -k or -m) only tests are run.
#
#   PYTHON    the interpreter to use; otherwise a suitable one is looked for
#   CI=true   a group of functional tests that cannot run is an error

set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly VENV=$PWD/.venv-test
readonly POLICY=/usr/sbin/policy-rc.d
# The groups of functional tests. Group NAME has its packages in the profile
# functional-NAME of bindep.txt.
readonly GROUPS_ALL=(bittorrent browser cache file ftp guest http iscsi nbd proxy
    sftp)
declare -rA GROUP_COMMANDS=(
    [bittorrent]='aria2c curl ip opentracker tc transmission-daemon'
    [browser]='chromium nginx'
    [cache]='aria2c curl fio fusermount3 nbdcopy nbdfuse nbdinfo nbdkit nginx
        qemu-img qemu-io qemu-storage-daemon qemu-system-x86_64 wget'
    [file]='busybox fusermount3 losetup mkfs.btrfs mkfs.ext4 mkfs.xfs nbdfuse
        nbdkit qemu-img strace'
    [ftp]='vsftpd'
    [guest]='debugfs ip mke2fs mmdebstrap nginx qemu-img qemu-system-x86_64
        setpriv tc'
    [http]='nginx squid'
    [iscsi]='fusermount3 nbdcopy nbdfuse qemu-img qemu-nbd tgtd'
    [nbd]='nbdcopy nbdinfo nbdkit qemu-img qemu-nbd'
    [proxy]='ip nginx qemu-img qemu-io tc'
    [sftp]='ssh-agent sshd'
)

export PIP_DISABLE_PIP_VERSION_CHECK=1
PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin

made_policy=

die() {
    echo "tools/test.sh: $*" >&2
    exit 1
}

clean_up() {
    local pids
    pids=$(jobs -p)
    if [[ $pids ]]; then
        # shellcheck disable=SC2086
        kill $pids 2>/dev/null || true
    fi
    if [[ $made_policy ]]; then
        rm -f "$POLICY"
        made_policy=
    fi
}
trap clean_up EXIT

# Say what is done and how long it took.
step() {
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    "$@"
    echo "== $name: $((SECONDS - start)) s"
}

# Run functions at once; show the output of each when it has ended.
together() {
    local name failed=
    local -A logs pids
    for name; do
        logs[$name]=$(mktemp)
        "$name" >"${logs[$name]}" 2>&1 &
        pids[$name]=$!
    done
    for name; do
        wait "${pids[$name]}" || failed=1
        cat "${logs[$name]}"
        rm -f "${logs[$name]}"
    done
    [[ ! $failed ]] || die 'checks failed, see above'
}

# Show the output of a command only if it fails.
quietly() {
    local log
    log=$(mktemp)
    if ! "$@" >"$log" 2>&1; then
        cat "$log" >&2
        rm -f "$log"
        die "failed: $*"
    fi
    rm -f "$log"
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
    quietly apt-get -q -o Acquire::Retries=3 update
    quietly apt-get -q -y -o Acquire::Retries=3 install \
        --no-install-recommends "$@"
    if [[ $made_policy ]]; then
        rm -f "$POLICY"
        made_policy=
    fi
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
    local python
    if [[ ${PYTHON:-} ]]; then
        python_has "$PYTHON" || die "PYTHON=$PYTHON is not Python >= 3.11"
        echo "$PYTHON"
        return
    fi
    for python in python3.13 python3.12 python3.11 python3; do
        if python_has "$python" ensurepip venv; then
            echo "$python"
            return
        fi
    done
    for python in python3.13 python3.12 python3.11 python3; do
        if python_has "$python"; then
            echo "$python"
            return
        fi
    done
    die 'no Python >= 3.11 found; set PYTHON'
}

# Debian has ensurepip in a package of its own.
need_venv() {
    python_has "$1" ensurepip venv && return
    is_root_on_debian || die "$1 cannot make virtual environments; install" \
        'the package python3-venv'
    apt_install python3-venv
    python_has "$1" ensurepip venv ||
        die "$1 cannot make virtual environments"
}

make_venv() {
    local python stamp
    python=$(find_python)
    need_venv "$python"
    stamp=$(
        "$python" -c 'import sys; print(sys.version, sys.base_prefix)'
        echo "$PWD"
        sha256sum pyproject.toml setup.cfg requirements.txt \
            test-requirements.txt doc/requirements.txt
    )
    if [[ -e $VENV/stamp && $(<"$VENV/stamp") == "$stamp" ]]; then
        echo "$VENV is up to date"
        return
    fi
    "$python" --version
    "$python" -m venv --clear "$VENV"
    # Without isolation a build needs pbr and setuptools here, and is faster.
    # What is never imported need not be compiled.
    quietly "$VENV/bin/pip" install --quiet --no-compile --upgrade pip \
        'pbr>=6.1.1' 'setuptools>=77.0.3'
    quietly "$VENV/bin/pip" install --quiet --no-compile \
        --no-build-isolation --editable '.[all]' -r test-requirements.txt \
        -r doc/requirements.txt 'bindep>=2.11'
    echo "$stamp" >"$VENV/stamp"
}

install_packages() {
    local -a missing profiles=(test "${GROUPS_ALL[@]/#/functional-}")
    is_root_on_debian || return 0
    # bindep lists what is missing, and fails then.
    mapfile -t missing < <("$VENV/bin/bindep" --brief "${profiles[@]}")
    ((${#missing[@]})) || return 0
    echo "installing: ${missing[*]}"
    apt_install "${missing[@]}"
}

# Why a group of functional tests cannot run here; nothing if it can.
group_lacks() {
    local command lacks=()
    if [[ $1 == @(bittorrent|file|guest|proxy) && $(id -u) != 0 ]]; then
        lacks+=(root)
    fi
    for command in ${GROUP_COMMANDS[$1]}; do
        command -v "$command" >/dev/null || lacks+=("$command")
    done
    echo "${lacks[*]}"
}

choose_groups() {
    local group lacks groups=() left_out=0
    for group in "${GROUPS_ALL[@]}"; do
        lacks=$(group_lacks "$group")
        if [[ $lacks ]]; then
            echo "functional tests left out: $group (missing: $lacks)"
            left_out=1
        else
            groups+=("$group")
        fi
    done
    if [[ $left_out == 1 && ${CI:-} == true ]]; then
        die 'with CI=true no group may be left out'
    fi
    export OSLO_TRANSFER_TEST_GROUPS="${groups[*]}"
    echo "functional tests to run: ${OSLO_TRANSFER_TEST_GROUPS:-none}"
}

build_docs() {
    rm -rf doc/source/reference/api
    sphinx-build -q -W --keep-going --no-color -b html doc/source \
        doc/build/html
    reno -q lint
    if [[ $(git rev-parse --is-shallow-repository) == true ]]; then
        echo 'release notes not built: their history is not in a shallow clone'
    else
        sphinx-build -q -W --keep-going --no-color -b html \
            releasenotes/source releasenotes/build/html
    fi
}

check_config() {
    local sample
    sample=$(mktemp)
    oslo-config-generator --namespace oslo.transfer --output-file "$sample"
    grep -q '^\[oslo_transfer\]$' "$sample" ||
        die 'the sample configuration has no group [oslo_transfer]'
    oslo-config-validator --namespace oslo.transfer --input-file "$sample"
    rm -f "$sample"
}

checks_of_code() {
    step lint tools/lint.sh
    step wheel python tools/check_wheel.py
    step configuration check_config
}

checks_of_docs() {
    step documentation build_docs
}

# Whether arguments of pytest select tests.
selects_tests() {
    local argument
    for argument; do
        case $argument in
        -k* | -m*) return 0 ;;
        -*) ;;
        *) [[ -e ${argument%%::*} ]] && return 0 ;;
        esac
    done
    return 1
}

# Whether so few tests have failed that the machine may be to blame.
few_failed() {
    local failed
    failed=$(grep -c '": true' .pytest_cache/v/cache/lastfailed)
    ((failed <= 3))
}

arguments=()
for argument; do
    case $argument in
    --campaign) export OSLO_TRANSFER_CAMPAIGN=1 ;;
    *) arguments+=("$argument") ;;
    esac
done

step environment make_venv
PATH=$VENV/bin:$PATH
step packages install_packages
choose_groups
if ! selects_tests "${arguments[@]}"; then
    together checks_of_code checks_of_docs
fi
echo "== tests, after $SECONDS s"
status=0
pytest -n 2 --dist loadgroup "${arguments[@]}" || status=$?
# Time limits that are promised to users are tested against the clock, and a
# machine that is busy elsewhere breaks them. A few tests that failed get a
# second look, alone; what fails then, too, is broken.
if [[ $status == 1 && ${#arguments[@]} == 0 ]] && few_failed; then
    echo '== tests that failed, once more and alone'
    status=0
    pytest -n 0 --last-failed --last-failed-no-failures none || status=$?
fi
# The last lines are pytest's own.
exit "$status"
