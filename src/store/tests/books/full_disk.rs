//! A disk that is full, breaks, and gets well: the journal over a layer that fails as disks do.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::support::{DAY, MemoryLedger, START, budget, must_open, open, record};
use tollway_filter_api::Clock;
use tollway_filter_api::ledger::Ledger;
use tollway_filter_api::treasury::{BudgetScope, Unpaid};
use tollway_store::journal::files::{Disk, Files, Writing};
use tollway_store::treasury::{Books, BooksConfig, Fsync};
use tollway_tests::gateway::{Folder, PATIENCE};
use tollway_tests::setup::eventually;

const RESERVE: u64 = 64 * 1024;
/// The machine's disk with room for so many bytes.
struct Small {
    folder: std::path::PathBuf,
    room: Arc<AtomicU64>,
    sync_fails: Arc<AtomicBool>,
    is_slow: Arc<AtomicBool>,
    writes: Arc<Writes>,
}

/// How often was written by whom.
#[derive(Default)]
struct Writes {
    by_calls: AtomicU64,
    by_the_thread: AtomicU64,
}

struct SmallFile {
    file: Arc<dyn Writing>,
    path: std::path::PathBuf,
    folder: std::path::PathBuf,
    room: Arc<AtomicU64>,
    sync_fails: Arc<AtomicBool>,
    is_slow: Arc<AtomicBool>,
    writes: Arc<Writes>,
}

fn used(folder: &Path) -> u64 {
    let files = std::fs::read_dir(folder).into_iter().flatten().flatten();
    files.filter_map(|file| file.metadata().ok()).map(|file| file.len()).sum()
}

impl Writing for SmallFile {
    /// Writes what fits and then fails, as disks do.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let is_thread = std::thread::current().name() == Some("journal");
        let writes = if is_thread { &self.writes.by_the_thread } else { &self.writes.by_calls };
        writes.fetch_add(1, Ordering::SeqCst);
        if self.is_slow.load(Ordering::SeqCst) {
            std::thread::sleep(Duration::from_millis(30));
        }
        // The file can have been renamed since it was opened; then it is not asked about new room.
        let length = std::fs::metadata(&self.path).map_or(0, |file| file.len());
        let grows = (offset + bytes.len() as u64).saturating_sub(length);
        let left = self.room.load(Ordering::SeqCst).saturating_sub(used(&self.folder));
        if grows <= left {
            return self.file.write_at(bytes, offset);
        }
        let fits = bytes.len() - (grows - left) as usize;
        self.file.write_at(&bytes[..fits], offset)?;
        Err(io::ErrorKind::StorageFull.into())
    }

    fn sync(&self) -> io::Result<()> {
        if self.sync_fails.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(5));
        }
        self.file.sync()
    }
}

impl Files for Small {
    fn open(&self, path: &Path) -> io::Result<Arc<dyn Writing>> {
        Ok(Arc::new(SmallFile {
            file: Disk.open(path)?,
            path: path.to_owned(),
            folder: self.folder.clone(),
            room: Arc::clone(&self.room),
            sync_fails: Arc::clone(&self.sync_fails),
            is_slow: Arc::clone(&self.is_slow),
            writes: Arc::clone(&self.writes),
        }))
    }

    fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        Disk.rename(from, to)
    }

    fn remove(&self, path: &Path) -> io::Result<()> {
        Disk.remove(path)
    }

    fn sync_folder(&self, folder: &Path) -> io::Result<()> {
        Disk.sync_folder(folder)
    }
}

struct Setup {
    config: BooksConfig,
    room: Arc<AtomicU64>,
    sync_fails: Arc<AtomicBool>,
    is_slow: Arc<AtomicBool>,
    writes: Arc<Writes>,
    ledger: Arc<MemoryLedger>,
    _folder: Folder,
}

fn setup(room: u64, fsync: Fsync) -> Setup {
    let folder = Folder::fresh();
    let room = Arc::new(AtomicU64::new(room));
    let (sync_fails, is_slow) = (Arc::<AtomicBool>::default(), Arc::<AtomicBool>::default());
    let files = Small {
        folder: folder.0.clone(),
        room: Arc::clone(&room),
        sync_fails: Arc::clone(&sync_fails),
        is_slow: Arc::clone(&is_slow),
        writes: Arc::default(),
    };
    let writes = Arc::clone(&files.writes);
    let config = BooksConfig {
        reserve_bytes: RESERVE,
        fsync,
        files: Arc::new(files),
        ..BooksConfig::new(&folder.0)
    };
    Setup { config, room, sync_fails, is_slow, writes, ledger: Arc::default(), _folder: folder }
}

impl Setup {
    async fn books(&self) -> Books {
        let ledger = Arc::clone(&self.ledger) as Arc<dyn Ledger>;
        let config = self.config.clone();
        Books::open(config, ledger, Clock::manual()).await.expect("the books open").0
    }
}

/// Waits until the books take calls again.
async fn well(books: &Books) {
    eventually("calls are taken", async || books.status().refusing.is_none()).await;
}

#[tokio::test]
async fn a_full_disk_stops_new_calls_and_lets_those_under_way_be_settled() {
    for fsync in [Fsync::None, Fsync::default(), Fsync::Always] {
        let setup = setup(200 * 1024, fsync);
        let books = setup.books().await;
        let team = [budget(BudgetScope::Team, "dev", DAY, Some(u64::MAX))];
        let mut under_way = Vec::new();
        let (mut calls, mut cost) = (0u64, 0);
        let refused = loop {
            let name = format!("call-{calls}");
            match open(&books, &team, &name, START, 100, 100).await {
                Ok(hold) if calls % 10 == 0 => under_way.push((name, hold)),
                Ok(hold) => {
                    hold.close(record(&name, START, calls));
                    cost += calls;
                }
                Err(refused) => break refused,
            }
            calls += 1;
            assert!(calls < 100_000, "the disk is never full");
        };
        assert!(matches!(refused, Unpaid::Unavailable(_)), "{refused:?}");
        let error = books.status().last_error.expect("it says why");
        assert!(error.contains("space") || error.contains("full"), "{error}");
        // They go to what was kept, and are as safe as ever.
        for (name, mut hold) in under_way.drain(..) {
            hold.extend(tollway_wire::price::PicoDollars(1)).expect("streams go on");
            hold.close(record(&name, START, 7));
            cost += 7;
        }
        books.flush().await.expect("what was kept is enough");
        assert!(books.status().refusing.is_some());
        // Full: still refused after a restart, which finds everything.
        drop(books);
        let books = setup.books().await;
        assert_eq!(books.status().backlog_records, calls);
        // The ledger takes what there is; that makes room, and calls are taken again.
        books.run_feeder(std::future::ready(())).await;
        assert_eq!(
            (setup.ledger.total(), setup.ledger.all().len() as u64),
            (u128::from(cost), calls)
        );
        well(&books).await;
        let name = "after";
        must_open(&books, &team, name, START, 1).await.close(record(name, START, 1));
        books.flush().await.expect("the disk is well");
    }
}

#[tokio::test]
async fn a_disk_without_any_room_loses_nothing_while_the_process_lives() {
    let setup = setup(100 * 1024, Fsync::Always);
    let books = setup.books().await;
    let team = [budget(BudgetScope::Team, "dev", DAY, Some(u64::MAX))];
    let mut holds = Vec::new();
    for call in 0..50 {
        holds.push(must_open(&books, &team, &format!("call-{call}"), START, 100).await);
    }
    // Neither the segment nor what was kept can be written: somebody else has filled the disk, and
    // the reserve is gone.
    setup.room.store(0, Ordering::SeqCst);
    std::fs::remove_file(setup.config.folder.join("reserve")).expect("it is there");
    let refused = open(&books, &team, "refused", START, 100, 100).await.err();
    assert!(matches!(refused, Some(Unpaid::Unavailable(_))), "{refused:?}");
    for (call, hold) in holds.into_iter().enumerate() {
        hold.close(record(&format!("call-{call}"), START, 3));
    }
    books.flush().await.expect_err("nothing can be written");
    setup.room.store(1024 * 1024, Ordering::SeqCst);
    well(&books).await;
    books.flush().await.expect("the disk is well");
    books.run_feeder(std::future::ready(())).await;
    // The call that was refused is not among them.
    assert_eq!((setup.ledger.all().len(), setup.ledger.total()), (50, 150));
    drop(books);
    setup.books().await;
    assert_eq!(setup.books_report().await.open_calls, 0);
}

impl Setup {
    async fn books_report(&self) -> tollway_store::treasury::RecoveryReport {
        let ledger = Arc::clone(&self.ledger) as Arc<dyn Ledger>;
        let config = self.config.clone();
        Books::open(config, ledger, Clock::manual()).await.expect("the books open").1
    }
}

#[tokio::test]
async fn a_disk_that_cannot_sync_stops_new_calls() {
    for fsync in [Fsync::Interval(Duration::from_millis(1)), Fsync::Always] {
        let setup = setup(10 * 1024 * 1024, fsync);
        let books = setup.books().await;
        must_open(&books, &[], "a", START, 1).await.close(record("a", START, 1));
        books.flush().await.expect("the disk is well");
        setup.sync_fails.store(true, Ordering::SeqCst);
        // By now or a moment later it is known.
        let since = Instant::now();
        let mut calls = 0;
        while let Ok(hold) = open(&books, &[], "b", START, 1, 1).await {
            hold.close(record("b", START, 1));
            calls += 1;
            assert!(since.elapsed() < PATIENCE);
        }
        setup.sync_fails.store(false, Ordering::SeqCst);
        well(&books).await;
        // What could not be synced may be among what was told last. What comes now is safe.
        must_open(&books, &[], "c", START, 1).await.close(record("c", START, 1));
        books.flush().await.expect("the disk is well");
        books.run_feeder(std::future::ready(())).await;
        assert_eq!(setup.ledger.all().len(), calls + 2);
    }
}

/// Makes one call after the other; how many of them wrote to the journal by themselves.
async fn writes(setup: &Setup, books: &Books, calls: u64) -> u64 {
    let before = setup.writes.by_calls.load(Ordering::SeqCst);
    for call in 0..calls {
        let name = format!("call-{call}");
        must_open(books, &[], &name, START, 1).await.close(record(&name, START, 1));
    }
    setup.writes.by_calls.load(Ordering::SeqCst) - before
}

/// The journal is begun, and leaves it to calls to write. Any of them may meet the thread at work, or a
/// processor that has no time.
async fn until_one_writes(setup: &Setup, books: &Books) {
    let since = Instant::now();
    while writes(setup, books, 1).await == 0 {
        assert!(since.elapsed() < PATIENCE, "all calls wait for the thread");
    }
}

#[tokio::test]
async fn calls_write_by_themselves_unless_the_disk_is_slow() {
    let setup = setup(10 * 1024 * 1024, Fsync::None);
    let books = setup.books().await;
    until_one_writes(&setup, &books).await;
    // One finds out; the others leave it to the thread and do not hold anybody up.
    setup.is_slow.store(true, Ordering::SeqCst);
    let slow = writes(&setup, &books, 10).await;
    assert!(slow <= 5, "{slow} of 10 write");
}

/// What each of them would pay for by itself is most of what the journal costs.
#[tokio::test]
async fn calls_that_begin_together_are_written_at_once() {
    let setup = setup(10 * 1024 * 1024, Fsync::None);
    let books = setup.books().await;
    until_one_writes(&setup, &books).await;
    let written = || {
        let Writes { by_calls, by_the_thread } = &*setup.writes;
        by_calls.load(Ordering::SeqCst) + by_the_thread.load(Ordering::SeqCst)
    };
    let before = written();
    let names: Vec<_> = (0..32).map(|call| format!("call-{call}")).collect();
    let calls = names.iter().map(|name| must_open(&books, &[], name, START, 1));
    let holds = futures_util::future::join_all(calls).await;
    // The thread may come between them.
    let writes = written() - before;
    assert!((1..=4).contains(&writes), "{writes} writes for {} calls", holds.len());
}
