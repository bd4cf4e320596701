//! Values that nobody should send, in every field of every endpoint of the admin API: a clear
//! refusal, or a harmless text that is kept; never an error of ours, and nothing leaked. The cases
//! are made from `/openapi.json`, which is made from the table that serves it.
//!
//! And keys in clear: nowhere but in the answer that hands them out.

use std::path::Path;

use serde_json::{Value, json};
use tollway_tests::gateway::MASTER_KEY;
use tollway_tests::{Connection, Response, Setup, chat, post};

/// Values as JSON.
fn hostile() -> Vec<String> {
    let texts = [
        "'; DROP TABLE objects; --",
        "\" OR 1=1 --",
        "' UNION SELECT * FROM objects --",
        "%27%20OR%201=1",
        "../../etc/passwd",
        "\u{0}\u{1}\u{1b}[2J",
        "\u{202e}\u{feff}\u{10ffff}",
        "{{7*7}}${jndi:ldap://x}",
        "-1",
        "1e400",
        "99999999999999999999999999d",
        "",
    ];
    let mut values: Vec<String> = texts.iter().map(|text| json!(text).to_string()).collect();
    let plain = [
        "-1",
        "-0.0",
        "-1e308",
        "1e308",
        "0.0000000000001",
        "18446744073709551616",
        "9223372036854775808",
        "null",
        "true",
        "[]",
        "{}",
        "[[[[]]]]",
        "{\"a\":{\"b\":[null,-1]}}",
        "[null,-1,\"x\",{}]",
        "{\"'; --\":-1}",
        "{\"gpt-4o\":{\"budget_limit\":-1,\"time_period\":\"-1d\"}}",
    ];
    values.extend(plain.map(str::to_owned));
    values
}

/// Where a field's values go.
struct Place {
    method: String,
    path: String,
    field: String,
    /// The path has it, or else the query of a GET, or else the body.
    in_path: bool,
    required: Vec<String>,
}

fn places(document: &Value) -> Vec<Place> {
    let mut places = Vec::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let place = |field: &str, in_path, required| Place {
                method: method.to_uppercase(),
                path: path.clone(),
                field: field.to_owned(),
                in_path,
                required,
            };
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().expect("a name");
                places.push(place(name, parameter["in"] == "path", Vec::new()));
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let required = schema["required"].as_array().cloned().unwrap_or_default();
            let required: Vec<String> =
                required.iter().filter_map(|name| name.as_str().map(str::to_owned)).collect();
            for name in schema["properties"].as_object().into_iter().flat_map(|all| all.keys()) {
                places.push(place(name, false, required.clone()));
            }
        }
    }
    places
}

fn escaped(text: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric();
    text.bytes()
        .map(|byte| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") })
        .collect()
}

async fn send(connection: &mut Connection, place: &Place, value: &str) -> Response {
    let text = value.trim_matches('"');
    let mut path = place.path.clone();
    let mut body = String::new();
    if place.in_path {
        path = path.replace(&format!("{{{}}}", place.field), &escaped(text));
    } else if place.method == "GET" {
        path = format!("{path}?{}={}", escaped(&place.field), escaped(text));
    } else {
        let others = place.required.iter().filter(|name| **name != place.field);
        let others: String = others.map(|name| format!(",\"{name}\":\"one\"")).collect();
        body = format!("{{\"{}\":{value}{others}}}", place.field);
    }
    let path = path.replace(['{', '}'], "x");
    connection.request(&place.method, &path, &[], body.as_bytes()).await;
    connection.response().await
}

#[track_caller]
fn check(place: &Place, value: &str, response: &Response) {
    let text = response.text();
    let shown = || {
        let value: String = value.chars().take(80).collect();
        let text: String = text.chars().take(300).collect();
        format!(
            "{} {} {}={value}: {} {text}",
            place.method, place.path, place.field, response.status
        )
    };
    assert!(response.status < 500, "{}", shown());
    assert!(!text.replace(text_of(value), "").contains(MASTER_KEY), "{}", shown());
    for inside in ["syntax error", "sqlite", "SQL", "tollway.db", "panicked"] {
        assert!(!ours(&text, value).contains(inside), "{}", shown());
    }
    if response.status >= 400 {
        assert!(response.error("message").is_string(), "{}", shown());
    }
}

/// An answer without what was sent, which may come back, and without the keys that were made, whose
/// random letters may be any word.
fn ours(text: &str, value: &str) -> String {
    let text = text.replace(text_of(value), "");
    let mut parts = text.split("sk-");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |ours, part| {
        let is_key = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        ours + " " + part.trim_start_matches(is_key)
    })
}

#[test]
fn made_key_that_spells_a_word_is_no_leak() {
    let answer = r#"{"key":"sk-abSQLcd-e_f","key_name":"sk-...SQLz","note":"SQL logic error"}"#;
    let ours = ours(answer, "1");
    assert_eq!(ours, r#"{"key":" ","key_name":" ","note":"SQL logic error"}"#);
}

/// A value as a text has it.
fn text_of(value: &str) -> &str {
    let text = value.trim_matches('"');
    if text.is_empty() { "\u{0}" } else { text }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_that_make_no_sense_are_refused_in_every_field_and_break_nothing() {
    let setup = Setup::start().await;
    let places = places(&setup.get("/openapi.json").await.json());
    assert!(places.len() > 200, "{}", places.len());
    let values = hostile();
    let long = format!("\"{}\"", "a".repeat(1_000_000));
    let mut connection = Connection::open(setup.gateway.address).await;
    let mut long_paths = std::collections::BTreeSet::new();
    for (number, place) in places.iter().enumerate() {
        if place.path.contains("cache") {
            continue;
        }
        // Each field gets a third of them, and with those beside it all of them.
        for value in values.iter().skip(number % 3).step_by(3) {
            let response = send(&mut connection, place, value).await;
            check(place, value, &response);
            if response.header("connection").is_some_and(|value| value == "close") {
                connection = Connection::open(setup.gateway.address).await;
            }
        }
        // What is long in a path or a query is no head that is read. Bodies: two fields of each
        // endpoint.
        let is_in_body = !place.in_path && place.method != "GET";
        if is_in_body && [0, 1].into_iter().any(|at| long_paths.insert((place.path.clone(), at))) {
            let response = send(&mut connection, place, &long).await;
            check(place, &long, &response);
            connection = Connection::open(setup.gateway.address).await;
        }
    }
    let answer = setup.chat(&chat("gpt-4o-mini", "Hi")).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert!(!setup.gateway.stderr().contains("panicked"), "{}", setup.gateway.stderr());
}

/// All files below a folder.
fn files(folder: &Path) -> Vec<std::path::PathBuf> {
    let entries = std::fs::read_dir(folder).expect("a folder").flatten();
    entries
        .flat_map(|entry| match entry.path().is_dir() {
            true => files(&entry.path()),
            false => vec![entry.path()],
        })
        .collect()
}

fn check_files(folder: &Path, keys: &[String]) {
    let files = files(folder);
    assert!(files.iter().any(|file| file.ends_with("tollway.db")), "{files:?}");
    for file in files {
        let bytes = std::fs::read(&file).unwrap_or_default();
        let text = String::from_utf8_lossy(&bytes);
        for key in keys {
            assert!(!text.contains(key.as_str()), "{key} is in {}", file.display());
        }
    }
}

#[tokio::test]
async fn key_in_clear_is_in_no_file_and_no_log() {
    let mut setup = Setup::start().await;
    let address = setup.gateway.address;
    let mut keys = vec!["sk-canary-chosen-0123456789".to_owned()];
    let chosen = post(address, "/key/generate", &json!({"key": keys[0], "key_alias": "a"})).await;
    assert_eq!(chosen.status, 200, "{}", chosen.text());
    for (path, body) in [
        ("/key/generate", json!({"key_alias": "b", "max_budget": 1})),
        ("/user/new", json!({"user_id": "u"})),
        ("/key/regenerate", json!({"key": keys[0]})),
    ] {
        let made = post(address, path, &body).await;
        assert_eq!(made.status, 200, "{path}: {}", made.text());
        keys.push(made.json()["key"].as_str().expect("a key").to_owned());
    }
    for key in &keys {
        for path in ["/key/info", "/key/block", "/key/update", "/key/delete"] {
            let body =
                if path == "/key/delete" { json!({"keys": [key]}) } else { json!({"key": key}) };
            post(address, path, &body).await;
        }
        setup.get(&format!("/key/info?key={key}")).await;
        setup.chat_as(key, &chat("gpt-4o-mini", "Hi")).await;
    }
    // As they are while it runs, with what SQLite has beside its file, and after its end.
    let data = setup.gateway.folder.join("tollway-data");
    check_files(&data, &keys);
    setup.gateway.signal("TERM");
    setup.gateway.ended().await;
    check_files(&data, &keys);
    for key in &keys {
        assert!(!setup.gateway.stdout().contains(key), "in the request log");
        assert!(!setup.gateway.stderr().contains(key), "in the log");
    }
}
