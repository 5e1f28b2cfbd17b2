#!/usr/bin/env bash
# A cluster of three hosts on this machine, from nothing to an answered request, and away again.
# Needs Debian or Ubuntu, and root. Everything runs in network namespaces of its own.
#   scripts/quickstart.sh           show it and remove it
#   scripts/quickstart.sh --keep    leave it up, to play with
#   scripts/quickstart.sh --down    remove what --keep left
set -euo pipefail
cd "$(dirname "$0")/.."
unset BUN_OPTIONS BUN_BE_BUN BUN_INSPECT || true
if [ "$(id -u)" != 0 ]; then
  echo "quickstart: needs root (namespaces, Docker engines); run: sudo $0 $*" >&2
  exit 1
fi
scripts/setup.sh
exec node_modules/.bin/bun scripts/quickstart.ts "$@"
