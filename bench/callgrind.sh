#!/usr/bin/env bash
# Counts instructions per request and per chunk, of Tollway and of a bare Pingora proxy. It is the
# figure without noise: the same on every run, whatever else the machine does. About 5 minutes.
#
#   bench/callgrind.sh                    everything
#   bench/callgrind.sh instructions-1k    only this; others are -64k, -1m, -openai, -anthropic
#   bench/callgrind.sh --save             everything, and write bench/INSTRUCTIONS.md
#   bench/callgrind.sh --no-build …       with the binaries that are there
#
# The binaries are those of profile `dist` with line tables added (`dist-lines`), so that
# `callgrind_annotate target/dist-lines/callgrind/tollway-json-1024.out` tells where they go.
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
for arg in "$@"; do
    case $arg in
    --help) sed -n '2,/^set/{/^#/s/^# \{0,1\}//p}' bench/callgrind.sh; exit ;;
    --no-build) build=no ;;
    --save) save=yes ;;
    *) args+=("$arg") ;;
    esac
done

[[ " ${args[*]} " = *" instructions-"* ]] ||
    args+=(instructions-{1k,64k,1m,openai,anthropic})
[ "$save" = no ] || args+=(--save bench/INSTRUCTIONS.md)

command -v valgrind >/dev/null || fail "valgrind is missing (Debian: apt-get install valgrind)"
if [ "$build" = yes ]; then
    cargo build --profile dist-lines -p tollway-gateway -p tollway-bench \
        --config 'profile.dist-lines.inherits="dist"' \
        --config 'profile.dist-lines.debug="line-tables-only"' \
        --config 'profile.dist-lines.strip="none"'
fi
version=$(git rev-parse --short HEAD 2>/dev/null || echo unknown)
[ -z "$(git status --porcelain 2>/dev/null)" ] || version+=" with changes"
exec taskset -c "$LOAD_CORE" "$target/dist-lines/load" --core "$PROXY_CORE" --version "$version" \
    "${args[@]}"
