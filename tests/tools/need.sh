#!/bin/sh
# need.sh COMMAND ...   makes sure that commands exist; installs their Debian packages as root, else
# says in one line what to install.
set -eu
missing=""
hint=""
for command in "$@"; do
    # Debian keeps the server's programs in a folder per version, and not in PATH.
    if [ "$command" = postgresql ]; then
        command -v postgres >/dev/null 2>&1 && command -v initdb >/dev/null 2>&1 && continue
        ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 && continue
    fi
    command -v "$command" >/dev/null 2>&1 && continue
    case $command in
    cargo) hint="$hint; Rust by https://rustup.rs" ;;
    cc) missing="$missing gcc libc6-dev" ;;
    python3) missing="$missing python3 python3-venv" ;;
    node) missing="$missing nodejs" ;;
    *) missing="$missing $command" ;;
    esac
done
# A Python without its venv module is how Debian ships it.
case " $* " in *" python3 "*)
    if command -v python3 >/dev/null 2>&1 && ! python3 -c 'import ensurepip, venv' 2>/dev/null; then
        missing="$missing python3-venv"
    fi ;;
esac
if [ -n "$hint" ]; then
    echo "Please install first${missing:+:$missing}$hint" >&2
    exit 1
fi
[ -z "$missing" ] && exit 0
if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null 2>&1; then
    echo "Please install first: sudo apt-get install$missing" >&2
    exit 1
fi
echo "installing$missing" >&2
# The lists of a fresh machine are empty or old.
apt-get update -qq
# shellcheck disable=SC2086  # a list of packages
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
