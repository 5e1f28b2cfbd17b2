#!/usr/bin/env bash
# Everything from a clean clone: installs what is needed (Debian, root), then runs the whole gate.
#   scripts/test.sh [--quick]    --quick leaves out the lab tests
set -euo pipefail
cd "$(dirname "$0")/.."
unset BUN_OPTIONS BUN_BE_BUN BUN_INSPECT || true
quick=0
for arg in "$@"; do [ "$arg" = --quick ] && quick=1; done
if [ $quick = 1 ]; then scripts/setup.sh --build-only; else scripts/setup.sh; fi
exec node_modules/.bin/bun scripts/check.ts "$@"
