//! Changes members of a JSON body in place, without parsing or re-serialising the rest.
//!
//! The gateway renames a model, adds `stream_options`, drops what a provider does not know, and
//! leaves every other byte as the client wrote it: unknown members, number formats, whitespace and
//! order survive. The cost is one copy of the body, or nothing if nothing changes.
//!
//! ```
//! use bytes::Bytes;
//! use tollway_wire::scan::{Limits, scan};
//! use tollway_wire::splice::{Edits, json_string};
//!
//! let body = Bytes::from_static(br#"{"model": "fast", "user": "u1", "n": 1}"#);
//! let mut edits = Edits::new();
//! edits.set("model", json_string("gpt-4o-mini"));
//! edits.remove("user");
//! let body = edits.apply(&body, &scan(&body, &Limits::default())?);
//! assert_eq!(&body[..], br#"{"model": "gpt-4o-mini", "n": 1}"#);
//! # Ok::<(), tollway_wire::scan::ScanError>(())
//! ```

use std::borrow::Cow;

use bytes::Bytes;
use smallvec::SmallVec;

use crate::scan::{Member, Object};

/// Changes to make to the members of one object. Their order does not matter, except that of two
/// edits of the same key the later one wins and that new members are appended in the order in which
/// they were first named.
#[derive(Clone, Debug, Default)]
pub struct Edits<'a> {
    edits: SmallVec<[Edit<'a>; 4]>,
}

#[derive(Clone, Debug)]
struct Edit<'a> {
    key: &'a str,
    /// The new value as JSON, or `None` to remove the member.
    value: Option<Cow<'a, [u8]>>,
}

impl<'a> Edits<'a> {
    /// No edits.
    pub fn new() -> Self {
        Edits::default()
    }

    /// Replaces the value of the member `key`, or appends a member if there is none of this name.
    ///
    /// `key` is the name as such, without quotes and escapes. `json_value` must be one JSON value,
    /// for a string the result of [`json_string`]; it is copied as it is and not checked.
    pub fn set(&mut self, key: &'a str, json_value: impl Into<Cow<'a, [u8]>>) {
        self.put(key, Some(json_value.into()));
    }

    /// Removes the member `key` with the comma that belongs to it, if there is such a member.
    pub fn remove(&mut self, key: &'a str) {
        self.put(key, None);
    }

    /// Whether there is nothing to do. Edits that turn out to change nothing count as something.
    pub fn is_empty(&self) -> bool {
        self.edits.is_empty()
    }

    /// The body with all edits made. `object` must be the result of scanning `body`, or an object
    /// inside of it found by [`members`](crate::scan::members).
    ///
    /// If no edit changes anything, this is the same body, not a copy. Otherwise it is one new
    /// allocation of exactly the length needed.
    pub fn apply(&self, body: &Bytes, object: &Object) -> Bytes {
        let changes = self.changes(body, object);
        if changes.is_empty() {
            return body.clone();
        }
        let mut pieces: SmallVec<[&[u8]; 16]> = SmallVec::new();
        let mut done = 0;
        for change in &changes {
            pieces.push(body.get(done..change.from).unwrap_or_default());
            pieces.push(&change.with);
            done = change.to;
        }
        pieces.push(body.get(done..).unwrap_or_default());
        Bytes::from(pieces.concat())
    }

    /// As [`Edits::apply`], but a large body that changes comes in pieces, most of which are parts of
    /// the old one: nothing large is copied. There is always one piece at least.
    pub fn pieces(&self, body: &Bytes, object: &Object) -> Vec<Bytes> {
        if body.len() < PIECES_FROM_BYTES {
            return vec![self.apply(body, object)];
        }
        let mut pieces = Vec::new();
        let mut done = 0;
        for change in self.changes(body, object) {
            pieces.push(body.slice(done..change.from));
            pieces.push(Bytes::copy_from_slice(&change.with));
            done = change.to;
        }
        pieces.push(body.slice(done..));
        pieces.retain(|piece| !piece.is_empty());
        pieces
    }

    /// The places where the new body differs, in the order of the body.
    fn changes(&self, body: &[u8], object: &Object) -> SmallVec<[Change<'_>; 4]> {
        let mut changes = SmallVec::new();
        let mut is_first = true;
        let mut last_end = object.span().start as usize + 1;
        let mut members = object.iter().peekable();
        while let Some(member) = members.next() {
            let from = member.value.start as usize;
            let to = member.value.end as usize;
            match self.edits.iter().find(|edit| member.is_named(body, edit.key)) {
                None => is_first = false,
                Some(Edit { value: Some(value), .. }) => {
                    is_first = false;
                    if **value != *member.value.of(body) {
                        changes.push(Change { from, to, with: Cow::Borrowed(value) });
                    }
                }
                Some(Edit { value: None, .. }) if is_first => {
                    // No member is left before this one, so the comma to remove is the one after.
                    let next = members.peek().map_or(to, |next| opening_quote(next));
                    changes.push(Change { from: opening_quote(member), to: next, with: NOTHING });
                }
                Some(Edit { value: None, .. }) => {
                    changes.push(Change { from: last_end, to, with: NOTHING });
                }
            }
            last_end = to;
        }
        for edit in &self.edits {
            let Some(value) = &edit.value else { continue };
            if object.get(body, edit.key).is_none() {
                let comma: &[u8] = if is_first { b"" } else { b"," };
                let name = [comma, &json_string(edit.key), b":"].concat();
                is_first = false;
                changes.push(Change { from: last_end, to: last_end, with: Cow::Owned(name) });
                changes.push(Change { from: last_end, to: last_end, with: Cow::Borrowed(value) });
            }
        }
        changes
    }

    fn put(&mut self, key: &'a str, value: Option<Cow<'a, [u8]>>) {
        match self.edits.iter_mut().find(|edit| edit.key == key) {
            Some(edit) => edit.value = value,
            None => self.edits.push(Edit { key, value }),
        }
    }
}

/// The bytes `from..to` of the old body give way to `with`.
struct Change<'a> {
    from: usize,
    to: usize,
    with: Cow<'a, [u8]>,
}

/// From which size on a body is changed in pieces: below it, one copy is cheaper than many parts.
const PIECES_FROM_BYTES: usize = 32 * 1024;

const NOTHING: Cow<'static, [u8]> = Cow::Borrowed(b"");

fn opening_quote(member: &Member) -> usize {
    (member.key.start as usize).saturating_sub(1)
}

/// `s` as a JSON string, in quotes, with escapes for what JSON does not allow in strings.
pub fn json_string(s: &str) -> Vec<u8> {
    serde_json::to_vec(s).expect("a string can always be written as JSON")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::{Map, Value};

    use super::*;
    use crate::scan::{Limits, members, scan};

    /// `Some` sets a member to that JSON, `None` removes it.
    type Change = (&'static str, Option<&'static str>);

    fn edits(changes: &[Change]) -> Edits<'static> {
        let mut edits = Edits::new();
        for (key, value) in changes {
            match value {
                Some(value) => edits.set(key, value.as_bytes()),
                None => edits.remove(key),
            }
        }
        edits
    }

    #[track_caller]
    fn check(body: &'static str, changes: &[Change], expect: &str) {
        let before = Bytes::from_static(body.as_bytes());
        let object = scan(&before, &Limits::default()).expect("the body of the case is valid");
        let after = edits(changes).apply(&before, &object);
        assert_eq!(std::str::from_utf8(&after), Ok(expect));
        assert!(scan(&after, &Limits::default()).is_ok(), "{expect} does not scan");
        // The same body, not a copy, exactly if nothing changed.
        assert_eq!(after.as_ptr() == before.as_ptr(), body == expect);
    }

    #[test]
    fn no_edits_share_the_body() {
        assert!(Edits::new().is_empty());
        assert!(!edits(&[("a", None)]).is_empty());
        check(r#"{"a":1}"#, &[], r#"{"a":1}"#);
        check("{}", &[], "{}");
    }

    #[test]
    fn edits_that_change_nothing_share_the_body() {
        check(r#"{"a": 1 }"#, &[("a", Some("1"))], r#"{"a": 1 }"#);
        check(r#"{"a":1}"#, &[("b", None)], r#"{"a":1}"#);
        check("{}", &[("b", None)], "{}");
        check(r#"{"a":1}"#, &[("a", Some("2")), ("a", Some("1"))], r#"{"a":1}"#);
    }

    #[test]
    fn value_is_replaced_and_the_rest_left_as_it_was() {
        check(r#"{"a":1}"#, &[("a", Some("[2]"))], r#"{"a":[2]}"#);
        check(
            "{ \"x\" : 1e0 ,\n\t\"model\" : \"a\"\r\n, \"y\":[ ] }\n",
            &[("model", Some("\"bb\""))],
            "{ \"x\" : 1e0 ,\n\t\"model\" : \"bb\"\r\n, \"y\":[ ] }\n",
        );
        check(r#"{"a":1,"b":2}"#, &[("b", Some("0")), ("a", Some("9"))], r#"{"a":9,"b":0}"#);
    }

    #[test]
    fn escaped_key_is_found() {
        check(r#"{"mod\u0065l":1}"#, &[("model", Some("2"))], r#"{"mod\u0065l":2}"#);
        check(r#"{"mod\u0065l":1}"#, &[("model", None)], "{}");
    }

    #[test]
    fn absent_member_is_appended() {
        check(r#"{"a":1}"#, &[("b", Some("2"))], r#"{"a":1,"b":2}"#);
        check(r#"{"a":1 } "#, &[("b", Some("2")), ("c", Some("3"))], r#"{"a":1,"b":2,"c":3 } "#);
        check(r#"{"a":1}"#, &[("\"\n", Some("2"))], r#"{"a":1,"\"\n":2}"#);
    }

    #[test]
    fn empty_object_gets_its_first_members() {
        check("{}", &[("a", Some("1"))], r#"{"a":1}"#);
        check(" { } ", &[("a", Some("1")), ("b", Some("2"))], r#" {"a":1,"b":2 } "#);
    }

    #[test]
    fn removing_takes_the_right_comma_along() {
        check(r#"{"a":1}"#, &[("a", None)], "{}");
        check(r#"{ "a" : 1 }"#, &[("a", None)], "{  }");
        check(r#"{"a":1,"b":2,"c":3}"#, &[("a", None)], r#"{"b":2,"c":3}"#);
        check(r#"{"a":1,"b":2,"c":3}"#, &[("b", None)], r#"{"a":1,"c":3}"#);
        check(r#"{"a":1,"b":2,"c":3}"#, &[("c", None)], r#"{"a":1,"b":2}"#);
        check(r#"{ "a":1 , "b":2 , "c":3 }"#, &[("b", None)], r#"{ "a":1 , "c":3 }"#);
        check(r#"{ "a":1 , "b":2 , "c":3 }"#, &[("c", None)], r#"{ "a":1 , "b":2 }"#);
    }

    #[test]
    fn adjacent_members_are_removed_together() {
        check(r#"{"a":1,"b":2,"c":3}"#, &[("a", None), ("b", None)], r#"{"c":3}"#);
        check(r#"{"a":1,"b":2,"c":3}"#, &[("c", None), ("b", None)], r#"{"a":1}"#);
        check(r#"{"a":1,"b":2,"c":3}"#, &[("a", None), ("c", None)], r#"{"b":2}"#);
        check(r#"{"a":1,"b":2,"c":3}"#, &[("a", None), ("b", None), ("c", None)], "{}");
        check(r#"{"a":1,"b":2}"#, &[("a", None), ("b", None), ("z", Some("0"))], r#"{"z":0}"#);
        check(r#"{"a":1,"b":2}"#, &[("b", None), ("z", Some("0"))], r#"{"a":1,"z":0}"#);
        check(r#"{"a":1,"b":2}"#, &[("a", None), ("b", Some("0"))], r#"{"b":0}"#);
    }

    #[test]
    fn later_edit_of_the_same_key_wins() {
        check(r#"{"a":1}"#, &[("a", None), ("a", Some("2"))], r#"{"a":2}"#);
        check(r#"{"a":1}"#, &[("a", Some("2")), ("a", None)], "{}");
        check("{}", &[("a", Some("2")), ("a", Some("3"))], r#"{"a":3}"#);
    }

    #[test]
    fn nested_object_is_edited_within_the_whole_body() {
        let body = Bytes::from_static(br#"{"n":1,"stream_options":{"x":1},"m":2}"#);
        let object = scan(&body, &Limits::default()).expect("valid");
        let span = object.get(&body, "stream_options").expect("present").value;
        let nested = members(&body, span, &Limits::default()).expect("an object");
        let after = edits(&[("x", None), ("include_usage", Some("true"))]).apply(&body, &nested);
        assert_eq!(&after[..], br#"{"n":1,"stream_options":{"include_usage":true},"m":2}"#);
    }

    #[test]
    fn json_string_quotes_and_escapes() {
        assert_eq!(json_string(""), br#""""#);
        assert_eq!(json_string("a\"\\\n\u{1}ü"), "\"a\\\"\\\\\\n\\u0001ü\"".as_bytes());
    }

    /// Few names, so that edits often meet members.
    fn name() -> impl Strategy<Value = String> {
        prop_oneof![
            4 => prop::sample::select(vec!["model", "stream", "user", "n", "ü\"", ""])
                .prop_map(String::from),
            1 => any::<String>(),
        ]
    }

    fn value() -> impl Strategy<Value = Value> {
        prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
            prop::collection::vec(any::<u8>(), 0..3).prop_map(Value::from),
        ]
    }

    #[test]
    fn large_bodies_change_in_pieces_of_the_old_one() {
        let text = "x".repeat(PIECES_FROM_BYTES);
        let body = Bytes::from(format!(r#"{{"model":"fast","user":"u","text":"{text}"}}"#));
        let object = scan(&body, &Limits::default()).expect("the body is valid");
        let mut edits = Edits::new();
        edits.set("model", json_string("gpt-4o"));
        edits.remove("user");
        edits.set("stream", &b"true"[..]);
        let pieces = edits.pieces(&body, &object);
        assert_eq!(pieces.concat(), edits.apply(&body, &object));
        let largest = pieces.iter().max_by_key(|piece| piece.len()).expect("there are some");
        assert!(body.as_ptr_range().contains(&largest.as_ptr()), "it is no copy");
        assert_eq!(Edits::new().pieces(&body, &object), [body]);
    }

    proptest! {
        #[test]
        fn splice_equals_parse_and_rewrite(
            members in prop::collection::vec((name(), value()), 0..8),
            changes in prop::collection::vec((name(), prop::option::of(value())), 0..8),
            pretty: bool,
        ) {
            let mut model: Map<String, Value> = members.into_iter().collect();
            let write = if pretty { serde_json::to_vec_pretty } else { serde_json::to_vec };
            let body = Bytes::from(write(&model).expect("JSON"));

            let mut edits = Edits::new();
            for (key, value) in &changes {
                match value {
                    Some(value) => {
                        edits.set(key, serde_json::to_vec(value).expect("JSON"));
                        model.insert(key.clone(), value.clone());
                    }
                    None => {
                        edits.remove(key);
                        model.remove(key);
                    }
                }
            }
            let object = scan(&body, &Limits::default()).expect("valid");
            let after = edits.apply(&body, &object);
            let parsed: Map<String, Value> = serde_json::from_slice(&after).expect("still JSON");
            prop_assert_eq!(&parsed, &model);
            let rescanned = scan(&after, &Limits::default()).expect("still scans");
            prop_assert_eq!(rescanned.len(), model.len());
        }
    }
}
