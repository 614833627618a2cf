#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# The booted guest's first program: the root is the disk, and is not written
# to.

/bin/busybox mkdir -p /proc /sys /root
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do
    /bin/busybox insmod "/$module"
done </modules
/bin/busybox mount -t ext4 -o ro /dev/vda /root
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /usr/sbin/init-boot
