#!/bin/sh
# The compiler, with names that stay: cargo makes a crate's part of every symbol from all its
# dependencies, so that one more of them would rename half of the program, and what was learnt of it
# would fit nothing any more. Here a crate's name and version are its part.
set -eu
compiler=$1
shift
for argument; do
    shift
    case $argument in
    metadata=*) argument=metadata=$CARGO_PKG_NAME-$CARGO_PKG_VERSION ;;
    esac
    set -- "$@" "$argument"
done
exec "$compiler" "$@"
