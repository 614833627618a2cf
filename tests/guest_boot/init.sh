#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The init of the guest that boots: starts what a small server starts, then
# does what it is told, line by line, through its second serial port. What it
# prints meanwhile goes to the first. The root is not written to.

export PATH=/usr/sbin:/usr/bin HOME=/run LC_ALL=C

exec </dev/null >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 run /run
mount -t tmpfs tmp /tmp

# As services do: programs with their libraries, then data.
for program in awk dmesg find gzip ip ls lsblk mount perl ps python3 sed \
    sort ss stat tar udevadm; do
    "$program" --version || "$program" -V
done >/dev/null 2>&1
cat /etc/* /usr/lib/python3.11/*.py /usr/lib/python3.11/__pycache__/* \
    /usr/lib/python3.11/lib-dynload/* >/dev/null 2>&1

echo "guest: ready after $(cut -d' ' -f1 /proc/uptime) s"
exec <>/dev/ttyS1 >&0
stty raw -echo
echo 'done 0'
while read -r line; do
    eval "$line" 2>&1
    echo "done $?"
done
