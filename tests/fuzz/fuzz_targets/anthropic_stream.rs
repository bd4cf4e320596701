//! Anthropic's bytes, whatever they are, never panic, and where they are cut changes nothing.

#![no_main]

use libfuzzer_sys::fuzz_target;
use tollway_fuzz::decoders::{Steering, asked, check};
use tollway_fuzz::steer;
use tollway_providers::anthropic::Anthropic;
use tollway_providers::{Place, Provider};
use tollway_wire::operation::{Dialect, Operation};

fuzz_target!(|data: &[u8]| {
    let Some((steering, stream)) = steer::<Steering>(data, 5) else { return };
    let asked = asked(steering.include_usage);
    let place = Place {
        operation: Operation::ChatCompletions,
        dialect: Dialect::OpenAi,
        model: "claude-haiku-4-5",
        stream: true,
    };
    let decoder = || Anthropic.decoder(&place, asked.clone()).expect("it has a dialect of its own");
    let _ = check(decoder, &steering.cuts, stream);
    assert!(Anthropic.error(500, stream).status >= 400);
});
