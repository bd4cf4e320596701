//! What the black-box tests share: a real gateway process, a tiny HTTP client that can misbehave,
//! and the means to read what comes back.
//!
//! Everything runs on loopback and port 0, nothing sleeps to wait for something, and everything
//! that was started is stopped when its handle is dropped.

pub mod access;
pub mod agents;
pub mod batches;
pub mod browser;
pub mod client;
pub mod collector;
pub mod dialects;
pub mod examples;
pub mod gateway;
pub mod issuer;
pub mod mcp;
pub mod postgres;
pub mod proof;
pub mod redis_cluster;
pub mod responses;
pub mod servers;
pub mod setup;
pub mod suites;

pub use client::{Connection, Response, get, post, post_with};
pub use gateway::{Gateway, Options};
pub use issuer::{Issuer, Signer};
pub use setup::{Setup, chat, stream};
pub use tollway_simulator::Simulator;
