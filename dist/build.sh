#!/usr/bin/env bash
# Builds what is shipped and measured: profile `dist`, by what is known of how the program runs.
#
#   dist/build.sh             target/dist/tollway
#   dist/build.sh dist-lines  target/dist-lines/tollway, the same with line tables; other profiles, such
#                             as dev, are built as by cargo itself
#   dist/build.sh --train     learns it anew, after hot code or the compiler have changed much: four
#                             builds, a training and a count, about an hour
#
# tollway.profdata says how often each piece of the code ran while an instrumented gateway was asked
# for what the bench asks (LLVM's profile-guided optimisation): what is called often is inlined and lies
# in one piece, what is rare lies apart. functions.order says which functions a start and a request
# execute, a tenth of the program: put together they take less memory, because the system brings
# 64 KiB around each piece. Code that has changed since, or has another name, is built as without them;
# rustc.sh sees to it that a name changes only with its code.
set -euo pipefail
cd "$(dirname "$0")/.."
target=$(realpath -m "${CARGO_TARGET_DIR:-target}")
profile=$PWD/dist/tollway.profdata
# What wrote the profile: an earlier one cannot read it.
llvm=22

fail() {
    echo "dist/build.sh: $*" >&2
    exit 1
}

build() {
    local flags=${RUSTFLAGS:-}
    # Only LLD knows how, which is what rustc takes on this platform.
    case $(rustc -vV) in
    *"host: x86_64-unknown-linux-gnu"*) export TOLLWAY_FUNCTION_ORDER=$PWD/dist/functions.order ;;
    esac
    if [ "$(rustc -vV | sed -n 's/^LLVM version: \([0-9]*\).*/\1/p')" -ge $llvm ]; then
        # Cargo does not see a change of what is in the file, but of its name.
        local copy=$target/profiles/$(sha256sum "$profile" | cut -c1-16).profdata
        mkdir -p "${copy%/*}"
        # A file that is newer would have everything built again.
        [ -e "$copy" ] || cp "$profile" "$copy"
        flags+=" -Cprofile-use=$copy"
    else
        echo "dist/build.sh: without the profile, which needs LLVM $llvm in rustc" >&2
    fi
    RUSTFLAGS=$flags RUSTC_WRAPPER=$PWD/dist/rustc.sh cargo build --locked -p tollway-gateway "$@"
}

# From an instrumented gateway, what ran how often.
train() {
    local tool data=$target/training/profiles
    tool=$(command -v "$(rustc --print sysroot)"/lib/rustlib/*/bin/llvm-profdata) ||
        tool=$(command -v "llvm-profdata-$llvm") ||
        fail "llvm-profdata is missing (rustup: llvm-tools; Debian: llvm-$llvm)"
    command -v valgrind >/dev/null || fail "valgrind is missing (Debian: valgrind)"
    cargo build --locked --profile dist -p tollway-bench
    RUSTFLAGS="${RUSTFLAGS:-} -Cprofile-generate=$data" CARGO_TARGET_DIR=$target/training \
        RUSTC_WRAPPER=$PWD/dist/rustc.sh cargo build --locked --profile dist -p tollway-gateway
    # The build's own programs were instrumented as well.
    rm -rf "$data"
    # It asks the gateway beside it.
    cp "$target/dist/load" "$target/training/dist/"
    "$target/training/dist/load" training >/dev/null
    "$tool" merge --sparse -o "$profile" "$data"
}

# By callgrind, which functions run; those that are called most come first; of as many calls, by name.
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

case ${1:-dist} in
--train)
    train
    build --profile dist
    order
    build --profile dist
    ;;
dist*) build --profile "${1:-dist}" ;;
*) cargo build --locked --profile "$1" -p tollway-gateway ;;
esac
