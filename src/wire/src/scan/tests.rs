use proptest::prelude::*;
use serde_json::value::RawValue;
use serde_json::{Map, Value};

use super::*;

/// The members as `key=value` in the order of the body, or the message of the error.
fn outcome(body: &[u8], limits: &Limits) -> String {
    match scan(body, limits) {
        Ok(object) => {
            let members = object.iter().map(|member| {
                let value = String::from_utf8_lossy(member.value.of(body));
                format!("{}={value}", member.name(body))
            });
            members.collect::<Vec<_>>().join(" ")
        }
        Err(error) => error.to_string(),
    }
}

#[track_caller]
fn check(body: impl AsRef<[u8]>, expect: &str) {
    let body = body.as_ref();
    let text = String::from_utf8_lossy(body);
    assert_eq!(outcome(body, &Limits::default()), expect, "for {text}");
    // The same at another offset, so that the fast paths meet the edges of the body differently.
    let moved = [b" ".repeat(100).as_slice(), body, b" ".repeat(100).as_slice()].concat();
    let is_ok = scan(body, &Limits::default()).is_ok();
    assert_eq!(scan(&moved, &Limits::default()).is_ok(), is_ok, "for {text} moved");
}

/// Whether a value is correct, alone and inside of an array.
#[track_caller]
fn check_value(value: impl AsRef<[u8]>, expect: bool) {
    let value = value.as_ref();
    for (before, after) in
        [("{\"v\":", "}"), ("{\"v\":[0,", "]}"), ("{\"v\":{\"w\":", "},\"x\":1}")]
    {
        let body = [before.as_bytes(), value, after.as_bytes()].concat();
        let text = String::from_utf8_lossy(&body);
        assert_eq!(scan(&body, &Limits::default()).is_ok(), expect, "for {text}");
    }
}

#[test]
fn members_are_found_in_order() {
    check("{}", "");
    check(" {\t} \r\n", "");
    check(r#"{"b":1,"a":"x"}"#, r#"b=1 a="x""#);
    check(" { \"b\" : [ 1 , {\"c\":2} ] ,\n \"a\" : null } ", "b=[ 1 , {\"c\":2} ] a=null");
    check(r#"{"":{}}"#, "={}");
    check(r#"{"a":{"a":{"a":1}}}"#, r#"a={"a":{"a":1}}"#);
}

#[test]
fn body_must_be_an_object() {
    for body in ["", "  ", "[]", "1", "\"a\"", "null", "\u{feff}{}", "x"] {
        check(body, "the body is not a JSON object");
    }
}

#[test]
fn mistakes_are_named_with_their_place() {
    check("{", "the body ends at byte 1, before a key in double quotes");
    check("{\"", "the body ends at byte 2, before the end of a string");
    check("{\"a\"", "the body ends at byte 4, before a colon");
    check("{\"a\":", "the body ends at byte 5, before a value");
    check("{\"a\":1", "the body ends at byte 6, before a comma or a closing brace");
    check("{\"a\":[1", "the body ends at byte 7, before a comma or a closing bracket");
    check("{\"a\":\"\\", "the body ends at byte 7, before a valid escape sequence");
    check("{\"a\":1,}", "the body is not valid JSON at byte 7: expected a key in double quotes");
    check("{,}", "the body is not valid JSON at byte 1: expected a key in double quotes");
    check("{a:1}", "the body is not valid JSON at byte 1: expected a key in double quotes");
    check("{\"a\" 1}", "the body is not valid JSON at byte 5: expected a colon");
    check(
        "{\"a\":1 2}",
        "the body is not valid JSON at byte 7: expected a comma or a closing brace",
    );
    check(
        "{\"a\":[1}}",
        "the body is not valid JSON at byte 7: expected a comma or a closing bracket",
    );
    check("{} {}", "the body is not valid JSON at byte 3: expected nothing after the object");
    check(b"{}\0", "the body is not valid JSON at byte 2: expected nothing after the object");
    check(b"{} \x01", "the body is not valid JSON at byte 3: expected nothing after the object");
    check("{}\u{a0}", "the body is not valid JSON at byte 2: expected nothing after the object");
    check(b"{\"a\":\"b\xff\"}", "the body is not valid UTF-8 at byte 7");
}

#[test]
fn values_follow_the_grammar() {
    for good in ["true", "false", "null", "[]", "{}", "[[],{}]", "\"\"", " 1 ", "[ 1 , 2 ]"] {
        check_value(good, true);
    }
    for bad in [
        "",
        "tru",
        "truee",
        "nul",
        "True",
        "undefined",
        "NaN",
        "'a'",
        "[1,]",
        "[,1]",
        "[",
        "]",
        "{\"a\"}",
        "{\"a\":}",
        "{1:2}",
        "[1 2]",
        "{\"a\":1 \"b\":2}",
        "{\"a\":1,}",
        "[}",
        "{]",
        "/**/1",
        "\u{a0}1",
        "\u{b}1",
    ] {
        check_value(bad, false);
    }
}

#[test]
fn numbers_follow_the_grammar() {
    for good in ["0", "-0", "1", "-12.50", "1e400", "1E+2", "0.0e-00", "10", "1.5e5", "0e1"] {
        check_value(good, true);
    }
    for bad in [
        "01", "-", "+1", ".5", "1.", "1.e5", "1e", "1e+", "--1", "0x1", "1_0", "00", "-01",
        "1.2.3", "1e5.5",
    ] {
        check_value(bad, false);
    }
    for digits in 1..70 {
        let long = "7".repeat(digits);
        for good in [long.clone(), format!("0.{long}"), format!("{long}.{long}e-{long}")] {
            check_value(good, true);
        }
        for bad in [format!("0{long}"), format!("{long}x"), format!("{long}."), format!("{long}e")]
        {
            check_value(bad, false);
        }
    }
}

#[test]
fn long_arrays_of_integers_follow_the_grammar() {
    for width in [1, 3, 6] {
        let item = "7".repeat(width);
        for count in [1, 2, 9, 10, 15, 16, 17, 31, 32, 33, 47] {
            let items = vec![item.as_str(); count];
            check_value(format!("[{}]", items.join(",")), true);
            check_value(format!("[{}]", items.join(", ")), true);
            check_value(format!("[{},]", items.join(",")), false);
            for at in 0..count {
                for (other, good) in [
                    ("0", true),
                    ("-7", true),
                    ("1.5", true),
                    ("\"a\"", true),
                    ("[1,2]", true),
                    ("", false),
                    ("07", false),
                    ("7.", false),
                    ("7 7", false),
                    ("7x", false),
                ] {
                    let mut items = items.clone();
                    items[at] = other;
                    // An empty item alone makes an empty array.
                    check_value(
                        format!("[{}]", items.join(",")),
                        good || count == 1 && other.is_empty(),
                    );
                }
            }
        }
    }
}

#[test]
fn number_may_have_1024_bytes() {
    check_value("1".repeat(1024), true);
    check_value(format!("-0.{}", "1".repeat(1021)), true);
    check_value("1".repeat(1025), false);
    let body = format!("{{\"a\":{}}}", "1".repeat(100_000));
    check(body, "the number at byte 5 has too many digits");
}

#[test]
fn strings_follow_the_grammar() {
    for good in [
        r#""\" \\ \/ \b \f \n \r \t \u00e9 \uFFFF""#,
        r#""\ud83d\ude00""#,
        r#""\u0000""#,
        "\"\u{7f}\"",
        "\"\u{2028}😀é\"",
    ] {
        check_value(good, true);
    }
    for bad in [
        r#""\x""#,
        r#""\u12""#,
        r#""\u12g4""#,
        r#""\u+123""#,
        r#""\U0041""#,
        "\"\n\"",
        "\"\t\"",
        "\"\0\"",
        "\"\x1f\"",
        "\"",
        "\"a",
        "\"\\\"",
    ] {
        check_value(bad, false);
    }
}

#[test]
fn unicode_escapes_have_four_hexadecimal_digits() {
    for at in 0..4 {
        for byte in 0..=u8::MAX {
            let mut value = *b"\"\\u0000\"";
            value[3 + at] = byte;
            check_value(value, byte.is_ascii_hexdigit());
        }
    }
}

#[test]
fn lone_surrogates_are_refused() {
    for bad in [
        r#""\ud800""#,
        r#""\udc00""#,
        r#""\ud800\ud800""#,
        r#""\udc00\ud800""#,
        r#""\ud800x""#,
        r#""\ud800\n""#,
        r#""\ud800\u0041""#,
        r#""\ud83d\ude0""#,
    ] {
        check_value(bad, false);
        check(
            format!("{{{bad}:1}}"),
            "the body is not valid JSON at byte 2: expected a \\u escape of a Unicode character",
        );
    }
}

#[test]
fn invalid_utf8_is_refused_wherever_it_is() {
    let bad: [&[u8]; 7] =
        [b"\x80", b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf5\x80\x80\x80", b"\xe2\x82", b"\xff"];
    for bad in bad {
        for length in 0..140 {
            let pad = b"a".repeat(length);
            check_value([b"\"", &pad[..], bad, b"\""].concat(), false);
            check_value([b"\"", bad, &pad[..], b"\""].concat(), false);
        }
    }
}

#[test]
fn nesting_has_a_limit() {
    let arrays = |n: usize| format!("{{\"a\":{}{}}}", "[".repeat(n), "]".repeat(n));
    let objects = |n: usize| format!("{}1{}", "{\"a\":".repeat(n), "}".repeat(n));
    assert!(scan(arrays(127).as_bytes(), &Limits::default()).is_ok());
    assert!(scan(objects(128).as_bytes(), &Limits::default()).is_ok());
    check(arrays(128), "the body nests more than 128 levels deep at byte 132");
    check(objects(129), "the body nests more than 128 levels deep at byte 640");
    check(arrays(1_000_000), "the body nests more than 128 levels deep at byte 132");
    for depth in [0, 1, 2, 3, 63, 64, 65, 66, 127, 128, 129, 130, 300] {
        let limits = Limits { depth, ..Limits::default() };
        for n in 1..310 {
            let is_ok = scan(arrays(n).as_bytes(), &limits).is_ok();
            assert_eq!(is_ok, n < usize::from(depth), "{n} arrays in {depth} levels");
            let mixed = format!("{{\"a\":{}1{}}}", "[{\"b\":".repeat(n), "}]".repeat(n));
            let is_ok = scan(mixed.as_bytes(), &limits).is_ok();
            assert_eq!(is_ok, 2 * n < usize::from(depth), "{n} pairs in {depth} levels");
        }
        assert_eq!(scan(b"{}", &limits).is_ok(), depth > 0);
    }
}

#[test]
fn brackets_must_match_on_every_level() {
    for levels in [1, 63, 64, 65, 126] {
        let open = "[".repeat(levels);
        for at in 0..levels {
            let mut close = "]".repeat(levels);
            close.replace_range(at..=at, "}");
            check_value(format!("{open}{close}"), false);
        }
    }
}

#[test]
fn top_level_members_have_a_limit() {
    let body = |n: usize| {
        let members: Vec<_> = (0..n).map(|i| format!("\"k{i}\":{i}")).collect();
        format!("{{{}}}", members.join(","))
    };
    let limits = Limits { members: 3, ..Limits::default() };
    assert_eq!(outcome(body(3).as_bytes(), &limits), "k0=0 k1=1 k2=2");
    let message = "the body has more than 3 members at byte 22";
    assert_eq!(outcome(body(4).as_bytes(), &limits), message);
    assert_eq!(scan(body(256).as_bytes(), &Limits::default()).map(|o| o.len()), Ok(256));
    assert!(scan(body(257).as_bytes(), &Limits::default()).is_err());
    // Objects further in have none.
    assert!(scan(format!("{{\"a\":{}}}", body(1000)).as_bytes(), &Limits::default()).is_ok());
}

#[test]
fn duplicate_names_are_refused() {
    check(r#"{"a":1,"a":1}"#, r#"the body has more than one member "a", the second at byte 8"#);
    check(r#"{"a":1,"b":2,"ab":3,"A":4}"#, "a=1 b=2 ab=3 A=4");
    check(
        r#"{"model":1,"x":2,"mod\u0065l":3}"#,
        r#"the body has more than one member "model", the second at byte 18"#,
    );
    check(
        r#"{"\n":1,"\u000A":2}"#,
        r#"the body has more than one member "\n", the second at byte 9"#,
    );
    // Only names of the top level are compared.
    check(r#"{"a":{"b":1,"b":2}}"#, r#"a={"b":1,"b":2}"#);
    for n in 1..40 {
        let mut keys: Vec<_> = (0..n).map(|i| format!("\"k{i}\":0")).collect();
        keys.push("\"k0\":1".into());
        assert!(matches!(
            scan(format!("{{{}}}", keys.join(",")).as_bytes(), &Limits::default()),
            Err(ScanError::Duplicate { .. }),
        ));
    }
}

#[test]
fn error_quotes_at_most_64_characters() {
    let key = "ü".repeat(1000);
    let name = "ü".repeat(64);
    check(
        format!("{{\"{key}\":1,\"{key}\":1}}"),
        &format!("the body has more than one member {name:?}, the second at byte 2007"),
    );
}

#[test]
fn readers_take_only_what_they_are_named_for() {
    let body = br#"{"s":"a","e":"\u00e9\n","t":true,"n":12,"m":-1,"f":1.5,"big":1e400,"z":null,
        "l":[ ],"o":{},"\u006b":"v","max":18446744073709551615}"#;
    let object = scan(body, &Limits::default()).expect("valid");
    assert!(matches!(object.str(body, "s"), Some(Cow::Borrowed("a"))));
    assert_eq!(object.str(body, "e").as_deref(), Some("é\n"));
    assert_eq!(object.str(body, "k").as_deref(), Some("v"));
    assert_eq!(object.str(body, "t"), None);
    assert_eq!(object.str(body, "absent"), None);
    assert_eq!(object.bool(body, "t"), Some(true));
    assert_eq!(object.bool(body, "n"), None);
    assert_eq!(object.u64(body, "n"), Some(12));
    assert_eq!(object.u64(body, "max"), Some(u64::MAX));
    assert_eq!(object.u64(body, "m"), None);
    assert_eq!(object.u64(body, "f"), None);
    assert_eq!(object.f64(body, "n"), Some(12.0));
    assert_eq!(object.f64(body, "f"), Some(1.5));
    assert_eq!(object.f64(body, "big"), None);
    assert_eq!(object.f64(body, "s"), None);
    assert_eq!(object.raw(body, "z"), Some(&b"null"[..]));
    assert_eq!(object.raw(body, "o"), Some(&b"{}"[..]));
    assert_eq!(object.raw(body, "absent"), None);
    let kind = |name| object.get(body, name).map(|member| member.kind);
    assert_eq!(kind("l"), Some(Kind::Array { empty: true }));
    assert_eq!(kind("e"), Some(Kind::String { escaped: true }));
    assert_eq!(kind("z"), Some(Kind::Null));
    assert_eq!(object.span().of(body), body);
}

#[test]
fn escaped_names_are_found_however_they_are_written() {
    let body = br#"{"\u0061\u0062":1,"\u00e9\ud83d\ude00":2,"\"\/":3,"c\u0064":4}"#;
    let object = scan(body, &Limits::default()).expect("valid");
    for (name, value) in [("ab", 1), ("é😀", 2), ("\"/", 3), ("cd", 4)] {
        assert_eq!(object.u64(body, name), Some(value), "{name}");
    }
    assert_eq!(object.u64(body, "a"), None);
    assert_eq!(object.u64(body, r"c\u0064"), None);
}

#[test]
fn array_knows_whether_it_is_empty() {
    for (value, empty) in [("[]", true), ("[ \n\t]", true), ("[0]", false), ("[ [] ]", false)] {
        let body = format!("{{\"a\":{value}}}");
        let object = scan(body.as_bytes(), &Limits::default()).expect("valid");
        let kind = object.get(body.as_bytes(), "a").map(|member| member.kind);
        assert_eq!(kind, Some(Kind::Array { empty }), "for {value}");
    }
}

#[test]
fn readers_do_not_panic_on_another_body() {
    let body = br#"{"a":"text","\u0062":[1],"c":12}"#;
    let object = scan(body, &Limits::default()).expect("valid");
    for other in [&b""[..], b"{", &body[..8], &[0xff; 100], &body[..20]] {
        for name in ["a", "b", "c", ""] {
            let _ = (object.str(other, name), object.u64(other, name), object.raw(other, name));
        }
    }
}

#[test]
fn members_of_a_nested_object_have_offsets_into_the_whole_body() {
    let body =
        br#"{"n":1,"stream_options": {"include_usage":true, "x":"y"} ,"l":[1],"d":{"a":1,"a":2}}"#;
    let limits = Limits::default();
    let object = scan(body, &limits).expect("valid");
    let span = |name| object.get(body, name).expect("present").value;
    let options = members(body, span("stream_options"), &limits).expect("an object");
    assert_eq!(options.bool(body, "include_usage"), Some(true));
    assert_eq!(options.str(body, "x").as_deref(), Some("y"));
    assert_eq!(options.span(), span("stream_options"));
    assert!(matches!(members(body, span("l"), &limits), Err(ScanError::NotAnObject { .. })));
    assert!(matches!(members(body, span("d"), &limits), Err(ScanError::Duplicate { .. })));
    assert!(members(body, Span { start: 5000, end: 6000 }, &limits).is_err());
    assert!(members(body, Span { start: 9, end: 3 }, &limits).is_err());
}

#[test]
fn strings_of_every_length_end_where_they_should() {
    for length in 0..200 {
        for at in 0..length {
            for (special, width, good) in [
                (&b"\\n"[..], 2, true),
                (b"\\\"", 2, true),
                (b"\\\\", 2, true),
                (b"\\u00e9", 6, true),
                (b"\\ud83d\\ude00", 12, true),
                ("é".as_bytes(), 2, true),
                (b"\"", 1, false),
                (b"\n", 1, false),
                (b"\x1f", 1, false),
                (b"\\x", 2, false),
                (b"\\", 1, false),
                (b"\xff", 1, false),
            ] {
                let mut text = vec![b'a'; length];
                text.splice(at..(at + width).min(length), special.iter().copied());
                // A backslash at the end would take the closing quote along; that is another case.
                let body = [b"{\"k\":\"", &text[..], b"\",\"l\":1}"].concat();
                let scanned = scan(&body, &Limits::default());
                assert_eq!(scanned.is_ok(), good, "{}", String::from_utf8_lossy(&body));
                let Ok(object) = scanned else { continue };
                let member = object.get(&body, "k").expect("present");
                assert_eq!(member.value.len(), text.len() + 2);
                let escaped = special[0] == b'\\';
                assert_eq!(member.kind, Kind::String { escaped });
                assert_eq!(object.u64(&body, "l"), Some(1));
            }
        }
    }
}

/// A JSON text with all the freedom of the grammar: whitespace, escapes and number formats, not
/// only what a serialiser would write.
fn json(depth: u32) -> BoxedStrategy<String> {
    let blank =
        || prop::sample::select(vec!["", "", "", " ", "\n", "\t\r\n  ", "                    "]);
    let scalar = prop_oneof![
        Just("null".to_owned()),
        Just("true".to_owned()),
        Just("false".to_owned()),
        "-?(0|[1-9][0-9]{0,25})(\\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?",
        string(),
    ];
    if depth == 0 {
        return scalar.boxed();
    }
    let array = (blank(), prop::collection::vec((json(depth - 1), blank()), 0..5)).prop_map(
        |(blank, items)| {
            let items: Vec<_> =
                items.into_iter().map(|(item, b)| format!("{b}{item}{b}")).collect();
            format!("[{blank}{}]", items.join(","))
        },
    );
    let integers = prop::collection::vec(0..200_000u32, 0..40)
        .prop_map(|numbers| format!("{numbers:?}").replace(' ', ""));
    prop_oneof![4 => scalar, 2 => array, 2 => object(depth - 1), 1 => integers].boxed()
}

fn object(depth: u32) -> BoxedStrategy<String> {
    let blank = || prop::sample::select(vec!["", "", "", " ", "\n   "]);
    (blank(), prop::collection::vec((string(), json(depth), blank()), 0..6))
        .prop_map(|(blank, members)| {
            let members: Vec<_> = members
                .into_iter()
                .map(|(key, value, b)| format!("{b}{key}{b}:{b}{value}{b}"))
                .collect();
            format!("{{{blank}{}}}", members.join(","))
        })
        .boxed()
}

fn string() -> impl Strategy<Value = String> {
    let part = prop_oneof![
        3 => "[ !#-\\[\\]-~]{0,40}",
        1 => "[äöü€😀网关]{1,8}",
        1 => prop::sample::select(vec!["\\n", "\\\"", "\\\\", "\\/", "\\u0041", "\\ud83d\\ude00"])
            .prop_map(String::from),
    ];
    prop::collection::vec(part, 0..5).prop_map(|parts| format!("\"{}\"", parts.concat()))
}

fn mutated() -> impl Strategy<Value = Vec<u8>> {
    let byte = prop_oneof![
        3 => prop::sample::select(b"{}[]\",:\\0123456789.-+eEtfnu \n\t\x00\x1f".to_vec()),
        1 => any::<u8>(),
    ];
    let mutation = (any::<prop::sample::Index>(), 0..4, byte);
    (object(3), prop::collection::vec(mutation, 0..4)).prop_map(|(text, mutations)| {
        let mut body = text.into_bytes();
        for (at, how, byte) in mutations {
            let at = at.index(body.len() + 1);
            match how {
                0 => body.insert(at, byte),
                1 if at < body.len() => body[at] = byte,
                2 if at < body.len() => drop(body.remove(at)),
                3 => body.truncate(at),
                _ => {}
            }
        }
        body
    })
}

/// What `serde_json` says, with the differences that are meant: the scanner wants an object, no
/// byte order mark (neither does `serde_json`), unique names at the top level, and numbers that
/// need not fit an `f64`. Both refuse lone surrogates. The limits are too far away to matter.
fn expected(body: &[u8]) -> Option<Vec<(String, Value)>> {
    struct Members(Vec<(String, Value)>);
    impl<'de> serde::Deserialize<'de> for Members {
        fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            struct Visitor;
            impl<'de> serde::de::Visitor<'de> for Visitor {
                type Value = Members;
                fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                    f.write_str("an object")
                }
                fn visit_map<A: serde::de::MapAccess<'de>>(
                    self,
                    mut map: A,
                ) -> Result<Members, A::Error> {
                    let mut members = Vec::new();
                    while let Some(member) = map.next_entry()? {
                        members.push(member);
                    }
                    Ok(Members(members))
                }
            }
            deserializer.deserialize_map(Visitor)
        }
    }
    let Members(members) = serde_json::from_slice(body).ok()?;
    let mut names: Vec<_> = members.iter().map(|(name, _)| name).collect();
    names.sort();
    names.dedup();
    (names.len() == members.len()).then_some(members)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn scan_accepts_what_serde_json_accepts(body in mutated()) {
        let scanned = scan(&body, &Limits::default());
        let text = String::from_utf8_lossy(&body);
        match expected(&body) {
            Some(members) => {
                let object = scanned.unwrap_or_else(|e| panic!("{e}, but serde_json takes {text}"));
                prop_assert_eq!(object.len(), members.len());
                for (member, (name, value)) in object.iter().zip(&members) {
                    prop_assert_eq!(&member.name(&body), name);
                    prop_assert_eq!(object.get(&body, name), Some(member));
                    let raw = member.value.of(&body);
                    let parsed: Value = serde_json::from_slice(raw).expect("valid alone, too");
                    prop_assert_eq!(&parsed, value);
                    let kind_fits = match member.kind {
                        Kind::Null => value.is_null(),
                        Kind::Bool(is) => value.as_bool() == Some(is),
                        Kind::Number => value.is_number(),
                        Kind::String { escaped } => {
                            value.is_string() && escaped == raw.contains(&b'\\')
                        }
                        Kind::Array { empty } => {
                            value.as_array().is_some_and(|array| array.is_empty() == empty)
                        }
                        Kind::Object => value.is_object(),
                    };
                    prop_assert!(kind_fits, "{:?} is not {value}", member.kind);
                    if let Some(s) = value.as_str() {
                        let read = object.str(&body, name);
                        prop_assert_eq!(read.as_deref(), Some(s));
                    }
                    prop_assert_eq!(object.u64(&body, name), value.as_u64());
                }
            }
            None => {
                // A number that no f64 holds is correct JSON, and a mutation can make one.
                let excuse = serde_json::from_slice::<Map<String, Value>>(&body)
                    .is_err_and(|e| e.to_string().starts_with("number out of range"));
                prop_assert!(scanned.is_err() || excuse, "only the scanner takes {text}");
            }
        }
    }

    #[test]
    fn scan_never_panics_and_points_into_the_body(
        body in prop::collection::vec(any::<u8>(), 0..300),
    ) {
        for body in [&body[..], &[b"{\"a\":", &body[..]].concat()] {
            if let Err(error) = scan(body, &Limits::default()) {
                prop_assert!(error.at() <= body.len());
            }
        }
    }

    #[test]
    fn nested_objects_are_read_like_whole_bodies(inner in object(2), before in 0..80usize) {
        let body = format!("{{{}\"a\": {inner} }}", " ".repeat(before));
        let limits = Limits::default();
        let outer = scan(body.as_bytes(), &limits).expect("valid");
        let span = outer.get(body.as_bytes(), "a").expect("present").value;
        let nested = members(body.as_bytes(), span, &limits);
        match scan(inner.as_bytes(), &limits) {
            Ok(alone) => {
                let nested = nested.expect("valid alone, so valid inside");
                let texts = |o: &Object, body: &str| -> Vec<_> {
                    o.iter().map(|m| m.value.of(body.as_bytes()).to_vec()).collect()
                };
                prop_assert_eq!(texts(&nested, &body), texts(&alone, &inner));
            }
            Err(_) => prop_assert!(nested.is_err()),
        }
    }
}

#[test]
fn what_scans_can_be_parsed() {
    // One level less than the default limit: `serde_json` refuses the 128th level itself.
    let body = format!("{{\"a\":{}{}}}", "[".repeat(126), "]".repeat(126));
    assert!(scan(body.as_bytes(), &Limits::default()).is_ok());
    assert!(serde_json::from_str::<Value>(&body).is_ok());
    assert!(serde_json::from_str::<Box<RawValue>>("{\"a\":1e400}").is_ok());
}
