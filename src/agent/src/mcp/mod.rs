//! MCP, the Model Context Protocol: tools of other servers ([`Servers`]), and ours for other clients
//! ([`door`]).
//!
//! What a server says is data: it is read within bounds, what it asks of us (to let its models answer,
//! to show us files, to ask the user) is refused, and what it said of a tool when it was first seen is
//! what models are told. A tool that changes afterwards is not there any more until an operator
//! reloads the config.
//!
//! The client is our own: JSON-RPC over a pipe or over POST is little, and what counts here (largest
//! messages, calls that are dropped, the one guarded HTTP client) would have to be put around another.

mod call;
mod connection;
pub mod door;
mod http;
pub mod message;
mod offer;
mod pipe;
mod server;
pub mod settings;
mod sse;

pub use server::{ServerStatus, Servers};

/// The version of the protocol that is asked for, and those that are understood.
const VERSION: &str = "2025-06-18";
const VERSIONS: &[&str] = &["2025-11-25", VERSION, "2025-03-26", "2024-11-05"];

/// The group of all tools of MCP servers.
pub const GROUP: &str = "mcp";

/// The largest message of a server that is read.
const MESSAGE_BYTES_MAX: usize = 8 << 20;

/// Who a client or server says it is.
fn implementation() -> serde_json::Value {
    serde_json::json!({"name": "tollway", "version": env!("CARGO_PKG_VERSION")})
}
