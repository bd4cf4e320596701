//! A provider's account with batches in it.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::servers::Call;
use crate::setup::UPSTREAM_KEY;

/// An account at a provider, in which batches end when a test says so.
#[derive(Clone)]
pub struct Provider {
    /// Where it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    /// Whether files are answered.
    pub serves_files: watch::Sender<bool>,
}

/// What is in the account.
#[derive(Default)]
pub struct State {
    /// By their ids.
    pub batches: HashMap<String, Value>,
    /// What is in each file.
    pub files: HashMap<String, String>,
    /// Methods and paths.
    pub asked: Vec<String>,
    /// What a new batch's metadata are.
    pub padding: String,
}

impl Provider {
    /// Begins to listen.
    ///
    /// # Panics
    /// When there is no free port.
    pub async fn start() -> Provider {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let provider = Provider {
            address: listener.local_addr().expect("it is bound"),
            state: Arc::default(),
            serves_files: watch::Sender::new(true),
        };
        let serving = provider.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let serving = serving.clone();
                tokio::spawn(async move { serving.answer(Call::read(stream).await).await });
            }
        });
        provider
    }

    async fn answer(&self, mut call: Call) {
        let line = call.head.lines().next().unwrap_or_default();
        let (method, rest) = line.split_once(' ').expect("a request line");
        let path = rest.split([' ', '?']).next().unwrap_or_default().to_owned();
        assert!(call.head.contains(&format!("Bearer {UPSTREAM_KEY}")), "{line}");
        let is_post = method == "POST";
        self.state().asked.push(format!("{method} {path}"));
        if path.ends_with("/content") {
            let mut serves = self.serves_files.subscribe();
            serves.wait_for(|serves| *serves).await.expect("it is there");
        }
        let found = self.found(is_post, &path, &call.body);
        let (status, body) = match found {
            Some(body) => ("200 OK", body),
            None => ("404 Not Found", json!({"error": {"message": "no"}}).to_string()),
        };
        let head = format!(
            "HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        call.write(head + &body).await;
    }

    fn found(&self, is_post: bool, path: &str, body: &[u8]) -> Option<String> {
        let mut state = self.state();
        let rest = path.strip_prefix("/v1/")?;
        let pieces: Vec<&str> = rest.split('/').collect();
        match pieces[..] {
            ["batches"] if is_post => {
                let wanted: Value = serde_json::from_slice(body).ok()?;
                let id = format!("batch_{}", state.batches.len() + 1);
                let batch = json!({"id": id, "object": "batch", "endpoint": wanted["endpoint"],
                    "status": "validating", "output_file_id": null, "metadata": state.padding});
                state.batches.insert(id, batch.clone());
                Some(batch.to_string())
            }
            ["batches", id] if !is_post => state.batches.get(id).map(Value::to_string),
            ["batches", id, "cancel"] => {
                let batch = state.batches.get_mut(id)?;
                batch["status"] = "cancelled".into();
                Some(batch.to_string())
            }
            ["files", id, "content"] => state.files.get(id).cloned(),
            _ => None,
        }
    }

    /// What is in it.
    ///
    /// # Panics
    /// When somebody has panicked with it.
    pub fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics with it")
    }

    /// Ends a batch.
    ///
    /// # Panics
    /// When it has not begun.
    pub fn end(&self, id: &str, status: &str, with: Value) {
        let mut state = self.state();
        let batch = state.batches.get_mut(id).expect("it has begun");
        batch["status"] = status.into();
        for (name, value) in with.as_object().expect("a map") {
            batch[name] = value.clone();
        }
    }

    /// Ends it as completed, with so many tokens.
    pub fn complete(&self, id: &str, input: u64, cached: u64, output: u64) {
        let usage = json!({"input_tokens": input, "input_tokens_details": {"cached_tokens": cached},
            "output_tokens": output, "output_tokens_details": {"reasoning_tokens": 5},
            "total_tokens": input + output});
        let counts = json!({"total": 2, "completed": 2, "failed": 0});
        self.end(
            id,
            "completed",
            json!({"usage": usage, "model": "gpt-dear-2025-04-01", "request_counts": counts}),
        );
    }

    /// Keeps a file.
    pub fn put_file(&self, id: &str, lines: &[Value]) {
        let lines: String = lines.iter().map(|line| format!("{line}\n")).collect();
        self.state().files.insert(id.to_owned(), lines);
    }

    /// How often this was asked, as a method and a path.
    pub fn times_asked(&self, wanted: &str) -> usize {
        self.state().asked.iter().filter(|asked| *asked == wanted).count()
    }
}
