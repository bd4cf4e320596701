//! What the outgoing client makes of answers.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use flate2::Compression;
use flate2::write::GzEncoder;
use http::HeaderValue;
use http::header::AUTHORIZATION;
use serde_json::json;
use tollway_agent::outgoing::{
    Answer, Client, Outgoing, OutgoingError, Policy, REDIRECTS_MAX, Request,
};
use url::Url;

use crate::servers::{Names, Server, ok, redirect, with_head};

fn client(server: &Server) -> Client {
    let names = Names::default()
        .with("one.example", &[&["127.0.0.2"]])
        .with("two.example", &[&["127.0.0.2"]]);
    let policy: Policy = serde_json::from_value(json!({
        "allow_http": true, "ports": [server.address.port()], "private_networks": ["127.0.0.2"],
    }))
    .expect("the settings make sense");
    Outgoing::with_lookup(Arc::new(names))
        .expect("clients can be made")
        .guarded(policy)
        .expect("clients can be made")
}

fn request(server: &Server, path: &str) -> Request {
    let port = server.address.port();
    Request::get(Url::parse(&format!("http://one.example:{port}{path}")).expect("a URL"))
}

async fn whole(client: &Client, request: Request) -> Result<Vec<u8>, OutgoingError> {
    client.send(request).await?.body().await
}

fn zipped(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::best());
    encoder.write_all(bytes).expect("memory takes it");
    encoder.finish().expect("memory takes it")
}

#[tokio::test]
async fn redirects_are_followed_and_secrets_stay() {
    let server = Server::start("127.0.0.2", |request| {
        let host = request.header("host").unwrap();
        match request.line() {
            "GET /a" => redirect(302, "/b"),
            "GET /b" => redirect(308, &format!("http://{}/c", host.replace("one", "two"))),
            _ => ok("text/plain", "there"),
        }
    })
    .await;
    let mut request = request(&server, "/a")
        .with_secret(http::HeaderName::from_static("x-subscription-token"), "secret-1")
        .unwrap();
    // Not marked as a secret, but known to be one.
    request.headers.insert(AUTHORIZATION, HeaderValue::from_static("Bearer secret-2"));
    request.headers.insert("x-plain", HeaderValue::from_static("kept"));
    let answer: Answer = client(&server).send(request).await.unwrap();
    assert_eq!(answer.url().host_str(), Some("two.example"));
    assert_eq!(answer.body().await.unwrap(), b"there");
    let seen = server.seen();
    let said = |at: usize, name: &str| seen[at].header(name).map(str::to_owned);
    for at in [0, 1] {
        assert_eq!(said(at, "x-subscription-token").as_deref(), Some("secret-1"), "same host");
        assert_eq!(said(at, "authorization").as_deref(), Some("Bearer secret-2"), "same host");
    }
    assert!(!seen[2].head.contains("secret"), "{}", seen[2].head);
    assert_eq!(said(2, "x-plain").as_deref(), Some("kept"));
    assert_eq!(said(2, "referer"), None);
}

#[tokio::test]
async fn redirects_end() {
    let server = Server::start("127.0.0.2", |_| redirect(302, "/again")).await;
    let error = whole(&client(&server), request(&server, "/")).await.unwrap_err();
    assert_eq!(error, OutgoingError::TooManyRedirects(REDIRECTS_MAX));
    assert_eq!(server.seen().len(), REDIRECTS_MAX + 1);
}

#[tokio::test]
async fn what_changes_something_is_not_sent_elsewhere() {
    let server = Server::start("127.0.0.2", |_| redirect(307, "/elsewhere")).await;
    let url = request(&server, "/").url;
    let answer = client(&server).send(Request::post_json(url, &json!({}))).await.unwrap();
    assert_eq!(answer.status(), 307);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_body_is_no_larger_than_was_asked_for() {
    let server = Server::start("127.0.0.2", |request| match request.line() {
        "GET /declared" => ok("text/plain", vec![b'x'; 1001]),
        "GET /fits" => ok("text/plain", vec![b'x'; 1000]),
        "GET /undeclared" => {
            let mut answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n".to_vec();
            answer.resize(answer.len() + 1_000_000, b'x');
            answer
        }
        // 32 MiB of zeros in 32 KiB.
        _ => with_head(200, "content-encoding: gzip\r\n", zipped(&vec![0; 32 << 20])),
    })
    .await;
    let client = client(&server);
    for path in ["/declared", "/undeclared", "/bomb"] {
        let mut request = request(&server, path);
        request.body_bytes_max = if path == "/bomb" { 1 << 20 } else { 1000 };
        let limit = request.body_bytes_max;
        let error = whole(&client, request).await.unwrap_err();
        assert_eq!(error, OutgoingError::TooLarge(limit), "{path}");
    }
    let mut fits = request(&server, "/fits");
    fits.body_bytes_max = 1000;
    assert_eq!(whole(&client, fits).await.unwrap().len(), 1000);
}

#[tokio::test]
async fn compression_is_undone_once() {
    let server = Server::start("127.0.0.2", |request| match request.line() {
        "GET /once" => with_head(200, "content-encoding: gzip\r\n", zipped(b"hello")),
        "GET /twice" => {
            with_head(200, "content-encoding: gzip, gzip\r\n", zipped(&zipped(b"hello")))
        }
        _ => with_head(200, "content-encoding: br\r\n", "hello"),
    })
    .await;
    let client = client(&server);
    assert_eq!(whole(&client, request(&server, "/once")).await.unwrap(), b"hello");
    for path in ["/twice", "/other"] {
        let error = whole(&client, request(&server, path)).await.unwrap_err();
        assert!(error.to_string().contains("compressed in an unknown way"), "{path}: {error}");
    }
    assert_eq!(server.seen()[0].header("accept-encoding"), Some("gzip"));
}

#[tokio::test]
async fn heads_are_bounded() {
    let server = Server::start("127.0.0.2", |request| {
        let large = match request.line() {
            "GET /large" => format!("x: {}\r\n", "x".repeat(100_000)),
            _ => "x: y\r\n".repeat(10_000),
        };
        with_head(200, &large, "")
    })
    .await;
    for path in ["/large", "/many"] {
        whole(&client(&server), request(&server, path)).await.expect_err(path);
    }
}

#[tokio::test]
async fn the_whole_answer_comes_in_time_or_not_at_all() {
    // One is silent, the other sends a redirect, and then too little of a body.
    let server = Server::start("127.0.0.2", |request| match request.line() {
        "GET /silent" => Vec::new(),
        _ => redirect(302, "/silent"),
    })
    .await;
    let client = client(&server);
    for path in ["/silent", "/redirected"] {
        let mut request = request(&server, path);
        request.within = Duration::from_millis(300);
        let error = whole(&client, request).await.unwrap_err();
        assert_eq!(error, OutgoingError::TimedOut(Duration::from_millis(300)), "{path}");
    }
    let listener = tokio::net::TcpListener::bind("127.0.0.2:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let dripping = tokio::spawn(async move {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let (mut stream, _) = listener.accept().await.unwrap();
        assert_ne!(stream.read(&mut [0; 4096]).await.unwrap(), 0);
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\n").await.unwrap();
        while stream.write_all(b"x").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    });
    let base = Url::parse(&format!("http://{address}/")).unwrap();
    let trusted = Outgoing::new().unwrap().trusted(&base).unwrap();
    let mut request = Request::get(base);
    request.within = Duration::from_millis(300);
    let answer = trusted.send(request).await.unwrap();
    let error = answer.body().await.unwrap_err();
    assert_eq!(error, OutgoingError::TimedOut(Duration::from_millis(300)));
    dripping.await.unwrap();
}

#[tokio::test]
async fn only_wanted_kinds_of_answers_are_read() {
    let server = Server::start("127.0.0.2", |request| match request.line() {
        "GET /html" => ok("Text/HTML; charset=utf-8", "x"),
        "GET /css" => ok("text/css", "x"),
        "GET /none" => with_head(200, "", "x"),
        "GET /failed" => with_head(404, "content-type: image/png\r\n", "x"),
        _ => ok("application/octet-stream", "x"),
    })
    .await;
    let client = client(&server);
    let get = async |path: &str, kinds: &'static [&'static str]| {
        let mut request = request(&server, path);
        request.media_types = kinds;
        client.send(request).await.map(|answer| answer.media_type())
    };
    assert_eq!(get("/html", &["text/html"]).await, Ok(Some("text/html".to_owned())));
    assert_eq!(get("/css", &["text/*"]).await, Ok(Some("text/css".to_owned())));
    for (path, named) in [("/css", "text/css"), ("/bytes", "application/octet-stream")] {
        let error = get(path, &["text/html"]).await.unwrap_err();
        assert_eq!(error, OutgoingError::MediaType(named.to_owned()));
    }
    assert!(matches!(get("/none", &["text/html"]).await, Err(OutgoingError::MediaType(_))));
    // What failed may say so in any way.
    assert_eq!(get("/failed", &["text/html"]).await, Ok(Some("image/png".to_owned())));
    assert_eq!(server.seen()[1].header("accept"), Some("text/*"));
}

#[tokio::test]
async fn errors_do_not_repeat_the_url() {
    let server = Server::start("127.0.0.2", |request| match request.line() {
        "GET /garbage?api_key=hidden" => b"not HTTP at all\r\n\r\n".to_vec(),
        "GET /short?api_key=hidden" => b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\nx".to_vec(),
        "GET /zip?api_key=hidden" => with_head(200, "content-encoding: gzip\r\n", "no gzip"),
        "GET /redirect?api_key=hidden" => redirect(302, "http://[hidden"),
        _ => redirect(302, "ftp://one.example/?api_key=hidden"),
    })
    .await;
    let client = client(&server);
    for path in ["/garbage", "/short", "/zip", "/redirect", "/refused"] {
        let error = whole(&client, request(&server, &format!("{path}?api_key=hidden")));
        let error = error.await.expect_err(path);
        assert!(!format!("{error:?} {error}").contains("hidden"), "{path}: {error:?}");
    }
    let nobody = Url::parse("http://127.0.0.1:1/?api_key=hidden").unwrap();
    let nobodys = Outgoing::new().unwrap().trusted(&nobody).unwrap();
    let error = whole(&nobodys, Request::get(nobody)).await.unwrap_err();
    assert!(error.to_string().starts_with("no connection: Connection refused"), "{error}");
    assert!(!format!("{error:?}").contains("hidden"), "{error:?}");
}

#[tokio::test]
async fn certificates_are_checked() {
    use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(own.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![own.cert.der().clone()], key)
        .unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        let (stream, _) = listener.accept().await.unwrap();
        tokio_rustls::TlsAcceptor::from(Arc::new(config)).accept(stream).await.map(|_| ())
    });
    let base = Url::parse(&format!("https://localhost:{port}/")).unwrap();
    let client = Outgoing::new().unwrap().trusted(&base).unwrap();
    let error = whole(&client, Request::get(base)).await.unwrap_err().to_string();
    assert!(error.starts_with("no connection: invalid peer certificate"), "{error}");
    server.await.unwrap().expect_err("the client has turned away");
}
