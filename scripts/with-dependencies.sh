#!/bin/sh
# Runs a command with the project's pinned dependencies, installing them first when they are missing or stale.
#   sh scripts/with-dependencies.sh <command> [argument ...]
# Needs only Node >= 20 and npm. `node` in the command means the pinned Node 24 from node_modules.
set -eu
cd "$(dirname "$0")/.."
stamp=node_modules/.holdfast-stamp
if [ ! -f "$stamp" ] || ! cmp -s package-lock.json "$stamp"; then
  echo 'Installing dependencies (npm ci) ...' >&2
  npm ci --no-audit --no-fund --loglevel=error >&2
  cp package-lock.json "$stamp"
fi
PATH="$PWD/node_modules/.bin:$PATH"
export PATH
exec "$@"
