//! What the tests and the bench call the sandbox by: a gateway's process without the gateway, so
//! that it can be any user.
//!
//! ```text
//! sandbox-caller FOLDER all|namespaces|landlock|refused [PYTHON [AT_ONCE QUEUE]]
//! ```
//!
//! `refused` is `all` where the kernel makes no namespaces. First a line of JSON with the status is
//! written. Then each line that is read is a list of jobs that run at once, and is answered by a
//! line.

use std::io::{BufRead, Write};
use std::os::fd::OwnedFd;
use std::time::Instant;

use nix::fcntl::OFlag;
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::Notify;
use tollway_sandbox::{
    File, Guest, Job, Limits, Modes, Sandbox, Settings, Stream, WORKER_ARG, worker,
};

/// The native guests of the tests.
const NATIVES: &[(&str, worker::Native)] = &[("count", count), ("panic", panic), ("grow", grow)];

/// Says how long its document is.
fn count(document: &[u8], out: &mut dyn Write) -> i32 {
    i32::from(writeln!(out, "{} bytes", document.len()).is_err())
}

/// Has a mistake in it.
fn panic(document: &[u8], _out: &mut dyn Write) -> i32 {
    i32::from(document[document.len()])
}

/// Takes all memory there is.
fn grow(_document: &[u8], _out: &mut dyn Write) -> i32 {
    let mut all: Vec<Vec<u8>> = Vec::new();
    loop {
        all.push(vec![1; 1 << 20]);
    }
}

#[derive(Deserialize)]
struct Order {
    guest: String,
    input: String,
    #[serde(default)]
    files: Vec<(String, Vec<u8>)>,
    limits: Limits,
    /// Gives the run up as soon as it has written this.
    give_up_at: Option<String>,
}

fn main() {
    if std::env::args().nth(1).is_some_and(|argument| argument == WORKER_ARG) {
        worker::main(NATIVES);
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [folder, modes, rest @ ..] = &arguments[..] else { panic!("which folder, which modes?") };
    let mut settings = Settings::new(folder);
    // The kernel counts processes by user: those of callers at the same time are not ours.
    settings.uid_first = 20_000 + std::process::id() % 2_500 * 16;
    settings.modes = match modes.as_str() {
        "namespaces" => Modes::Namespaces,
        "landlock" => Modes::Landlock,
        _ => Modes::All,
    };
    if modes == "refused" {
        refuse_namespaces();
    }
    if let [python, ..] = rest {
        settings.python = python.into();
    }
    if let [_, at_once, queue] = rest {
        settings.concurrent_max = at_once.parse().expect("a number");
        settings.queue_max = queue.parse().expect("a number");
    }
    // What a careless library leaves open: not marked to be closed.
    let _bait: OwnedFd =
        nix::fcntl::open("/etc/passwd", OFlag::O_RDONLY, Mode::empty()).expect("a file");

    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    runtime.expect("a runtime").block_on(serve(settings));
}

/// Moves into a user namespace in which no further namespaces are made.
fn refuse_namespaces() {
    let map = |own: u32| if own == 0 { "0 0 65536".to_owned() } else { format!("{own} {own} 1") };
    let is_root = nix::unistd::geteuid().is_root();
    let (users, groups) =
        (map(nix::unistd::geteuid().as_raw()), map(nix::unistd::getegid().as_raw()));
    // Only a process outside may map many: another one of us, that waits until it is time.
    let mut mapper = std::process::Command::new("/bin/sh");
    let (process, script) =
        (std::process::id(), "read go; echo $2 > /proc/$1/uid_map; echo $3 > /proc/$1/gid_map");
    mapper.args(["-c", script, "sh", &process.to_string(), &users, &groups]);
    let mut mapper = mapper.stdin(std::process::Stdio::piped()).spawn().expect("a shell");
    unshare(CloneFlags::CLONE_NEWUSER).expect("a user namespace");
    if is_root {
        let go = mapper.stdin.take().expect("its stdin").write_all(b"go\n");
        assert!(go.is_ok() && mapper.wait().is_ok_and(|status| status.success()));
    } else {
        mapper.kill().and_then(|()| mapper.wait()).expect("not needed");
        std::fs::write("/proc/self/setgroups", "deny").expect("setgroups");
        std::fs::write("/proc/self/uid_map", users).expect("uid_map");
        std::fs::write("/proc/self/gid_map", groups).expect("gid_map");
    }
    std::fs::write("/proc/sys/user/max_user_namespaces", "0").expect("none are made");
}

async fn serve(settings: Settings) {
    let started = Instant::now();
    let sandbox = Sandbox::probe(settings).await;
    let mut status = json!(sandbox.status());
    status["ms"] = json!(started.elapsed().as_millis() as u64);
    answer(&status);
    for line in std::io::stdin().lock().lines() {
        let orders: Vec<Order> =
            serde_json::from_str(&line.expect("a line")).expect("a list of jobs");
        let running: Vec<_> =
            orders.into_iter().map(|order| tokio::spawn(run(sandbox.clone(), order))).collect();
        let mut answers = Vec::new();
        for run in running {
            answers.push(run.await.expect("it does not panic"));
        }
        answer(&Value::from(answers));
    }
}

fn answer(value: &Value) {
    let mut out = std::io::stdout().lock();
    writeln!(out, "{value}").and_then(|()| out.flush()).expect("somebody listens");
}

async fn run(sandbox: Sandbox, order: Order) -> Value {
    let guest = match order.guest.as_str() {
        "python" => Guest::Python,
        "javascript" => Guest::JavaScript,
        "shell" => Guest::Shell,
        name => {
            let known = NATIVES.iter().find(|(known, _)| *known == name);
            Guest::Native(known.map_or("unknown", |(known, _)| known))
        }
    };
    let files = order.files.into_iter().map(|(name, bytes)| File { name, bytes: bytes.into() });
    let job =
        Job { guest, input: order.input.into(), files: files.collect(), limits: order.limits };
    let (mut pieces, seen) = (Vec::new(), Notify::new());
    let started = Instant::now();
    let mut written = String::new();
    let on_output = |stream: Stream, bytes: &[u8]| {
        let text = String::from_utf8_lossy(bytes);
        written.push_str(&text);
        pieces.push(json!([stream, text]));
        if order.give_up_at.as_ref().is_some_and(|at| written.contains(at)) {
            seen.notify_one();
        }
    };
    let outcome = tokio::select! {
        outcome = sandbox.run(job, on_output) => outcome,
        () = seen.notified() => return json!({"given_up": written}),
    };
    let elapsed_us = started.elapsed().as_micros() as u64;
    match outcome {
        Err(refused) => json!({"refused": refused.to_string()}),
        Ok(outcome) => json!({
            "ending": outcome.ending,
            "stdout": String::from_utf8_lossy(&outcome.stdout),
            "stderr": String::from_utf8_lossy(&outcome.stderr),
            "files": outcome.files.iter().map(|file| (&file.name, beginning(&file.bytes))).collect::<Vec<_>>(),
            "files_left_out": outcome.files_left_out,
            "pieces": pieces,
            "elapsed_us": elapsed_us,
            "took_us": outcome.took.as_micros() as u64,
        }),
    }
}

/// Enough to see what it is: JSON makes much of it.
fn beginning(bytes: &[u8]) -> &[u8] {
    &bytes[..bytes.len().min(100_000)]
}
