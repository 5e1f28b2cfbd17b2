#!/usr/bin/env bash
# Installs what building and testing shoal needs: Debian packages for the lab, and the pinned node
# packages (Bun among them). Does nothing when all is there. Needs Debian or Ubuntu, and root only if
# a Debian package is missing.
#   scripts/setup.sh [--build-only]    --build-only leaves out what only the lab uses
set -euo pipefail
cd "$(dirname "$0")/.."

buildOnly=0
case "${1:-}" in
  --build-only) buildOnly=1 ;;
  "") ;;
  *) echo "setup: unknown option $1 (known: --build-only)" >&2; exit 2 ;;
esac

# ---- Debian packages: command (or file) that shows the package is there, package ----------------
missing=()
need() { # need PACKAGE COMMAND-OR-FILE…
  local package=$1 it; shift
  for it in "$@"; do
    case $it in
      /*) [ -e "$it" ] && continue ;;
      *) PATH="$PATH:/usr/sbin:/sbin" command -v "$it" >/dev/null 2>&1 && continue ;;
    esac
    missing+=("$package"); return 0
  done
}
need ca-certificates /etc/ssl/certs/ca-certificates.crt
if ! command -v npm >/dev/null 2>&1; then missing+=(nodejs npm); fi
if [ "$buildOnly" = 0 ]; then
  need docker.io dockerd docker containerd
  need nftables nft
  need iptables iptables iptables-restore
  need iproute2 ip bridge
  need conntrack conntrack
  need curl curl
  need procps sysctl ps
  need iputils-ping ping
  need python3-docker /usr/lib/python3/dist-packages/docker/__init__.py
  need kmod modprobe
  need util-linux nsenter unshare setsid
  need docker-registry docker-registry
  need golang-cfssl cfssl
  # Programs with another libc than this machine's, for the test of resolvers: only where there is a compiler.
  if command -v gcc >/dev/null 2>&1; then need musl-tools musl-gcc; fi
  # A kernel with IPVS for the tests that need one; Debian builds it for this architecture only.
  if [ "$(uname -m)" = x86_64 ]; then
    need user-mode-linux linux.uml
    need ipvsadm ipvsadm
  fi
  # busybox alone may be the dynamic one, which does not run in an empty image.
  if ! { [ -x /bin/busybox ] && dpkg -s busybox-static >/dev/null 2>&1; }; then missing+=(busybox-static); fi
fi

if [ ${#missing[@]} -gt 0 ]; then
  echo "setup: installing ${missing[*]}"
  if [ "$(id -u)" != 0 ]; then
    echo "setup: cannot install packages as $(id -un): run as root: apt-get install ${missing[*]}" >&2
    exit 1
  fi
  # A dockerd of the package's own service would change the firewall of this machine's own network
  # namespace; the lab's engines live in namespaces of their own. A policy that is there is kept.
  policy=/usr/sbin/policy-rc.d
  ownPolicy=0
  if [ ! -e $policy ]; then
    printf '#!/bin/sh\n# put here by shoal scripts/setup.sh while it installs packages\nexit 101\n' > $policy
    chmod 755 $policy
    ownPolicy=1
  fi
  removePolicy() { if [ $ownPolicy = 1 ]; then rm -f $policy; fi; }
  trap removePolicy EXIT
  export DEBIAN_FRONTEND=noninteractive
  log=$(mktemp)
  apt() {
    # Another apt may hold the lock for a while on a machine that has just been started.
    if ! apt-get -o DPkg::Lock::Timeout=120 -qq "$@" </dev/null >"$log" 2>&1; then
      echo "setup: apt-get $* failed:" >&2; tail -n 30 "$log" >&2; exit 1
    fi
  }
  apt update
  apt install -y --no-install-recommends "${missing[@]}"
  # Since Debian 13 the CLI is a package of its own.
  if [ "$buildOnly" = 0 ] && ! command -v docker >/dev/null 2>&1; then
    apt install -y --no-install-recommends docker-cli
  fi
  rm -f "$log"
  removePolicy
  trap - EXIT
fi

# ---- node packages ------------------------------------------------------------------------------
# Installed beside and then moved here: npm wants the lock under another name than it has (the top
# level is fixed) and a package.json without overrides (see lock.ts); and an install that was cut off
# leaves what was there before.
stamp=node_modules/.shoal-stamp
wanted=$(cat package.json .package-lock.json scripts/stubs/*/* | sha256sum | cut -d' ' -f1)
if [ "$(cat $stamp 2>/dev/null || true)" != "$wanted" ]; then
  echo "setup: installing node packages"
  place=.tools/install
  rm -rf $place
  mkdir -p $place/scripts
  cp -r scripts/stubs $place/scripts/
  cp .package-lock.json $place/package-lock.json
  node -e '
    const { overrides, ...rest } = JSON.parse(require("fs").readFileSync("package.json", "utf8"));
    process.stdout.write(JSON.stringify(rest));' > $place/package.json
  log=$(mktemp)
  # A registry may fail for a moment; a refusal that stays is shown.
  for try in 1 2 3; do
    if (cd $place && npm ci --no-audit --no-fund --loglevel=error </dev/null >"$log" 2>&1); then break; fi
    if [ $try = 3 ]; then echo "setup: npm ci failed:" >&2; tail -n 30 "$log" >&2; exit 1; fi
    sleep $((try * 3))
  done
  rm -f "$log"
  # Where scripts of packages are off (npm 12, --ignore-scripts), bun's binary is not in its place yet.
  bun=$place/node_modules/.bin/bun
  if ! $bun --version >/dev/null 2>&1; then
    (cd $place/node_modules/bun && node install.js)
    $bun --version >/dev/null
  fi
  rm -rf node_modules
  mv $place/node_modules node_modules
  rm -rf $place
  echo "$wanted" > $stamp
fi
