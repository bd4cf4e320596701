#!/usr/bin/env bash
# Counts instructions per request and per chunk, of Tollway and of a bare Pingora proxy. It is the
# figure without noise: the same on every run, whatever else the machine does. About 25 minutes.
#
#   bench/callgrind.sh                    everything
#   bench/callgrind.sh instructions-1k    only this; others are -64k, -1m, -openai, -anthropic
#   bench/callgrind.sh families           only the provider families; one is -family-gemini
#   bench/callgrind.sh --save             everything, and write bench/INSTRUCTIONS.md
#   bench/callgrind.sh --no-build …       with the binaries that are there
#   bench/callgrind.sh --profile dev …    to see that it works: the figures mean nothing
#
# The binaries are those of profile `dist` with line tables added (`dist-lines`), so that
# `callgrind_annotate target/dist-lines/callgrind/tollway-openai-json-1024.out` tells where they go.
set -euo pipefail
cd "$(dirname "$0")/.."

PROXY_CORE=${PROXY_CORE:-1}
LOAD_CORE=${LOAD_CORE:-0}
target=${CARGO_TARGET_DIR:-target}

fail() {
    echo "bench/callgrind.sh: $*" >&2
    exit 1
}

build=yes
save=no
args=()
profile=dist-lines
while [ $# -gt 0 ]; do
    arg=$1
    shift
    case $arg in
    --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' bench/callgrind.sh; exit ;;
    --no-build) build=no ;;
    --save) save=yes ;;
    --profile) profile=${1:?--profile needs a name}; shift ;;
    families) args+=(instructions-families) ;;
    *) args+=("$arg") ;;
    esac
done
# Cargo's own names for where a profile's binaries are.
case $profile in dev) folder=debug ;; *) folder=$profile ;; esac

[[ " ${args[*]} " = *" instructions-"* ]] || args+=(instructions)
[ "$save" = no ] || args+=(--save bench/INSTRUCTIONS.md)

command -v valgrind >/dev/null || fail "valgrind is missing (Debian: apt-get install valgrind)"
if [ "$build" = yes ]; then
    dist/build.sh "$profile"
    cargo build --locked --profile "$profile" -p tollway-bench
fi
version=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || version+=" with changes"
[ "$profile" = dist-lines ] || version+=", profile $profile"
exec taskset -c "$LOAD_CORE" "$target/$folder/load" --core "$PROXY_CORE" --version "$version" \
    "${args[@]}"
