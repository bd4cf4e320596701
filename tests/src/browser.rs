//! A browser, and a site whose page calls the gateway from its own origin and tells what it saw.

use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::gateway::{Folder, repository};

/// How long a page may take. A browser that starts on a busy machine takes its time.
const PATIENCE: Duration = Duration::from_secs(120);

/// A site of one page: an origin, because it has a port of its own.
pub struct Site {
    address: SocketAddr,
    reports: mpsc::Receiver<Value>,
}

impl Site {
    /// Serves a page of `tests/browser`.
    ///
    /// # Panics
    /// When there is no such page, or no free port.
    pub async fn start(page: &str) -> Site {
        let page = std::fs::read_to_string(repository().join("tests/browser").join(page));
        let page = page.expect("the page is there");
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        let (told, reports) = mpsc::channel(1);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (page, told) = (page.clone(), told.clone());
                tokio::spawn(async move { serve(stream, &page, &told).await });
            }
        });
        Site { address, reports }
    }

    /// As browsers write it.
    pub fn origin(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Opens the page in a browser of its own, with these parameters, and waits for what it reports.
    ///
    /// # Panics
    /// When it reports nothing.
    pub async fn visit(&mut self, parameters: &[(&str, &str)]) -> Value {
        let pairs: Vec<String> =
            parameters.iter().map(|(name, value)| format!("{name}={value}")).collect();
        let url = format!("{}/?{}", self.origin(), pairs.join("&"));
        let _browser = Browser::open(&url);
        let report = tokio::time::timeout(PATIENCE, self.reports.recv()).await;
        report.expect("the page reports in time").expect("the site is there")
    }
}

/// Answers one request: the page, or thanks for its report. Connections that a browser opens and does
/// not use just end.
async fn serve(stream: TcpStream, page: &str, told: &mpsc::Sender<Value>) -> Option<()> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).await.ok().filter(|read| *read > 0)?;
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().ok()?;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.ok()?;
    let (status, content) = if first.starts_with("POST ") {
        told.send(serde_json::from_slice(&body).ok()?).await.ok()?;
        ("204 No Content", "")
    } else if first.starts_with("GET /?") {
        ("200 OK", page)
    } else {
        ("404 Not Found", "")
    };
    let answer = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/html; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{content}",
        content.len()
    );
    stream.write_all(answer.as_bytes()).await.ok()
}

/// Debian's Chromium with a profile of its own, gone when this is dropped.
struct Browser {
    process: Child,
    _profile: Folder,
}

impl Browser {
    fn open(url: &str) -> Browser {
        let profile = Folder::fresh();
        let mut command = Command::new("chromium");
        // Nothing of whoever runs the tests, and nothing leaves the machine.
        command.env_clear().env("HOME", &profile.0).env("XDG_RUNTIME_DIR", &profile.0);
        if let Some(path) = std::env::var_os("PATH") {
            command.env("PATH", path);
        }
        command
            .args(["--headless=new", "--disable-gpu", "--disable-dev-shm-usage", "--mute-audio"])
            // As root, and in most containers, it has no sandbox. It opens our own page alone.
            .arg("--no-sandbox")
            .args(["--no-first-run", "--no-default-browser-check", "--disable-default-apps"])
            .args(["--disable-background-networking", "--disable-component-update"])
            .args(["--disable-sync", "--disable-extensions", "--disable-breakpad"])
            .args(["--metrics-recording-only", "--no-proxy-server", "--password-store=basic"])
            .arg("--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1")
            .arg(format!("--user-data-dir={}", profile.0.join("profile").display()))
            .arg(url)
            // A group of its own, so that its helpers end with it.
            .process_group(0)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let process = command.spawn().unwrap_or_else(|error| {
            panic!("chromium ({error}): install the Debian package `chromium`")
        });
        Browser { process, _profile: profile }
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let group = format!("-{}", self.process.id());
        let _ = Command::new("kill").args(["-KILL", "--", &group]).status();
        // It is gone before its profile is.
        let _ = self.process.wait();
    }
}
