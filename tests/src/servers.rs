//! Real servers that tests start themselves.

use std::path::PathBuf;
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::process::{Child, Command};

use crate::gateway::{Folder, PATIENCE, repository};

/// The folder of the SDKs and the mock provider.
///
/// # Panics
/// When they are not installed; `make test` installs them.
pub fn tools() -> PathBuf {
    let tools = repository().join(".tools");
    assert!(
        tools.join("installed").exists(),
        "the SDKs are missing: `make test` installs them, or tests/tools/install.sh"
    );
    tools
}

/// Sends a signal to a process by its name: `TERM`, `HUP`.
///
/// # Panics
/// When there is no such process.
pub fn signal(process: u32, name: &str) {
    let status = std::process::Command::new("kill")
        .args([format!("-{name}"), process.to_string()])
        .status()
        .expect("kill can be run");
    assert!(status.success());
}

/// A process that is killed when this is dropped.
pub struct Server {
    child: Child,
    /// The line by which it said that it is ready.
    pub ready: String,
}

impl Server {
    /// Waits until it has ended.
    ///
    /// # Panics
    /// When it does not.
    pub async fn ended(&mut self) {
        let ended = tokio::time::timeout(PATIENCE, self.child.wait()).await;
        ended.expect("it ends in time").expect("it can be waited for");
    }

    /// Its process id, while it runs.
    pub fn id(&self) -> Option<u32> {
        self.child.id()
    }

    /// Sends it a signal by name: `INT`, `STOP`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, name: &str) {
        signal(self.id().expect("it was not waited for"), name);
    }

    /// Ends it at once and waits until it is gone.
    pub async fn kill(&mut self) {
        self.child.kill().await.expect("it can be killed");
    }
}

/// Starts a process and waits for a line on its stdout.
///
/// # Panics
/// When it ends first, or says nothing for too long.
pub async fn start(mut command: Command, ready: impl Fn(&str) -> bool) -> Server {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap_or_else(|error| panic!("{command:?}: {error}"));
    let mut lines = BufReader::new(child.stdout.take().expect("piped")).lines();
    let line = tokio::time::timeout(PATIENCE, async {
        loop {
            match lines.next_line().await {
                Ok(Some(line)) if ready(&line) => return line,
                Ok(Some(_)) => {}
                _ => panic!("{command:?} ended before it was ready"),
            }
        }
    });
    let ready = line.await.unwrap_or_else(|_| panic!("{command:?} does not become ready"));
    // Keep reading, so that it never blocks on a full pipe.
    tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
    Server { child, ready }
}

/// An upstream that does nothing by itself: a test takes its connections and plays by hand.
pub struct HandMade {
    listener: tokio::net::TcpListener,
    /// Where it listens.
    pub address: std::net::SocketAddr,
}

/// One connection to a [`HandMade`] upstream.
pub struct Call {
    /// The connection.
    pub stream: tokio::net::TcpStream,
    /// The request's head, as it came.
    pub head: String,
    /// What has come of its body.
    pub body: Vec<u8>,
}

impl HandMade {
    /// Listens on a free port.
    ///
    /// # Panics
    /// When there is none.
    pub async fn start() -> HandMade {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port is free");
        let address = listener.local_addr().expect("it is bound");
        HandMade { listener, address }
    }

    /// The next connection.
    ///
    /// # Panics
    /// When nobody connects.
    pub async fn accept(&self) -> tokio::net::TcpStream {
        let accepted = tokio::time::timeout(PATIENCE, self.listener.accept()).await;
        let (stream, _) = accepted.expect("somebody connects").expect("it can be accepted");
        stream.set_nodelay(true).expect("a fresh socket takes options");
        stream
    }

    /// The next request on a connection of its own, read to the end of the body its
    /// `content-length` announces.
    ///
    /// # Panics
    /// When the connection ends before.
    pub async fn call(&self) -> Call {
        Call::read(self.accept().await).await
    }
}

impl Call {
    /// Reads a request.
    ///
    /// # Panics
    /// When the connection ends before.
    pub async fn read(mut stream: tokio::net::TcpStream) -> Call {
        let mut bytes = Vec::new();
        let read = async {
            loop {
                if let Some(end) = bytes.windows(4).position(|four| four == b"\r\n\r\n") {
                    let head = String::from_utf8_lossy(&bytes[..end]).to_ascii_lowercase();
                    let length =
                        head.lines().find_map(|line| line.strip_prefix("content-length: "));
                    let length: usize =
                        length.map_or(0, |length| length.parse().expect("a number"));
                    if bytes.len() >= end + 4 + length {
                        let body = bytes.split_off(end + 4);
                        return (String::from_utf8_lossy(&bytes).into_owned(), body);
                    }
                }
                assert_ne!(stream.read_buf(&mut bytes).await.expect("it reads"), 0, "closed");
            }
        };
        let (head, body) =
            tokio::time::timeout(PATIENCE, read).await.expect("the request comes in time");
        Call { stream, head, body }
    }

    /// Writes bytes as they are.
    ///
    /// # Panics
    /// When the other side has gone.
    pub async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the other side reads");
    }

    /// Waits until the other side closes; what it still sent.
    ///
    /// # Panics
    /// When it does not.
    pub async fn closed(&mut self) -> Vec<u8> {
        let mut rest = Vec::new();
        // A reset is an end as well.
        let read = tokio::time::timeout(PATIENCE, self.stream.read_to_end(&mut rest));
        let _ = read.await.expect("the other side closes");
        rest
    }
}

/// An address at which nobody listens, for as long as this lives: its port is taken and refuses.
pub struct Refusing {
    _socket: tokio::net::TcpSocket,
    /// Where nobody listens.
    pub address: std::net::SocketAddr,
}

impl Refusing {
    /// Takes a free port.
    ///
    /// # Panics
    /// When there is none.
    pub fn start() -> Refusing {
        let socket = tokio::net::TcpSocket::new_v4().expect("sockets can be made");
        socket.bind("127.0.0.1:0".parse().expect("an address")).expect("a port is free");
        let address = socket.local_addr().expect("it is bound");
        Refusing { _socket: socket, address }
    }
}

/// A port that was free a moment ago. Nobody else is given it so soon: the kernel goes round.
pub(crate) fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    listener.local_addr().expect("it is bound").port()
}

/// A Prometheus of the test's own, in a folder of its own.
pub struct Prometheus {
    _server: Server,
    /// Where it listens.
    pub address: std::net::SocketAddr,
}

impl Prometheus {
    /// Starts Debian's `prometheus` with this config file.
    ///
    /// # Panics
    /// When it is not installed.
    pub async fn start(config: &std::path::Path) -> Prometheus {
        let program = std::path::Path::new("/usr/bin/prometheus");
        assert!(program.exists(), "prometheus is missing: install the Debian package `prometheus`");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
        // It speaks on stderr.
        let mut command = Command::new("sh");
        command
            .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
            .arg(program)
            .arg(format!("--config.file={}", config.display()))
            .arg(format!("--web.listen-address={address}"))
            .arg(format!("--storage.tsdb.path={}", config.with_extension("data").display()));
        let ready = |line: &str| line.contains("Server is ready to receive web requests");
        Prometheus { _server: start(command, ready).await, address }
    }
}

/// A Redis of the test's own, in a folder of its own.
pub struct Redis {
    server: Server,
    folder: Folder,
    /// Its port on 127.0.0.1; 0 where it has none.
    pub port: u16,
}

impl Redis {
    /// Starts Debian's `redis-server` on a Unix socket, so that no port has to be found.
    ///
    /// # Panics
    /// When it is not installed.
    pub async fn start() -> Redis {
        Redis::start_at(0).await
    }

    /// Starts it on a free port as well.
    ///
    /// # Panics
    /// When it is not installed.
    pub async fn on_port() -> Redis {
        Redis::start_at(free_port()).await
    }

    /// Starts one that also speaks TLS on a port, with this certificate and key, as PEM.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn with_tls(cert: &str, key: &str) -> Redis {
        let (folder, port) = (Folder::fresh(), free_port());
        folder.write(REDIS_CERT, cert);
        folder.write(REDIS_KEY, key);
        Redis { server: serve_redis(&folder, port).await, folder, port }
    }

    async fn start_at(port: u16) -> Redis {
        let folder = Folder::fresh();
        Redis { server: serve_redis(&folder, port).await, folder, port }
    }

    /// The URL of its socket.
    pub fn url(&self) -> String {
        format!("redis+unix://{}", self.folder.0.join(REDIS_SOCKET).display())
    }

    /// Ends it at once. It keeps nothing on disk.
    pub async fn kill(&mut self) {
        self.server.kill().await;
    }

    /// Starts it again, at the same place and empty.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn again(&mut self) {
        self.server = serve_redis(&self.folder, self.port).await;
    }

    /// Sends it a signal by name: on `STOP` its sockets stay open and nobody answers, until `CONT`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, name: &str) {
        self.server.signal(name);
    }

    /// Sends one command; the answer's first line, or the text it announces.
    ///
    /// # Panics
    /// When it does not answer.
    pub async fn command(&self, command: &str) -> String {
        let stream = tokio::net::UnixStream::connect(self.folder.0.join(REDIS_SOCKET));
        let mut stream = BufReader::new(stream.await.expect("Redis listens"));
        let line = format!("{command}\r\n");
        stream.write_all(line.as_bytes()).await.expect("Redis reads");
        let mut answer = String::new();
        stream.read_line(&mut answer).await.expect("Redis answers");
        if let Some(length) = answer.trim().strip_prefix('$').and_then(|n| n.parse().ok()) {
            let mut text = vec![0; length];
            stream.read_exact(&mut text).await.expect("Redis answers");
            return String::from_utf8_lossy(&text).into_owned();
        }
        answer.trim().to_owned()
    }

    /// How often it was sent these commands, by the names it counts them by.
    pub async fn calls(&self, commands: &[&str]) -> u64 {
        let stats = self.command("INFO commandstats").await;
        let count = |line: &str| {
            let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
            commands.contains(&name).then_some(rest.split(',').next()?.parse::<u64>().ok()?)
        };
        stats.lines().filter_map(count).sum()
    }
}

/// The name of the socket in its folder. The path of a socket may have no more than 107 bytes.
const REDIS_SOCKET: &str = "redis.sock";

/// Its certificate and its key in the folder, where it speaks TLS.
const REDIS_CERT: &str = "cert.pem";
const REDIS_KEY: &str = "key.pem";

/// Debian's `redis-server`.
pub(crate) fn redis_server() -> &'static str {
    ["/usr/bin/redis-server", "/usr/local/bin/redis-server"]
        .into_iter()
        .find(|path| std::path::Path::new(path).exists())
        .expect("redis-server is missing: install the Debian package `redis-server`")
}

/// Runs `redis-server` in a folder.
async fn serve_redis(folder: &Folder, port: u16) -> Server {
    let mut command = Command::new(redis_server());
    let is_tls = folder.0.join(REDIS_CERT).exists();
    if is_tls {
        command
            .args(["--port", "0", "--tls-auth-clients", "no", "--tls-cert-file", REDIS_CERT])
            .args(["--tls-key-file", REDIS_KEY, "--tls-ca-cert-file", REDIS_CERT]);
    }
    command
        .args([if is_tls { "--tls-port" } else { "--port" }, &port.to_string()])
        .args(["--bind", "127.0.0.1", "--save", ""])
        .args(["--appendonly", "no", "--unixsocket", REDIS_SOCKET, "--dir"])
        .arg(&folder.0)
        .current_dir(&folder.0);
    start(command, |line| line.contains("eady to accept connections")).await
}
