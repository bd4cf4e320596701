//! Isolation by the sandbox.

use std::time::Duration;

use bytes::Bytes;
use tollway_sandbox::{Ending, Guest, Job, Limits, Refused, Sandbox};

use super::{Isolated, Isolation};
use crate::tool::ToolError;

/// What a document may take: some are packed, and a decoded image has its pixels.
const MEMORY: u64 = 512 << 20;
/// The longest answer. Beside its text it has the same as data.
const OUTPUT: u64 = 1 << 20;
/// How long a parser may be at work.
const WALL: Duration = Duration::from_secs(20);

impl Isolation for Sandbox {
    fn run(&self, guest: &'static str, input: Bytes) -> Isolated<'_> {
        Box::pin(async move {
            let limits = Limits {
                wall: WALL,
                cpu: WALL,
                memory: MEMORY,
                output: OUTPUT,
                files: 0,
                ..Limits::default()
            };
            let job = Job { guest: Guest::Native(guest), input, files: Vec::new(), limits };
            let outcome = Sandbox::run(self, job, |_, _| {}).await.map_err(refused)?;
            match outcome.ending {
                Ending::Exited(0) => Ok(outcome.stdout),
                Ending::Killed(why) => Err(ToolError::Failed(format!(
                    "the document takes more than it may: {}",
                    format!("{why:?}").to_lowercase()
                ))),
                Ending::Exited(_) | Ending::Signalled(_) => {
                    Err(ToolError::Failed("the document cannot be read".to_owned()))
                }
            }
        })
    }
}

fn refused(why: Refused) -> ToolError {
    match why {
        Refused::Busy => ToolError::RateLimited(Duration::from_secs(1)),
        why => ToolError::Unavailable { code: "sandbox_unavailable", message: why.to_string() },
    }
}
