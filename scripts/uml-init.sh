#!/bin/bash
# First process of the User-Mode Linux of scripts/uml.ts: mounts, modules, then the file $PAYLOAD.
set -e
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C
mount -t proc proc /proc
# Whatever fails: the machine is switched off, and does not panic because its first process is gone.
trap 'sync; echo o > /proc/sysrq-trigger; sleep 5' EXIT
mount -t sysfs sys /sys
mount -t tmpfs tmpfs /run
mkdir -p /run/tmp /run/netns /run/lock /run/modules/lib/modules /run/bin
ip link set lo up
# The kernel loads its modules by itself, once it knows where they are.
release=$(uname -r)
ln -s "/usr/lib/uml/modules/$release" "/run/modules/lib/modules/$release"
printf '#!/bin/sh\nexec /sbin/modprobe -S %s -d /run/modules "$@"\n' "$release" > /run/bin/modprobe
chmod 755 /run/bin/modprobe
echo /run/bin/modprobe > /proc/sys/kernel/modprobe
# This kernel's nf_tables lacks the family ip: the legacy variant is the one that works.
for tool in iptables iptables-restore iptables-save ip6tables ip6tables-restore ip6tables-save; do
  ln -s /usr/sbin/xtables-legacy-multi /run/bin/$tool
done
export PATH=/run/bin:$PATH XTABLES_LOCKFILE=/run/xtables.lock TMPDIR=/run/tmp
. "$PAYLOAD" || true
echo "UML DONE"
