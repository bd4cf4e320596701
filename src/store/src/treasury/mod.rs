//! The books of one node: budgets in memory, the journal on its disk, and the way to the ledger.
//!
//! [`Books`] is a [`Treasury`]. What calls reserve and spend is counted under one lock, held for
//! well below a microsecond (`windows`); what they spend is in the journal in the same order. What was
//! spent before this process is asked of the ledger when a budget is first met (`load`). The
//! feeder (`feeder`) brings what is settled to the ledger.

mod bill;
mod feeder;
mod hold;
mod leases;
mod load;
mod windows;

use std::collections::BTreeSet;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use parking_lot::Mutex;
use tollway_filter_api::Clock;
use tollway_filter_api::clock::millis;
use tollway_filter_api::ledger::{Ledger, SpendFilter, SpendRecord};
use tollway_filter_api::treasury::{
    Budget, BudgetId, Opened, Opening, OverBudget, Paid, Treasury, Unpaid,
};
use tollway_wire::price::PicoDollars;

pub use self::bill::BillError;
use self::feeder::Feed;
use self::hold::{Held, HoldState, LocalHold};
pub use self::leases::{
    Holding, LeaseSettings, ReleaseError, Timings, WAIT_MAX, holdings, release,
};
use self::leases::{Leases, Short, Use};
use self::load::{Loading, Missing};
use self::windows::{Counter, SubjectRef, Window, Windows};
use crate::journal::files::{Disk, Files};
pub use crate::journal::{Fsync, IdentityError, Piece};
use crate::journal::{Journal, JournalConfig, OpenCall};

/// How long the ledger may take to answer before it counts as being away.
const LEDGER_PATIENCE: Duration = Duration::from_secs(5);
/// So many recovered calls are named in a report; the others are counted.
const NAMED_MAX: usize = 1000;

/// What becomes of calls that were open when the process died.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnRestart {
    /// They are charged all that was reserved: it cannot be less than what they cost.
    #[default]
    ChargeBound,
    /// They are charged what had streamed when that was last noted, or all where nothing was.
    ChargeProgress,
}

/// How the books are kept.
#[derive(Clone)]
pub struct BooksConfig {
    /// Where the journal is. Nobody else may use the folder.
    pub folder: PathBuf,
    /// When the journal is made to survive a power failure.
    pub fsync: Fsync,
    /// A segment of the journal that has so many bytes is followed by another.
    pub segment_bytes: u64,
    /// So much room is kept for when the disk is full.
    pub reserve_bytes: u64,
    /// What becomes of calls that were open when the process died.
    pub on_restart: OnRestart,
    /// As often as this it is looked whether there is something for the ledger.
    pub feed_every: Duration,
    /// The disk; something else in tests.
    pub files: Arc<dyn Files>,
    /// How budgets are shared with other nodes. `None`: this node is the only one.
    pub leases: Option<LeaseSettings>,
}

impl BooksConfig {
    /// Books in a folder, everything else as it usually is.
    pub fn new(folder: impl Into<PathBuf>) -> BooksConfig {
        BooksConfig {
            folder: folder.into(),
            fsync: Fsync::default(),
            segment_bytes: 16 * 1024 * 1024,
            reserve_bytes: 16 * 1024 * 1024,
            on_restart: OnRestart::default(),
            feed_every: Duration::from_millis(200),
            files: Arc::new(Disk),
            leases: None,
        }
    }
}

/// A call that was open when the process died, and what became of it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recovered {
    /// What the ledger gets.
    pub record: SpendRecord,
    /// What was reserved.
    pub bound: PicoDollars,
}

/// What was found when the books were opened.
#[derive(Clone, Debug, Default)]
pub struct RecoveryReport {
    /// What this node is called in the ledger.
    pub node: Arc<str>,
    /// How many segments there were.
    pub segments: usize,
    /// How many records they held.
    pub records: u64,
    /// Records that the ledger did not have yet, as far as is known; it sorts out those that it
    /// has.
    pub backlog: u64,
    /// Ends of segments that were being written when the process or the machine stopped: they were
    /// cut.
    pub torn: Vec<Piece>,
    /// Pieces of segments that could not be read.
    pub damaged: Vec<Piece>,
    /// Records that are whole but make no sense: a later version has written them.
    pub unreadable: u64,
    /// How many calls were open.
    pub open_calls: u64,
    /// What they were charged together.
    pub charged: u128,
    /// The first thousand of them.
    pub recovered: Vec<Recovered>,
    /// Calls that looked open because of damage, and are in the ledger.
    pub known_to_ledger: u64,
    /// Why the ledger could not be asked.
    pub ledger_error: Option<String>,
    /// How long it took.
    pub took: Duration,
}

impl RecoveryReport {
    /// Says what is out of the ordinary.
    fn log(&self) {
        for torn in &self.torn {
            tracing::warn!(?torn, "the end of a segment of the journal was torn: it is cut");
        }
        for damaged in &self.damaged {
            tracing::error!(?damaged, "a piece of the journal is damaged: what it held is lost");
        }
        if self.unreadable > 0 {
            let records = self.unreadable;
            tracing::error!(records, "a later version wrote records that this one cannot read");
        }
        if self.open_calls > 0 {
            let (calls, charged) = (self.open_calls, amount(self.charged));
            tracing::warn!(calls, %charged, "calls were open when the process died");
        }
        if let Some(error) = &self.ledger_error {
            tracing::warn!(%error, "the ledger cannot be asked: calls with budgets wait for it");
        }
    }
}

/// How the books are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Status {
    /// What this node is called in the ledger.
    pub node: Arc<str>,
    /// Why no call can be made at present.
    pub refusing: Option<&'static str>,
    /// Records that the ledger does not have yet.
    pub backlog_records: u64,
    /// How long the oldest of them has been waiting, in milliseconds.
    pub oldest_ms: u64,
    /// What the journal takes on the disk, without what is kept for a full one.
    pub disk_bytes: u64,
    /// What was last wrong with the journal or the ledger, until it is right again.
    pub last_error: Option<String>,
    /// Calls under way.
    pub open_calls: u64,
    /// Calls that cost more than was reserved for them.
    pub over_granted_calls: u64,
    /// How much more, together.
    pub over_granted: u128,
    /// Calls that nobody closed: they were charged whole.
    pub dropped_calls: u64,
}

/// What calls cost beyond what was granted.
#[derive(Default)]
struct Over {
    calls: u64,
    amount: u128,
}

/// Everything that is counted.
#[derive(Default)]
struct State {
    windows: Windows,
    /// Calls under way.
    open: BTreeSet<u64>,
    over: Over,
}

/// What the books, their feeder and every call share.
struct Inner {
    state: Mutex<State>,
    journal: Journal,
    ledger: Arc<dyn Ledger>,
    clock: Clock,
    feed: Feed,
    loading: Loading,
    leases: Option<Leases>,
    /// The subject of everybody's budget.
    global: Arc<str>,
    dropped: AtomicU64,
}

/// The budgets of one node, exact over restarts. Cloning shares them.
#[derive(Clone)]
pub struct Books {
    inner: Arc<Inner>,
}

impl Books {
    /// Opens the books: reads the journal, and settles what was open when the process died. The
    /// ledger may be away; then calls with budgets wait until it is back.
    ///
    /// # Errors
    /// When the folder cannot be used, or is somebody else's.
    pub async fn open(
        config: BooksConfig,
        ledger: Arc<dyn Ledger>,
        clock: Clock,
    ) -> Result<(Books, RecoveryReport), IdentityError> {
        let since = Instant::now();
        let feed_every = config.feed_every;
        let BooksConfig {
            folder,
            fsync,
            segment_bytes,
            reserve_bytes,
            on_restart,
            files,
            leases,
            ..
        } = config;
        let config = JournalConfig { folder, fsync, segment_bytes, reserve_bytes, files };
        let failed = {
            let path = config.folder.clone();
            move |source| IdentityError::Folder { path: path.clone(), source }
        };
        let (found, config) = tokio::task::spawn_blocking(move || (Journal::find(&config), config))
            .await
            .map_err(|error| failed(std::io::Error::other(error)))?;
        let (identity, mut found) = found?;
        let mut report = RecoveryReport {
            node: Arc::clone(&identity.node),
            segments: found.segments.len(),
            records: found.records,
            unreadable: found.unreadable,
            torn: std::mem::take(&mut found.torn),
            damaged: std::mem::take(&mut found.damaged),
            ..RecoveryReport::default()
        };
        let mut place = identity.place;
        match in_time(ledger.last_seq(&identity.node)).await {
            Ok(last) if last.is_some_and(|last| last >= identity.first()) => {
                let (node, folder) = (Arc::clone(&identity.node), config.folder.clone());
                return Err(IdentityError::SameNode { node, folder });
            }
            Ok(last) => place = place.max(last.unwrap_or_default()),
            Err(error) => report.ledger_error = Some(error),
        }
        report.backlog = found.backlog;
        let open = std::mem::take(&mut found.open);
        let journal = Journal::start(config, identity, &found)?;
        let now_ms = clock.unix_ms();
        for call in open {
            let has_gaps =
                fsync == Fsync::None || !report.damaged.is_empty() || !report.torn.is_empty();
            if has_gaps && is_in_ledger(&*ledger, &call.draft).await {
                // Its end was in a piece that is damaged now.
                report.known_to_ledger += 1;
                journal.cancel(call.call);
                continue;
            }
            let (number, bound) = (call.call, call.amount);
            let record = settlement(call, on_restart, now_ms);
            journal.settle(Some(number), &record);
            report.open_calls += 1;
            report.charged += u128::from(record.cost.0);
            if report.recovered.len() < NAMED_MAX {
                report.recovered.push(Recovered { record, bound });
            }
        }
        if report.open_calls + report.known_to_ledger > 0 {
            // On a full disk they wait in memory, and no call is made.
            let _ = journal.flushed().await;
        }
        report.took = since.elapsed();
        report.log();
        let leases = leases.map(|settings| {
            let next = journal.queue().end().0.seq;
            Leases::new(settings, journal.node(), journal.first(), next)
        });
        let inner = Inner {
            state: Mutex::default(),
            feed: Feed::new(place, journal.first(), feed_every),
            loading: Loading::default(),
            leases,
            journal,
            ledger,
            clock,
            global: Arc::from(""),
            dropped: AtomicU64::new(0),
        };
        Ok((Books { inner: Arc::new(inner) }, report))
    }

    /// Learns what was spent of budgets, so that the first calls need not wait for it.
    ///
    /// # Errors
    /// When the ledger cannot be asked.
    pub async fn prepare(&self, budgets: &[BudgetId]) -> Result<(), Unpaid> {
        for budget in budgets {
            let now = self.inner.clock.unix();
            let missing = {
                let mut state = self.inner.state.lock();
                let window = state.windows.of(budget, millis(now), &self.inner.clock);
                (!state.windows.list[window].ready).then_some(Missing { window })
            };
            if let Some(missing) = missing {
                self.inner.load(missing, millis(now)).await?;
            }
        }
        Ok(())
    }

    /// Brings what is settled to the ledger, until `shutdown` resolves and everything is there, or
    /// the ledger is not. To be run once, as a task of its own.
    pub async fn run_feeder(&self, shutdown: impl Future<Output = ()> + Send) {
        self.inner.run_feeder(shutdown).await;
    }

    /// Shares budgets with other nodes, until `shutdown` resolves; then gives back what is not used.
    /// To be run once, as a task of its own. Without [`BooksConfig::leases`] there is nothing to do.
    pub async fn run_leases(&self, shutdown: impl Future<Output = ()> + Send) {
        self.inner.run_leases(shutdown).await;
    }

    /// Waits until the other nodes can be asked, but not longer than so. Whether they can.
    pub async fn leases_ready(&self, within: Duration) -> bool {
        self.inner.leases_ready(within).await
    }

    /// Waits until everything is in the journal and would survive a power failure.
    ///
    /// # Errors
    /// When the journal cannot be written.
    pub async fn flush(&self) -> Result<(), Unpaid> {
        self.inner.journal.flushed().await.map_err(Unpaid::Unavailable)
    }

    /// How things are.
    pub fn status(&self) -> Status {
        let inner = &*self.inner;
        let (backlog_records, disk_bytes, trouble) = inner.journal.queue().status();
        let (oldest, feeding) = inner.feed.status();
        let now_ms = inner.clock.unix_ms();
        let state = inner.state.lock();
        Status {
            node: Arc::clone(inner.journal.node()),
            refusing: inner.journal.refusal(),
            backlog_records,
            oldest_ms: oldest.map_or(0, |oldest| now_ms.saturating_sub(oldest)),
            disk_bytes,
            last_error: trouble.or(feeding),
            open_calls: state.open.len() as u64,
            over_granted_calls: state.over.calls,
            over_granted: state.over.amount,
            dropped_calls: inner.dropped.load(Ordering::Relaxed),
        }
    }
}

/// What a call that nobody has closed is charged.
fn settlement(call: OpenCall, on_restart: OnRestart, now_ms: u64) -> SpendRecord {
    let mut record = call.draft;
    record.cost = call.amount;
    if let Some((cost, usage)) = call.progress {
        record.usage = usage;
        if on_restart == OnRestart::ChargeProgress {
            record.cost = cost;
        }
    }
    record.usage_estimated = true;
    if record.started_ms == 0 {
        record.started_ms = now_ms;
    }
    record.ended_ms = now_ms.max(record.started_ms);
    record
}

/// Whether the ledger has a call already.
async fn is_in_ledger(ledger: &dyn Ledger, draft: &SpendRecord) -> bool {
    if draft.request_id.is_empty() {
        return false;
    }
    let filter =
        SpendFilter { request_id: Some(Arc::clone(&draft.request_id)), ..SpendFilter::default() };
    let same =
        |record: &SpendRecord| record.key == draft.key && record.started_ms == draft.started_ms;
    match in_time(ledger.records(filter, 0, 100)).await {
        Ok(records) => records.iter().any(same),
        Err(_) => false,
    }
}

/// Asks the ledger, but not for ever.
async fn in_time<T>(
    asking: impl Future<Output = Result<T, tollway_filter_api::ledger::StoreError>>,
) -> Result<T, String> {
    match tokio::time::timeout(LEDGER_PATIENCE, asking).await {
        Ok(answer) => answer.map_err(|error| error.to_string()),
        Err(_) => Err(format!("the ledger has not answered for {LEDGER_PATIENCE:?}")),
    }
}

/// Why a call was not opened at once.
enum Unopened {
    Unpaid(Unpaid),
    /// What was spent is not known yet.
    Missing(Missing),
    /// Other nodes have to be asked.
    Short(Vec<Short>),
}

impl Treasury for Books {
    fn open(&self, opening: Opening<'_>) -> Opened {
        match self.inner.try_open(&opening, false) {
            Ok(hold) => Opened::Ready(Ok(hold)),
            Err(Unopened::Unpaid(why)) => Opened::Ready(Err(why)),
            Err(why) => {
                let inner = Arc::clone(&self.inner);
                let budgets = opening.budgets.to_vec();
                let Opening { most, least, now, .. } = opening;
                Opened::Wait(Box::pin(async move {
                    let opening = Opening { budgets: &budgets, most, least, now };
                    inner.wait_and_open(opening, why).await
                }))
            }
        }
    }

    /// Zeros for a budget that no call has met since the start.
    fn spent(&self, budget: &BudgetId, now: Duration) -> (PicoDollars, PicoDollars) {
        let state = self.inner.state.lock();
        let Some(window) = state.windows.find(budget) else { return Default::default() };
        if millis(now) >= window.end_ms {
            return Default::default();
        }
        let counter = window.get(SubjectRef::of(budget));
        if let Some(leases) = &self.inner.leases
            && let Some(lease) = window.lease_of(SubjectRef::of(budget))
        {
            let seen = leases.seen(lease, &counter);
            return (amount(seen.spent), amount(seen.reserved));
        }
        (amount(counter.spent), amount(counter.reserved))
    }
}

fn amount(sum: u128) -> PicoDollars {
    PicoDollars(u64::try_from(sum).unwrap_or(u64::MAX))
}

impl Inner {
    /// Reserves, if what was spent is known.
    fn try_open(
        self: &Arc<Self>,
        opening: &Opening<'_>,
        asked: bool,
    ) -> Result<Box<LocalHold>, Unopened> {
        if let Some(why) = self.journal.refusal() {
            return Err(Unopened::Unpaid(Unpaid::Unavailable(why)));
        }
        let now_ms = millis(opening.now);
        let mut held = Vec::with_capacity(opening.budgets.len());
        let (mut granted, mut tightest, mut floor_ms) = (opening.most, None, 0);
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let mut shorts = Vec::new();
        for budget in opening.budgets {
            let at = state.windows.of(&budget.id, now_ms, &self.clock);
            let window = &mut state.windows.list[at];
            if !window.ready {
                return Err(Unopened::Missing(Missing { window: at }));
            }
            floor_ms = floor_ms.max(window.start_ms);
            let is_shared = self.leases.is_some() && budget.limit.is_some();
            let lease = if is_shared { window.lease(at, &budget.id) } else { None };
            let one = Held { budget: Arc::clone(budget), window: at, era: window.era, lease };
            if let Some(limit) = budget.limit {
                let counter = window.get(SubjectRef::of(&budget.id));
                let left = self.left(&one, &counter, limit);
                if let Some(lease) = one.lease.as_ref().filter(|_| left < opening.most) {
                    let (all, unspent) = self.left_for_all(&one, &counter, limit);
                    let may_have_more = match asked {
                        // What is spent does not come back: nobody has to be asked.
                        false => unspent >= opening.least,
                        // What is there is taken, if it is enough.
                        true => left < opening.least && all >= opening.least,
                    };
                    if may_have_more {
                        shorts.push(Short {
                            lease: Arc::clone(lease),
                            least: opening.least.0.saturating_sub(left.0).into(),
                            most: (opening.most.0 - left.0).into(),
                        });
                    }
                }
                if left < granted {
                    granted = left;
                    tightest = Some(held.len());
                }
            }
            held.push(one);
        }
        if !shorts.is_empty() {
            return Err(Unopened::Short(shorts));
        }
        if let Some(at) = tightest.filter(|_| granted < opening.least) {
            let held: &Held = &held[at];
            let window = &state.windows.list[held.window];
            let counter = window.get(SubjectRef::of(&held.budget.id));
            let over = self.over_at(held, &counter, window, now_ms);
            return Err(Unopened::Unpaid(Unpaid::OverBudget(Box::new(over))));
        }
        for held in &held {
            let window = &mut state.windows.list[held.window];
            let subject = SubjectRef::of(&held.budget.id);
            window.reserve(held.era, subject, granted, now_ms);
            if let Some(lease) = &held.lease {
                self.touched(lease, &window.get(subject), Use::Open(opening.most.0.into()));
            }
        }
        drop(guard);
        let hold = LocalHold {
            inner: Arc::clone(self),
            noted: None,
            granted,
            held,
            opened_ms: now_ms.max(floor_ms),
            floor_ms,
            progress_at: None,
            state: HoldState::Opening,
        };
        Ok(Box::new(hold))
    }

    /// Waits for what is missing, and opens.
    async fn wait_and_open(self: &Arc<Self>, opening: Opening<'_>, first: Unopened) -> Paid {
        let (mut why, mut patience) = (first, WAIT_MAX);
        let mut loads = 0;
        loop {
            let asked = match why {
                Unopened::Unpaid(why) => return Err(why),
                Unopened::Missing(missing) => {
                    // Once for each budget is enough: what is known stays known.
                    loads += 1;
                    if loads > opening.budgets.len() + 1 {
                        return Err(Unpaid::Unavailable("what was spent is not known"));
                    }
                    self.load(missing, millis(opening.now)).await?;
                    false
                }
                Unopened::Short(shorts) => {
                    let mut asked = true;
                    for short in &shorts {
                        asked &= self.ask_room(short, &mut patience).await?;
                    }
                    asked
                }
            };
            match self.try_open(&opening, asked) {
                Ok(hold) => return Ok(hold),
                Err(next) => why = next,
            }
        }
    }

    /// What a call can have of a budget at once.
    fn left(&self, held: &Held, counter: &Counter, limit: PicoDollars) -> PicoDollars {
        let left = counter.left(limit);
        match (&self.leases, &held.lease) {
            (Some(leases), Some(lease)) => left.min(leases.room(lease, counter, limit)),
            _ => left,
        }
    }

    /// What a budget has left for all nodes together, as far as this one knows; and what it would
    /// have if nothing were reserved.
    fn left_for_all(
        &self,
        held: &Held,
        counter: &Counter,
        limit: PicoDollars,
    ) -> (PicoDollars, PicoDollars) {
        let left = counter.left(limit);
        match (&self.leases, &held.lease) {
            (Some(leases), Some(lease)) => {
                let seen = leases.seen(lease, counter);
                let unspent = u128::from(limit.0).saturating_sub(seen.spent);
                (left.min(amount(seen.left)), amount(unspent))
            }
            _ => (left, left),
        }
    }

    fn over(&self, held: &Held, counter: &Counter, window: &Window) -> OverBudget {
        self.over_at(held, counter, window, self.clock.unix_ms())
    }

    fn over_at(&self, held: &Held, counter: &Counter, window: &Window, now_ms: u64) -> OverBudget {
        let budget: &Arc<Budget> = &held.budget;
        let ends = budget.id.period.map(|_| window.end_ms.saturating_sub(now_ms));
        let (spent, reserved) = match (&self.leases, &held.lease) {
            (Some(leases), Some(lease)) => {
                let seen = leases.seen(lease, counter);
                (seen.spent, seen.reserved)
            }
            _ => (counter.spent, counter.reserved),
        };
        OverBudget {
            budget: Arc::clone(budget),
            spent: amount(spent),
            reserved: amount(reserved),
            resets_in: ends.map(Duration::from_millis),
        }
    }
}
