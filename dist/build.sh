#!/usr/bin/env bash
# Builds what is shipped and measured: profile `dist`, its functions in the order of functions.order.
#
#   dist/build.sh             target/dist/tollway
#   dist/build.sh -p NAME …   and other packages beside it
#   dist/build.sh --order     makes functions.order anew, by callgrind: after hot code, the compiler or
#                             the dependencies have changed much. Two builds and a few minutes.
#
# What a start and a request execute is a tenth of the program, and scattered over all of it; the system
# brings 64 KiB around each piece into memory. Put together it takes less of it, and the processor finds
# it sooner. A name that is not there any more does nothing.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-target}

build() {
    # Only LLD knows how, which is what rustc takes on this platform.
    case $(rustc -vV) in
    *"host: x86_64-unknown-linux-gnu"*) export TOLLWAY_FUNCTION_ORDER=$PWD/dist/functions.order ;;
    esac
    cargo build --locked --profile dist -p tollway-gateway "$@"
}

# Those that are called most come first; of as many calls, by name.
order() {
    rm -f "$target"/dist/callgrind/tollway-*.out
    VALGRIND_OPTS=--demangle=no bench/callgrind.sh --no-build --profile dist \
        instructions-1k instructions-64k instructions-openai instructions-anthropic
    awk '
        match($0, /^c?fn=\([0-9]+\)/) {
            id = substr($0, index($0, "("), RLENGTH - index($0, "(") + 1)
            if (length($0) > RLENGTH) name[FILENAME id] = substr($0, RLENGTH + 2)
            called = name[FILENAME id]
            sub(/\047[0-9]+$/, "", called)
        }
        /^calls=/ { calls[called] += substr($1, 7) }
        END { for (each in calls) print calls[each], each }
    ' "$target"/dist/callgrind/tollway-*.out |
        LC_ALL=C sort -k1,1nr -k2,2 | cut -d" " -f2 | awk '!seen[$0]++' |
        grep -Fxf <(nm "$target/dist/tollway" | awk 'NF == 3 { print $3 }') > dist/functions.new
    mv dist/functions.new dist/functions.order
}

if [ "${1:-}" = --order ]; then
    build -p tollway-bench
    order
    build -p tollway-bench
else
    build "$@"
fi
