//! A gateway process.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

/// The key every test gateway takes as its master key.
pub const MASTER_KEY: &str = "sk-master-0123456789abcdef";
/// How long anything may take before a test gives up on it. Long, because the machine may be busy.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How to start a gateway.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// The config file's text; without it the gateway starts as with no arguments.
    pub config: Option<String>,
    /// Environment variables. Nothing else of the test's environment is passed on.
    pub env: Vec<(String, String)>,
    /// A folder to run in, instead of a fresh one.
    pub folder: Option<PathBuf>,
    /// Leaves out the `serve` in `tollway serve`.
    pub without_command: bool,
    /// More arguments.
    pub arguments: Vec<String>,
}

/// A running gateway. It is killed when this is dropped.
pub struct Gateway {
    child: Child,
    /// Where it listens.
    pub address: SocketAddr,
    /// The folder it runs in; `config.yaml` and `tollway-data` are there.
    pub folder: PathBuf,
    stdout: Lines,
    stderr: Lines,
    owns_folder: bool,
}

/// The lines a process has printed, and a way to wait for more.
#[derive(Clone)]
struct Lines {
    seen: Arc<std::sync::Mutex<Vec<String>>>,
    count: watch::Receiver<usize>,
}

impl Gateway {
    /// Starts a gateway with this config.
    pub async fn start(config: &str) -> Gateway {
        Gateway::start_with(Options { config: Some(config.to_owned()), ..Options::default() }).await
    }

    /// Starts a gateway.
    ///
    /// # Panics
    /// When it does not come up; the message holds what it printed.
    pub async fn start_with(options: Options) -> Gateway {
        let owns_folder = options.folder.is_none();
        let folder = options.folder.clone().unwrap_or_else(fresh_folder);
        let mut command = Command::new(binary());
        if !options.without_command {
            command.arg("serve");
        }
        command.args(["--listen", "127.0.0.1:0"]).args(&options.arguments);
        if let Some(config) = &options.config {
            let file = folder.join("config.yaml");
            std::fs::write(&file, config).expect("the config can be written");
            command.arg("-c").arg(file);
        }
        command
            .current_dir(&folder)
            .env_clear()
            .envs(options.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true);
        let mut child = command.spawn().expect("the gateway can be started");
        let stdout = Lines::of(child.stdout.take().expect("piped"));
        let stderr = Lines::of(child.stderr.take().expect("piped"));
        let listening = stdout.wait_for(|line| line.contains("listening on http"));
        let line = tokio::select! {
            line = listening => line,
            status = child.wait() => {
                panic!("the gateway ended at once: {status:?}\n{}", stderr.text());
            }
            () = tokio::time::sleep(PATIENCE) => panic!("the gateway does not start\n{}", stderr.text()),
        };
        let address = line
            .split_once("://")
            .and_then(|(_, rest)| rest.split(['/', ' ']).next()?.parse().ok())
            .unwrap_or_else(|| panic!("no address in: {line}"));
        Gateway { child, address, folder, stdout, stderr, owns_folder }
    }

    /// What it has printed to stdout, the request log among it.
    pub fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// What it has printed to stderr: its own messages.
    pub fn stderr(&self) -> String {
        self.stderr.text()
    }

    /// Waits for a line on stdout.
    pub async fn stdout_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        tokio::time::timeout(PATIENCE, self.stdout.wait_for(wanted))
            .await
            .unwrap_or_else(|_| panic!("no such line on stdout:\n{}", self.stdout()))
    }

    /// Waits for a line on stderr.
    pub async fn stderr_line(&self, wanted: impl Fn(&str) -> bool) -> String {
        tokio::time::timeout(PATIENCE, self.stderr.wait_for(wanted))
            .await
            .unwrap_or_else(|_| panic!("no such line on stderr:\n{}", self.stderr()))
    }

    /// Waits until so many lines on stderr, after the first `after`, are wanted.
    pub async fn stderr_lines(&self, after: usize, count: usize, wanted: impl Fn(&str) -> bool) {
        let look = self.stderr.wait_until(|seen| {
            let fresh = seen.iter().skip(after);
            (fresh.filter(|line| wanted(line)).count() >= count).then_some(())
        });
        tokio::time::timeout(PATIENCE, look)
            .await
            .unwrap_or_else(|_| panic!("no {count} such lines on stderr:\n{}", self.stderr()));
    }

    /// Waits until so many lines on stdout are wanted.
    ///
    /// # Panics
    /// When they do not come.
    pub async fn stdout_lines(&self, count: usize, wanted: impl Fn(&str) -> bool) {
        let look = self.stdout.wait_until(|seen| {
            (seen.iter().filter(|line| wanted(line)).count() >= count).then_some(())
        });
        tokio::time::timeout(PATIENCE, look)
            .await
            .unwrap_or_else(|_| panic!("no {count} such lines on stdout:\n{}", self.stdout()));
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("it was not waited for")
    }

    /// Sends a signal by name: `TERM`, `HUP`.
    pub fn signal(&self, name: &str) {
        crate::servers::signal(self.pid(), name);
    }

    /// Waits until it has ended by itself.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait())
            .await
            .expect("it ends in time")
            .expect("it can be waited for")
    }

    /// `/metrics`, as text.
    pub async fn metrics(&self) -> String {
        let response = crate::get(self.address, "/metrics", &[]).await;
        assert_eq!(response.status, 200);
        response.text()
    }

    /// The sum of all samples of one metric whose labels contain every one of `labels`, such as
    /// `model="gpt-4o"`.
    pub async fn metric(&self, name: &str, labels: &[&str]) -> f64 {
        let text = self.metrics().await;
        text.lines()
            .filter(|line| {
                line.strip_prefix(name).is_some_and(|rest| rest.starts_with(['{', ' ']))
                    && labels.iter().all(|label| line.contains(label))
            })
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Puts another text in the place of the config file, whole, and asks for a reload.
    pub fn reload(&self, config: &str) {
        let fresh = self.folder.join("config.yaml.new");
        std::fs::write(&fresh, config).expect("the config can be written");
        std::fs::rename(&fresh, self.folder.join("config.yaml")).expect("it can be replaced");
        self.signal("HUP");
    }

    /// Waits until nothing is in flight but the request that asks.
    ///
    /// # Panics
    /// When that does not come about.
    pub async fn idle(&self) {
        let look = async { while self.metric("litellm_in_flight_requests", &[]).await > 1.0 {} };
        let waited = tokio::time::timeout(PATIENCE, look).await;
        assert!(waited.is_ok(), "something stays in flight");
    }

    /// Waits until a metric is as wanted; its value.
    ///
    /// # Panics
    /// When it never is.
    pub async fn metric_becomes(
        &self,
        name: &str,
        labels: &[&str],
        wanted: impl Fn(f64) -> bool,
    ) -> f64 {
        let look = async {
            loop {
                let now = self.metric(name, labels).await;
                if wanted(now) {
                    return now;
                }
            }
        };
        match tokio::time::timeout(PATIENCE, look).await {
            Ok(value) => value,
            Err(_) => panic!("{name} stays at {}", self.metric(name, labels).await),
        }
    }

    /// Resident memory in bytes.
    pub fn resident_bytes(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))
            .expect("the process runs");
        let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("VmRSS is there");
        let kib: u64 =
            line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("VmRSS is a number");
        kib * 1024
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.start_kill();
        if self.owns_folder {
            let _ = std::fs::remove_dir_all(&self.folder);
        }
    }
}

impl Lines {
    fn of(pipe: impl AsyncRead + Unpin + Send + 'static) -> Lines {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let (counter, count) = watch::channel(0);
        let keep = Arc::clone(&seen);
        tokio::spawn(async move {
            let mut lines = BufReader::new(pipe).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                let mut seen = keep.lock().expect("no test panics while it holds this");
                seen.push(line);
                let _ = counter.send(seen.len());
            }
        });
        Lines { seen, count }
    }

    fn text(&self) -> String {
        self.seen.lock().expect("no test panics while it holds this").join("\n")
    }

    async fn wait_for(&self, wanted: impl Fn(&str) -> bool) -> String {
        self.wait_until(|seen| seen.iter().find(|line| wanted(line)).cloned()).await
    }

    /// Waits until `look` finds something among the lines so far.
    async fn wait_until<T>(&self, look: impl Fn(&[String]) -> Option<T>) -> T {
        let mut count = self.count.clone();
        loop {
            {
                let seen = self.seen.lock().expect("no test panics while it holds this");
                if let Some(found) = look(&seen) {
                    return found;
                }
            }
            if count.changed().await.is_err() {
                // The process has closed its output: no more lines will come.
                std::future::pending::<()>().await;
            }
        }
    }
}

/// What a command of the gateway's has printed.
#[derive(Clone, Debug)]
pub struct Printed {
    /// Whether it says that all is well.
    pub success: bool,
    /// What it said.
    pub stdout: String,
    /// What it complained about.
    pub stderr: String,
}

/// Runs the gateway's binary to its end: `tollway check` and the like.
pub async fn run(folder: &Path, env: &[(&str, &str)], args: &[&str]) -> Printed {
    let output = Command::new(binary())
        .args(args)
        .current_dir(folder)
        .env_clear()
        .envs(env.iter().copied())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let output = tokio::time::timeout(PATIENCE, output)
        .await
        .unwrap_or_else(|_| panic!("tollway {args:?} does not end"))
        .expect("the gateway can be started");
    Printed {
        success: output.status.success(),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// A folder that is removed when this is dropped.
pub struct Folder(pub PathBuf);

impl Folder {
    /// A fresh one.
    pub fn fresh() -> Folder {
        Folder(fresh_folder())
    }

    /// Writes a file into it; its path.
    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let file = self.0.join(name);
        std::fs::write(&file, text).expect("a file can be written");
        file
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A fresh folder below the system's temporary one.
pub fn fresh_folder() -> PathBuf {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let next = NEXT.fetch_add(1, Ordering::Relaxed);
    let folder = std::env::temp_dir().join(format!("tollway-test-{}-{next}", std::process::id()));
    let _ = std::fs::remove_dir_all(&folder);
    std::fs::create_dir_all(&folder).expect("a temporary folder can be made");
    folder
}

/// The gateway's binary, next to the tests' own.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a test knows its own path");
    // Tests live in target/<profile>/deps, the bench beside the binary.
    let folders = own.ancestors().skip(1).take(2);
    let found = folders.map(|folder| folder.join("tollway")).find(|binary| binary.exists());
    let binary = found.unwrap_or_else(|| own.with_file_name("tollway"));
    assert!(
        binary.exists(),
        "{} is missing: `make test` builds it, or `cargo build -p tollway-gateway`",
        binary.display()
    );
    binary
}

/// The repository's root.
pub fn repository() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("tests/ is in the root").to_owned()
}
