//! A Postgres of the test's own.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use tokio::io::AsyncWriteExt;
use tokio::process::Command;

use crate::gateway::Folder;
use crate::servers::{Server, start};

/// Nobody, as Debian numbers him: Postgres refuses to run as root.
const NOBODY: u32 = 65534;

/// A server on a Unix socket in a folder of its own, so that no port has to be found.
pub struct Postgres {
    server: Server,
    folder: Folder,
}

impl Postgres {
    /// Starts one with an empty database.
    ///
    /// # Panics
    /// When it is not installed.
    pub async fn start() -> Postgres {
        let folder = Folder::fresh();
        let password = folder.write("password", "pass");
        if is_root() {
            for path in [&folder.0, &password] {
                std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).expect("root may");
            }
        }
        let made = as_nobody(Command::new(program("initdb")), &folder)
            .args(["--username=tollway", "--auth=scram-sha-256", "--pwfile=password"])
            .args(["--encoding=UTF8", "--locale=C.UTF-8", "--no-sync", "--pgdata=data"])
            .output()
            .await
            .expect("initdb runs");
        assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
        let server = serve(&folder).await;
        Postgres { server, folder }
    }

    /// Stops it, as at a restart of its machine: connections are closed, what was written stays.
    ///
    /// # Panics
    /// When it does not stop.
    pub async fn stop(&mut self) {
        self.server.signal("INT");
        self.server.ended().await;
    }

    /// Ends it at once, without a word to its clients.
    ///
    /// # Panics
    /// When it does not end.
    pub async fn kill(&mut self) {
        // On SIGKILL its children would go on.
        self.server.signal("QUIT");
        self.server.ended().await;
    }

    /// Sends a signal to all of it: on `STOP` its sockets stay open and nobody answers, until
    /// `CONT`.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, name: &str) {
        let own = self.server.id().expect("it was not waited for");
        let children = std::fs::read_to_string(format!("/proc/{own}/task/{own}/children"));
        for child in children.expect("its children are known").split_whitespace() {
            // One may have ended since.
            let _ = std::process::Command::new("kill").args([&format!("-{name}"), child]).status();
        }
        self.server.signal(name);
    }

    /// Starts it again, at the same place.
    ///
    /// # Panics
    /// When it does not start.
    pub async fn again(&mut self) {
        self.server = serve(&self.folder).await;
    }

    /// The URL of its database.
    pub fn url(&self) -> String {
        let host = self.folder.0.display().to_string().replace('/', "%2F");
        format!("postgres://tollway:pass@{host}/postgres")
    }

    /// Runs statements; what they answer, unaligned.
    ///
    /// # Panics
    /// When one of them is wrong.
    pub async fn run(&self, sql: &str) -> String {
        let mut psql = Command::new(program("psql"))
            .args([
                "-X",
                "-q",
                "-At",
                "-v",
                "ON_ERROR_STOP=1",
                "-U",
                "tollway",
                "-d",
                "postgres",
                "-h",
            ])
            .arg(&self.folder.0)
            .env("PGPASSWORD", "pass")
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("psql runs");
        let mut input = psql.stdin.take().expect("piped");
        input.write_all(sql.as_bytes()).await.expect("psql reads");
        drop(input);
        let output = psql.wait_with_output().await.expect("psql ends");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }

    /// All that it holds, as `pg_dump` writes it for a backup.
    ///
    /// # Panics
    /// When it cannot be dumped.
    pub async fn dump(&self) -> String {
        let dumped = Command::new(program("pg_dump"))
            .args(["-U", "tollway", "-d", "postgres", "-h"])
            .arg(&self.folder.0)
            .env("PGPASSWORD", "pass")
            .output()
            .await
            .expect("pg_dump runs");
        assert!(dumped.status.success(), "{}", String::from_utf8_lossy(&dumped.stderr));
        String::from_utf8_lossy(&dumped.stdout).into_owned()
    }
}

/// Runs the server in its folder.
async fn serve(folder: &Folder) -> Server {
    // It speaks on stderr.
    let mut command = as_nobody(Command::new("sh"), folder);
    command
        .args(["-c", "exec \"$0\" \"$@\" 2>&1"])
        .arg(program("postgres"))
        .args(["-D", "data", "-c", "listen_addresses=", "-k"])
        .arg(&folder.0)
        .args(["-c", "fsync=off", "-c", "shared_buffers=16MB", "-c", "max_connections=60"]);
    let ready = |line: &str| line.contains("database system is ready to accept connections");
    start(command, ready).await
}

impl Drop for Postgres {
    fn drop(&mut self) {
        // On SIGKILL its children would go on for a while.
        if let Some(id) = self.server.id() {
            let _ = std::process::Command::new("kill").args(["-QUIT", &id.to_string()]).status();
        }
    }
}

fn as_nobody(mut command: Command, folder: &Folder) -> Command {
    command.current_dir(&folder.0);
    if is_root() {
        command.uid(NOBODY).gid(NOBODY);
    }
    command
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
    folders
        .into_iter()
        .rev()
        .map(|folder| folder.join(name))
        .find(is_there)
        .unwrap_or_else(|| panic!("{name} is missing: install the Debian package `postgresql`"))
}
