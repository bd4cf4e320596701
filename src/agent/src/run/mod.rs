//! A run: an agent at work.
//!
//! What was asked for is its [`Plan`], which never changes. What has happened is its journal
//! ([`journal::Step`]): each step is written down before it is taken, and its outcome after it. The
//! [`journal::State`] is what the journal amounts to, so that a run can be taken up again from it
//! alone. A [`feed::Feed`] tells those who follow.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tollway_wire::price::PicoDollars;

pub mod engine;
pub mod feed;
pub mod journal;
pub mod turn;
pub mod view;
mod writing;

/// How a run stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// It waits for its turn.
    Queued,
    /// It is at work.
    InProgress,
    /// Somebody has to approve something, or to bring results of tools of their own.
    RequiresAction,
    /// It has answered.
    Completed,
    /// It cannot go on.
    Failed,
    /// Somebody has stopped it.
    Cancelled,
    /// A limit has ended it: see [`Reason`].
    Incomplete,
}

impl Status {
    /// The name in answers and in the store.
    pub fn name(self) -> &'static str {
        match self {
            Status::Queued => "queued",
            Status::InProgress => "in_progress",
            Status::RequiresAction => "requires_action",
            Status::Completed => "completed",
            Status::Failed => "failed",
            Status::Cancelled => "cancelled",
            Status::Incomplete => "incomplete",
        }
    }

    /// The status of this name.
    pub fn from_name(name: &str) -> Option<Status> {
        use Status::*;
        [Queued, InProgress, RequiresAction, Completed, Failed, Cancelled, Incomplete]
            .into_iter()
            .find(|status| status.name() == name)
    }

    /// Whether nothing more comes.
    pub fn is_final(self) -> bool {
        !matches!(self, Status::Queued | Status::InProgress | Status::RequiresAction)
    }
}

/// Why a run is incomplete.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Reason {
    /// As many model calls as it may make.
    MaxSteps,
    /// What it may spend.
    MaxCost,
    /// Its time is over.
    Deadline,
    /// It does the same again and again.
    Loop,
    /// The model has written as much as it may.
    Length,
}

impl Reason {
    /// The name in answers.
    pub fn name(self) -> &'static str {
        match self {
            Reason::MaxSteps => "max_steps",
            Reason::MaxCost => "max_cost",
            Reason::Deadline => "deadline",
            Reason::Loop => "loop",
            Reason::Length => "length",
        }
    }
}

/// Which tools somebody has to approve before they are used.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Approval {
    /// What holds for tools that are in neither list.
    pub default: ApprovalDefault,
    /// Tools, or groups of them, that always need approval.
    pub always: BTreeSet<String>,
    /// Tools, or groups of them, that never do.
    pub never: BTreeSet<String>,
}

/// What holds where nothing is said of a tool.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ApprovalDefault {
    /// No tool needs approval.
    Never,
    /// Tools that change something need approval, others not.
    #[default]
    Policy,
    /// Every tool needs approval.
    Always,
}

/// What a run was asked to do: all that is decided before it begins.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The model that answers.
    pub model: String,
    /// The agent's name, where it has one.
    pub agent: Option<String>,
    /// What the model is told before everything else.
    pub instructions: Option<String>,
    /// The conversation so far, its thread's included.
    pub messages: Vec<Value>,
    /// How many of them the thread has already: those that came with this request follow.
    pub known_messages: usize,
    /// What came before them in the thread, in short, and how many messages that were.
    pub before: Option<(usize, String)>,
    /// The tools it may use, by name.
    pub tools: Vec<Arc<str>>,
    /// Functions of the caller's, as OpenAI's tools: the caller is asked to call them.
    pub functions: Vec<Value>,
    /// `tool_choice` as it was given.
    pub tool_choice: Option<Value>,
    /// Whether several tools may be at work at once.
    pub parallel_tool_calls: bool,
    /// Members of the chat request that are passed on: `temperature` …
    pub sampling: Map<String, Value>,
    /// How many model calls it may make.
    pub max_steps: u32,
    /// What it may spend.
    #[serde(with = "pico_form")]
    pub max_cost: Option<PicoDollars>,
    /// How long it may be at work at a stretch, waiting for approval not counted.
    pub deadline_s: u64,
    /// Which tools have to be approved.
    pub approval: Approval,
    /// What the caller says of itself.
    pub user_context: Arc<Value>,
    /// What the caller notes about the run.
    pub metadata: Map<String, Value>,
    /// The conversation it belongs to.
    pub thread: Option<Arc<str>>,
    /// Whether it can be asked for when it is over.
    pub is_kept: bool,
    /// For whom it works, to find them again after a restart.
    pub caller: CallerMark,
}

/// Enough of a caller to find it again.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct CallerMark {
    /// The hash of the key, in hexadecimal.
    pub key: Option<String>,
    /// It was somebody's token, which nobody can renew.
    pub is_token: bool,
    /// The end user that was named.
    pub end_user: Option<Arc<str>>,
    /// The address the request came from.
    pub client: Option<std::net::IpAddr>,
}

/// Amounts in a journal, in pico-dollars.
pub(crate) mod pico_form {
    use super::*;
    use serde::{Deserializer, Serializer};

    pub(crate) fn serialize<S: Serializer>(
        amount: &Option<PicoDollars>,
        to: S,
    ) -> Result<S::Ok, S::Error> {
        amount.map(|amount| amount.0).serialize(to)
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<PicoDollars>, D::Error> {
        Ok(Option::<u64>::deserialize(from)?.map(PicoDollars))
    }
}
