//! The contract between the gateway and its filters.
//!
//! A filter is one file in `filters/`. It sees a request at the moments it asks for ([`Phases`]),
//! finds what filters share on [`RequestCtx`], and gets what it needs from outside in [`Deps`]. It
//! never sees Pingora, a socket or another filter.

pub mod accounts;
pub mod cache;
pub mod clock;
pub mod ctx;
pub mod deps;
pub mod documents;
pub mod duration;
pub mod filter;
pub mod header;
mod hex;
pub mod identity;
pub mod ledger;
pub mod limits;
pub mod model;
pub mod reject;
pub mod responses;
pub mod trace;
pub mod treasury;
pub mod view;

pub use clock::Clock;
pub use ctx::{Outcome, RequestCtx, Slot};
pub use deps::{ConfigError, Deps, LogSink};
pub use filter::{
    Answer, AnswerBody, BuildFilter, Builtin, Filter, Flow, Phases, RequestHead, ResponseHead, Step,
};
pub use identity::{KeyHash, VirtualKey};
pub use model::{Deployment, ModelDirectory, ModelGroup, Plan};
pub use reject::{Reject, Rejection};
pub use view::RequestView;
