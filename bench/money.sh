#!/usr/bin/env bash
# Proves at full size that money is exact; `make test` runs the same small.
#
#   bench/money.sh                     all three
#   bench/money.sh ledger 100000       the ledger against the provider's own sum, of so many calls
#   bench/money.sh kill 50             killed so often under load
#   bench/money.sh keys 100000         start-up and memory with so many keys, on SQLite and Postgres
#   bench/money.sh --profile dev …     to see that it works: its times mean nothing
set -euo pipefail
cd "$(dirname "$0")/.."
profile=dist
if [ "${1:-}" = --profile ]; then
    profile=${2:?--profile needs a name}
    shift 2
fi
# Cargo's own names for where a profile's binaries are.
case $profile in dev) folder=debug ;; *) folder=$profile ;; esac
dist/build.sh "$profile"
cargo build --locked --profile "$profile" -p tollway-bench
[ $# -gt 0 ] || set -- ledger 100000 kill 50 keys 100000
exec "${CARGO_TARGET_DIR:-target}/$folder/money" "$@"
