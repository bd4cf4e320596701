//! Files that are kept here, in OpenAI's shape: whose they are, how many, and which are a provider's.

use std::path::Path;

use serde_json::{Value, json};
use tollway_tests::client::{Connection, send};
use tollway_tests::setup::eventually;
use tollway_tests::{Gateway, Response, Setup};

const ANN: &str = "sk-ann-0123456789abcdef";
const BOB: &str = "sk-bob-0123456789abcdef";
const CONFIG: &str = "
keys:
  - { key: sk-ann-0123456789abcdef, alias: ann, metadata: { tools: [files] } }
  - { key: sk-bob-0123456789abcdef, alias: bob, metadata: { tools: [files] } }
tools:
  files: { file_bytes_max: 1000000, quota_bytes: 2000000, quota_files: 10 }
";
const FORM: &str = "multipart/form-data; boundary=b";

/// A part of a form: a text, or a file.
enum Part<'a> {
    Text(&'a str, &'a str),
    File(&'a str, &'a [u8]),
}
use Part::{File, Text};

fn form(parts: &[Part]) -> Vec<u8> {
    let mut form = Vec::new();
    for part in parts {
        let (head, content) = match part {
            Text(name, text) => (format!("name=\"{name}\""), text.as_bytes()),
            File(name, bytes) => {
                let head = format!("name=\"file\"; filename=\"{name}\"\r\ncontent-type: x/wrong");
                (head, *bytes)
            }
        };
        form.extend(format!("--b\r\ncontent-disposition: form-data; {head}\r\n\r\n").bytes());
        form.extend(content);
        form.extend(b"\r\n");
    }
    form.extend(b"--b--\r\n");
    form
}

async fn ask(gateway: &Gateway, key: &str, method: &str, path: &str, body: &[u8]) -> Response {
    let bearer = format!("Bearer {key}");
    send(gateway.address, method, path, &[("authorization", &bearer)], body).await
}

async fn upload_form(gateway: &Gateway, key: &str, path: &str, parts: &[Part<'_>]) -> Response {
    let bearer = format!("Bearer {key}");
    let headers = [("authorization", bearer.as_str()), ("content-type", FORM)];
    send(gateway.address, "POST", path, &headers, &form(parts)).await
}

async fn upload(gateway: &Gateway, key: &str, name: &str, bytes: &[u8]) -> Response {
    let parts = [Text("purpose", "user_data"), File(name, bytes)];
    upload_form(gateway, key, "/v1/files", &parts).await
}

/// The id of a file that was kept.
async fn kept(gateway: &Gateway, key: &str, name: &str, bytes: &[u8]) -> String {
    let file = upload(gateway, key, name, bytes).await;
    assert_eq!(file.status, 200, "{}", file.text());
    file.json()["id"].as_str().expect("an id").to_owned()
}

async fn tool(gateway: &Gateway, key: &str, name: &str, arguments: Value) -> Response {
    let body = json!({"arguments": arguments}).to_string();
    ask(gateway, key, "POST", &format!("/tools/{name}"), body.as_bytes()).await
}

/// The files below a folder.
fn below(folder: &Path) -> usize {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let count = |path: &Path| if path.is_dir() { below(path) } else { 1 };
    entries.map(|entry| count(&entry.path())).sum()
}

fn on_disk(gateway: &Gateway) -> usize {
    below(&gateway.folder.join("tollway-data/files"))
}

#[tokio::test]
async fn file_is_kept_shown_read_and_deleted() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    let file = upload(gateway, ANN, "notes.txt", b"some words").await;
    assert_eq!(file.status, 200, "{}", file.text());
    let shown = file.json();
    let id = shown["id"].as_str().expect("an id");
    assert!(id.starts_with("file-tw"), "{id}");
    let members = ["object", "bytes", "filename", "purpose", "status", "content_type"];
    let got: Vec<&Value> = members.iter().map(|name| &shown[*name]).collect();
    let expect = json!(["file", 10, "notes.txt", "user_data", "processed", "text/plain"]);
    assert_eq!(json!(got), expect);
    assert_eq!(shown["sha256"], "050777a35dcd48838062824126e60a0780dc322c5b1f84c3a32636cc7466b1b6");
    let again = ask(gateway, ANN, "GET", &format!("/v1/files/{id}"), b"").await;
    assert_eq!(again.json(), shown);
    let listed = ask(gateway, ANN, "GET", "/files", b"").await.json();
    assert_eq!(listed["data"], json!([shown]));
    assert_eq!(listed["has_more"], false);
    let content = ask(gateway, ANN, "GET", &format!("/files/{id}/content"), b"").await;
    assert_eq!((content.status, content.text()), (200, "some words".to_owned()));
    assert_eq!(content.header("content-length"), Some("10"));
    assert_eq!(content.header("x-content-type-options"), Some("nosniff"));
    let saved = content.header("content-disposition");
    assert_eq!(saved, Some("attachment; filename*=UTF-8''notes.txt"));
    assert_eq!(on_disk(gateway), 1);

    let wrong = ask(gateway, ANN, "PUT", &format!("/v1/files/{id}"), b"").await;
    assert_eq!((wrong.status, wrong.header("allow")), (405, Some("GET, DELETE")));
    let strange = ask(gateway, ANN, "GET", &format!("/v1/files/{id}/secrets"), b"").await;
    assert_eq!(strange.status, 404);
    let deleted = ask(gateway, ANN, "DELETE", &format!("/v1/files/{id}"), b"").await;
    assert_eq!(deleted.json(), json!({"id": id, "object": "file", "deleted": true}));
    for (method, path) in [("GET", ""), ("GET", "/content"), ("DELETE", ""), ("POST", "/analyze")] {
        let gone = ask(gateway, ANN, method, &format!("/v1/files/{id}{path}"), b"").await;
        assert_eq!(gone.status, 404, "{method} {path}: {}", gone.text());
        assert_eq!(gone.error("code"), "file_not_found");
    }
    assert_eq!(on_disk(gateway), 0);
    assert!(setup.asked().is_empty(), "no provider has seen any of it");
}

#[tokio::test]
async fn strangers_learn_nothing_of_a_file() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    let id = kept(gateway, ANN, "secret.txt", b"secret").await;
    for (method, path) in [("GET", ""), ("GET", "/content"), ("DELETE", ""), ("POST", "/analyze")] {
        let path = format!("/v1/files/{id}{path}");
        let denied = ask(gateway, BOB, method, &path, b"").await;
        assert_eq!(denied.status, 404, "{method} {path}");
        let none = format!("/v1/files/file-tw{}", "0".repeat(32));
        let elsewhere = path.replace(&format!("/v1/files/{id}"), &none);
        let missing = ask(gateway, BOB, method, &elsewhere, b"");
        let missing = missing.await.text().replace(&"0".repeat(32), &id["file-tw".len()..]);
        assert_eq!(denied.text(), missing, "it is as if it were not there");
    }
    for name in ["files.read", "files.analyze", "files.delete"] {
        let denied = tool(gateway, BOB, name, json!({"id": id})).await;
        assert_eq!(denied.status, 502, "{name}");
        assert!(!denied.text().contains("secret"), "{}", denied.text());
    }
    let listed = ask(gateway, BOB, "GET", "/v1/files", b"").await.json();
    assert_eq!(listed["data"], json!([]));
    let own = ask(gateway, ANN, "GET", &format!("/v1/files/{id}/content"), b"").await;
    assert_eq!(own.text(), "secret");
    // Nor whether somebody has the same bytes: they are kept for each.
    kept(gateway, BOB, "secret.txt", b"secret").await;
    assert_eq!(on_disk(gateway), 2);
}

#[tokio::test]
async fn same_bytes_are_kept_once_until_the_last_file_goes() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    let first = kept(gateway, ANN, "a.txt", b"the same").await;
    let second = kept(gateway, ANN, "b.txt", b"the same").await;
    assert_ne!(first, second);
    assert_eq!(on_disk(gateway), 1);
    ask(gateway, ANN, "DELETE", &format!("/files/{first}"), b"").await;
    let content = ask(gateway, ANN, "GET", &format!("/files/{second}/content"), b"").await;
    assert_eq!(content.text(), "the same");
    ask(gateway, ANN, "DELETE", &format!("/files/{second}"), b"").await;
    assert_eq!(on_disk(gateway), 0);
}

#[tokio::test]
async fn lists_go_on_behind_files_that_are_gone() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    let mut ids = Vec::new();
    for n in 0..5 {
        ids.push(kept(gateway, ANN, "f", format!("{n}").as_bytes()).await);
    }
    let page = async |query: &str| {
        let page = ask(gateway, ANN, "GET", &format!("/files?{query}"), b"").await.json();
        let data = page["data"].as_array().expect("a list");
        let ids: Vec<String> =
            data.iter().map(|file| file["id"].as_str().expect("an id").to_owned()).collect();
        (ids, page["has_more"] == true)
    };
    let (all, _) = page("order=asc").await;
    let mut sorted = all.clone();
    sorted.sort();
    ids.sort();
    assert_eq!((&all, &sorted), (&ids, &ids));
    let (first, has_more) = page("order=asc&limit=2").await;
    assert_eq!((&first[..], has_more), (&all[..2], true));
    ask(gateway, ANN, "DELETE", &format!("/files/{}", all[1]), b"").await;
    let (next, has_more) = page(&format!("order=asc&limit=3&after={}", all[1])).await;
    assert_eq!((&next[..], has_more), (&all[2..], false));
    let (latest, _) = page("limit=1").await;
    assert_eq!(latest[0], all[4]);
    assert_eq!(page("purpose=vision").await.0.len(), 0);
    for wrong in ["limit=0", "limit=10001", "limit=x", "order=up", "after=file-1"] {
        let refused = ask(gateway, ANN, "GET", &format!("/files?{wrong}"), b"").await;
        assert!([400, 404].contains(&refused.status), "{wrong}: {}", refused.text());
    }
}

#[tokio::test]
async fn quota_holds_where_uploads_race() {
    let setup = Setup::with(&CONFIG.replace("quota_files: 10", "quota_files: 3")).await;
    let gateway = &setup.gateway;
    kept(gateway, ANN, "f", b"one").await;
    kept(gateway, ANN, "f", b"two").await;
    let racing = (0..8)
        .map(|n| async move { upload(gateway, ANN, "f", format!("race {n}").as_bytes()).await });
    let answers = all(racing).await;
    let won = answers.iter().filter(|answer| answer.status == 200).count();
    assert_eq!(won, 1, "one place was left");
    let lost = answers.iter().find(|answer| answer.status != 200).expect("some lost");
    assert_eq!((lost.status, lost.error("code")), (403, json!("file_quota_exceeded")));
    let listed = ask(gateway, ANN, "GET", "/files", b"").await.json();
    assert_eq!(listed["data"].as_array().map(Vec::len), Some(3));
    assert_eq!(on_disk(gateway), 3);
    // Somebody else has a quota of their own, and what is deleted makes room.
    kept(gateway, BOB, "f", b"mine").await;
    let id = listed["data"][0]["id"].as_str().expect("an id").to_owned();
    ask(gateway, ANN, "DELETE", &format!("/files/{id}"), b"").await;
    kept(gateway, ANN, "f", b"again").await;
}

/// Waits for several at once.
async fn all<T>(futures: impl Iterator<Item = impl Future<Output = T>>) -> Vec<T> {
    let mut futures: Vec<_> = futures.map(Box::pin).collect();
    let mut done: Vec<Option<T>> = futures.iter().map(|_| None).collect();
    std::future::poll_fn(|context| {
        let mut is_over = true;
        for (future, done) in futures.iter_mut().zip(&mut done) {
            if done.is_none() {
                match future.as_mut().poll(context) {
                    std::task::Poll::Ready(value) => *done = Some(value),
                    std::task::Poll::Pending => is_over = false,
                }
            }
        }
        if is_over { std::task::Poll::Ready(()) } else { std::task::Poll::Pending }
    })
    .await;
    done.into_iter().flatten().collect()
}

#[tokio::test]
async fn quota_counts_bytes() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    kept(gateway, ANN, "a", &vec![b'a'; 900_000]).await;
    kept(gateway, ANN, "b", &vec![b'b'; 900_000]).await;
    let full = upload(gateway, ANN, "c", &vec![b'c'; 300_000]).await;
    assert_eq!((full.status, full.error("code")), (403, json!("file_quota_exceeded")));
    kept(gateway, ANN, "d", &vec![b'd'; 200_000]).await;
}

#[tokio::test]
async fn names_and_types_of_clients_are_not_believed() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    for (name, bytes, expect, media_type) in [
        ("../../../etc/passwd", &b"root"[..], "passwd", "text/plain"),
        ("/etc/../..", b"x", "file", "text/plain"),
        ("a/b/evil.exe", b"MZ\0\0", "evil.exe", "application/vnd.microsoft.portable-executable"),
        ("picture.png", b"<html>", "picture.png", "text/plain"),
        ("page.txt", b"%PDF-1.7\n", "page.txt", "application/pdf"),
        ("empty.txt", b"", "empty.txt", "text/plain"),
        ("zeros", b"\0\0\0", "zeros", "application/octet-stream"),
    ] {
        let file = upload(gateway, ANN, name, bytes).await;
        assert_eq!(file.status, 200, "{name}: {}", file.text());
        let file = file.json();
        assert_eq!(
            (&file["filename"], &file["content_type"]),
            (&json!(expect), &json!(media_type))
        );
        let id = file["id"].as_str().expect("an id");
        let content = ask(gateway, ANN, "GET", &format!("/files/{id}/content"), b"").await;
        assert_eq!((content.status, &content.body[..]), (200, bytes), "{name}");
        ask(gateway, ANN, "DELETE", &format!("/files/{id}"), b"").await;
    }
    assert!(!gateway.folder.join("passwd").exists());
    assert_eq!(on_disk(gateway), 0);
    let page = kept(gateway, ANN, "x.html", b"<script>alert(1)</script>").await;
    let page = ask(gateway, ANN, "GET", &format!("/files/{page}/content"), b"").await;
    assert_eq!(page.header("content-type"), Some("application/octet-stream"));
}

#[tokio::test]
async fn broken_uploads_are_refused_and_leave_nothing() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    let refused = async |content_type: &str, body: &[u8], status: u16, about: &str| {
        let bearer = format!("Bearer {ANN}");
        let headers = [("authorization", bearer.as_str()), ("content-type", content_type)];
        let answer = send(gateway.address, "POST", "/v1/files", &headers, body).await;
        assert_eq!(answer.status, status, "{}", answer.text());
        assert!(answer.text().contains(about), "{}", answer.text());
    };
    let whole = form(&[Text("purpose", "user_data"), File("a", b"bytes")]);
    refused("application/json", b"{}", 400, "multipart/form-data").await;
    refused("multipart/form-data", &whole, 400, "boundary").await;
    refused("multipart/form-data; boundary=other", &whole, 400, "boundary").await;
    refused(FORM, &whole[..whole.len() - 8], 400, "the last boundary is missing").await;
    refused(FORM, b"", 400, "the last boundary is missing").await;
    refused(FORM, &form(&[Text("purpose", "user_data")]), 400, "'file'").await;
    refused(FORM, &form(&[File("a", b"x")]), 400, "'purpose'").await;
    let text = form(&[Text("purpose", "user_data"), Text("file", "no file")]);
    refused(FORM, &text, 400, "'file'").await;
    let two = form(&[Text("purpose", "user_data"), File("a", b"x"), File("b", b"y")]);
    refused(FORM, &two, 400, "'file'").await;
    let odd = form(&[Text("purpose", "../../x"), File("a", b"x")]);
    refused(FORM, &odd, 400, "purpose").await;
    for seconds in ["3599", "2592001", "-1", "soon"] {
        let short = form(&[
            Text("purpose", "user_data"),
            Text("expires_after[anchor]", "created_at"),
            Text("expires_after[seconds]", seconds),
            File("a", b"x"),
        ]);
        refused(FORM, &short, 400, "expires_after").await;
    }
    let large = form(&[Text("purpose", "user_data"), File("a", &vec![b'a'; 1_000_001])]);
    refused(FORM, &large, 413, "at most 1000000 bytes").await;
    let huge = form(&[Text("purpose", "user_data"), File("a", &vec![b'a'; 3_000_000])]);
    refused(FORM, &huge, 413, "at most 1000000 bytes").await;

    // A client that leaves in the middle.
    let mut client = Connection::open(gateway.address).await;
    let head = format!(
        "POST /v1/files HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {ANN}\r\n\
         content-type: {FORM}\r\ncontent-length: 1000\r\n\r\n"
    );
    client.write(head.as_bytes()).await;
    client.write(&whole[..40]).await;
    client.reset();
    let listed = ask(gateway, ANN, "GET", "/files", b"").await.json();
    assert_eq!(listed["data"], json!([]));
    assert_eq!(on_disk(gateway), 0);
    assert!(setup.asked().is_empty(), "no provider has seen any of it");
}

#[tokio::test]
async fn file_says_when_it_goes() {
    let setup = Setup::with(CONFIG).await;
    let parts = [
        Text("expires_after[anchor]", "created_at"),
        Text("expires_after[seconds]", "3600"),
        File("a", b"x"),
        Text("purpose", "user_data"),
    ];
    let file = upload_form(&setup.gateway, ANN, "/v1/files", &parts).await.json();
    let at = |name: &str| file[name].as_u64().expect("a time");
    assert_eq!(at("expires_at"), at("created_at") + 3600);
}

#[tokio::test]
async fn what_is_for_a_provider_goes_there() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    let lines = br#"{"custom_id":"1","method":"POST","url":"/v1/chat/completions","body":{}}"#;
    let large = vec![b'x'; 2_500_000];
    let cases: [(&str, Vec<Part>); 6] = [
        ("/v1/files", vec![Text("purpose", "batch"), File("in.jsonl", lines)]),
        ("/v1/files", vec![File("in.jsonl", lines), Text("purpose", "batch")]),
        ("/v1/files", vec![Text("purpose", "fine-tune"), File("in.jsonl", &large)]),
        ("/v1/files?provider=openai", vec![Text("purpose", "user_data"), File("a", &large)]),
        ("/v1/files?model=fast", vec![Text("purpose", "user_data"), File("a", lines)]),
        (
            "/v1/files",
            vec![
                Text("purpose", "user_data"),
                File("a", lines),
                Text("custom_llm_provider", "openai"),
            ],
        ),
    ];
    for (path, parts) in &cases {
        let file = upload_form(gateway, ANN, path, parts).await;
        assert_eq!(file.status, 200, "{path}: {}", file.text());
        let id = file.json()["id"].as_str().expect("an id").to_owned();
        assert!(!id.starts_with("file-tw"), "{path}: {id}");
        let content = parts.iter().find_map(|part| match part {
            File(_, bytes) => Some(*bytes),
            Text(..) => None,
        });
        let got = ask(gateway, ANN, "GET", &format!("/v1/files/{id}/content"), b"").await;
        assert_eq!(Some(&got.body[..]), content, "{path}: every byte arrives");
    }
    let theirs = ask(gateway, ANN, "GET", "/v1/files?purpose=batch", b"").await.json();
    assert!(!theirs["data"].as_array().expect("a list").is_empty());
    let named = ask(gateway, ANN, "GET", "/v1/files?provider=openai", b"").await.json();
    assert_eq!(named["data"].as_array().map(Vec::len), Some(cases.len()));
    let ours = ask(gateway, ANN, "GET", "/v1/files", b"").await.json();
    assert_eq!(ours["data"], json!([]));
}

#[tokio::test]
async fn without_a_place_for_files_all_go_to_a_provider() {
    let setup = Setup::start().await;
    let parts = [Text("purpose", "user_data"), File("a.txt", b"words")];
    let file = upload_form(&setup.gateway, tollway_tests::gateway::MASTER_KEY, "/files", &parts);
    let file = file.await;
    assert_eq!(file.status, 200, "{}", file.text());
    let id = file.json()["id"].as_str().expect("an id").to_owned();
    assert!(!id.starts_with("file-tw"), "{id}");
    let tool = setup.get("/tools/files.list").await;
    assert_eq!(tool.error("code"), "tool_not_found");
}

#[tokio::test]
async fn models_list_read_write_and_delete_files() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    let written = tool(gateway, ANN, "files.write", json!({"name": "../é.md", "content": "aé€b"}));
    let written = written.await.json();
    let id = written["files"][0].as_str().expect("an id").to_owned();
    let again = tool(gateway, ANN, "files.write", json!({"name": "é.md", "content": "aé€b"}));
    assert_eq!(again.await.json()["files"][0], id.as_str(), "it is there already");
    let listed = tool(gateway, ANN, "files.list", json!({})).await.json();
    let line = format!("{id}  7 bytes  text/markdown  é.md\n");
    assert_eq!(listed["content"], line.as_str());
    let mut read = String::new();
    let mut offset = json!(0);
    while !offset.is_null() {
        let part =
            tool(gateway, ANN, "files.read", json!({"id": id, "offset": offset, "limit": 4}));
        let part = part.await.json();
        let content = part["content"].as_str().expect("text");
        read.push_str(content.split("\n[bytes").next().unwrap_or_default());
        offset = part["data"]["next_offset"].clone();
    }
    assert_eq!(read, "aé€b");
    let binary = kept(gateway, ANN, "b", b"\0\x01").await;
    let refused = tool(gateway, ANN, "files.read", json!({"id": binary})).await;
    assert!(refused.text().contains("files.analyze"), "{}", refused.text());
    let deleted = tool(gateway, ANN, "files.delete", json!({"id": id})).await;
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    let gone = tool(gateway, ANN, "files.read", json!({"id": id})).await;
    assert!(gone.text().contains("No such File"), "{}", gone.text());
    let wrong = tool(gateway, ANN, "files.read", json!({"id": id, "ofset": 1})).await;
    assert_eq!((wrong.status, wrong.error("code")), (400, json!("invalid_arguments")));
    // What changes something has to be approved in a run.
    for (name, risk) in
        [("files.read", "read"), ("files.write", "write"), ("files.delete", "write")]
    {
        let shown = ask(gateway, ANN, "GET", &format!("/tools/{name}"), b"").await.json();
        assert_eq!(shown["risk"], risk, "{name}");
    }
}

#[tokio::test]
async fn files_survive_a_reload() {
    let setup = Setup::with(CONFIG).await;
    let id = kept(&setup.gateway, ANN, "a", b"words").await;
    let file = setup.gateway.folder.join("config.yaml");
    let config = std::fs::read_to_string(&file).expect("the config");
    std::fs::write(&file, config.replace("file_bytes_max: 1000000", "file_bytes_max: 20"))
        .expect("it can be written");
    eventually("the new limit holds", async || {
        upload(&setup.gateway, ANN, "b", &[b'b'; 21]).await.status == 413
    })
    .await;
    let content = ask(&setup.gateway, ANN, "GET", &format!("/files/{id}/content"), b"").await;
    assert_eq!(content.text(), "words");
}

#[tokio::test]
async fn text_tables_and_code_are_looked_into() {
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    let analyze = async |id: &str, wishes: Value| {
        let path = format!("/v1/files/{id}/analyze");
        ask(gateway, ANN, "POST", &path, wishes.to_string().as_bytes()).await
    };
    let text = kept(gateway, ANN, "a.txt", b"one two\nthree\n").await;
    let answer = ask(gateway, ANN, "POST", &format!("/files/{text}/analyze"), b"").await.json();
    assert_eq!((&answer["object"], &answer["kind"]), (&json!("file.analysis"), &json!("text")));
    assert_eq!((&answer["data"]["lines"], &answer["data"]["words"]), (&json!(2), &json!(3)));
    let table = kept(gateway, ANN, "a.csv", b"item;price\napple;1,5\npear;2\n").await;
    let answer = analyze(&table, json!({"first_row": 2, "rows": 1})).await.json();
    assert_eq!(answer["data"]["part"], json!([["apple", "1,5"]]));
    assert_eq!(answer["data"]["rows"], 3);
    let code = kept(gateway, ANN, "a.py", b"class A:\n    def f(self):\n        pass\n").await;
    let answer = analyze(&code, json!({})).await.json();
    assert_eq!(answer["data"]["outline"][1], json!({"line": 2, "declaration": "def f(self)"}));
    let wrong = analyze(&code, json!({"page": 1})).await;
    assert_eq!(wrong.status, 400, "{}", wrong.text());
    let video = kept(gateway, ANN, "a", b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom").await;
    let wrong = analyze(&video, json!({})).await;
    assert_eq!(wrong.error("code"), "tool_failed", "{}", wrong.text());
}

#[tokio::test]
async fn documents_are_parsed_in_the_sandbox() {
    const XLSX: &[u8] = include_bytes!("../../src/agent/tests/files/two.xlsx");
    let setup = Setup::with(CONFIG).await;
    let gateway = &setup.gateway;
    let id = kept(gateway, ANN, "two.xlsx", XLSX).await;
    let answer = tool(gateway, ANN, "files.analyze", json!({"id": id, "want": {"sheet": "Notes"}}));
    let answer = answer.await;
    if answer.status == 501 {
        // Where the kernel gives no sandbox, nothing is parsed.
        assert_eq!(answer.error("code"), "sandbox_unavailable");
        return;
    }
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.json()["data"]["data"]["part"], json!([["first"], ["second"]]));
    // Broken ones break nothing but themselves.
    for bytes in [&b"%PDF-1.4\n1 0 obj<</Type/Catalog"[..], b"\x89PNG\r\n\x1a\n\0\0", &XLSX[..900]]
    {
        let id = kept(gateway, ANN, "broken", bytes).await;
        let answer = ask(gateway, ANN, "POST", &format!("/files/{id}/analyze"), b"").await;
        assert_eq!((answer.status, answer.error("code")), (502, json!("tool_failed")));
    }
    assert_eq!(ask(gateway, ANN, "GET", "/files", b"").await.status, 200);
}
