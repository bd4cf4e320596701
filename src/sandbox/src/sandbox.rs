//! The gateway's side: which languages there are, who runs when, and one run from its start until
//! nothing of it is left.

use std::collections::HashSet;
use std::io::ErrorKind;
use std::os::unix::net::UnixListener;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use bytes::Bytes;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::job::{Ending, File, Guest, Job, Limits, Mode, Outcome, Runs, Stream};
use crate::run::{Place, Run};
use crate::scratch::Scratch;
use crate::suite::Bait;

/// How the sandbox is set up.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The program that the workers are: this one.
    pub executable: PathBuf,
    /// The system's Python.
    pub python: PathBuf,
    /// Which ways to lock a guest in may be taken.
    pub modes: Modes,
    /// Where runs without namespaces have their folders. Made if it is not there; its parents must
    /// let every user through if the gateway is root.
    pub folder: PathBuf,
    /// How many runs there are at once.
    pub concurrent_max: usize,
    /// How many more wait for their turn.
    pub queue_max: usize,
    /// Where the gateway is root, each of the runs that are at once is a user of its own, from this
    /// one on. Neither systemd nor Debian gives these numbers to anybody.
    pub uid_first: u32,
}

impl Settings {
    /// The usual settings, with the folder for runs.
    pub fn new(folder: impl Into<PathBuf>) -> Settings {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Settings {
            executable: "/proc/self/exe".into(),
            python: "/usr/bin/python3".into(),
            modes: Modes::All,
            folder: folder.into(),
            concurrent_max: 2 * processors,
            queue_max: 16 * processors,
            uid_first: 60_706,
        }
    }
}

/// Which ways to lock a guest in may be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Modes {
    /// Namespaces where the kernel allows them, or else without.
    All,
    /// With namespaces or not at all.
    Namespaces,
    /// Without namespaces.
    Landlock,
}

impl Modes {
    fn list(self) -> &'static [Mode] {
        match self {
            Modes::All => &[Mode::Namespaces, Mode::Landlock],
            Modes::Namespaces => &[Mode::Namespaces],
            Modes::Landlock => &[Mode::Landlock],
        }
    }
}

/// How a language is locked in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Level {
    /// By Landlock, seccomp and rlimits, in namespaces and with a root of its own.
    Namespaces,
    /// By Landlock, seccomp and rlimits, in a folder that is watched.
    Landlock,
    /// It is not, so it does not run; and why.
    Refused(String),
}

/// How each kind of guest is locked in.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Status {
    /// [`Guest::Python`].
    pub python: Level,
    /// [`Guest::JavaScript`].
    pub javascript: Level,
    /// [`Guest::Shell`].
    pub shell: Level,
    /// [`Guest::Native`].
    pub native: Level,
}

/// Why there was no run.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A layer of the sandbox is missing, or failed.
    #[error("the sandbox is not available: {0}")]
    Unavailable(String),
    /// All runs are taken, and all places in the queue.
    #[error("too many runs at once")]
    Busy,
    /// The files do not fit into the working folder.
    #[error("the files are more than the working folder may have")]
    TooLarge,
    /// A file cannot have this name, or two have it.
    #[error("{0:?} cannot be the name of a file")]
    Name(String),
}

/// Runs jobs. Clones are the same sandbox.
#[derive(Clone)]
pub struct Sandbox(Arc<Inner>);

struct Inner {
    settings: Settings,
    status: Status,
    places: Arc<Semaphore>,
    waiting: AtomicUsize,
    /// The users that no run has now. `None` where the gateway is not root.
    users: Option<Arc<Mutex<Vec<u32>>>>,
}

impl Sandbox {
    /// Looks what the kernel allows by running the escape suite in it, and each language once.
    pub async fn probe(mut settings: Settings) -> Sandbox {
        settings.concurrent_max = settings.concurrent_max.clamp(1, Semaphore::MAX_PERMITS);
        let users = nix::unistd::geteuid().is_root().then(|| {
            let count = u32::try_from(settings.concurrent_max).unwrap_or(u32::MAX);
            let users = (0..count).map(|nth| settings.uid_first.saturating_add(nth));
            Arc::new(Mutex::new(users.collect()))
        });
        let refused = || Level::Refused("it was not tried".to_owned());
        let status = Status {
            python: refused(),
            javascript: refused(),
            shell: refused(),
            native: refused(),
        };
        let mut inner = Inner {
            places: Arc::new(Semaphore::new(settings.concurrent_max)),
            waiting: AtomicUsize::new(0),
            settings,
            status,
            users,
        };
        inner.status = match Trial::prepare(&inner.settings.folder) {
            Ok(trial) => inner.decide(&trial).await,
            Err(error) => {
                let folder = inner.settings.folder.display();
                let refused = Level::Refused(format!("{folder}: {error}"));
                Status {
                    python: refused.clone(),
                    javascript: refused.clone(),
                    shell: refused.clone(),
                    native: refused,
                }
            }
        };
        Sandbox(Arc::new(inner))
    }

    /// How each kind of guest is locked in.
    pub fn status(&self) -> &Status {
        &self.0.status
    }

    /// Runs a job. Output is given as it comes. Who drops this future kills the guest with all
    /// that came of it.
    pub async fn run(
        &self,
        job: Job,
        on_output: impl FnMut(Stream, &[u8]) + Send,
    ) -> Result<Outcome, Refused> {
        let inner = &*self.0;
        let mode = inner.status.mode_of(job.guest)?;
        check_names(&job.files)?;
        let limits = job.limits.bounded();
        let bytes = job.files.iter().map(|file| file.bytes.len() as u64).sum::<u64>();
        if bytes > limits.disk || job.files.len() as u64 > limits.inodes {
            return Err(Refused::TooLarge);
        }
        let permit = match Arc::clone(&inner.places).try_acquire_owned() {
            Ok(permit) => permit,
            Err(_) => inner.queue().await?,
        };
        let place = inner.place(permit);
        let runs = match job.guest {
            Guest::Python => Runs::Python(inner.settings.python.clone()),
            Guest::JavaScript => Runs::JavaScript,
            Guest::Shell => Runs::Shell,
            Guest::Native(name) => Runs::Native(name.to_owned()),
        };
        inner.run(mode, runs, &job.input, &job.files, &limits, place, on_output).await
    }
}

impl Status {
    fn level(&self, guest: Guest) -> &Level {
        match guest {
            Guest::Python => &self.python,
            Guest::JavaScript => &self.javascript,
            Guest::Shell => &self.shell,
            Guest::Native(_) => &self.native,
        }
    }

    fn mode_of(&self, guest: Guest) -> Result<Mode, Refused> {
        match self.level(guest) {
            Level::Namespaces => Ok(Mode::Namespaces),
            Level::Landlock => Ok(Mode::Landlock),
            Level::Refused(why) => Err(Refused::Unavailable(why.clone())),
        }
    }
}

/// Plain names only, and each once.
fn check_names(files: &[File]) -> Result<(), Refused> {
    let mut seen = HashSet::new();
    for file in files {
        let mut parts = Path::new(&file.name).components();
        let is_plain = matches!((parts.next(), parts.next()), (Some(Component::Normal(part)), None)
            if part == file.name.as_str());
        let fits = file.name.len() <= 255 && !file.name.contains('\0');
        if !is_plain || !fits || !seen.insert(&file.name) {
            return Err(Refused::Name(file.name.clone()));
        }
    }
    Ok(())
}

impl Inner {
    /// Makes a place of the right to have one.
    fn place(&self, permit: OwnedSemaphorePermit) -> Place {
        let user = self.users.as_ref().map(|users| {
            let user = users.lock().pop();
            (Arc::clone(users), user.expect("there are as many users as places"))
        });
        Place::new(permit, user)
    }

    /// Waits for its turn, if the queue is not full.
    async fn queue(&self) -> Result<OwnedSemaphorePermit, Refused> {
        struct Waiting<'a>(&'a AtomicUsize);
        impl Drop for Waiting<'_> {
            fn drop(&mut self) {
                self.0.fetch_sub(1, Ordering::Relaxed);
            }
        }
        let before = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waiting = Waiting(&self.waiting);
        if before >= self.settings.queue_max {
            return Err(Refused::Busy);
        }
        Arc::clone(&self.places).acquire_owned().await.map_err(|_| Refused::Busy)
    }

    #[expect(clippy::too_many_arguments, reason = "a job, taken apart, and its place")]
    async fn run(
        &self,
        mode: Mode,
        runs: Runs,
        input: &Bytes,
        files: &[File],
        limits: &Limits,
        place: Place,
        on_output: impl FnMut(Stream, &[u8]) + Send,
    ) -> Result<Outcome, Refused> {
        let scratch = match mode {
            Mode::Namespaces => None,
            Mode::Landlock => Some(Scratch::make(&self.settings.folder, place.uid())),
        };
        let scratch = scratch.transpose().map_err(|error| {
            Refused::Unavailable(format!("{}: {error}", self.settings.folder.display()))
        })?;
        let run = Run::start(&self.settings.executable, scratch, place).map_err(|error| {
            Refused::Unavailable(format!("{}: {error}", self.settings.executable.display()))
        })?;
        let outcome = run.finish(mode, runs, input, files, limits, on_output).await;
        outcome.map_err(Refused::Unavailable)
    }

    /// Tries each way to lock a guest in until each language has one.
    async fn decide(&self, trial: &Trial) -> Status {
        let mut status = self.status.clone();
        for mode in self.settings.modes.list() {
            let try_out = |runs, input: &'static [u8], expected| {
                self.try_out(*mode, runs, Bytes::from_static(input), expected)
            };
            let suite = |forks| {
                let bait = serde_json::to_vec(&Bait { forks, ..trial.bait.clone() });
                let bait = Bytes::from(bait.unwrap_or_default());
                self.try_out(*mode, Runs::Suite { forks }, bait, "")
            };
            let python = Runs::Python(self.settings.python.clone());
            let (plain, forking, python, javascript, shell) = tokio::join!(
                suite(false),
                suite(true),
                try_out(python, b"print(6*7)", "42\n"),
                try_out(Runs::JavaScript, b"6*7", "42\n"),
                try_out(Runs::Shell, b"echo $((6*7))", "42\n"),
            );
            let forking = plain.clone().and(forking);
            status.python.settle(*mode, forking.clone().and(python));
            status.shell.settle(*mode, forking.and(shell));
            status.javascript.settle(*mode, plain.clone().and(javascript));
            status.native.settle(*mode, plain);
        }
        status
    }

    /// Runs something of which the output is known.
    async fn try_out(
        &self,
        mode: Mode,
        runs: Runs,
        input: Bytes,
        expected: &str,
    ) -> Result<(), String> {
        if let Runs::Python(path) = &runs
            && !path.exists()
        {
            return Err(format!("{} is not there", path.display()));
        }
        let permit = Arc::clone(&self.places).acquire_owned().await;
        let place = self.place(permit.map_err(|error| error.to_string())?);
        let limits = Limits::default();
        let outcome = self.run(mode, runs, &input, &[], &limits, place, |_, _| {}).await;
        let outcome = match outcome {
            Ok(outcome) => outcome,
            Err(Refused::Unavailable(why)) => return Err(why),
            Err(other) => return Err(other.to_string()),
        };
        if outcome.ending == Ending::Exited(0) && outcome.stdout == expected.as_bytes() {
            return Ok(());
        }
        let said = [&outcome.stdout[..], &outcome.stderr].concat();
        Err(format!("{:?}: {}", outcome.ending, String::from_utf8_lossy(&said).trim_end()))
    }
}

impl Level {
    /// Takes this way if it proved itself and no better one did.
    fn settle(&mut self, mode: Mode, tried: Result<(), String>) {
        let Level::Refused(before) = self else { return };
        *self = match (mode, tried) {
            (Mode::Namespaces, Ok(())) => Level::Namespaces,
            (Mode::Landlock, Ok(())) => Level::Landlock,
            (Mode::Namespaces, Err(why)) => Level::Refused(format!("with namespaces: {why}")),
            (Mode::Landlock, Err(why)) if before.starts_with("with namespaces") => {
                Level::Refused(format!("{before}; without: {why}"))
            }
            (Mode::Landlock, Err(why)) => Level::Refused(format!("without namespaces: {why}")),
        };
    }
}

/// What is there to be reached while the suite runs.
struct Trial {
    bait: Bait,
    _file: Scratch,
    _tcp: std::net::TcpListener,
    _unix: [UnixListener; 2],
}

impl Trial {
    fn prepare(folder: &Path) -> std::io::Result<Trial> {
        use std::os::linux::net::SocketAddrExt;
        use std::os::unix::fs::PermissionsExt;
        let scratch = Scratch::prepare(folder).and_then(|()| Scratch::make(folder, None))?;
        let open = |path: &Path, mode| {
            std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode))
        };
        open(scratch.path(), 0o777)?;
        let (file, socket) = (scratch.path().join("file"), scratch.path().join("socket"));
        std::fs::write(&file, "for nobody in the sandbox")?;
        open(&file, 0o666)?;
        let tcp = std::net::TcpListener::bind("127.0.0.1:0")?;
        let unix = UnixListener::bind(&socket)?;
        open(&socket, 0o777)?;
        let abstract_socket = scratch.path().display().to_string();
        let address = std::os::unix::net::SocketAddr::from_abstract_name(&abstract_socket)
            .map_err(|_| ErrorKind::InvalidFilename)?;
        let bait = Bait {
            caller: std::process::id(),
            port: tcp.local_addr()?.port(),
            file,
            socket,
            abstract_socket,
            forks: false,
        };
        let unix = [unix, UnixListener::bind_addr(&address)?];
        Ok(Trial { bait, _file: scratch, _tcp: tcp, _unix: unix })
    }
}
