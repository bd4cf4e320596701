//! How the journal of spend is written, and the ledger kept.

use std::time::Duration;

use tollway_filter_api::duration;
use tollway_store::treasury::{Fsync, OnRestart};

use super::super::reader::Fields;

/// `journal`: what calls reserve and what they cost, before it is in the database.
#[derive(Clone, Debug, Default)]
pub(crate) struct FileJournal {
    /// `fsync`: when it is made to survive a power failure: as often as a time says, before each
    /// call (`always`), or when the system does so (`none`). A process that is killed loses nothing
    /// in any case. Default `100ms`.
    pub(crate) fsync: Option<Fsync>,
    /// `on_restart`: what calls are charged that were open when the process died: all that was
    /// reserved (`charge_bound`), or what had streamed (`charge_progress`). Default `charge_bound`.
    pub(crate) on_restart: Option<OnRestart>,
    /// `segment_bytes`: how large a file of it becomes. Default 16 MiB.
    pub(crate) segment_bytes: Option<u64>,
    /// `reserve_bytes`: room that is kept on the disk, so that calls under way can be settled when
    /// it is full. Default 16 MiB.
    pub(crate) reserve_bytes: Option<u64>,
}

/// What `general_settings` says of the ledger, in LiteLLM's words.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct FileLedger {
    /// `proxy_batch_write_at`: how often the journal is brought to the database. Default 200 ms.
    pub(crate) write_every: Option<Duration>,
    /// `maximum_spend_logs_retention_period`: how long single calls are kept. Sums are kept for
    /// ever. Default: for ever.
    pub(crate) keep_for: Option<Duration>,
    /// `maximum_spend_logs_retention_interval`: how often older ones are deleted. Default `1d`.
    pub(crate) forget_every: Option<Duration>,
}

pub(super) fn read_journal(fields: &mut Fields<'_>) -> FileJournal {
    let fsync = fields.parsed("fsync", "a time such as 100ms, `always` or `none`", |text| {
        Some(match text {
            "always" => Fsync::Always,
            "none" => Fsync::None,
            time => Fsync::Interval(duration::parse(time).filter(|time| !time.is_zero())?),
        })
    });
    let on_restart =
        [("charge_bound", OnRestart::ChargeBound), ("charge_progress", OnRestart::ChargeProgress)];
    FileJournal {
        fsync,
        on_restart: fields.choice("on_restart", &on_restart),
        segment_bytes: fields.bytes("segment_bytes"),
        reserve_bytes: fields.bytes("reserve_bytes"),
    }
}

pub(super) fn read_ledger(fields: &mut Fields<'_>) -> FileLedger {
    FileLedger {
        write_every: fields.timeout("proxy_batch_write_at"),
        keep_for: fields.timeout("maximum_spend_logs_retention_period"),
        forget_every: fields.timeout("maximum_spend_logs_retention_interval"),
    }
}
