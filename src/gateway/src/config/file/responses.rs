//! What is kept of the Responses API, and for how long.

use std::time::Duration;

use super::super::reader::Fields;

/// Where responses are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Keeping {
    Database,
    Memory,
    Nowhere,
}

/// `responses`: the state of the Responses API. Read when the gateway starts.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileResponses {
    /// `store`: where responses are kept, with the prompts they answer: in the `database`, where all
    /// nodes find them, also after a restart; in `memory`; or nowhere (`none`). Default `database`.
    pub(crate) store: Option<Keeping>,
    /// `retention`: for how long. Default `30d`.
    pub(crate) retention: Option<Duration>,
    /// `response_bytes_max`: how large one may be with its history; larger ones are not kept.
    /// Default 16 MiB.
    pub(crate) response_bytes_max: Option<u64>,
}

pub(super) fn read_responses(fields: &mut Fields<'_>) -> FileResponses {
    let stores =
        [("database", Keeping::Database), ("memory", Keeping::Memory), ("none", Keeping::Nowhere)];
    FileResponses {
        store: fields.choice("store", &stores),
        retention: fields.timeout("retention"),
        response_bytes_max: fields.bytes("response_bytes_max"),
    }
}
