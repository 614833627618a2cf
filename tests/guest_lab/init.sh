#!/bin/bash
# SPDX-License-Identifier: Apache-2.0
#
# The guest's init: starts what a hypervisor host runs, then does what it is
# told through the port "lab". What it prints goes to the console.

export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin
# Without it each import of os-brick takes four seconds more.
export EVENTLET_NO_GREENDNS=yes
export HOME=/root LC_ALL=C.UTF-8 TMPDIR=/tmp
export OSLO_TRANSFER_GUEST=1 PYTHONPATH=/checkout PYTHONDONTWRITEBYTECODE=1

exec </dev/null >/dev/console 2>&1
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t tmpfs -o mode=755 run /run
mkdir -p /dev/pts /dev/shm /run/lock /run/sendsigs.omit.d
mount -t devpts pts /dev/pts
mount -t tmpfs shm /dev/shm
mount -t tmpfs -o size=60%,mode=1777 tmp /tmp
hostname guest
ip link set lo up
# Who is not there is known after a moment, and not after three seconds.
echo 200 >/proc/sys/net/ipv4/neigh/default/retrans_time_ms
ln -sfn /proc/self/mounts /etc/mtab

/lib/systemd/systemd-udevd --daemon
modprobe -a virtio_console sd_mod iscsi_tcp dm_multipath dm_round_robin \
    target_core_mod
# The port; nothing else of the machine is needed.
udevadm trigger --action=add --subsystem-match=virtio-ports
udevadm settle --timeout=30
mount -t configfs config /sys/kernel/config
mkdir -p /etc/rtslib-fb-target
echo /etc/rtslib-fb-target >/sys/kernel/config/target/dbroot

[[ -s /etc/iscsi/initiatorname.iscsi ]] ||
    echo "InitiatorName=$(iscsi-iname)" >/etc/iscsi/initiatorname.iscsi
# As the README of open-iscsi has it for multipath: notice a dead path soon.
sed -i -E -e 's/^(.*noop_out_(interval|timeout)) = .*/\1 = 2/' \
    -e 's/^(.*replacement_timeout) = .*/\1 = 5/' /etc/iscsi/iscsid.conf
cp /checkout/tests/guest_lab/multipath.conf /etc/multipath.conf
iscsid
multipathd

echo "guest: ready after $(cut -d' ' -f1 /proc/uptime) s"
python3 -m tests.guest_lab.agent
echo "guest: the agent ended with $?"
echo o >/proc/sysrq-trigger
sleep 60
