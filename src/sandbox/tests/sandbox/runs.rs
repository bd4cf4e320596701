//! What the sandbox is for: programs run, and what they wrote comes back.

use std::time::Duration;

use serde_json::{Value, json};

use crate::caller::{Caller, Way, in_every_way, job, job_with};

in_every_way!(
    programs_of_each_language_run,
    files_go_in_and_new_ones_come_out,
    links_out_of_the_folder_are_not_followed,
    files_that_are_too_much_are_left_out,
    how_it_ended_is_told,
    output_comes_as_it_is_written,
    languages_run_at_once,
    a_run_that_is_given_up_is_killed_with_all_it_started,
    nothing_outlives_a_caller_that_is_killed,
    nothing_outlives_a_supervisor_that_is_killed,
    python_has_what_programs_use,
);

/// A file for a job.
fn with_files(mut job: Value, files: &[(&str, &[u8])]) -> Value {
    job["files"] = json!(files);
    job
}

/// The files that came back, by name.
fn files(outcome: &Value) -> Vec<(String, Vec<u8>)> {
    serde_json::from_value(outcome["files"].clone()).expect("files")
}

fn programs_of_each_language_run(mut caller: Caller) {
    assert_eq!(caller.stdout_of("python", "print(sum(range(10)))"), "45\n");
    assert_eq!(caller.stdout_of("shell", "echo b a | tr ' ' '\\n' | sort"), "a\nb\n");
    assert_eq!(caller.stdout_of("count", "four"), "4 bytes\n");
    let check = |caller: &mut Caller, program: &str, expect: &str| {
        assert_eq!(caller.stdout_of("javascript", program), expect, "{program}");
    };
    check(&mut caller, "[3, 1, 2].sort()", "[1,2,3]\n");
    check(&mut caller, "let x = 1;", "");
    check(
        &mut caller,
        "console.log('a', {b: [1n, null]}, new Map([['c', 1]])); 'd'",
        "a {\"b\":[\"1n\",null]} {\"c\":1}\nd\n",
    );
    check(&mut caller, "const a = await Promise.resolve(20); a + 1", "21\n");
    check(&mut caller, "(async () => 7)()", "7\n");
    check(&mut caller, "const o = {}; o.self = o; o", "{\"self\":\"[circular]\"}\n");
    check(
        &mut caller,
        "typeof require + typeof process + typeof fetch + typeof std + typeof os",
        "undefinedundefinedundefinedundefinedundefined\n",
    );
    check(&mut caller, "2n ** 100n", "1267650600228229401496703205376n\n");
}

fn files_go_in_and_new_ones_come_out(mut caller: Caller) {
    let image: Vec<u8> = (0..=255).cycle().take(70_000).collect();
    let python = "
import os
data = open('in.bin', 'rb').read()
open('out.bin', 'wb').write(data[::-1])
open('changed.txt', 'a').write('more')
os.makedirs('a/b'); open('a/b/deep.txt', 'w').write('deep')
open('kept.txt').read()
os.remove('gone.txt')";
    let python = with_files(
        job("python", python),
        &[("in.bin", &image), ("changed.txt", b"some "), ("kept.txt", b"kept"), ("gone.txt", b"")],
    );
    let javascript = "
const data = files.bytes('in.bin');
files.write('out.bin', data.reverse());
files.write('list.txt', files.list().join() + files.read('text.txt'));";
    let javascript = with_files(
        job("javascript", javascript),
        &[("in.bin", &image), ("text.txt", "ö".as_bytes())],
    );
    let outcomes = caller.run_all(&[python, javascript]);
    let reversed: Vec<u8> = image.iter().rev().copied().collect();
    let file = |name: &str, bytes: &[u8]| (name.to_owned(), bytes.to_vec());
    let python = [
        file("a/b/deep.txt", b"deep"),
        file("changed.txt", b"some more"),
        file("out.bin", &reversed),
    ];
    assert_eq!(files(&outcomes[0]), python, "{}", outcomes[0]["stderr"]);
    let javascript =
        [file("list.txt", "in.bin,out.bin,text.txtö".as_bytes()), file("out.bin", &reversed)];
    assert_eq!(files(&outcomes[1]), javascript, "{}", outcomes[1]["stderr"]);

    for name in ["../x", "a/b", "..", ".", "", "/etc/passwd", "a\0b", "a/"] {
        let outcome = caller.run(with_files(job("shell", "ls"), &[(name, b"")]));
        let refused = outcome["refused"].as_str().expect("refused");
        assert!(refused.ends_with("cannot be the name of a file"), "{refused}");
    }
    let too_large = job_with("shell", "ls", |limits| limits.disk = 3);
    let outcome = caller.run(with_files(too_large, &[("a", b"1234")]));
    let why = "the files are more than the working folder may have";
    assert_eq!(outcome, json!({ "refused": why }));
    for name in ["../program.py", "a/b", "..", "x\\0y"] {
        let outcome = caller.run(job("javascript", &format!("files.read('{name}')")));
        assert!(
            outcome["stderr"].as_str().expect("text").contains("not the name of a file"),
            "{outcome}"
        );
    }
}

fn links_out_of_the_folder_are_not_followed(mut caller: Caller) {
    let script = "
ln -s /usr/bin/env link
ln -s /usr folder
ln -s ../program.sh program
mkdir real; echo x > real/file; ln -s real/file inner";
    let outcome = caller.run(job("shell", script));
    assert_eq!(files(&outcome), [("real/file".to_owned(), b"x\n".to_vec())], "{outcome}");
}

fn files_that_are_too_much_are_left_out(mut caller: Caller) {
    let script = "head -c 3000 /dev/zero > big; for n in 1 2 3 4 5; do echo $n > small-$n; done";
    let outcome = caller.run(job_with("shell", script, |limits| {
        limits.files = 3;
        limits.files_bytes = 2000;
    }));
    let names: Vec<String> = files(&outcome).into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["small-1", "small-2", "small-3"], "{outcome}");
    assert_eq!(outcome["files_left_out"], 3);
}

fn how_it_ended_is_told(mut caller: Caller) {
    let jobs = [
        job("python", "raise ValueError('because')"),
        job("python", "import sys; sys.exit(7)"),
        job("shell", "exit 9"),
        job("python", "import os; os.kill(os.getpid(), 9)"),
        job("python", "import ctypes; ctypes.string_at(0)"),
        job("javascript", "function f() { throw new Error('because'); }\nf()"),
        job("javascript", "await new Promise(() => {})"),
        job("javascript", "}{"),
        job("panic", ""),
        job("unknown", ""),
    ];
    let mut outcomes = Vec::new();
    for jobs in jobs.chunks(2) {
        outcomes.extend(caller.run_all(jobs));
    }
    let check = |nth: usize, ending: Value, stderr: &str| {
        let outcome = &outcomes[nth];
        assert_eq!(outcome["ending"], ending, "{outcome}");
        assert!(outcome["stderr"].as_str().expect("text").contains(stderr), "{outcome}");
    };
    check(0, json!({"exited": 1}), "ValueError: because");
    check(1, json!({"exited": 7}), "");
    check(2, json!({"exited": 9}), "");
    check(3, json!({"signalled": 9}), "");
    check(4, json!({"signalled": 11}), "");
    check(5, json!({"exited": 1}), "Error: because\n    at f (program.js:1");
    check(6, json!({"exited": 1}), "waits for what never happens");
    check(7, json!({"exited": 1}), "SyntaxError");
    check(8, json!({"exited": 101}), "panicked");
    assert!(outcomes[9]["refused"].as_str().expect("refused").contains("no native guest unknown"));
}

fn output_comes_as_it_is_written(mut caller: Caller) {
    // Each waits until the one before has certainly been seen: by its reader, who answers nothing,
    // but ends the run at the last word.
    let script = "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three; sleep 100";
    let mut shell = job("shell", script);
    shell["give_up_at"] = json!("three");
    assert_eq!(caller.run(shell), json!({"given_up": "one\ntwo\nthree\n"}));
    let outcome =
        caller.run(job("shell", "echo one; sleep 0.2; echo two >&2; sleep 0.2; echo three"));
    let pieces = json!([["stdout", "one\n"], ["stderr", "two\n"], ["stdout", "three\n"]]);
    assert_eq!(outcome["pieces"], pieces);
}

fn languages_run_at_once(mut caller: Caller) {
    // Neither ends before both have begun, or the slower one would take the time of both.
    let jobs = [
        job("python", "import time; time.sleep(1); print('python')"),
        job("shell", "sleep 1; echo shell"),
        job("javascript", "const end = Date.now() + 500; while (Date.now() < end); 'javascript'"),
    ];
    let outcomes = caller.run_all(&jobs);
    for (outcome, expect) in outcomes.iter().zip(["python\n", "shell\n", "javascript\n"]) {
        assert_eq!(outcome["stdout"], expect, "{outcome}");
    }
}

/// A script with a child that ignores what it can, known by a number that nobody else has.
fn lingering(mark: &str) -> String {
    format!(
        "trap '' TERM HUP INT\n(sleep {mark} & (setsid sleep {mark} 2>/dev/null || sleep {mark}) &)\necho started\nsleep {mark}"
    )
}

/// A script that its own time does not end before the test does.
fn long(script: &str) -> Value {
    job_with("shell", script, |limits| limits.wall = Duration::from_secs(600))
}

/// Waits until no process has this in its command line.
fn wait_until_gone(caller: &Caller, mark: &str) {
    let deadline = std::time::Instant::now() + Duration::from_secs(60);
    loop {
        let left = caller.left_behind(mark);
        if left.is_empty() {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "{left:?}");
        std::thread::yield_now();
    }
}

fn a_run_that_is_given_up_is_killed_with_all_it_started(mut caller: Caller) {
    let mark = format!("777{}", std::process::id());
    let mut shell = long(&lingering(&mark));
    shell["give_up_at"] = json!("started");
    assert_eq!(caller.run(shell), json!({"given_up": "started\n"}));
    wait_until_gone(&caller, &mark);
    // Its place is free again, however often.
    for _ in 0..5 {
        let mut python = job("python", "print('started', flush=True)\nwhile True: pass");
        python["give_up_at"] = json!("started");
        caller.run(python);
    }
    assert_eq!(caller.stdout_of("shell", "echo here"), "here\n");
}

fn nothing_outlives_a_caller_that_is_killed(mut caller: Caller) {
    let mark = format!("888{}", std::process::id());
    caller.order(&[long(&lingering(&mark))]);
    while caller.left_behind(&mark).len() < 3 {
        std::thread::yield_now();
    }
    caller.child.kill().expect("it is ours");
    wait_until_gone(&caller, &mark);
}

fn nothing_outlives_a_supervisor_that_is_killed(mut caller: Caller) {
    let mark = format!("999{}", std::process::id());
    caller.order(&[long(&lingering(&mark))]);
    while caller.left_behind(&mark).len() < 3 {
        std::thread::yield_now();
    }
    let threads = std::fs::read_dir(format!("/proc/{}/task", caller.child.id())).expect("threads");
    let mut supervisors = String::new();
    for thread in threads.flatten() {
        supervisors += &std::fs::read_to_string(thread.path().join("children")).unwrap_or_default();
    }
    let supervisor: i32 = supervisors.trim().parse().expect("it has one");
    let supervisor = nix::unistd::Pid::from_raw(supervisor);
    nix::sys::signal::kill(supervisor, nix::sys::signal::Signal::SIGKILL).expect("it is ours");
    let outcome = caller.answer();
    assert!(outcome[0]["refused"].as_str().expect("refused").contains("the worker"), "{outcome}");
    wait_until_gone(&caller, &mark);
    assert_eq!(caller.stdout_of("shell", "echo here"), "here\n");
}

fn python_has_what_programs_use(mut caller: Caller) {
    let program = "
import csv, datetime, decimal, hashlib, json, math, os, random, re, shutil, sqlite3, statistics
import subprocess, sys, tempfile, threading, time, zipfile
assert sys.flags.isolated and sys.flags.dont_write_bytecode
open('a', 'w').write('x'); shutil.copy2('a', 'b'); os.rename('b', 'c')
with tempfile.TemporaryFile() as file: file.write(b'x')
db = sqlite3.connect('x.db'); db.execute('create table t (n)'); db.commit(); db.close()
with zipfile.ZipFile('x.zip', 'w') as z: z.write('a')
out = []
thread = threading.Thread(target=lambda: out.append(1)); thread.start(); thread.join()
print(out, subprocess.run(['sh', '-c', 'echo sub'], capture_output=True, text=True).stdout.strip())
print(hashlib.sha256(os.urandom(3)).digest_size, math.isclose(statistics.mean([1, 2]), 1.5))
sys.stdin.read()";
    assert_eq!(caller.stdout_of("python", program), "[1] sub\n32 True\n");
}

const PLAIN: Way = Way { as_root: false, modes: "landlock" };

#[test]
fn a_language_that_is_not_there_is_refused_and_says_why() {
    let mut caller = Caller::start_with(PLAIN, &["/nonexistent/python3"]).expect("it starts");
    let refused = caller.status["python"]["refused"].as_str().expect("refused").to_owned();
    assert!(refused.contains("/nonexistent/python3 is not there"), "{refused}");
    assert_eq!(caller.status["shell"], "landlock");
    let outcome = caller.run(job("python", "print(1)"));
    assert_eq!(outcome, json!({"refused": format!("the sandbox is not available: {refused}")}));
    assert_eq!(caller.stdout_of("javascript", "1"), "1\n");
}

#[test]
fn limits_can_be_as_large_as_numbers_are() {
    let mut caller = Caller::start_with(PLAIN, &["/usr/bin/python3", "1", "0"]).expect("it starts");
    let large = job_with("javascript", "1", |limits| {
        limits.wall = Duration::MAX;
        limits.cpu = Duration::MAX;
        for limit in [
            &mut limits.memory,
            &mut limits.disk,
            &mut limits.inodes,
            &mut limits.processes,
            &mut limits.output,
            &mut limits.files_bytes,
        ] {
            *limit = u64::MAX;
        }
        limits.files = u32::MAX;
    });
    let outcome = caller.run(large);
    assert_eq!(outcome["stdout"], "1\n", "{outcome}");
}

#[test]
fn no_more_run_at_once_than_may_and_the_queue_ends_somewhere() {
    let python = "/usr/bin/python3";
    let mut caller = Caller::start_with(PLAIN, &[python, "2", "3"]).expect("it starts");
    let jobs = vec![job("shell", "echo ran; sleep 0.3"); 8];
    let outcomes = caller.run_all(&jobs);
    let ran = outcomes.iter().filter(|outcome| outcome["stdout"] == "ran\n").count();
    let busy = outcomes.iter().filter(|o| o["refused"] == "too many runs at once").count();
    assert_eq!((ran, busy), (5, 3), "{outcomes:?}");
}
