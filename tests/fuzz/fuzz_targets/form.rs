//! A form is read or refused, never panics, and what is found is where it is said to be.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use tollway_wire::form::{Early, Limits, scan};

fuzz_target!(|data: &[u8]| {
    let limits = Limits { parts: 8, header_bytes: 256, field_bytes: 1024 };
    // The first line may be a content type; a fixed one gets deeper.
    if let Some((first, body)) = data.split_once_at(b'\n')
        && let Ok(content_type) = std::str::from_utf8(first)
    {
        check(content_type, body, &limits);
    }
    check("multipart/form-data; boundary=b", data, &limits);
});

fn check(content_type: &str, body: &[u8], limits: &Limits) {
    let Ok(view) = scan(content_type, body, limits) else { return };
    let fields: Value = serde_json::from_slice(&view.fields).expect("the view is JSON");
    let fields = fields.as_object().expect("and an object");
    assert!(fields.len() <= limits.parts);
    assert_eq!(view.model.is_some(), fields.contains_key("model"));
    // What is found while it comes is in the whole.
    let mut early = Early::new(content_type).expect("it is a form");
    for end in [body.len() / 2, body.len()] {
        while let Some((name, value)) = early.next(&body[..end], limits) {
            if fields.get(&name).is_some_and(|field| field.is_string()) {
                assert_eq!(fields[&name], value.as_str());
            }
        }
    }
    for (_, content) in &view.files {
        assert!(body.get(content.clone()).is_some());
    }
    let Some(model) = view.model else { return };
    assert_eq!(fields["model"].as_str().map(str::as_bytes), Some(&body[model.clone()]));
    // Another model in its place is the same form with another model.
    let other = [&body[..model.start], b"other", &body[model.end..]].concat();
    let other = scan(content_type, &other, limits).expect("it is still a form");
    let other: Value = serde_json::from_slice(&other.fields).expect("the view is JSON");
    let mut expect = fields.clone();
    expect.insert("model".into(), "other".into());
    assert_eq!(other, Value::Object(expect));
}

trait SplitOnce {
    fn split_once_at(&self, at: u8) -> Option<(&[u8], &[u8])>;
}

impl SplitOnce for [u8] {
    fn split_once_at(&self, at: u8) -> Option<(&[u8], &[u8])> {
        let end = self.iter().position(|b| *b == at)?;
        Some((&self[..end], &self[end + 1..]))
    }
}
