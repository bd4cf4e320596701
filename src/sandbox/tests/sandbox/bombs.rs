//! Guests that take all they can get.

use std::time::Duration;

use serde_json::{Value, json};
use tollway_sandbox::Limits;

use crate::caller::{Caller, in_every_way, job_with};

in_every_way!(
    fork_bombs_end,
    memory_ends,
    time_ends,
    the_disk_ends,
    output_ends,
    nothing_is_left_behind,
);

const MIB: u64 = 1 << 20;

/// Small limits, so that it does not take long to reach them.
fn small(limits: &mut Limits) {
    limits.wall = Duration::from_secs(3);
    limits.cpu = Duration::from_secs(2);
    limits.memory = 128 * MIB;
    limits.disk = 16 * MIB;
    limits.inodes = 500;
    limits.processes = 24;
    limits.output = 65_536;
}

fn bomb(guest: &str, input: &str) -> Value {
    job_with(guest, input, small)
}

fn killed(why: &str) -> Value {
    json!({"killed": why})
}

fn assert_one_of(outcome: &Value, endings: &[Value]) {
    assert!(endings.contains(&outcome["ending"]), "{outcome}");
    let took = outcome["took_us"].as_u64().expect("a number");
    // The wall, and what a machine with other things to do may add.
    assert!(took < 20_000_000, "{outcome}");
}

/// The caller and the machine are well.
fn all_is_well(caller: &mut Caller) {
    assert_eq!(caller.stdout_of("shell", "echo $(echo well)"), "well\n");
}

fn fork_bombs_end(mut caller: Caller) {
    let shell = "f() { f | f & }; f; wait; sleep 100";
    let python = "
import os
while True:
    try: os.fork()
    except OSError: pass";
    let at_once = "
import os, time
made = 0
try:
    while True:
        if os.fork() == 0: time.sleep(100)
        made += 1
except OSError: print(made, flush=True)
os._exit(0)";
    // A shell says of every fork that it failed, which on a slow machine is too much output first.
    let ends = [killed("wall"), killed("cpu"), killed("processes"), killed("output")];
    let outcomes = caller.run_all(&[bomb("shell", shell), bomb("python", python)]);
    for outcome in &outcomes {
        let exited = [json!({"exited": 0}), json!({"exited": 2})];
        assert_one_of(outcome, &[&ends[..], &exited].concat());
    }
    let outcome = caller.run(bomb("python", at_once));
    assert_one_of(&outcome, &[json!({"exited": 0}), killed("processes")]);
    if outcome["ending"] == json!({"exited": 0}) {
        let made: u64 = outcome["stdout"].as_str().expect("text").trim().parse().expect("a number");
        assert!(made <= 24, "{made}");
    }
    all_is_well(&mut caller);
}

fn memory_ends(mut caller: Caller) {
    let jobs = [
        bomb("python", "bytearray(10 << 30)"),
        bomb("python", "x = []\nwhile True: x.append(bytearray(1 << 20))"),
        bomb("javascript", "const x = []; while (true) x.push(new Uint8Array(1 << 20).fill(1))"),
        bomb("javascript", "let x = 'x'; while (true) x += x + 'y'"),
        bomb("javascript", "const f = () => 1 + f(); f()"),
        bomb("grow", ""),
        // Shared memory is nobody's data, but somebody's pages.
        bomb(
            "python",
            "import mmap\nx = [mmap.mmap(-1, 64 << 20) for _ in range(6)]\nfor m in x:\n for at in range(0, 64 << 20, 4096): m[at] = 1",
        ),
        // Each within its own limit.
        bomb(
            "python",
            "
import os, time
for _ in range(10):
    if os.fork() == 0:
        x = bytearray(60 << 20)
        time.sleep(100)
time.sleep(100)",
        ),
    ];
    let mut outcomes = Vec::new();
    for jobs in jobs.chunks(2) {
        outcomes.extend(caller.run_all(jobs));
    }
    for outcome in &outcomes {
        // An abort of the first process of a pid namespace is a fault in the end.
        let own = [json!({"exited": 1}), json!({"signalled": 6}), json!({"signalled": 11})];
        assert_one_of(outcome, &[&own[..], &[killed("memory")]].concat());
    }
    let check = |nth: usize, stderr: &str| {
        let outcome: &Value = &outcomes[nth];
        assert!(outcome["stderr"].as_str().expect("text").contains(stderr), "{outcome}");
    };
    check(0, "MemoryError");
    check(3, "Error");
    check(4, "stack");
    assert_eq!(outcomes[6]["ending"], killed("memory"));
    assert_eq!(outcomes[7]["ending"], killed("memory"));
    all_is_well(&mut caller);
}

fn time_ends(mut caller: Caller) {
    let outcomes = caller.run_all(&[
        bomb("shell", "sleep 100"),
        bomb("python", "import signal, time\nfor s in range(1, 65):\n try: signal.signal(s, signal.SIG_IGN)\n except Exception: pass\nwhile True: time.sleep(1)"),
    ]);
    for outcome in &outcomes {
        assert_one_of(outcome, &[killed("wall")]);
        assert!(outcome["took_us"].as_u64().expect("a number") >= 3_000_000, "{outcome}");
    }
    // By the clock or by the processor's, whichever is first where others run too.
    let mut ends =
        vec![killed("wall"), killed("cpu"), json!({"signalled": 24}), json!({"signalled": 9})];
    // What is too large a number in the end.
    ends.push(json!({"exited": 1}));
    for (guest, program) in [
        ("python", "while True: pass"),
        ("javascript", "while (true);"),
        // One operation that looks at no clock.
        ("javascript", "while (true) (2n ** 100000n) ** 1000n"),
        ("javascript", "/(a+)+$/.exec('a'.repeat(40) + 'b')"),
        ("shell", "while :; do :; done & while :; do :; done"),
    ] {
        assert_one_of(&caller.run(bomb(guest, program)), &ends);
    }
    all_is_well(&mut caller);
}

fn the_disk_ends(mut caller: Caller) {
    let one = "
try:
    with open('big', 'wb') as file:
        while True: file.write(b'x' * 1000000)
except OSError as error: print(error.errno)";
    let many = "
n = 0
try:
    while True:
        with open(f'f{n}', 'wb') as file: file.write(b'x' * 1000000)
        n += 1
except OSError as error: print(error.errno)";
    let names = "
n = 0
try:
    while True:
        open(f'f{n}', 'w').close()
        n += 1
except OSError as error: print(error.errno, n <= 500)";
    let nameless = "
import os, time
held = []
try:
    while True:
        file = open('x', 'wb', buffering=0); os.unlink('x')
        file.write(b'x' * 1000000); held.append(file)
except OSError as error: print(error.errno)";
    let deep = "
import os
try:
    while True:
        os.mkdir('d'); os.chdir('d'); open('f', 'wb').write(b'x' * 100000)
except OSError as error: print(error.errno)";
    let closed = "
import os
n = 0
try:
    while True:
        os.mkdir(f'd{n}'); open(f'd{n}/f', 'wb').write(b'x' * 1000000); os.chmod(f'd{n}', 0); n += 1
except OSError as error: print(error.errno)";
    let jobs: Vec<Value> = [one, many, names, nameless, deep, closed]
        .iter()
        .map(|text| bomb("python", text))
        .collect();
    let mut outcomes = Vec::new();
    for jobs in jobs.chunks(2) {
        outcomes.extend(caller.run_all(jobs));
    }
    let has_namespaces = caller.level() == "namespaces";
    for (nth, outcome) in outcomes.iter().enumerate() {
        // EFBIG for one file; ENOSPC where the file system is its own.
        let expected = match nth {
            0 => ["27\n", "28\n"],
            2 => ["28 True\n", "28 True\n"],
            _ => ["28\n", "28\n"],
        };
        let stopped = expected.iter().any(|text| outcome["stdout"] == *text);
        let is_killed = outcome["ending"] == killed("disk");
        assert!(stopped || (is_killed && !has_namespaces), "{nth}: {outcome}");
        let bytes = outcome["files"].as_array().expect("files").len();
        assert!(bytes <= 64, "{nth}");
    }
    // What was there is gone.
    if let Ok(left) = std::fs::read_dir(caller.folder.join("runs")) {
        let left: Vec<_> = left.flatten().map(|entry| entry.path()).collect();
        assert_eq!(left, [] as [std::path::PathBuf; 0]);
    }
    all_is_well(&mut caller);
}

fn output_ends(mut caller: Caller) {
    let outcomes = caller.run_all(&[
        bomb("shell", "yes"),
        bomb("python", "import sys\nwhile True: sys.stderr.write('x' * 1000)"),
        bomb("javascript", "while (true) console.log('xxxxxxxxxxxxxxxxxxxx')"),
        bomb("shell", "yes out & yes err >&2"),
    ]);
    for outcome in &outcomes {
        assert_eq!(outcome["ending"], killed("output"), "{}", outcome["ending"]);
        let length = |stream: &str| outcome[stream].as_str().expect("text").len();
        assert_eq!(length("stdout") + length("stderr"), 65_536);
    }
    let outcome = caller.run(bomb("shell", "head -c 65536 /dev/zero | tr '\\0' x"));
    assert_eq!(outcome["ending"], json!({"exited": 0}), "what is just not too much");
}

fn nothing_is_left_behind(mut caller: Caller) {
    let mark = format!("666{}", std::process::id());
    let python = format!(
        "
import os, time
if os.fork() == 0:
    try: os.setsid()
    except OSError: pass
    if os.fork() == 0:
        os.execvp('sleep', ['sleep', '{mark}'])
    os._exit(0)
print('done')"
    );
    let shell = format!("nohup sleep {mark} >/dev/null 2>&1 & (sleep {mark} &) ; echo done");
    let outcomes = caller.run_all(&[bomb("python", &python), bomb("shell", &shell)]);
    for outcome in &outcomes {
        assert_eq!(outcome["stdout"], "done\n", "{outcome}");
        assert_eq!(outcome["ending"], json!({"exited": 0}), "{outcome}");
    }
    assert_eq!(caller.left_behind(&mark), [] as [&str; 0]);
}
