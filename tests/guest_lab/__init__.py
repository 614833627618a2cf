# SPDX-License-Identifier: Apache-2.0
"""A virtual machine for tests of what the host's kernel may not have.

Debian with a kernel initiator, two targets, multipath, an NFS server and
device mapper, run by QEMU without KVM. See contributor/testing.
"""
