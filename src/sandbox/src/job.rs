//! What is to be run, and what became of it.

use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// Who runs in the sandbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Guest {
    /// The system's `python3`, isolated (`-I`). The input is the program.
    Python,
    /// QuickJS, in the worker. The input is the program.
    JavaScript,
    /// `/bin/sh`. The input is the script.
    Shell,
    /// A function of this binary, by the name it was given to [`crate::worker::main`] under. The
    /// input is its document.
    Native(&'static str),
}

/// A run: a guest, its input, and what it may use.
#[derive(Clone, Debug)]
pub struct Job {
    /// Who runs.
    pub guest: Guest,
    /// The program, or the document of a native guest.
    pub input: Bytes,
    /// What is in the working folder when the guest starts.
    pub files: Vec<File>,
    /// What it may use.
    pub limits: Limits,
}

/// A regular file of the working folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct File {
    /// Its name. What goes in is a plain name; what comes out may be in folders, with `/` between.
    pub name: String,
    /// Its content.
    pub bytes: Bytes,
}

/// What one run may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    /// Time on the clock.
    pub wall: Duration,
    /// Processor time of all its processes.
    pub cpu: Duration,
    /// Bytes of memory of all its processes, beside those of the worker itself.
    pub memory: u64,
    /// Bytes in the working folder, and in each of its files.
    pub disk: u64,
    /// Files and folders in the working folder.
    pub inodes: u64,
    /// Processes and threads at once.
    pub processes: u64,
    /// Bytes of stdout and stderr together.
    pub output: u64,
    /// How many files are given back.
    pub files: u32,
    /// Bytes of the files that are given back, together.
    pub files_bytes: u64,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            wall: Duration::from_secs(10),
            cpu: Duration::from_secs(5),
            memory: 256 << 20,
            disk: 32 << 20,
            inodes: 4096,
            processes: 32,
            output: 256 << 10,
            files: 64,
            files_bytes: 16 << 20,
        }
    }
}

impl Limits {
    /// The same, with nothing that could not be added to something: a day, and a TiB.
    pub(crate) fn bounded(self) -> Limits {
        const TIME_MAX: Duration = Duration::from_secs(24 * 60 * 60);
        const MAX: u64 = 1 << 40;
        Limits {
            wall: self.wall.min(TIME_MAX),
            cpu: self.cpu.min(TIME_MAX),
            memory: self.memory.min(MAX),
            disk: self.disk.min(MAX),
            inodes: self.inodes.min(MAX),
            processes: self.processes.min(MAX),
            output: self.output.min(MAX),
            files: self.files,
            files_bytes: self.files_bytes.min(MAX),
        }
    }
}

/// One of a guest's two outputs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Where results go.
    Stdout,
    /// Where complaints go.
    Stderr,
}

/// How a run ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Ending {
    /// By itself, with this code.
    Exited(i32),
    /// By a signal that was not ours.
    Signalled(i32),
    /// By us.
    Killed(Why),
}

/// Which limit was reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// [`Limits::wall`].
    Wall,
    /// [`Limits::cpu`].
    Cpu,
    /// [`Limits::memory`].
    Memory,
    /// [`Limits::disk`] or [`Limits::inodes`]. In namespaces a write fails instead.
    Disk,
    /// [`Limits::processes`]. Mostly a fork fails instead.
    Processes,
    /// [`Limits::output`]: what was written up to there is given.
    Output,
}

/// What became of a run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// How it ended.
    pub ending: Ending,
    /// What it wrote, up to the limit.
    pub stdout: Bytes,
    /// What it wrote, up to the limit.
    pub stderr: Bytes,
    /// Regular files of the working folder that are new or changed, by name.
    pub files: Vec<File>,
    /// How many more there were than the limits let through.
    pub files_left_out: u32,
    /// How long the guest ran.
    pub took: Duration,
}

// ------------------------------------------------------------------------------- between processes

/// Which layers a worker has to put around its guest. Both have Landlock, seccomp and rlimits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Mode {
    /// Also namespaces and a root of its own.
    Namespaces,
    /// Also a folder that is watched.
    Landlock,
}

/// [`Guest`], and those that callers cannot name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) enum Runs {
    Python(PathBuf),
    JavaScript,
    Shell,
    Native(String),
    /// The escape suite, under the filter of guests that start processes, or of those that do not.
    Suite {
        forks: bool,
    },
}

impl Runs {
    /// Whether it needs processes of its own.
    pub(crate) fn forks(&self) -> bool {
        matches!(self, Runs::Python(_) | Runs::Shell | Runs::Suite { forks: true })
    }

    /// The name of its program in the folder above the working folder.
    pub(crate) fn program(&self) -> Option<&'static str> {
        match self {
            Runs::Python(_) => Some("program.py"),
            Runs::Shell => Some("program.sh"),
            _ => None,
        }
    }
}

/// The head of what the supervisor is told: then the input follows, then the files.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Setup {
    pub(crate) mode: Mode,
    pub(crate) runs: Runs,
    pub(crate) limits: Limits,
    /// The user and group to become, where the gateway is root.
    pub(crate) uid: Option<u32>,
    /// Where to work, without namespaces.
    pub(crate) folder: Option<PathBuf>,
    pub(crate) input: u64,
    pub(crate) files: Vec<(String, u64)>,
}

/// The head of what the process inside is told: then its input follows.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Start {
    pub(crate) mode: Mode,
    pub(crate) runs: Runs,
    pub(crate) limits: Limits,
    /// How many processes and threads its user may have at once.
    pub(crate) user_processes: u64,
    pub(crate) input: u64,
}

/// The supervisor's last word.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) enum Report {
    Ended {
        ending: Ending,
        took: Duration,
        files_left_out: u32,
    },
    /// A layer could not be put up; nothing ran.
    Failed(String),
}
