//! What an agent's answer may link to does not depend on how its text came in pieces, and little of it is
//! held back. Where there is no code, no image of another host is left.

#![no_main]

use std::sync::Arc;

use libfuzzer_sys::fuzz_target;
use tollway_agent::links::{Guard, HELD_MAX, Known, LinkPolicy};
use tollway_fuzz::steer;

const POLICIES: [&str; 3] = [
    r#"{"allowed_hosts": ["cdn.example"]}"#,
    r#"{"links": "seen", "allowed_hosts": ["cdn.example"]}"#,
    r#"{"images": "any", "links": "listed"}"#,
];

fuzz_target!(|data: &[u8]| {
    let Some((steering, text)) = steer::<(u8, u8)>(data, 2) else { return };
    let (which, size) = (usize::from(steering.0) % POLICIES.len(), usize::from(steering.1) + 1);
    let policy: LinkPolicy = serde_json::from_str(POLICIES[which]).expect("a policy");
    let (policy, text) = (Arc::new(policy), String::from_utf8_lossy(text));
    let mut known = Known::default();
    known.hear("user", "https://mine.example/");
    known.hear("tool", "https://found.example/a");
    let known = Arc::new(known);
    let new = || Guard::new(Arc::clone(&policy), Arc::clone(&known));
    let (mut at_once, mut in_pieces) = (new(), new());
    let whole = at_once.push(&text) + &at_once.finish(false);
    let mut out = String::new();
    let mut rest = &*text;
    while !rest.is_empty() {
        let (piece, behind) = rest.split_at(rest.ceil_char_boundary(size.min(rest.len())));
        out.push_str(&in_pieces.push(piece));
        assert!(in_pieces.held() <= HELD_MAX);
        rest = behind;
    }
    out.push_str(&in_pieces.finish(false));
    assert_eq!(out, whole);
    if which < 2 && !text.contains(['`', '~']) {
        assert!(!whole.contains("![](http://evil."), "{whole:?}");
        assert!(!whole.contains("<img src=\"http://evil."), "{whole:?}");
    }
});
