//! The client's side of Anthropic's dialect: no bytes make it panic, and where they are cut changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollway_wire::operation::Dialect;

fuzz_target!(|data: &[u8]| tollway_fuzz::dialects::check(Dialect::Anthropic, data));
