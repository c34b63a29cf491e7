#!/bin/sh
# Runs a command with the project's pinned dependencies, installing them first when they are missing or stale.
#   sh scripts/with-dependencies.sh <command> [argument ...]
# Needs only Node >= 20 and npm. `node` in the command means the pinned Node 24 from node_modules. Two of these at once
# install once: the second waits for the first.
set -eu
cd "$(dirname "$0")/.."
stamp=node_modules/.holdfast-stamp
lock=.holdfast-install.lock
fresh() { [ -f "$stamp" ] && cmp -s package-lock.json "$stamp"; }

install() {
  echo 'Installing dependencies (npm ci) ...' >&2
  npm ci --no-audit --no-fund --loglevel=error >&2
  cp package-lock.json "$stamp"
}

if ! fresh; then
  # A link's target is written together with its name: whoever made the lock can always be told.
  while ! ln -s "$$" "$lock" 2>/dev/null; do
    holder=$(readlink "$lock" || true)
    if [ -n "$holder" ] && ! kill -0 "$holder" 2>/dev/null; then rm -f "$lock"; else sleep 1; fi
  done
  trap 'rm -f "$lock"' EXIT
  trap 'exit 130' INT TERM
  fresh || install
  rm -f "$lock"
  trap - EXIT INT TERM
fi
PATH="$PWD/node_modules/.bin:$PATH"
export PATH
exec "$@"
