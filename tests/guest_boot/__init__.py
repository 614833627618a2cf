# SPDX-License-Identifier: Apache-2.0
"""A virtual machine that boots from a disk which we export.

Its kernel, and what is on its disk, are those of tests/guest_lab; the kernel
is handed to QEMU, as OpenStack does for images without a boot loader.
"""
