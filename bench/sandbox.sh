#!/usr/bin/env bash
# How long a call of the code tools takes that does nothing: from the gateway's side, 15 of each language in each mode.
# PROFILE=dev measures what is built for tests.
set -euo pipefail
cd "$(dirname "$0")/.."

profile="${PROFILE:-release}"
cargo build --quiet --locked --profile "$profile" -p tollway-sandbox
folder="${CARGO_TARGET_DIR:-target}/${profile/dev/debug}"
python3 - "$folder/sandbox-caller" <<'EOF'
import json, statistics, subprocess, sys, tempfile

time = lambda seconds: {"secs": seconds, "nanos": 0}
limits = dict(wall=time(10), cpu=time(5), memory=256 << 20, disk=32 << 20, inodes=4096, processes=32,
              output=256 << 10, files=64, files_bytes=16 << 20)
programs = {"javascript": "6*7", "python": "print(6*7)", "shell": "echo $((6*7))"}
print("mode        language    min ms  median ms")
for mode in "namespaces", "landlock":
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.argv[1], folder, mode]
        caller = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        caller.stdout.readline()
        for guest, program in programs.items():
            took = []
            for _ in range(15):
                job = {"guest": guest, "input": program, "limits": limits}
                print(json.dumps([job]), file=caller.stdin, flush=True)
                outcome = json.loads(caller.stdout.readline())[0]
                assert outcome.get("stdout") == "42\n", outcome
                took.append(outcome["elapsed_us"] / 1000)
            print(f"{mode:<11} {guest:<11} {min(took):6.1f}  {statistics.median(took):9.1f}")
        caller.stdin.close()
        caller.wait()
EOF
