//! What leads out of the gateway, against real sockets.

mod servers;

mod outgoing;
mod ssrf;
