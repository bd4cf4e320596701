#!/bin/sh
# run.sh [TARGET [SECONDS]]   fuzzes one target, or every target, for 60 seconds each unless told
# otherwise. One job at a time; stops at the first finding and leaves it in tests/fuzz/artifacts/.
#
#   tests/fuzz/run.sh                 every target for a minute
#   tests/fuzz/run.sh scanner 600     one target for ten minutes
#   tests/fuzz/run.sh all 180         every target for three minutes
set -eu
cd "$(dirname "$0")/../.."
target=${1:-all}
seconds=${2:-60}
# The sanitizers are nightly's. Without one, the installed compiler is told to allow them.
if rustup run nightly rustc --version >/dev/null 2>&1; then
    fuzz="cargo +nightly fuzz"
else
    fuzz="cargo fuzz"
    export RUSTC_BOOTSTRAP=1
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
    echo "installing cargo-fuzz" >&2
    cargo install --locked --quiet cargo-fuzz
fi
if [ "$target" = all ]; then
    targets=$($fuzz list --fuzz-dir tests/fuzz)
else
    targets=$target
fi
for target in $targets; do
    echo "== $target ($seconds s)" >&2
    here=tests/fuzz
    mkdir -p "$here/corpus/$target"
    set -- "$here/corpus/$target"
    [ -d "$here/seeds/$target" ] && set -- "$@" "$here/seeds/$target"
    [ "$target" = config ] && set -- "$@" conf
    dictionary=""
    [ -f "$here/dictionaries/$target.dict" ] && dictionary="-dict=$here/dictionaries/$target.dict"
    # A case that takes ten seconds, or two gigabytes, is a finding as well.
    # shellcheck disable=SC2086  # the dictionary is one word or none
    $fuzz run -O --fuzz-dir "$here" "$target" "$@" -- \
        -max_total_time="$seconds" -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 $dictionary
done
