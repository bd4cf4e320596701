//! The process inside: puts up the layers around itself, then is the guest or starts it.

use std::fs::File;
use std::io::{ErrorKind, Write, stdout};
use std::os::fd::AsFd;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::prctl;
use nix::sys::signal::Signal;
use nix::sys::wait::{WaitStatus, wait};
use serde::{Deserialize, Serialize};

use super::{Native, javascript, landlock, limits, namespaces, seccomp};
use crate::frames::{read_bytes, read_head, write_head};
use crate::job::{Ending, Mode, Runs, Start};
use crate::suite;

/// What the process inside tells the supervisor, if its own end does not say it.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Word {
    Failed(String),
    Ended(Ending),
}

pub(super) fn main(natives: &[(&'static str, Native)]) -> i32 {
    let Ok(control) = std::io::stdin().as_fd().try_clone_to_owned() else { return 1 };
    // It is a socket, but what sockets are written with is refused to us soon.
    let mut control = File::from(control);
    let word = match prepare(&mut control) {
        Ok((start, input)) => be(&start, &input, natives),
        Err(why) => Word::Failed(why),
    };
    if let Word::Ended(Ending::Exited(code)) = word {
        return code;
    }
    write_head(&mut control, &word).is_err().into()
}

fn because<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

/// Waits for its orders and puts up all layers.
fn prepare(control: &mut File) -> Result<(Start, Vec<u8>), String> {
    prctl::set_pdeathsig(Signal::SIGKILL).map_err(because("the parent's death"))?;
    // If the parent died before that, nobody reads this.
    control.write_all(&[0]).map_err(because("orders"))?;
    let start: Start = read_head(control).map_err(because("orders"))?;
    let input = read_bytes(control, start.input).map_err(because("orders"))?;
    if start.mode == Mode::Namespaces {
        std::env::set_current_dir(namespaces::WORK).map_err(because("the working folder"))?;
    }
    // What its guest leaves behind is its own to wait for, or it would count as a process for ever.
    prctl::set_child_subreaper(true).map_err(because("subreaper"))?;
    let forks = start.runs.forks();
    limits::restrict(&start.limits, start.user_processes).map_err(because("rlimits"))?;
    landlock::restrict(start.mode, forks)?;
    seccomp::restrict(start.mode, forks)?;
    Ok((start, input))
}

/// Is the guest, or starts it and waits for its end.
fn be(start: &Start, input: &[u8], natives: &[(&'static str, Native)]) -> Word {
    let code = match &start.runs {
        Runs::Python(python) => {
            return run(Command::new(python).args(["-I", "-B", "-u", "../program.py"]));
        }
        Runs::Shell => return run(Command::new("/bin/sh").arg("../program.sh")),
        Runs::JavaScript => javascript::run(input, start.limits.memory),
        Runs::Suite { .. } => suite::run(input, &mut stdout()),
        Runs::Native(name) => match natives.iter().find(|(known, _)| known == name) {
            Some((_, native)) => native(input, &mut stdout()),
            None => return Word::Failed(format!("there is no native guest {name}")),
        },
    };
    match stdout().flush() {
        Ok(()) => Word::Ended(Ending::Exited(code)),
        Err(error) => Word::Failed(error.to_string()),
    }
}

/// How long a program is tried to be started while the user has too many processes, and how often.
const CROWDED_MAX: Duration = Duration::from_secs(2);
const CROWDED: Duration = Duration::from_millis(10);

/// Runs a program of the system in the working folder.
fn run(command: &mut Command) -> Word {
    let home = std::env::current_dir().unwrap_or_else(|_| ".".into());
    command
        .env_clear()
        .env("PATH", "/usr/local/bin:/usr/bin:/bin")
        .env("HOME", &home)
        .env("TMPDIR", &home)
        .env("LANG", "C.UTF-8")
        // Numerical libraries would start a thread for each processor.
        .env("OMP_NUM_THREADS", "1")
        .env("OPENBLAS_NUM_THREADS", "1")
        .stdin(Stdio::null());
    let begun = Instant::now();
    let child = loop {
        match command.spawn() {
            Ok(child) => break child,
            // Where several runs are one user, the kernel counts another one's fork bomb as ours until
            // its watch has ended it.
            Err(error)
                if error.kind() == ErrorKind::WouldBlock && begun.elapsed() < CROWDED_MAX =>
            {
                std::thread::sleep(CROWDED);
            }
            Err(error) => {
                return Word::Failed(format!("{}: {error}", command.get_program().display()));
            }
        }
    };
    loop {
        let ended = match wait() {
            Ok(WaitStatus::Exited(process, code)) => (process, Ending::Exited(code)),
            Ok(WaitStatus::Signaled(process, signal, _)) => {
                (process, Ending::Signalled(signal as i32))
            }
            Ok(_) | Err(nix::errno::Errno::EINTR) => continue,
            Err(error) => return Word::Failed(error.to_string()),
        };
        if ended.0.as_raw().unsigned_abs() == child.id() {
            return Word::Ended(ended.1);
        }
    }
}
