//! A process that calls the sandbox, and the ways there are to be one.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::{PermissionsExt, chown};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use serde_json::{Value, json};
use tollway_sandbox::Limits;

/// What is in the environment of callers and must not come out of it.
pub(crate) const CANARY: &str = "canary-5c1f0e";

/// Who calls, and how guests are to be locked in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Way {
    pub(crate) as_root: bool,
    /// `namespaces`, `landlock`, or `refused`: both are tried, and the kernel makes no namespaces.
    pub(crate) modes: &'static str,
}

/// Makes each test a test in every way. Where the tests do not run as root, they run as one user.
macro_rules! in_every_way {
    ($($test:ident),* $(,)?) => {
        in_every_way!(@way root_with_namespaces, true, "namespaces", $($test),*);
        in_every_way!(@way root_with_landlock, true, "landlock", $($test),*);
        in_every_way!(@way root_without_user_namespaces, true, "refused", $($test),*);
        in_every_way!(@way user_with_namespaces, false, "namespaces", $($test),*);
        in_every_way!(@way user_with_landlock, false, "landlock", $($test),*);
        in_every_way!(@way user_without_user_namespaces, false, "refused", $($test),*);
    };
    (@way $name:ident, $as_root:expr, $modes:expr, $($test:ident),*) => {
        mod $name {
            use crate::caller::{Caller, Way};
            $(#[test]
            fn $test() {
                if let Some(caller) = Caller::start(Way { as_root: $as_root, modes: $modes }) {
                    super::$test(caller);
                }
            })*
        }
    };
}
pub(crate) use in_every_way;

/// The calling process.
pub(crate) struct Caller {
    pub(crate) way: Way,
    pub(crate) status: Value,
    pub(crate) folder: PathBuf,
    pub(crate) child: Child,
    /// Gone once it was told that nothing more comes.
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
}

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Whether this kernel lets an ordinary user make namespaces, asked of somebody else's program.
fn has_namespaces() -> bool {
    let mut command = Command::new("unshare");
    command.args(["--user", "--map-root-user", "--mount", "--pid", "--fork", "true"]);
    if is_root() {
        command.uid(65_534).gid(65_534);
    }
    command.stderr(Stdio::null()).status().is_ok_and(|status| status.success())
}

impl Caller {
    /// Starts one with the usual settings. `None` if this machine has no such way.
    pub(crate) fn start(way: Way) -> Option<Caller> {
        Caller::start_with(way, &[])
    }

    /// Starts one with more arguments.
    pub(crate) fn start_with(way: Way, more: &[&str]) -> Option<Caller> {
        if (way.as_root && !is_root()) || (way.modes != "landlock" && !has_namespaces()) {
            return None;
        }
        // Tests may be threads of one process.
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let (id, number) = (std::process::id(), NEXT.fetch_add(1, Relaxed));
        let folder = std::env::temp_dir().join(format!("tollway-sandbox-test-{id}-{number}"));
        std::fs::create_dir(&folder).expect("a folder");
        let mut command = Command::new(program(&folder));
        let runs = folder.join("runs");
        std::fs::create_dir(&runs).expect("a folder");
        if is_root() && !way.as_root {
            // Of its own, so that nobody else's processes count.
            let user = 10_000 + id.wrapping_mul(64).wrapping_add(number) % 50_000;
            chown(&runs, Some(user), Some(user)).expect("we are root");
            command.uid(user).gid(user);
        }
        command.arg(&runs).arg(way.modes).args(more).env("CANARY", CANARY);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("the caller starts");
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().expect("its stdout"));
        let mut caller = Caller { way, status: Value::Null, folder, child, stdin, stdout };
        caller.status = caller.answer();
        Some(caller)
    }

    /// The level that its guests must have.
    pub(crate) fn level(&self) -> &'static str {
        if self.way.modes == "namespaces" { "namespaces" } else { "landlock" }
    }

    /// What it says next.
    pub(crate) fn answer(&mut self) -> Value {
        let mut line = String::new();
        self.stdout.read_line(&mut line).expect("it answers");
        serde_json::from_str(&line).expect("in JSON")
    }

    /// Orders jobs that run at once.
    pub(crate) fn order(&mut self, jobs: &[Value]) {
        let stdin = self.stdin.as_mut().expect("it listens");
        writeln!(stdin, "{}", Value::from(jobs)).expect("it listens");
    }

    /// Runs jobs at once.
    pub(crate) fn run_all(&mut self, jobs: &[Value]) -> Vec<Value> {
        self.order(jobs);
        self.answer().as_array().expect("a list").clone()
    }

    /// Runs one job.
    pub(crate) fn run(&mut self, job: Value) -> Value {
        self.run_all(&[job]).remove(0)
    }

    /// Runs a program with the usual limits and gives what it wrote, if it ended well.
    pub(crate) fn stdout_of(&mut self, guest: &str, input: &str) -> String {
        let outcome = self.run(job(guest, input));
        assert_eq!(outcome["ending"], json!({"exited": 0}), "{outcome}");
        outcome["stdout"].as_str().expect("text").to_owned()
    }

    /// The processes that came of this caller: by their command line, or their user.
    pub(crate) fn left_behind(&self, mark: &str) -> Vec<String> {
        let processes = std::fs::read_dir("/proc").expect("/proc").flatten();
        processes
            .filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok())
            .map(|line| String::from_utf8_lossy(&line).replace('\0', " "))
            .filter(|line| line.contains(mark))
            .collect()
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        drop(self.stdin.take());
        let _ = self.child.wait();
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

/// The program, where every user can start it.
fn program(folder: &Path) -> PathBuf {
    let built = PathBuf::from(env!("CARGO_BIN_EXE_sandbox-caller"));
    let is_open = built.ancestors().all(|path| {
        std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o1 == 0o1)
    });
    if is_open {
        return built;
    }
    let copy = folder.join("sandbox-caller");
    std::fs::copy(&built, &copy).expect("the program can be copied");
    copy
}

/// A job with the usual limits.
pub(crate) fn job(guest: &str, input: &str) -> Value {
    job_with(guest, input, |_| {})
}

/// A job with limits of its own.
pub(crate) fn job_with(guest: &str, input: &str, set: impl FnOnce(&mut Limits)) -> Value {
    let mut limits = Limits::default();
    set(&mut limits);
    json!({"guest": guest, "input": input, "limits": limits})
}
