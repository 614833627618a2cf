#!/bin/busybox sh
# SPDX-License-Identifier: Apache-2.0
#
# The guest's first program: finds the disks, unpacks the checkout from the
# second one over the first, and leaves the rest to what it brought.

/bin/busybox mkdir -p /proc /sys /root
/bin/busybox mount -t devtmpfs dev /dev
while read -r module; do
    /bin/busybox insmod "/$module"
done </modules
/bin/busybox mount -t ext4 -o rw /dev/vda /root
/bin/busybox mount -t tmpfs -o size=25% checkout /root/checkout
/bin/busybox tar -x -f /dev/vdb -C /root/checkout
/bin/busybox mount --move /dev /root/dev
exec /bin/busybox switch_root /root /checkout/tests/guest_lab/init.sh
