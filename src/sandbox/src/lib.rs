//! Runs untrusted code: Python, JavaScript, shell scripts, and parsers of hostile documents.
//!
//! Every run has a worker process of its own, started from this binary with an empty environment:
//!
//! ```text
//! gateway ── supervisor ── inside ── python3, sh
//!            own uid,      Landlock, seccomp, rlimits;
//!            watches       JavaScript and natives run here
//! ```
//!
//! The supervisor drops root, makes namespaces where the kernel allows, watches time, memory,
//! processes, disk and output, and is the only one that the gateway listens to. What is inside has
//! no descriptor but its three, and no way to make another kind than files in its working folder.
//! A language whose layers did not prove themselves in [`Sandbox::probe`] is refused: nothing ever
//! runs without a sandbox.
//!
//! The executable calls [`worker::main`] before anything else when its first argument is
//! [`WORKER_ARG`].

mod frames;
mod job;
mod raw;
mod run;
mod sandbox;
mod scratch;
mod suite;
pub mod worker;

pub use job::{Ending, File, Guest, Job, Limits, Outcome, Stream, Why};
pub use sandbox::{Level, Modes, Refused, Sandbox, Settings, Status};

/// The first argument of a worker process.
pub const WORKER_ARG: &str = "__sandbox";
