//! Where a store of a test is.

use std::future::Future;
use std::os::unix::fs::MetadataExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use sqlx::{Connection, PgConnection, SqliteConnection};
use tollway_store::sql::SqlStore;

/// How long anything that has to happen some time may take on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// What every store has to pass.
pub(crate) type Case = fn(Place) -> Pin<Box<dyn Future<Output = ()> + Send>>;

/// Nobody, as Debian numbers him. Postgres refuses to run as root.
const NOBODY: u32 = 65534;

/// A folder that goes with the test.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Folder {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        // The path of a Unix socket may have no more than 107 bytes, so it is kept short.
        let name = format!("tollway-sql-{}-{number}", std::process::id());
        let folder = std::env::temp_dir().join(name);
        std::fs::create_dir_all(&folder).expect("a folder in the temporary folder");
        Folder(folder)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// An empty database.
pub(crate) enum Place {
    /// A file in a folder.
    Sqlite(Folder),
    /// A URL.
    Postgres(String),
}

impl Place {
    pub(crate) fn sqlite() -> Place {
        Place::Sqlite(Folder::new())
    }

    /// A schema of its own in the server's database, which is made faster than a database.
    pub(crate) async fn postgres(server: &Postgres) -> Place {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let name = format!("test{}", COUNT.fetch_add(1, Ordering::Relaxed));
        let mut link = server.connection().await;
        let create = sqlx::AssertSqlSafe(format!("CREATE SCHEMA {name}"));
        sqlx::raw_sql(create).execute(&mut link).await.expect("a schema is made");
        Place::Postgres(format!("{}?options[search_path]={name}", server.url()))
    }

    /// Opens the database, as every node does.
    pub(crate) async fn open(&self) -> SqlStore {
        let store = match self {
            Place::Sqlite(folder) => SqlStore::sqlite(file(folder)).await,
            Place::Postgres(url) => SqlStore::postgres(SecretString::from(url.clone())).await,
        };
        store.expect("the database can be opened")
    }

    /// Runs a statement past the store.
    pub(crate) async fn execute(&self, sqlite: &'static str, postgres: &'static str) {
        let done = match self {
            Place::Sqlite(folder) => {
                let url = format!("sqlite://{}", file(folder).display());
                let mut link = SqliteConnection::connect(&url).await.expect("it is a database");
                sqlx::raw_sql(sqlite).execute(&mut link).await.map(drop)
            }
            Place::Postgres(url) => {
                let mut link = PgConnection::connect(url).await.expect("it is a database");
                sqlx::raw_sql(postgres).execute(&mut link).await.map(drop)
            }
        };
        done.expect("the statement is right");
    }
}

/// The file of SQLite in a folder.
pub(crate) fn file(folder: &Folder) -> PathBuf {
    folder.0.join("tollway.db")
}

/// A Postgres of one test. It listens on a Unix socket, so that no port has to be found.
pub(crate) struct Postgres {
    folder: Folder,
    process: Option<Child>,
}

impl Postgres {
    pub(crate) async fn start() -> Postgres {
        let folder = Folder::new();
        let password = folder.0.join("password");
        std::fs::write(&password, "pass").expect("a file in the folder");
        if is_root() {
            for path in [&folder.0, &password] {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
            }
        }
        let mut server = Postgres { folder, process: None };
        let made = server
            .program("initdb")
            .args(["--username=tollway", "--auth=scram-sha-256", "--pwfile=password"])
            .args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--pgdata=data"])
            .output()
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        server.run();
        server.connection().await;
        server
    }

    pub(crate) fn run(&mut self) {
        let process = self
            .program("postgres")
            .args(["-D", "data", "-c", "listen_addresses=", "-k"])
            .arg(&self.folder.0)
            .args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=60"])
            .spawn();
        self.process = Some(process.expect("postgres runs"));
    }

    fn program(&self, name: &str) -> Command {
        let mut command = Command::new(program(name));
        command.current_dir(&self.folder.0).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(Stdio::null());
        if is_root() {
            command.uid(NOBODY).gid(NOBODY);
        }
        command
    }

    pub(crate) fn url(&self) -> String {
        let host = self.folder.0.display().to_string().replace('/', "%2F");
        format!("postgres://tollway:pass@{host}/postgres")
    }

    /// A connection beside the store's.
    pub(crate) async fn connection(&self) -> PgConnection {
        let url = self.url();
        let mut link = None;
        eventually("the server accepts connections", async || {
            link = PgConnection::connect(&url).await.ok();
            link.is_some()
        })
        .await;
        link.expect("it is there by now")
    }

    /// Ends the server at once, without a word to its clients.
    pub(crate) fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            // On SIGKILL its children would go on.
            signal(&process, "-QUIT");
            let _ = process.wait();
        }
    }

    /// Stops all of the server without ending it, or lets it go on: its sockets stay open and
    /// nobody answers.
    pub(crate) fn signal(&self, name: &str) {
        let process = self.process.as_ref().expect("the server runs");
        let own = process.id();
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        for child in children.expect("its children are known").split_whitespace() {
            let _ = Command::new("kill").args([name, child]).status();
        }
        signal(process, name);
    }
}

impl Drop for Postgres {
    fn drop(&mut self) {
        self.kill();
    }
}

fn signal(process: &Child, name: &str) {
    let status = Command::new("kill").args([name, &process.id().to_string()]).status();
    assert!(status.expect("kill is there").success());
}

fn is_root() -> bool {
    std::fs::metadata("/proc/self").expect("/proc is there").uid() == 0
}

/// A program of Postgres. Debian keeps them in a folder per version, and not in PATH.
fn program(name: &str) -> PathBuf {
    let mut folders: Vec<PathBuf> = std::fs::read_dir("/usr/lib/postgresql")
        .map(|versions| versions.flatten().map(|version| version.path().join("bin")).collect())
        .unwrap_or_default();
    folders.sort();
    let path = std::env::var_os("PATH").unwrap_or_default();
    folders.extend(std::env::split_paths(&path));
    let is_there = |path: &PathBuf| Path::is_file(path);
    folders.into_iter().rev().map(|folder| folder.join(name)).find(is_there).unwrap_or_else(|| {
        panic!("{name} has to be installed: `apt-get install postgresql` (package postgresql)")
    })
}

/// Waits until something is so, a little longer each time it is not.
pub(crate) async fn eventually(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    let mut pause = Duration::from_millis(1);
    while !is_so().await {
        assert!(started.elapsed() < PATIENCE, "in vain: {what}");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
