//! The store traits of `tollway-filter-api` made real.
//!
//! [`limits`] counts rates and parallel requests in this process, [`limits_redis`] counts them for
//! several nodes through a Redis or Valkey, [`cache_memory`] keeps answers in this process,
//! [`cache_redis`] keeps answers in a Redis or Valkey that several nodes share. None of those can make a
//! request fail: a store that is full or away just knows nothing. [`responses`] keeps the state of the
//! Responses API, in memory and in a database behind it: only requests that name a response can fail.
//!
//! [`treasury`] keeps budgets, on the [`journal`], and brings what was spent to a ledger. It does
//! refuse calls: what cannot be written down must not be spent. [`sql`] keeps keys, users, teams and
//! all that was spent in SQLite or Postgres, which no model call waits for, and what agents keep,
//! which their steps do wait for.

mod bounded;
pub mod cache_memory;
pub mod cache_redis;
pub mod journal;
pub mod limits;
pub mod limits_redis;
pub mod redis_link;
pub mod responses;
pub mod sql;
pub mod treasury;
