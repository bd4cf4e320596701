#!/bin/sh
# Puts the SDKs and the mock provider the tests use into .tools/, once per change of their versions.
set -eu
cd "$(dirname "$0")/../.."
here=tests/tools
stamp=.tools/installed
want=$(cat "$here/requirements.txt" "$here/package.json" "$here/install.sh" | cksum)
[ -f "$stamp" ] && [ "$(cat "$stamp")" = "$want" ] && exit 0
echo "installing the SDKs and the mock provider into .tools/" >&2
mkdir -p .tools/node
[ -x .tools/python/bin/pip ] || python3 -m venv .tools/python
# Not `bin/pip`: that has the path the folder had when it was made.
.tools/python/bin/python -m pip install --quiet --disable-pip-version-check -r "$here/requirements.txt"
cp "$here/package.json" .tools/node/
(cd .tools/node && npm install --no-fund --no-audit --loglevel=error >/dev/null)
echo "$want" >"$stamp"
