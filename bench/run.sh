#!/usr/bin/env bash
# Measures Tollway against a bare Pingora proxy, side by side, and prints the table.
#
#   bench/run.sh                      everything, about 20 minutes
#   bench/run.sh core                 without the provider families, about 8 minutes
#   bench/run.sh families             only the provider families; one is family-gemini
#   bench/run.sh cpu-1k latency       only these
#   bench/run.sh --rounds 9 cpu-1k    more turns, see --help
#   bench/run.sh --save               everything, and write bench/RESULTS.md
#   bench/run.sh --no-build …         with the binaries that are there
#   bench/run.sh --profile dev …      to see that it works: the figures mean nothing
#
# The proxies run on core PROXY_CORE (1), load and upstream on core LOAD_CORE (0).
set -euo pipefail
cd "$(dirname "$0")/.."

PROXY_CORE=${PROXY_CORE:-1}
LOAD_CORE=${LOAD_CORE:-0}
target=${CARGO_TARGET_DIR:-target}

fail() {
    echo "bench/run.sh: $*" >&2
    exit 1
}

build=yes
save=no
args=()
profile=dist
while [ $# -gt 0 ]; do
    arg=$1
    shift
    case $arg in
    --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' bench/run.sh; exit ;;
    --no-build) build=no ;;
    --save) save=yes ;;
    --profile) profile=${1:?--profile needs a name}; shift ;;
    *) args+=("$arg") ;;
    esac
done
# Cargo's own names for where a profile's binaries are.
case $profile in dev) folder=debug ;; *) folder=$profile ;; esac

command -v taskset >/dev/null || fail "taskset is missing (Debian: util-linux)"
taskset -c "$PROXY_CORE" true 2>/dev/null || fail "there is no core $PROXY_CORE: two are needed"
[ "$PROXY_CORE" != "$LOAD_CORE" ] || fail "PROXY_CORE and LOAD_CORE must differ"
# 2,000 streams are 4,000 sockets in the proxy and in the load runner.
[ "$(ulimit -n)" = unlimited ] || [ "$(ulimit -n)" -ge 10000 ] || ulimit -n 10000 ||
    fail "10,000 open files are needed: raise the hard limit"

if [ "$build" = yes ]; then
    dist/build.sh "$profile"
    cargo build --locked --profile "$profile" -p tollway-bench
fi
version=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || version+=" with changes"
[ "$profile" = dist ] || version+=", profile $profile"
args+=(--core "$PROXY_CORE" --version "$version")

[ "$save" = no ] || args+=(--save bench/RESULTS.md)
exec taskset -c "$LOAD_CORE" "$target/$folder/load" "${args[@]}"
