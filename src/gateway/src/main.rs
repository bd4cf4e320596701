//! Tollway: one OpenAI-compatible endpoint in front of every provider.
//!
//! `ARCHITECTURE.md` tells how the parts fit; `proxy.rs` and `serve_request.rs` what happens to a
//! request, in order.

mod admin;
mod agents;
mod alerts;
mod background;
mod batches;
mod body;
mod broadcast;
mod cache_secret;
mod calendar;
mod chain;
mod cli;
mod coalesce;
mod config;
mod connections;
mod directory;
mod early;
mod exchange;
mod health;
mod http_app;
mod log;
mod model_call;
mod models;
mod money;
mod named;
mod observe;
mod oidc;
mod pass_through;
mod percent;
mod post;
mod proxy;
mod random;
mod realtime;
mod respond;
mod responses;
mod responses_upkeep;
mod routes;
mod scrub;
mod serve_request;
mod server;
mod shared_call;
mod start;
mod state;
mod stored;
mod traces;
mod tunnel;
mod wishes;

use std::process::ExitCode;

use tollway_agent::tools::files::analyse::NATIVES;

#[global_allocator]
static ALLOCATOR: tollway_allocator::Mimalloc = tollway_allocator::Mimalloc;

/// What providers see us as.
pub(crate) const USER_AGENT: &str = concat!("tollway/", env!("CARGO_PKG_VERSION"));

fn main() -> ExitCode {
    // A worker of the sandbox is this program too, and none of what a gateway is.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == tollway_sandbox::WORKER_ARG) {
        tollway_sandbox::worker::main(NATIVES);
    }
    // Thousands of streams have sparse buffers: pages of 2 MB under them would be mostly memory
    // that nobody has touched. Fails where the system knows no such pages.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::disable_transparent_huge_pages(true);
    cli::run()
}
