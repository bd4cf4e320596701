//! Real servers that tests start themselves.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::gateway::{PATIENCE, repository};

/// The folder of the SDKs and the mock provider.
///
/// # Panics
/// When they are not installed; `make test` installs them.
pub fn tools() -> PathBuf {
    let tools = repository().join(".tools");
    assert!(
        tools.join("installed").exists(),
        "the SDKs are missing: `make test` installs them, or tests/tools/install.sh"
    );
    tools
}

/// A process that is killed when this is dropped.
pub struct Server {
    _child: Child,
    /// The line by which it said that it is ready.
    pub ready: String,
}

/// Starts a process and waits for a line on its stdout.
///
/// # Panics
/// When it ends first, or says nothing for too long.
pub async fn start(mut command: Command, ready: impl Fn(&str) -> bool) -> Server {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = tokio::time::timeout(PATIENCE, async {
        loop {
            match lines.next_line().await {
                Ok(Some(line)) if ready(&line) => return line,
                Ok(Some(_)) => {}
                _ => panic!("{command:?} ended before it was ready"),
            }
        }
    });
    let ready = line.await.unwrap_or_else(|_| panic!("{command:?} does not become ready"));
    // Keep reading, so that it never blocks on a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Server { _child: child, ready }
}
