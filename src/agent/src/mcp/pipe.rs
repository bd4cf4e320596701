//! Servers that are programs: one message a line, on their standard input and output.

use std::io;
use std::process::{ExitStatus, Stdio};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustix::process::{Pid, Signal, kill_process_group};
use tokio::io::{AsyncBufRead, AsyncBufReadExt, AsyncRead, AsyncWriteExt, BufReader};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::mcp::MESSAGE_BYTES_MAX;
use crate::mcp::connection::{Ears, McpError, Mux};
use crate::mcp::settings::Program;

/// How long a program may take to end when its input is closed, and again when it is told to.
const GRACE: Duration = Duration::from_secs(2);

/// A program that runs. Dropping this ends it.
pub(crate) struct Pipe {
    pub(crate) mux: Mux,
    writing: JoinHandle<()>,
    reading: JoinHandle<()>,
    _wanted: oneshot::Sender<()>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        // With this its input is closed, which is how it is told to end.
        self.writing.abort();
        self.reading.abort();
    }
}

/// How many programs run, for who waits until none does.
pub(crate) type Count = watch::Sender<usize>;

impl Pipe {
    /// Starts a program.
    pub(crate) fn open(
        program: &Program,
        server: &Arc<str>,
        count: &Count,
        mux: Mux,
    ) -> Result<Pipe, McpError> {
        let mut command = Command::new(&program.command);
        command.args(&program.args).env_clear();
        for name in ["PATH", "HOME"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        for (name, value) in &program.env {
            command.env(name, value.expose());
        }
        command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // With all that it starts itself.
            .process_group(0)
            .kill_on_drop(true);
        let away = |why: String| McpError::Away(why);
        let mut child =
            command.spawn().map_err(|error| away(format!("it cannot be started: {error}")))?;
        let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
        let (Some(input), Some(output), Some(errors)) = pipes else {
            return Err(away("it has no input or output".to_owned()));
        };
        let Some(unsent) = mux.take_unsent() else {
            return Err(away("it is written to already".to_owned()));
        };
        let (wanted, unwanted) = oneshot::channel();
        let (silent, silence) = oneshot::channel();
        tokio::spawn(mind(child, unwanted, silence, Counted::new(count), Arc::clone(&mux.ears)));
        tokio::spawn(listen(errors, Arc::clone(server)));
        let reader = mux.clone();
        let reading = tokio::spawn(async move {
            let why = read(BufReader::new(output), &reader).await;
            let _ = silent.send(why);
        });
        let writing = tokio::spawn(write(input, unsent));
        Ok(Pipe { mux, writing, reading, _wanted: wanted })
    }
}

/// One program that runs.
struct Counted(Count);

impl Counted {
    fn new(count: &Count) -> Counted {
        count.send_modify(|count| *count += 1);
        Counted(count.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.send_modify(|count| *count = count.saturating_sub(1));
    }
}

/// Waits until a program ends, or ends it when it is not wanted any more or says nothing any more.
async fn mind(
    mut child: Child,
    unwanted: oneshot::Receiver<()>,
    mut silence: oneshot::Receiver<Option<String>>,
    _run: Counted,
    ears: Arc<Ears>,
) {
    let why = tokio::select! {
        status = child.wait() => {
            // What it has printed is read first.
            let _ = timeout(GRACE, silence).await;
            ended(status)
        }
        why = &mut silence => match why.ok().flatten() {
            Some(why) => why,
            // It has closed its output, most likely because it ends.
            None => match timeout(GRACE, child.wait()).await {
                Ok(status) => ended(status),
                Err(_) => "the program has closed its output".to_owned(),
            },
        },
        _ = unwanted => "it is not wanted any more".to_owned(),
    };
    ears.end(why);
    for signal in [Signal::TERM, Signal::KILL] {
        if timeout(GRACE, child.wait()).await.is_ok() {
            return;
        }
        kill(&child, signal);
    }
    let _ = child.wait().await;
}

fn ended(status: io::Result<ExitStatus>) -> String {
    match status {
        Ok(status) => format!("the program has ended: {status}"),
        Err(error) => format!("the program is gone: {error}"),
    }
}

/// Sends a signal to a program that was not waited for yet, and to what it has started.
fn kill(child: &Child, signal: Signal) {
    let id = child.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
    if let Some(group) = id {
        let _ = kill_process_group(group, signal);
    }
}

async fn write(mut input: ChildStdin, mut unsent: mpsc::Receiver<Bytes>) {
    while let Some(message) = unsent.recv().await {
        let mut line = Vec::with_capacity(message.len() + 1);
        line.extend_from_slice(&message);
        line.push(b'\n');
        if input.write_all(&line).await.is_err() || input.flush().await.is_err() {
            // Who reads notices as well.
            return;
        }
    }
}

/// Reads to the end, or to what nobody can read.
async fn read(mut output: impl AsyncBufRead + Unpin, mux: &Mux) -> Option<String> {
    let mut line = Vec::new();
    loop {
        line.clear();
        match read_line(&mut output, &mut line, MESSAGE_BYTES_MAX).await {
            Ok(true) if line.iter().all(u8::is_ascii_whitespace) => {}
            Ok(true) => mux.received(&line),
            Ok(false) => return None,
            Err(why) => return Some(why),
        }
    }
}

/// Reads one line. False at the end.
async fn read_line(
    from: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    max: usize,
) -> Result<bool, String> {
    loop {
        let bytes = from.fill_buf().await.map_err(|error| error.to_string())?;
        if bytes.is_empty() {
            // A last line without an end is no message.
            return Ok(false);
        }
        let end = memchr::memchr(b'\n', bytes);
        let taken = end.unwrap_or(bytes.len());
        if taken > max.saturating_sub(line.len()) {
            return Err(format!("the program has printed a line of more than {max} bytes"));
        }
        line.extend_from_slice(&bytes[..taken]);
        from.consume(end.map_or(taken, |end| end + 1));
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Takes what a program complains about, so that it does not block. What it says may be anybody's
/// secret: only that it does is in the log.
async fn listen(mut errors: impl AsyncRead + Unpin, server: Arc<str>) {
    use tokio::io::AsyncReadExt;
    let mut buffer = vec![0; 4096];
    while let Ok(bytes @ 1..) = errors.read(&mut buffer).await {
        tracing::debug!(server = &*server, bytes, "an MCP server has printed to stderr");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    async fn lines(bytes: &[u8], max: usize) -> (Vec<Vec<u8>>, bool) {
        let mut from = BufReader::with_capacity(7, bytes);
        let (mut lines, mut line) = (Vec::new(), Vec::new());
        loop {
            line.clear();
            match read_line(&mut from, &mut line, max).await {
                Ok(true) => lines.push(line.clone()),
                Ok(false) => return (lines, true),
                Err(_) => return (lines, false),
            }
        }
    }

    #[tokio::test]
    async fn lines_are_read_up_to_their_largest_size() {
        let (read, is_whole) = lines(b"one\n\ntwo is longer\nnever finished", 64).await;
        assert_eq!(read, [&b"one"[..], b"", b"two is longer"]);
        assert!(is_whole);
        let (read, is_whole) = lines(b"12345678\n123456789\n", 8).await;
        assert_eq!((read.len(), is_whole), (1, false));
    }

    proptest! {
        #[test]
        fn lines_are_what_was_written(
            wanted in proptest::collection::vec("[^\n]{0,40}", 0..8), rest in "[^\n]{0,20}",
        ) {
            let mut bytes = Vec::new();
            for line in &wanted {
                bytes.extend_from_slice(line.as_bytes());
                bytes.push(b'\n');
            }
            bytes.extend_from_slice(rest.as_bytes());
            let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
            let (read, is_whole) = runtime.block_on(lines(&bytes, 1024));
            prop_assert!(is_whole);
            let wanted: Vec<_> = wanted.iter().map(|line| line.as_bytes().to_vec()).collect();
            prop_assert_eq!(read, wanted);
        }
    }
}
