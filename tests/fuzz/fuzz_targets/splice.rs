//! Changing members in place comes to the same as parsing, changing and writing.

#![no_main]

use arbitrary::Arbitrary;
use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use tollway_fuzz::{Members, steer};
use tollway_wire::scan::{Limits, Object, members, scan};
use tollway_wire::splice::{Edits, json_string};

const STEERING_BYTES: usize = 32;
const NAMES: &[&str] = &["model", "stream", "n", "", "\u{e9}\"\\", "stream_options"];
const VALUES: &[&str] =
    &["null", "true", "1", "\"gpt-4o\"", "[]", "{\"a\": [1, {\"b\":\"}\"}]}", "-0.0e-1", " 2 "];
/// More members than any edit adds.
const LIMITS: Limits = Limits { depth: 128, members: 300 };

/// A change to the member at `name` of the body, or else of [`NAMES`].
#[derive(Arbitrary, Debug)]
struct Change {
    in_body: bool,
    name: u8,
    /// Which of [`VALUES`] it becomes; removed if there is none of that number.
    value: u8,
}

fuzz_target!(|data: &[u8]| {
    let Some((changes, text)) = steer::<[Change; 6]>(data, STEERING_BYTES) else { return };
    let body = Bytes::copy_from_slice(text);
    let Ok(object) = scan(&body, &Limits::default()) else { return };
    check(&body, &object, &changes);
    for member in &object {
        if let Ok(inner) = members(&body, member.value, &Limits::default()) {
            check(&body, &inner, &changes);
        }
    }
});

fn check(body: &Bytes, object: &Object, changes: &[Change]) {
    let read = |json: &[u8]| serde_json::from_slice::<Members>(json).expect("an object").0;
    let own: Vec<(String, String)> = read(object.span().of(body))
        .into_iter()
        .map(|(name, raw)| (name, raw.get().to_owned()))
        .collect();

    // What each edited name is in the end, in the order of the first mention.
    let mut wanted: Vec<(String, Option<&str>)> = Vec::new();
    for change in changes {
        let at = usize::from(change.name);
        let name = match own.len() {
            count @ 1.. if change.in_body => own[at % count].0.clone(),
            _ => NAMES[at % NAMES.len()].to_owned(),
        };
        let value = VALUES.get(usize::from(change.value) % (VALUES.len() + 4)).copied();
        match wanted.iter_mut().find(|(have, _)| *have == name) {
            Some((_, have)) => *have = value,
            None => wanted.push((name, value)),
        }
    }
    let mut edits = Edits::new();
    for (name, value) in &wanted {
        match value {
            Some(value) => edits.set(name, value.as_bytes()),
            None => edits.remove(name),
        }
    }

    let mut expect: Vec<(String, String)> = Vec::new();
    for (name, raw) in &own {
        match wanted.iter().find(|(have, _)| have == name) {
            None => expect.push((name.clone(), raw.clone())),
            Some((_, Some(value))) => expect.push((name.clone(), value.trim().to_owned())),
            Some((_, None)) => {}
        }
    }
    for (name, value) in &wanted {
        if let Some(value) = value
            && own.iter().all(|(have, _)| have != name)
        {
            expect.push((name.clone(), value.trim().to_owned()));
        }
    }

    let after = edits.apply(body, object);
    let whole = scan(&after, &LIMITS).expect("the result is JSON");
    // Nothing around the object changes.
    let start = object.span().start as usize;
    let tail = body.len() - object.span().end as usize;
    assert_eq!(after[..start], body[..start]);
    assert_eq!(after[after.len() - tail..], body[body.len() - tail..]);
    let inside = &after[start..after.len() - tail];
    let have: Vec<(String, String)> =
        read(inside).into_iter().map(|(name, raw)| (name, raw.get().to_owned())).collect();
    assert_eq!(have, expect);
    if start == whole.span().start as usize {
        assert_eq!(whole.len(), expect.len());
    }
    if after == *body {
        assert_eq!(after.as_ptr(), body.as_ptr(), "the same body is not copied");
    }
    for (name, _) in &wanted {
        let quoted: String = serde_json::from_slice(&json_string(name)).expect("a string");
        assert_eq!(quoted, *name);
    }
}
