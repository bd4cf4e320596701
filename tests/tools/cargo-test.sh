#!/bin/sh
# Runs every test. nextest where it is installed, because it is faster and stops what hangs.
set -eu
cd "$(dirname "$0")/../.."
# The black-box tests start the real binary.
cargo build --locked --package tollway-gateway --package tollway-simulator
if cargo nextest --version >/dev/null 2>&1; then
    exec cargo nextest run --workspace --locked "$@"
fi
exec cargo test --workspace --locked --no-fail-fast "$@"
