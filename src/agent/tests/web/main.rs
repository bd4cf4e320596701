//! What leads out of the gateway, against real sockets.

mod servers;

mod aimock;
mod fetch;
mod outgoing;
mod search;
mod ssrf;
