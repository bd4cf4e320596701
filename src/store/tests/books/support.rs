//! What tests of the books share: a ledger in memory, folders, records.

use std::collections::{BTreeMap, BTreeSet, btree_map};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use tollway_filter_api::ledger::{
    Asking, Dimension, Entry, Ledger, Span, SpendFilter, SpendRecord, StoreError, Sum,
};
use tollway_filter_api::treasury::{
    Budget, BudgetId, BudgetScope, Hold, Opening, Paid, Period, PeriodUnit, Treasury,
};
use tollway_wire::price::PicoDollars;

/// 2026-01-01T00:00:00Z: what a manual clock shows first.
pub(crate) const START: Duration = Duration::from_secs(1_767_225_600);

/// A [`Ledger`] in memory; kept in a folder as well, if it has one.
#[derive(Default)]
pub(crate) struct MemoryLedger {
    pub(crate) records: Mutex<BTreeMap<(String, u64), SpendRecord>>,
    /// Records that came twice and were left out.
    pub(crate) doubles: AtomicU64,
    /// Nobody can use it.
    pub(crate) away: AtomicBool,
    /// The next batch is taken, and its sender told that it was not.
    pub(crate) lies: AtomicBool,
    folder: Option<PathBuf>,
}

impl MemoryLedger {
    /// A ledger whose batches are files of a folder. A batch is there as a whole or not at all.
    pub(crate) fn in_folder(folder: &Path) -> MemoryLedger {
        std::fs::create_dir_all(folder).expect("a folder");
        let ledger = MemoryLedger { folder: Some(folder.to_owned()), ..MemoryLedger::default() };
        let mut files: Vec<_> = std::fs::read_dir(folder)
            .expect("the folder can be read")
            .map(|entry| entry.expect("the folder can be read").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "batch"))
            .collect();
        files.sort();
        for file in files {
            let text = std::fs::read_to_string(file).expect("a batch can be read");
            for line in text.lines() {
                let (node, seq, record): (String, u64, SpendRecord) =
                    serde_json::from_str(line).expect("a line of a batch");
                ledger.take(&node, seq, record);
            }
        }
        ledger
    }

    fn take(&self, node: &str, seq: u64, record: SpendRecord) {
        let mut records = self.records.lock();
        match records.entry((node.to_owned(), seq)) {
            btree_map::Entry::Occupied(_) => {
                self.doubles.fetch_add(1, Ordering::Relaxed);
            }
            btree_map::Entry::Vacant(place) => {
                place.insert(record);
            }
        }
    }

    fn append_now(&self, node: &str, entries: &[Entry]) -> Result<(), StoreError> {
        self.usable()?;
        if let Some(folder) = &self.folder {
            let lines: String = entries
                .iter()
                .map(|entry| {
                    let line = serde_json::to_string(&(node, entry.seq, &entry.record));
                    line.expect("JSON") + "\n"
                })
                .collect();
            let path = folder.join(format!("{:020}.batch", entries[0].seq));
            std::fs::write(path.with_extension("new"), lines).expect("a batch");
            std::fs::rename(path.with_extension("new"), path).expect("a batch");
        }
        for entry in entries {
            self.take(node, entry.seq, entry.record.clone());
        }
        if self.lies.swap(false, Ordering::Relaxed) {
            return Err(StoreError::Unavailable("the connection was lost".to_owned()));
        }
        Ok(())
    }

    fn usable(&self) -> Result<(), StoreError> {
        if self.away.load(Ordering::Relaxed) {
            return Err(StoreError::Unavailable("nobody listens".to_owned()));
        }
        Ok(())
    }

    /// All records, in order.
    pub(crate) fn all(&self) -> Vec<SpendRecord> {
        self.records.lock().values().cloned().collect()
    }

    /// What those of one node cost.
    pub(crate) fn of(&self, node: &str) -> u128 {
        let records = self.records.lock();
        let of_node = records.iter().filter(|((name, _), _)| name == node);
        of_node.map(|(_, record)| u128::from(record.cost.0)).sum()
    }

    /// What they cost.
    pub(crate) fn total(&self) -> u128 {
        self.records.lock().values().map(|record| u128::from(record.cost.0)).sum()
    }
}

fn subjects(dimension: Dimension, record: &SpendRecord) -> Vec<Arc<str>> {
    let or_empty = |said: &Option<Arc<str>>| vec![said.clone().unwrap_or_default()];
    let two = |one: Option<&Arc<str>>, two: Option<&Arc<str>>| -> Vec<Arc<str>> {
        one.zip(two).map(|(one, two)| format!("{one}\0{two}").into()).into_iter().collect()
    };
    match dimension {
        Dimension::Total => vec![Arc::from("")],
        Dimension::Key => vec![Arc::clone(&record.key)],
        Dimension::User => or_empty(&record.user),
        Dimension::Team => or_empty(&record.team),
        Dimension::EndUser => or_empty(&record.end_user),
        Dimension::Model => vec![Arc::clone(&record.group)],
        Dimension::Provider => vec![Arc::clone(&record.provider)],
        Dimension::Tag => {
            record.tags.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect()
        }
        Dimension::KeyModel => vec![format!("{}\0{}", record.key, record.group).into()],
        Dimension::TeamModel => two(record.team.as_ref(), Some(&record.group)),
        Dimension::UserModel => two(record.user.as_ref(), Some(&record.group)),
        Dimension::TeamMember => two(record.team.as_ref(), record.user.as_ref()),
        Dimension::Deployment => vec![Arc::clone(&record.model_id)],
    }
}

impl Ledger for MemoryLedger {
    fn append<'a>(&'a self, node: &'a str, entries: &'a [Entry]) -> Asking<'a, ()> {
        Box::pin(async move { self.append_now(node, entries) })
    }

    fn last_seq<'a>(&'a self, node: &'a str) -> Asking<'a, Option<u64>> {
        Box::pin(async move {
            self.usable()?;
            let records = self.records.lock();
            let mut of_node = records.range((node.to_owned(), 0)..=(node.to_owned(), u64::MAX));
            Ok(of_node.next_back().map(|((_, seq), _)| *seq))
        })
    }

    fn records(&self, filter: SpendFilter, _: u64, _: u64) -> Asking<'_, Vec<SpendRecord>> {
        Box::pin(async move {
            self.usable()?;
            let wanted = filter.request_id.unwrap_or_default();
            let of_request = |record: &SpendRecord| record.request_id == wanted;
            Ok(self.all().into_iter().filter(of_request).collect())
        })
    }

    fn sums(
        &self,
        dimension: Dimension,
        _: Span,
        from_ms: u64,
        to_ms: u64,
    ) -> Asking<'_, Vec<Sum>> {
        Box::pin(async move {
            self.usable()?;
            let mut sums: BTreeMap<Arc<str>, (u64, u128)> = BTreeMap::new();
            for record in self.records.lock().values() {
                if (from_ms..to_ms).contains(&record.started_ms) {
                    for subject in subjects(dimension, record) {
                        let sum = sums.entry(subject).or_default();
                        *sum = (sum.0 + 1, sum.1 + u128::from(record.cost.0));
                    }
                }
            }
            let sum = |(subject, (calls, cost))| Sum {
                start_ms: 0,
                subject,
                calls,
                failed: 0,
                cache_hits: 0,
                prompt_tokens: 0,
                completion_tokens: 0,
                cost,
            };
            Ok(sums.into_iter().map(sum).collect())
        })
    }

    fn forget(&self, _: u64) -> Asking<'_, u64> {
        Box::pin(async { Ok(0) })
    }
}

pub(crate) const DAY: Option<Period> = Some(Period { count: 1, unit: PeriodUnit::Day });

/// A budget of a subject.
pub(crate) fn budget(
    scope: BudgetScope,
    subject: &str,
    period: Option<Period>,
    limit: Option<u64>,
) -> Arc<Budget> {
    let id = BudgetId { scope, subject: subject.into(), part: None, period };
    let limit = limit.map(PicoDollars);
    Arc::new(Budget { id, limit, soft: None, owner: Arc::from(subject) })
}

/// What is known of a call when it is opened.
pub(crate) fn draft(request: &str, at: Duration) -> SpendRecord {
    SpendRecord {
        request_id: request.into(),
        operation: "chat_completions".into(),
        key: "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b".into(),
        key_alias: Some("ci".into()),
        user: Some("ann".into()),
        team: Some("dev".into()),
        group: "gpt".into(),
        model: "openai/gpt-5".into(),
        model_id: "0f12".into(),
        provider: "openai".into(),
        api_base: "https://api.openai.com/v1".into(),
        started_ms: at.as_millis() as u64,
        status: 200,
        ..SpendRecord::default()
    }
}

/// The record of a call that cost so much.
pub(crate) fn record(request: &str, at: Duration, cost: u64) -> SpendRecord {
    let draft = draft(request, at);
    SpendRecord { cost: PicoDollars(cost), ended_ms: draft.started_ms + 5, ..draft }
}

/// Opens a call, and waits until it may be made.
pub(crate) async fn open(
    treasury: &dyn Treasury,
    budgets: &[Arc<Budget>],
    request: &str,
    now: Duration,
    most: u64,
    least: u64,
) -> Paid {
    let draft = draft(request, now);
    let opening = Opening { budgets, most: PicoDollars(most), least: PicoDollars(least), now };
    treasury.open(opening).paid().await?.written(&draft).await
}

/// Opens a call that there is room for.
pub(crate) async fn must_open(
    treasury: &dyn Treasury,
    budgets: &[Arc<Budget>],
    request: &str,
    now: Duration,
    amount: u64,
) -> Box<dyn Hold> {
    let Ok(hold) = open(treasury, budgets, request, now, amount, amount).await else {
        panic!("{request} is not opened");
    };
    hold
}
