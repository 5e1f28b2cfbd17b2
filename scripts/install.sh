#!/bin/sh
# Installs shoal on a host: one binary and a systemd unit beside the Docker Engine that is there.
#
#   install.sh [--binary FILE | --url URL] [--sha256 HEX]   check the host, then install and start
#   install.sh --check                                      only check, change nothing
#   install.sh --uninstall [--force]                        stop, and remove all that was installed
#
#   --binary FILE   default: shoal beside this script, or the checkout's dist/shoal
#   --url URL       fetch the binary by curl; give --sha256 too, unless you trust the way it comes
#   --no-start      install only
#   --root DIR      install below DIR (an image being built): no check of this host, nothing started
#   --force         --uninstall of a node that is still in a cluster
#
# POSIX sh, so that it runs on any distribution. Installing again upgrades: the file is replaced, the
# agent restarted; containers and packets go on meanwhile.
set -eu

root=
binary=
url=
sha256=
action=install
start=1
force=0

fail() { echo "install: $*" >&2; exit 1; }
need_value() { [ $# -ge 2 ] || fail "$1 needs a value"; }
while [ $# -gt 0 ]; do
  case $1 in
    --binary) need_value "$@"; binary=$2; shift ;;
    --url) need_value "$@"; url=$2; shift ;;
    --sha256) need_value "$@"; sha256=$2; shift ;;
    --root) need_value "$@"; root=${2%/}; shift ;;
    --check) action=check ;;
    --uninstall) action=uninstall ;;
    --no-start) start=0 ;;
    --force) force=1 ;;
    -h | --help) sed -n '2,/^set -eu/{/^set/d;s/^# \{0,1\}//;p}' "$0"; exit 0 ;;
    *) fail "unknown option $1; see --help" ;;
  esac
  shift
done

program=/usr/local/bin/shoal
unit=/etc/systemd/system/shoal.service
state=/var/lib/shoal
sockets=/run/shoal

has() { PATH="$PATH:/usr/sbin:/sbin" command -v "$1" >/dev/null 2>&1; }
runs_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ] && has systemctl; }

# ---- what the host must have ----------------------------------------------------------------------
problems=0
good() { printf '  ok       %s\n' "$1"; }
bad() { printf '  MISSING  %s: %s\n' "$1" "$2"; problems=$((problems + 1)); }
note() { printf '  note     %s\n' "$1"; }

check_tool() { # command, package
  if has "$1"; then good "$1"; else bad "$1" "install package $2"; fi
}

# Runs a probe in a network namespace that ends with it, so that nothing of it stays.
probe() { # name, cure, command…
  name=$1 cure=$2; shift 2
  if output=$(PATH="$PATH:/usr/sbin:/sbin" unshare --net -- "$@" 2>&1); then good "$name"
  else bad "$name" "$cure ($(printf '%s' "$output" | head -n 1))"; fi
}

check_engine() {
  socket=/run/docker.sock
  if ! has docker; then
    bad "docker" "install package docker.io (Debian, Ubuntu) or docker-ce"
    return
  fi
  version=$(docker -H unix://$socket version -f '{{.Server.Version}}' 2>/dev/null || true)
  if [ -z "$version" ]; then
    bad "Docker Engine" "it does not answer on $socket; start it: systemctl enable --now docker"
    return
  fi
  major=${version%%.*}
  rest=${version#*.}
  minor=${rest%%.*}
  if [ "$major" -gt 20 ] || { [ "$major" = 20 ] && [ "$minor" -ge 10 ]; }; then good "Docker Engine $version"
  else bad "Docker Engine 20.10 or later" "found $version; upgrade it"; fi
  case $(docker -H unix://$socket info -f '{{.Swarm.LocalNodeState}} {{.LiveRestoreEnabled}}' 2>/dev/null) in
    inactive\ true) ;;
    inactive\ *) note "the engine's live-restore is off: a restart of the engine stops the containers" ;;
    *) bad "an engine outside of swarm mode" "run: docker -H unix://$socket swarm leave" ;;
  esac
}

check_host() {
  echo "Checking this host:"
  [ "$(uname -s)" = Linux ] || bad "Linux" "this is $(uname -s)"
  case $(uname -m) in
    x86_64 | aarch64) good "$(uname -s) $(uname -r) on $(uname -m)" ;;
    *) bad "x86_64 or aarch64" "this is $(uname -m)" ;;
  esac
  [ "$(id -u)" = 0 ] || bad "root" "run as root"
  check_engine
  check_tool nft nftables
  check_tool iptables iptables
  check_tool ip iproute2
  check_tool bridge iproute2
  check_tool sysctl procps
  check_tool modprobe kmod
  if ! has unshare; then bad unshare "install package util-linux"; return; fi
  [ "$(id -u)" = 0 ] || return 0
  modules="kernel without it; Debian: linux-image-$(dpkg --print-architecture 2>/dev/null || echo amd64)"
  modules="$modules, Ubuntu: linux-modules-extra-$(uname -r)"
  probe "kernel: vxlan" "$modules" ip link add p0 type vxlan id 1 dstport 4789 nolearning
  probe "kernel: bridge" "$modules" ip link add p0 type bridge
  probe "kernel: veth" "$modules" ip link add p0 type veth peer name p1
  if ! has nft || ! has iptables; then return; fi
  probe "kernel: nftables with nat, numgen, maps and conntrack zones" "$modules" sh -c 'nft -f - <<E
table inet p {
  map z { typeof ether saddr : ct zone; }
  chain a { type filter hook prerouting priority raw
    ct original zone set ether saddr map @z
    fib daddr type local accept
  }
  chain b { type nat hook prerouting priority dstnat
    tcp dport 80 dnat ip to numgen random mod 2 map { 0 : 192.0.2.1, 1 : 192.0.2.2 }
  }
  chain c { type nat hook postrouting priority srcnat; masquerade; }
}
E'
  probe "kernel: iptables filter and nat" "$modules" sh -c 'iptables -t nat -S >/dev/null && iptables -S >/dev/null'
  has modprobe && modprobe -q br_netfilter 2>/dev/null || true
  if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then good "kernel: br_netfilter"
  else note "no br_netfilter: tasks see their own node's address in place of a client's; $modules"; fi
}

# ---- the binary -----------------------------------------------------------------------------------
find_binary() {
  here=$(cd "$(dirname "$0")" && pwd)
  if [ -n "$url" ]; then
    has curl || fail "curl not found: install package curl"
    binary=$work/shoal
    curl -fL --retry 3 -o "$binary" "$url" || fail "cannot fetch $url"
  elif [ -z "$binary" ]; then
    for candidate in "$here/shoal" "$here/../dist/shoal"; do
      if [ -f "$candidate" ]; then binary=$candidate; break; fi
    done
    [ -n "$binary" ] || fail "no binary: give --binary FILE or --url URL, or build one: bun scripts/build.ts"
  fi
  [ -f "$binary" ] || fail "$binary not found"
  if [ -n "$sha256" ]; then
    found=$(sha256sum "$binary" | cut -d' ' -f1)
    [ "$found" = "$sha256" ] || fail "$binary has the checksum $found, not $sha256"
  fi
}

write_unit() { # file
  cat > "$1" <<'UNIT'
[Unit]
Description=Shoal: this host as a node of a cluster, beside Docker Engine
After=network-online.target docker.service
Wants=network-online.target docker.service
# The agent is restarted for ever: what runs on this host does not depend on it being up.
StartLimitIntervalSec=0

[Service]
Type=notify
# Options as variables (shoal agent --help), such as SHOAL_MESH_BACKEND=iptables.
EnvironmentFile=-/etc/shoal/agent.env
ExecStart=/usr/local/bin/shoal agent
Restart=always
RestartSec=1
TimeoutStartSec=120
TimeoutStopSec=30
# Heartbeats must not be late when tasks use all of the CPU.
Nice=-10
OOMScoreAdjust=-500
LimitNOFILE=1048576
TasksMax=infinity
# Only the agent itself is stopped, never what it has started.
KillMode=process
# The binary carries its runtime, which these would reconfigure.
UnsetEnvironment=BUN_BE_BUN BUN_OPTIONS BUN_INSPECT BUN_INSPECT_PRELOAD BUN_INSTALL
UnsetEnvironment=NODE_OPTIONS NODE_EXTRA_CA_CERTS NODE_TLS_REJECT_UNAUTHORIZED
StateDirectory=shoal
StateDirectoryMode=0700
RuntimeDirectory=shoal
RuntimeDirectoryMode=0755
RuntimeDirectoryPreserve=yes

[Install]
WantedBy=multi-user.target
UNIT
}

install_all() {
  work=$(mktemp -d)
  trap 'rm -rf "$work"' EXIT
  find_binary
  if [ -z "$root" ]; then
    check_host
    [ $problems = 0 ] || fail "$problems of the host's features are missing; nothing was changed"
  fi
  mkdir -p "$root/usr/local/bin" "$root/etc/systemd/system"
  # Copied beside its place and renamed: a running binary cannot be written to, and a cut-off copy
  # must not stand in its place.
  new=$root$program.new
  cp "$binary" "$new"
  chmod 755 "$new"
  if [ -z "$root" ]; then
    if ! version=$(env -u BUN_BE_BUN -u BUN_OPTIONS "$new" --version); then
      rm -f "$new"
      fail "$binary does not run on this host"
    fi
    echo "Installing shoal $version"
  fi
  mv -f "$new" "$root$program"
  write_unit "$root$unit.new"
  mv -f "$root$unit.new" "$root$unit"
  mkdir -p "$root$state"
  chmod 700 "$root$state"
  echo "  $root$program"
  echo "  $root$unit"
  echo "  $root$state"
  [ -z "$root" ] || return 0
  if ! runs_systemd; then
    echo "No systemd here: run \"shoal agent\" by the init system of this host (as root, restarted for ever)."
  elif [ $start = 0 ]; then
    systemctl daemon-reload
    echo "Start it: systemctl enable --now shoal"
  else
    systemctl daemon-reload
    systemctl enable --quiet shoal
    systemctl restart shoal || fail "shoal did not start; see: journalctl -u shoal -n 50"
  fi
  cat <<'NEXT'
Tell the docker CLI to talk to it:
  export DOCKER_HOST=unix:///run/shoal/docker.sock
and begin a cluster with "docker swarm init", or join one with "docker swarm join".
NEXT
}

uninstall_all() {
  if [ -z "$root" ]; then
    [ "$(id -u)" = 0 ] || fail "run as root"
    node=$(docker -H unix://$sockets/docker.sock info -f '{{.Swarm.LocalNodeState}}' 2>/dev/null || true)
    if [ "$node" = active ] && [ $force = 0 ]; then
      fail "this node is in a cluster: leave it first, which also removes its containers and networks:
  docker -H unix://$sockets/docker.sock swarm leave
(managers: docker node demote first, or --force there), or give --force to this script"
    fi
    if runs_systemd; then
      systemctl disable --now --quiet shoal 2>/dev/null || true
    fi
    # Only seen when the node did not leave: they are the user's running programs, so they are shown.
    left=$(docker -H unix:///run/docker.sock ps -aq --filter label=shoal.task.id 2>/dev/null || true)
    if [ -n "$left" ]; then
      echo "Containers of the cluster are still here; remove them with:"
      echo "  docker -H unix:///run/docker.sock rm -f" $left
    fi
    rest=
    for table in "ip shoal" "ip6 shoal"; do
      # Two words, as nft wants them.
      if has nft && nft list table $table >/dev/null 2>&1; then rest="$rest nft delete table $table;"; fi
    done
    for device in shmesh shmeshe; do
      if ip link show "$device" >/dev/null 2>&1; then rest="$rest ip link del $device;"; fi
    done
    if [ -n "$rest" ]; then
      echo "The node did not leave its cluster, so its packet rules are still in the kernel. They end with"
      echo "the next start of this host, or now:${rest%;}"
    fi
  fi
  rm -f "$root$program" "$root$program.new" "$root$unit" "$root$unit.new"
  rm -rf "$root$state"
  if [ -z "$root" ]; then
    rm -rf "$sockets"
    if runs_systemd; then systemctl daemon-reload; fi
  fi
  echo "shoal is removed${root:+ from $root}."
}

case $action in
  check)
    check_host
    if [ $problems -gt 0 ]; then echo "$problems missing"; exit 1; fi
    echo "This host can run shoal."
    ;;
  install) install_all ;;
  uninstall) uninstall_all ;;
esac
