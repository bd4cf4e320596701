//! The proxies under test: started, waited for, watched through `/proc`, stopped.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use tokio::net::TcpStream;
use tokio::time::{Instant, sleep};

use crate::Failure;
use crate::measure::note;
use crate::upstream::Upstream;

/// How long a proxy may take to start or to stop. Under valgrind it takes seconds.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether it has.
const LOOK: Duration = Duration::from_millis(5);

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The bare Pingora proxy.
    Bare,
    /// The gateway.
    Tollway,
}

impl Side {
    /// Both, in the order in which they take turns.
    pub const BOTH: [Side; 2] = [Side::Bare, Side::Tollway];

    /// What messages call it.
    pub fn name(self) -> &'static str {
        match self {
            Side::Bare => "bare Pingora",
            Side::Tollway => "tollway",
        }
    }

    /// Its binary's name.
    pub fn binary(self) -> &'static str {
        match self {
            Side::Bare => "baseline",
            Side::Tollway => "tollway",
        }
    }
}

/// How to start the proxies.
#[derive(Clone, Debug)]
pub struct Launch {
    /// Where the binaries of both are.
    pub binaries: PathBuf,
    /// The gateway's config, without models: those are the upstream's.
    pub config: PathBuf,
    /// The core the proxies run on, alone.
    pub core: usize,
    /// A folder for what they write, removed at the end.
    pub folder: PathBuf,
    /// A folder for callgrind's profiles, which are kept.
    pub profiles: PathBuf,
}

/// Processor time of a proxy, thread by thread: some end while it is measured.
#[derive(Clone, Debug, Default)]
pub struct Cpu {
    threads: HashMap<OsString, Thread>,
}

#[derive(Clone, Copy, Debug)]
struct Thread {
    time: Duration,
    is_ledger: bool,
}

/// What has been added to it.
#[derive(Clone, Copy, Debug, Default)]
pub struct Spent {
    /// By what serves requests, the journal included.
    pub requests: Duration,
    /// By the threads that bring the journal to the database, and by the database itself.
    pub ledger: Duration,
}

impl Cpu {
    /// What has been added since. What a thread took that has ended is not known: those are idle.
    pub fn since(&self, before: &Cpu) -> Spent {
        let mut spent = Spent::default();
        for (id, thread) in &self.threads {
            let had = before.threads.get(id).map_or(Duration::ZERO, |thread| thread.time);
            let sum = if thread.is_ledger { &mut spent.ledger } else { &mut spent.requests };
            *sum += thread.time.saturating_sub(had);
        }
        spent
    }
}

/// A running proxy. Killed when dropped.
pub struct Proxy {
    side: Side,
    child: Child,
    address: SocketAddr,
    errors: PathBuf,
}

impl Proxy {
    /// Starts one on its core and waits until it can be connected to.
    ///
    /// # Errors
    /// When it ends instead; says what it wrote.
    pub async fn start(launch: &Launch, side: Side, upstream: &Upstream) -> Result<Proxy, Failure> {
        Proxy::start_under(&[], launch, side, upstream).await
    }

    /// As [`Proxy::start`], as an argument of another command, such as valgrind.
    ///
    /// # Errors
    /// As [`Proxy::start`].
    pub async fn start_under(
        command: &[&str],
        launch: &Launch,
        side: Side,
        upstream: &Upstream,
    ) -> Result<Proxy, Failure> {
        // Somebody else may take the port before the proxy does; the proxy then says so and ends.
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?;
        let errors = launch.folder.join(format!("{}.log", address.port()));
        let mut start = Command::new("taskset");
        start.arg("-c").arg(launch.core.to_string()).args(command);
        start.arg(launch.binaries.join(side.binary()));
        match side {
            Side::Bare => {
                start.arg(address.to_string()).arg(upstream.address().to_string());
            }
            Side::Tollway => {
                start.args(["serve", "--listen", &address.to_string()]);
                let config = launch.folder.join(format!("{}.yaml", address.port()));
                let filters = fs::read_to_string(&launch.config)?;
                fs::write(&config, format!("{filters}\n{}", upstream.model_list()))?;
                start.arg("-c").arg(&config);
                // One of its own: what another has in its journal would be part of its memory.
                start.arg("--data").arg(launch.folder.join(format!("{}-data", address.port())));
                start.env("TOLLWAY_THREADS", "1");
            }
        }
        // In its own folder, so that no `.env` of ours is read.
        start.current_dir(&launch.folder);
        start.stdin(Stdio::null()).stdout(Stdio::null()).stderr(File::create(&errors)?);
        let child = start.spawn().map_err(|error| format!("cannot start {start:?}: {error}"))?;
        let mut proxy = Proxy { side, child, address, errors };
        proxy.ready().await?;
        Ok(proxy)
    }

    async fn ready(&mut self) -> Result<(), Failure> {
        let end = Instant::now() + PATIENCE;
        while TcpStream::connect(self.address).await.is_err() {
            if let Some(status) = self.child.try_wait()? {
                return Err(self.says(&format!("ended at once with {status}")));
            }
            if Instant::now() > end {
                return Err(self.says("does not listen"));
            }
            sleep(LOOK).await;
        }
        Ok(())
    }

    fn says(&self, what: &str) -> Failure {
        let said = fs::read_to_string(&self.errors).unwrap_or_default();
        format!("{} {what}: {}", self.side.name(), said.trim()).into()
    }

    /// Its number, which is that of the command it runs under.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Which one it is.
    pub fn side(&self) -> Side {
        self.side
    }

    /// The time that its threads have run so far. To the nanosecond, where `/proc/PID/stat` has
    /// ticks of 10 ms.
    ///
    /// # Errors
    /// When it is gone.
    pub fn cpu(&self) -> Result<Cpu, Failure> {
        let mut cpu = Cpu::default();
        for thread in fs::read_dir(self.proc("task"))? {
            let thread = thread?;
            let read = |name| fs::read_to_string(thread.path().join(name));
            // It may have ended since its name was read.
            let (Ok(stat), Ok(name)) = (read("schedstat"), read("comm")) else { continue };
            let time = Duration::from_nanos(stat.split(' ').next().unwrap_or_default().parse()?);
            let is_ledger = ["ledger", "sqlx-"].iter().any(|start| name.starts_with(start));
            cpu.threads.insert(thread.file_name(), Thread { time, is_ledger });
        }
        Ok(cpu)
    }

    /// The memory it has now, in bytes.
    ///
    /// # Errors
    /// When it is gone.
    pub fn rss(&self) -> Result<u64, Failure> {
        self.status("VmRSS:")
    }

    /// The most memory it ever had, in bytes, or since [`Proxy::forget_peak`].
    ///
    /// # Errors
    /// When it is gone.
    pub fn peak_rss(&self) -> Result<u64, Failure> {
        self.status("VmHWM:")
    }

    /// Lets the peak begin anew with what it has now.
    ///
    /// # Errors
    /// When it is gone.
    pub fn forget_peak(&self) -> Result<(), Failure> {
        // "To reset the peak resident set size, write 5" (proc(5), /proc/pid/clear_refs).
        Ok(fs::write(self.proc("clear_refs"), "5")?)
    }

    fn status(&self, name: &str) -> Result<u64, Failure> {
        let status = fs::read_to_string(self.proc("status"))?;
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kilobytes = line.and_then(|line| line.split_whitespace().next());
        let kilobytes: u64 = kilobytes.ok_or("the process has no memory any more")?.parse()?;
        Ok(kilobytes * 1024)
    }

    fn proc(&self, file: &str) -> PathBuf {
        Path::new("/proc").join(self.child.id().to_string()).join(file)
    }

    /// Lets it end by itself, as after ctrl-c, and waits for that.
    ///
    /// # Errors
    /// When it does not, or not well.
    pub async fn stop(mut self) -> Result<(), Failure> {
        // SIGTERM would let the bare proxy sleep for five minutes.
        let told = Command::new("kill").args(["-INT", &self.child.id().to_string()]).status()?;
        if !told.success() {
            return Err(self.says("is gone"));
        }
        let end = Instant::now() + PATIENCE;
        loop {
            match self.child.try_wait()? {
                Some(status) if status.success() => return Ok(()),
                Some(status) => return Err(self.says(&format!("ended with {status}"))),
                None if Instant::now() > end => return Err(self.says("does not stop")),
                None => sleep(LOOK).await,
            }
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Ok(Some(status)) = self.child.try_wait()
            && !status.success()
        {
            // Explains the connection that was lost: it crashed, or somebody killed it.
            note(&format!("{} ended with {status} while it was measured", self.side.name()));
        }
        // Fails only when it has ended already.
        let _: Result<ExitStatus, _> = self.child.kill().and_then(|()| self.child.wait());
    }
}
