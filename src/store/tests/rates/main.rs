//! Limits shared by several nodes over a real Redis, started by each test in a folder of its own.
//!
//! Needs the `redis-server` program (Debian and Ubuntu: package `redis-server`).

mod faults;
mod simulated;
mod support;
