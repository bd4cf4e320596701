//! The process between the gateway and the guest. It gives up what it can, prepares the place,
//! starts the process inside, watches it, kills it, and reports.
//!
//! It ends with everything as soon as the gateway's end of its stdin is closed: that is how a run
//! is cancelled, and how nothing is left behind when the gateway is killed. A signal at its
//! parent's death would not do: that would follow the thread that started it.

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Result, Write, stdin, stdout};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::process::{Child, ChildStderr, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl;
use nix::sys::signal::{Signal, killpg};
use nix::sys::stat::{Mode as FileMode, umask};
use nix::sys::wait::wait;
use nix::unistd::Pid;
use rustix::process::{PidfdFlags, pidfd_open};

use super::inside::Word;
use super::watch::{Proc, TICK, Watch};
use super::{files, namespaces, privileges};
use crate::frames::{Kind, frame_head, read_bytes, read_head, write_head};
use crate::job::{Ending, Mode, Report, Setup, Start, Stream, Why};

/// The most that is read of an output at once.
const PIECE: usize = 64 << 10;

pub(super) fn main() -> i32 {
    let report = supervise().unwrap_or_else(Report::Failed);
    let report = serde_json::to_vec(&report).unwrap_or_default();
    send(Kind::Report, &[&report]).is_err().into()
}

/// Writes a frame to the gateway.
fn send(kind: Kind, parts: &[&[u8]]) -> Result<()> {
    let length = parts.iter().map(|part| part.len()).sum();
    let mut out = stdout().lock();
    out.write_all(&frame_head(kind, length)?)?;
    parts.iter().try_for_each(|part| out.write_all(part))?;
    out.flush()
}

/// Says what could not be done.
fn because<E: std::fmt::Display>(what: &'static str) -> impl Fn(E) -> String {
    move |error| format!("{what}: {error}")
}

fn supervise() -> std::result::Result<Report, String> {
    privileges::close_descriptors().map_err(because("descriptors"))?;
    let mut orders = stdin().lock();
    let setup: Setup = read_head(&mut orders).map_err(because("orders"))?;
    let input = read_bytes(&mut orders, setup.input).map_err(because("orders"))?;
    umask(FileMode::from_bits_truncate(0o022));
    let proc = Proc::open().map_err(because("/proc"))?;
    let user_processes = user_processes(&setup).map_err(because("/proc"))?;

    // Before the user changes: the way there need not be open to the new one.
    if let Some(folder) = &setup.folder {
        std::env::set_current_dir(folder.join("work")).map_err(because("the working folder"))?;
    }
    if let Some(uid) = setup.uid {
        privileges::become_user(uid).map_err(because("own user"))?;
    }
    privileges::drop_capabilities().map_err(because("capabilities"))?;
    privileges::own_proc().map_err(because("/proc/self"))?;
    // What loses its parent becomes ours.
    prctl::set_child_subreaper(true).map_err(because("subreaper"))?;

    let program = setup.runs.program().map(|name| (name, &input[..]));
    match setup.mode {
        Mode::Namespaces => {
            namespaces::unshare_all().map_err(because("namespaces"))?;
            namespaces::build(&setup.limits, program).map_err(because("own root"))?;
        }
        Mode::Landlock => {
            let put = |(name, text): (&str, &[u8])| files::put(&format!("../{name}"), text);
            program.map_or(Ok(()), put).map_err(because("the program"))?;
        }
    }
    let mut inside = Inside::start().map_err(because("the process inside"))?;
    send(Kind::Group, &[&inside.child.id().to_le_bytes()]).map_err(because("orders"))?;
    let memory_before = proc.usage(inside.child.id()).map_or(0, |usage| usage.memory);
    if setup.mode == Mode::Namespaces {
        namespaces::pivot().map_err(because("own root"))?;
        privileges::drop_capabilities().map_err(because("capabilities"))?;
    }
    for (name, length) in &setup.files {
        let bytes = read_bytes(&mut orders, *length).map_err(because("orders"))?;
        files::put(name, &bytes).map_err(because("files"))?;
    }
    drop(orders);
    let before = files::remember().map_err(because("files"))?;

    let input = if program.is_some() { Vec::new() } else { input };
    let start = Start {
        mode: setup.mode,
        runs: setup.runs,
        limits: setup.limits,
        user_processes,
        input: input.len() as u64,
    };
    inside.order(&start, &input).map_err(because("the process inside"))?;
    let started = Instant::now();
    let watch = Watch {
        proc: &proc,
        limits: &setup.limits,
        own: std::process::id(),
        memory_before,
        is_folder: setup.mode == Mode::Landlock,
        folder_next: started,
    };
    let killed = inside.attend(watch, started + setup.limits.wall);
    let took = started.elapsed();
    let word = inside.end().map_err(because("the process inside"))?;
    let killed = killed.map_err(because("watching"))?;
    let too_much = inside.drain().map_err(because("output"))?.then_some(Why::Output);
    let ending = match killed.or(too_much) {
        Some(why) => Ending::Killed(why),
        None => word?,
    };
    let give = |name: &str, bytes: &[u8]| {
        let length = u16::try_from(name.len()).map_err(|_| ErrorKind::InvalidFilename)?;
        send(Kind::File, &[&length.to_le_bytes(), name.as_bytes(), bytes])
    };
    let files_left_out = files::collect(&before, &setup.limits, give).map_err(because("files"))?;
    Ok(Report::Ended { ending, took, files_left_out })
}

/// What the gateway and other runs may start while this one runs, where they are the same user.
const MEANWHILE: u64 = 256;

/// How many processes and threads the run's user may have: the kernel counts them by user. In a
/// user namespace, and as a user of its own, there are only ours: this one and the one inside.
/// Elsewhere it is the watch that counts, and this is what a fork bomb comes to between two looks.
fn user_processes(setup: &Setup) -> Result<u64> {
    let mut others = 2;
    if setup.mode == Mode::Landlock && setup.uid.is_none() {
        others = count_of_user()? + MEANWHILE;
    }
    Ok(setup.limits.processes + others)
}

/// The processes and threads that this user has, other runs included.
fn count_of_user() -> Result<u64> {
    use std::os::unix::fs::MetadataExt;
    let own = nix::unistd::getuid().as_raw();
    let mut count = 0;
    for entry in std::fs::read_dir("/proc")?.flatten() {
        let is_process = entry.file_name().as_encoded_bytes().iter().all(u8::is_ascii_digit);
        if is_process && entry.metadata().is_ok_and(|metadata| metadata.uid() == own) {
            count += std::fs::read_dir(entry.path().join("task")).map_or(0, Iterator::count) as u64;
        }
    }
    Ok(count)
}

/// The process inside, from here.
struct Inside {
    child: Child,
    pidfd: OwnedFd,
    control: UnixStream,
    stdout: Option<ChildStdout>,
    stderr: Option<ChildStderr>,
    /// What the guest wrote and the gateway has not taken yet, as frames.
    pending: VecDeque<u8>,
    /// How much more it may write.
    left: u64,
}

impl Inside {
    /// Starts it and waits until it runs. It stays where it is until it gets its orders.
    fn start() -> Result<Inside> {
        let (mut control, theirs) = UnixStream::pair()?;
        let mut command = Command::new("/proc/self/exe");
        command
            .args([crate::WORKER_ARG, super::INSIDE_ARG])
            .env_clear()
            // Our own allocator shall not count memory that it only reserves as used.
            .env("MIMALLOC_ARENA_EAGER_COMMIT", "0")
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0);
        let mut child = command.spawn()?;
        // It has the only copy of its end: if it dies, we read the end of the stream.
        drop(command);
        control.read_exact(&mut [0])?;
        let process = i32::try_from(child.id()).ok().and_then(rustix::process::Pid::from_raw);
        let process = process.ok_or(ErrorKind::InvalidData)?;
        let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
        let pidfd = pidfd_open(process, PidfdFlags::empty())?;
        Ok(Inside { child, pidfd, control, stdout, stderr, pending: VecDeque::new(), left: 0 })
    }

    fn order(&mut self, start: &Start, input: &[u8]) -> Result<()> {
        self.left = start.limits.output;
        write_head(&mut self.control, start)?;
        self.control.write_all(input)
    }

    /// Passes on what it writes until it ends, or until it must.
    fn attend(&mut self, mut watch: Watch<'_>, deadline: Instant) -> Result<Option<Why>> {
        rustix::io::ioctl_fionbio(stdout(), true)?;
        let mut look = Instant::now() + TICK;
        loop {
            let now = Instant::now();
            if now >= deadline {
                return Ok(Some(Why::Wall));
            }
            if now >= look {
                if let Some(why) = watch.look() {
                    return Ok(Some(why));
                }
                look = Instant::now() + TICK;
            }
            let ready = self.wait(deadline.min(look).saturating_duration_since(now))?;
            if ready.cancelled {
                return Err(ErrorKind::BrokenPipe.into());
            }
            if ready.room {
                self.pass_on()?;
            }
            if ready.stdout && self.take(Stream::Stdout)? {
                return Ok(Some(Why::Output));
            }
            if ready.stderr && self.take(Stream::Stderr)? {
                return Ok(Some(Why::Output));
            }
            if ready.ended {
                return Ok(None);
            }
        }
    }

    fn wait(&self, at_most: Duration) -> Result<Ready> {
        let timeout = PollTimeout::try_from(at_most + Duration::from_millis(1));
        let (orders, out) = (stdin(), stdout());
        let mut watched: Vec<(BorrowedFd<'_>, PollFlags)> =
            vec![(orders.as_fd(), PollFlags::POLLIN), (self.pidfd.as_fd(), PollFlags::POLLIN)];
        let none = PollFlags::empty();
        let room = if self.pending.is_empty() { none } else { PollFlags::POLLOUT };
        watched.push((out.as_fd(), room));
        watched.extend(self.stdout.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::POLLIN)));
        watched.extend(self.stderr.as_ref().map(|pipe| (pipe.as_fd(), PollFlags::POLLIN)));
        let mut polled: Vec<PollFd<'_>> =
            watched.into_iter().map(|(fd, flags)| PollFd::new(fd, flags)).collect();
        match poll(&mut polled, timeout.unwrap_or(PollTimeout::ZERO)) {
            Ok(_) | Err(nix::errno::Errno::EINTR) => {}
            Err(error) => return Err(error.into()),
        }
        let mut ready = polled.iter().map(|fd| fd.any().unwrap_or(true));
        let mut next = || ready.next().unwrap_or(false);
        let (cancelled, ended, room) = (next(), next(), next());
        let stdout = self.stdout.is_some() && next();
        let stderr = self.stderr.is_some() && next();
        Ok(Ready { cancelled, ended, room, stdout, stderr })
    }

    /// Reads a piece of its output. Whether that was too much.
    fn take(&mut self, stream: Stream) -> Result<bool> {
        let mut piece = [0; PIECE];
        let read = match stream {
            Stream::Stdout => self.stdout.as_mut().map(|pipe| pipe.read(&mut piece)),
            Stream::Stderr => self.stderr.as_mut().map(|pipe| pipe.read(&mut piece)),
        };
        let Some(read) = read else { return Ok(false) };
        let read = read?;
        if read == 0 {
            match stream {
                Stream::Stdout => self.stdout = None,
                Stream::Stderr => self.stderr = None,
            }
            return Ok(false);
        }
        let kept = read.min(usize::try_from(self.left).unwrap_or(usize::MAX));
        self.left -= kept as u64;
        if kept > 0 {
            self.pending.extend(frame_head(Kind::Output(stream), kept)?);
            self.pending.extend(&piece[..kept]);
        }
        self.pass_on()?;
        Ok(kept < read)
    }

    /// Gives the gateway what it takes now. The watch goes on if it is slow.
    fn pass_on(&mut self) -> Result<()> {
        while !self.pending.is_empty() {
            let (front, _) = self.pending.as_slices();
            match rustix::io::write(stdout(), front) {
                Ok(written) => drop(self.pending.drain(..written)),
                Err(rustix::io::Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    /// Passes on what is left in the pipes. Nobody writes any more. Whether it was too much.
    fn drain(&mut self) -> Result<bool> {
        rustix::io::ioctl_fionbio(stdout(), false)?;
        self.pass_on()?;
        let mut too_much = false;
        for stream in [Stream::Stdout, Stream::Stderr] {
            while self.is_open(stream) {
                too_much |= self.take(stream)?;
            }
        }
        Ok(too_much)
    }

    fn is_open(&self, stream: Stream) -> bool {
        match stream {
            Stream::Stdout => self.stdout.is_some(),
            Stream::Stderr => self.stderr.is_some(),
        }
    }

    /// Kills what is left, waits until it is gone, and says how the process inside ended.
    fn end(&mut self) -> Result<std::result::Result<Ending, String>> {
        // It leads its group, and is only waited for below: the number is still its own.
        let group = i32::try_from(self.child.id()).map_err(|_| ErrorKind::InvalidData)?;
        let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
        let status = self.child.wait()?;
        while wait().is_ok() {}
        self.control.set_nonblocking(true)?;
        let word: Option<Word> = read_head(&mut self.control).ok();
        Ok(match (word, status.code(), status.signal()) {
            (Some(Word::Failed(why)), _, _) => Err(why),
            (Some(Word::Ended(ending)), _, _) => Ok(ending),
            (None, Some(code), _) => Ok(Ending::Exited(code)),
            (None, None, signal) => Ok(Ending::Signalled(signal.unwrap_or_default())),
        })
    }
}

/// What there is to do.
struct Ready {
    /// The gateway has gone.
    cancelled: bool,
    ended: bool,
    room: bool,
    stdout: bool,
    stderr: bool,
}
