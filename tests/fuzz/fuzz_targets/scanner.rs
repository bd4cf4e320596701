//! The scanner and `serde_json` agree on what is JSON and what is in it, but for the differences
//! that [`scan`] documents.

#![no_main]

use libfuzzer_sys::fuzz_target;
use serde::de::IgnoredAny;
use serde_json::Value;
use tollway_fuzz::{Members, depth};
use tollway_wire::scan::{Kind, Limits, Object, ScanError, scan};

fuzz_target!(|body: &[u8]| {
    match scan(body, &Limits::default()) {
        Ok(object) => accepted(body, &object),
        Err(error) => refused(body, &error),
    }
});

fn accepted(body: &[u8], object: &Object) {
    let text = std::str::from_utf8(body).expect("what is not UTF-8 is refused");
    let Members(members) = serde_json::from_str(text).expect("it is an object");
    assert_eq!(object.len(), members.len());
    assert!(object.len() <= 256 && depth(body) <= 128);
    let mut end = object.span().start as usize + 1;
    for (member, (name, raw)) in object.iter().zip(&members) {
        assert_eq!(member.name(body), name.as_str());
        assert_eq!(member.value.of(body), raw.get().as_bytes());
        assert!(member.key.start as usize > end, "the quote is after what came before");
        assert!(member.key.end < member.value.start);
        assert!(member.value.end < object.span().end);
        end = member.value.end as usize;
        // Numbers beyond f64, and the 128th level, are the two things serde_json cannot hold.
        let Ok(value) = serde_json::from_str::<Value>(raw.get()) else { continue };
        assert!(agrees(member.kind, &value), "{:?} is no {value}", member.kind);
        assert_eq!(object.get(body, name), Some(member));
        assert_eq!(object.str(body, name).as_deref(), value.as_str());
        assert_eq!(object.bool(body, name), value.as_bool());
        assert_eq!(object.f64(body, name), raw.get().parse().ok().filter(|_| value.is_number()));
        // `-0` is an integer to serde_json and not to us; `1e3` is neither's.
        if value.is_u64() && raw.get() != "-0" {
            assert_eq!(object.u64(body, name), value.as_u64());
        }
        if let Kind::Object = member.kind {
            let inner = tollway_wire::scan::members(body, member.value, &Limits::default());
            match inner {
                Ok(inner) => {
                    assert_eq!(inner.span(), member.value);
                    assert_eq!(inner.len(), value.as_object().expect("an object").len());
                }
                Err(error) => assert!(
                    matches!(error, ScanError::Duplicate { .. } | ScanError::TooManyMembers { .. }),
                    "{error}"
                ),
            }
        }
    }
    if let Ok(value) = serde_json::from_str::<Value>(text) {
        assert!(value.is_object());
    } else {
        // Only for the two reasons above.
        assert!(serde_json::from_str::<IgnoredAny>(text).is_ok());
    }
}

fn agrees(kind: Kind, value: &Value) -> bool {
    match (kind, value) {
        (Kind::Null, Value::Null)
        | (Kind::Number, Value::Number(_))
        | (Kind::String { .. }, Value::String(_))
        | (Kind::Object, Value::Object(_)) => true,
        (Kind::Bool(have), Value::Bool(value)) => have == *value,
        (Kind::Array { empty }, Value::Array(items)) => empty == items.is_empty(),
        _ => false,
    }
}

fn refused(body: &[u8], error: &ScanError) {
    // Names must be what serde_json would call them; its errors are quoted nowhere.
    assert!(!error.to_string().is_empty());
    match error {
        ScanError::TooLong { .. } => panic!("no input of a fuzzer is so long"),
        ScanError::NotAnObject { at } => {
            let space = |byte: &u8| matches!(byte, b' ' | b'\t' | b'\n' | b'\r');
            assert!(body[..*at].iter().all(space) && body.get(*at) != Some(&b'{'));
        }
        ScanError::Syntax { at, .. } | ScanError::Truncated { at, .. } => {
            assert!(*at <= body.len());
            assert_eq!(matches!(error, ScanError::Truncated { .. }), *at == body.len(), "{error}");
            // `IgnoredAny` checks the grammar and neither numbers nor what escapes stand for.
            let grammar = serde_json::from_slice::<IgnoredAny>(body).is_ok();
            let escape = body.windows(3).any(|three| matches!(three, [b'\\', b'u', b'd' | b'D']));
            assert!(!grammar || escape, "{error}");
            if grammar && depth(body) < 128 {
                assert!(serde_json::from_slice::<Value>(body).is_err(), "{error}");
            }
        }
        ScanError::Utf8 { at } => {
            let utf8 = std::str::from_utf8(body).expect_err("it is UTF-8");
            assert_eq!(utf8.valid_up_to(), *at);
        }
        ScanError::NumberTooLong { at } => {
            let digits =
                |byte: &&u8| matches!(byte, b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E');
            assert!(body[*at..].iter().take_while(digits).count() > 1024);
        }
        ScanError::TooDeep { at, limit } => {
            assert_eq!(usize::from(*limit), 128);
            assert_eq!(depth(&body[..=*at]), 129);
        }
        ScanError::TooManyMembers { at, limit } => {
            assert_eq!(*limit, 256);
            assert!(*at <= body.len());
        }
        ScanError::Duplicate { at, name } => {
            let Members(members) = serde_json::from_slice(body).expect("the rest was in order");
            let cut = |name: &str| name.chars().take(64).collect::<String>();
            let same = members.iter().filter(|(have, _)| cut(have) == *name).count();
            assert!(same >= 2, "{name:?} is there {same} times");
            assert_eq!(body[at - 1], b'"');
        }
    }
}
