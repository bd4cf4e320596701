//! One run, seen from the gateway.

use std::io::{Error, ErrorKind};
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::OwnedSemaphorePermit;

use crate::WORKER_ARG;
use crate::frames::{FRAME_HEAD, Kind, head_bytes, parse_frame_head};
use crate::job::{File, Limits, Mode, Outcome, Report, Runs, Setup, Stream};
use crate::scratch::Scratch;

/// Beyond its guest's time, what a supervisor may take to prepare and to clean up.
const SUPERVISOR_TIME: Duration = Duration::from_secs(20);

/// The longest path that a file can have, and then some.
const FILE_NAME_MAX: u64 = 8192;

/// How long a supervisor may take to end with all it has, once nobody listens to it.
const END_TIME: Duration = Duration::from_secs(5);

/// The right to run now, and the user to run as.
pub(crate) struct Place {
    _permit: OwnedSemaphorePermit,
    user: Option<(Arc<Mutex<Vec<u32>>>, u32)>,
}

impl Place {
    pub(crate) fn new(
        permit: OwnedSemaphorePermit,
        user: Option<(Arc<Mutex<Vec<u32>>>, u32)>,
    ) -> Place {
        Place { _permit: permit, user }
    }

    pub(crate) fn uid(&self) -> Option<u32> {
        self.user.as_ref().map(|(_, user)| *user)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // Before the permit goes: who gets that finds a user.
        if let Some((users, user)) = &self.user {
            users.lock().push(*user);
        }
    }
}

/// A supervisor, and what is given back when nothing of it is left.
pub(crate) struct Run(Option<Parts>);

struct Parts {
    child: Child,
    /// The supervisor ends when this is closed.
    stdin: ChildStdin,
    stdout: ChildStdout,
    /// The process group of the guest.
    group: Option<i32>,
    // In this order: the folder goes before somebody else may be the user that owns it.
    scratch: Option<Scratch>,
    place: Place,
}

impl Run {
    /// Starts the supervisor.
    pub(crate) fn start(
        executable: &Path,
        scratch: Option<Scratch>,
        place: Place,
    ) -> Result<Run, Error> {
        let mut child = Command::new(executable)
            .arg(WORKER_ARG)
            .env_clear()
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            // A key pressed in our terminal is ours to handle.
            .process_group(0)
            .spawn()?;
        let pipes = child.stdin.take().zip(child.stdout.take());
        let (stdin, stdout) = pipes.ok_or(ErrorKind::BrokenPipe)?;
        Ok(Run(Some(Parts { child, stdin, stdout, group: None, scratch, place })))
    }

    /// Gives it its orders and listens until its report.
    pub(crate) async fn finish(
        mut self,
        mode: Mode,
        runs: Runs,
        input: &Bytes,
        files: &[File],
        limits: &Limits,
        on_output: impl FnMut(Stream, &[u8]) + Send,
    ) -> Result<Outcome, String> {
        let Some(parts) = &mut self.0 else { return Err("it has ended".to_owned()) };
        let setup = Setup {
            mode,
            runs,
            limits: *limits,
            uid: parts.place.uid(),
            folder: parts.scratch.as_ref().map(|scratch| scratch.path().to_owned()),
            input: input.len() as u64,
            files: files.iter().map(|file| (file.name.clone(), file.bytes.len() as u64)).collect(),
        };
        let talk = async {
            // One that fails early does not read to the end, and says why.
            let ordered = parts.order(&setup, input, files).await;
            let reported = parts.listen(limits, on_output).await;
            match (ordered, reported) {
                (_, Ok(reported)) => reported,
                (Err(error), Err(_)) | (Ok(()), Err(error)) => Err(format!("the worker: {error}")),
            }
        };
        let outcome = match tokio::time::timeout(limits.wall + SUPERVISOR_TIME, talk).await {
            Ok(outcome) => outcome,
            Err(_) => Err("the worker does not end".to_owned()),
        };
        if let Some(parts) = self.0.take() {
            // The place is free when this returns.
            parts.end().await;
        }
        outcome
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let Some(parts) = self.0.take() else { return };
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) => drop(runtime.spawn(parts.end())),
            // With our end of its stdin, everything is told already.
            Err(_) => drop(parts),
        }
    }
}

impl Parts {
    async fn order(&mut self, setup: &Setup, input: &[u8], files: &[File]) -> Result<(), Error> {
        self.stdin.write_all(&head_bytes(setup)?).await?;
        self.stdin.write_all(input).await?;
        for file in files {
            self.stdin.write_all(&file.bytes).await?;
        }
        self.stdin.flush().await
    }

    async fn listen(
        &mut self,
        limits: &Limits,
        mut on_output: impl FnMut(Stream, &[u8]),
    ) -> Result<Result<Outcome, String>, Error> {
        let (mut stdout, mut stderr) = (BytesMut::new(), BytesMut::new());
        let mut files = Vec::new();
        // A supervisor keeps to the limits; should it not, it is not listened to.
        let names = u64::from(limits.files) * FILE_NAME_MAX;
        let mut room = limits.output + limits.files_bytes + names + (1 << 20);
        loop {
            let mut head = [0; FRAME_HEAD];
            self.stdout.read_exact(&mut head).await?;
            let (kind, length) = parse_frame_head(head)?;
            room = room.checked_sub(length as u64).ok_or(ErrorKind::InvalidData)?;
            let mut payload = vec![0; length];
            self.stdout.read_exact(&mut payload).await?;
            match kind {
                Kind::Group => {
                    let group: [u8; 4] =
                        payload[..].try_into().map_err(|_| ErrorKind::InvalidData)?;
                    self.group = Some(i32::from_le_bytes(group));
                }
                Kind::Output(stream) => {
                    on_output(stream, &payload);
                    match stream {
                        Stream::Stdout => stdout.extend_from_slice(&payload),
                        Stream::Stderr => stderr.extend_from_slice(&payload),
                    }
                }
                Kind::File => files.push(file(payload.into())?),
                Kind::Report => {
                    let report = match serde_json::from_slice(&payload)? {
                        Report::Failed(why) => Err(why),
                        Report::Ended { ending, took, files_left_out } => Ok(Outcome {
                            ending,
                            stdout: stdout.freeze(),
                            stderr: stderr.freeze(),
                            files,
                            files_left_out,
                            took,
                        }),
                    };
                    return Ok(report);
                }
            }
        }
    }

    /// Waits until nothing is left, and gives the place back.
    async fn end(self) {
        let Parts { mut child, stdin, stdout, group, scratch, place } = self;
        drop((stdin, stdout));
        let ended = tokio::time::timeout(END_TIME, child.wait()).await;
        if !matches!(&ended, Ok(Ok(status)) if status.code().is_some()) {
            // One that was killed itself, or hangs, has not killed its guest. Where it has, the
            // number may be somebody else's by now.
            if let Some(group) = group {
                let _ = killpg(Pid::from_raw(group), Signal::SIGKILL);
            }
            let _ = child.kill().await;
        }
        if scratch.is_some() {
            let _ = tokio::task::spawn_blocking(move || drop(scratch)).await;
        }
        drop(place);
    }
}

/// Reads a file's frame.
fn file(mut payload: Bytes) -> Result<File, Error> {
    let invalid = || Error::from(ErrorKind::InvalidData);
    let (length, _) = payload.split_first_chunk().ok_or_else(invalid)?;
    let length = usize::from(u16::from_le_bytes(*length));
    if payload.len() < 2 + length {
        return Err(invalid());
    }
    let bytes = payload.split_off(2 + length);
    let name = str::from_utf8(&payload[2..]).map_err(|_| invalid())?;
    Ok(File { name: name.to_owned(), bytes })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_file_is_read_from_any_bytes_or_refused(
            name in ".{0,40}",
            content in prop::collection::vec(any::<u8>(), 0..100),
            noise in prop::collection::vec(any::<u8>(), 0..100),
        ) {
            let length = u16::try_from(name.len()).unwrap().to_le_bytes();
            let payload = [&length[..], name.as_bytes(), &content].concat();
            prop_assert_eq!(file(payload.into()).unwrap(), File { name, bytes: content.into() });
            let _ = file(noise.into());
        }
    }
}
