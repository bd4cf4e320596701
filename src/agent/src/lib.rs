//! Agents: the loop that lets a model use tools, the tools, and the runs that survive a restart.
//!
//! Two ports lead out of it: [`ports::Completions`] makes model calls, through the same filters,
//! limits and budgets as any other call, and [`tool::Tool`] is what a tool is. What must be remembered
//! goes to [`tollway_filter_api::documents::Documents`]. Nothing here knows a socket of a client.

pub mod agent;
pub mod definitions;
pub mod keeper;
pub mod links;
pub mod mcp;
pub mod metrics;
pub mod outgoing;
mod planning;
pub mod ports;
pub mod request;
pub mod resume;
pub mod run;
pub mod runs;
mod secrets;
pub mod service;
pub mod threads;
pub mod tool;
pub mod toolbox;
pub mod tools;
mod upkeep;
