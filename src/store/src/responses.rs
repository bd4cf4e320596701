//! The state of the Responses API: in memory, and in a database behind it.
//!
//! Nobody waits for the database to keep something. What is new or has changed is *held*: it is found
//! here until one task has written it. What is written goes into a cache, and is asked for again where
//! that has let it go. A finished response never changes, but another node may remove it: what the
//! cache has is served for a second without asking whether it is still there. Only requests that
//! name a response come here at all.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parking_lot::Mutex;
use quick_cache::Weighter;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tollway_filter_api::Clock;
use tollway_filter_api::clock::millis;
use tollway_filter_api::ledger::StoreError;
use tollway_filter_api::responses::{
    Abandoned, Maker, ResponseRow, ResponseStore, StoredResponse, Written,
};

use crate::bounded::{Bounded, bounded};

/// What the cache may take.
const CACHE_BYTES_MAX: u64 = 64 << 20;
/// What one takes in it, about.
const CACHE_ENTRY_BYTES: u64 = 8 << 10;
/// What may be held: what is not yet written, and what is still being made.
const HELD_BYTES_MAX: usize = 64 << 20;
/// What an entry costs besides its bytes.
const ENTRY_OVERHEAD_BYTES: usize = 512;
/// What one that was taken on may grow by beyond the bound of each, so that it can say why it ends.
const LAST_WORDS_BYTES: usize = 64 << 10;
/// How long what was there is supposed to be there still.
const FRESH: Duration = Duration::from_secs(1);
/// How long the database may take to say that it still is. Then it is supposed so.
const CHECK_MAX: Duration = Duration::from_secs(1);
/// How long it may take to find one.
const LOOK_UP_MAX: Duration = Duration::from_secs(5);
/// When another node's that is not there is looked for again: it may be being written. In milliseconds,
/// each after the one before it.
const LOOK_AGAIN_MS: [u64; 3] = [50, 150, 300];
/// How long a removal may take, those writes included that are before it.
const REMOVE_MAX: Duration = Duration::from_secs(10);
/// From how many bytes or rows on a transaction takes no more.
const BATCH_BYTES: usize = 1 << 20;
const BATCH_ROWS: usize = 256;
/// When a database that is away is tried again.
const AGAIN: Duration = Duration::from_secs(1);
/// How often it is said that responses are not kept.
const WARN_EVERY: Duration = Duration::from_secs(60);
/// How long one that is being made is held beyond the last word of its maker.
const HELD_FOR: Duration = Duration::from_secs(60);
/// How many responses one statement removes or finds.
const STEP: u64 = 200;

/// How responses are kept.
pub struct ResponsesConfig {
    /// Whether they are at all.
    pub is_on: bool,
    /// The database; memory alone without one.
    pub database: Option<Arc<dyn ResponseStore>>,
    /// Whether other nodes write to it as well.
    pub is_shared: bool,
    /// Who we are.
    pub maker: Maker,
    /// For how long.
    pub retention: Duration,
    /// How large one may be.
    pub bytes_max: usize,
}

/// Why a response is not kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// It is larger than one may be.
    #[error("the response is too large to be kept")]
    TooLarge,
    /// Too many wait for the database.
    #[error("too many responses wait to be written")]
    Full,
    /// The database does not take it.
    #[error("the database does not take the response")]
    Refused,
}

impl Lost {
    /// All reasons, with their names.
    pub const ALL: [(Lost, &'static str); 3] =
        [(Lost::TooLarge, "too_large"), (Lost::Full, "queue_full"), (Lost::Refused, "refused")];
}

/// Keeps responses. Cloning shares it.
#[derive(Clone)]
pub struct Responses {
    shared: Arc<Shared>,
}

struct Shared {
    config: ResponsesConfig,
    clock: Clock,
    held: Mutex<Held>,
    cache: Bounded<Arc<str>, Cached, Weight>,
    /// There is more to be written, or no more to come.
    wake: Notify,
    /// One at a time changes the database, so that nothing is written after its removal.
    writing: tokio::sync::Mutex<()>,
    writer: Mutex<Option<JoinHandle<()>>>,
}

/// What the cache has.
#[derive(Clone)]
struct Cached {
    response: Arc<StoredResponse>,
    seen: Instant,
}

#[derive(Clone)]
struct Weight;

impl Weighter<Arc<str>, Cached> for Weight {
    fn weight(&self, id: &Arc<str>, cached: &Cached) -> u64 {
        (id.len() + size_of(&cached.response)) as u64
    }
}

#[derive(Default)]
struct Held {
    entries: HashMap<Arc<str>, Entry>,
    bytes: usize,
    queue: VecDeque<Arc<str>>,
    /// Those that were being made, and are gone.
    gone: Vec<Arc<str>>,
    lost: [u64; Lost::ALL.len()],
    warned: Option<Instant>,
    is_closed: bool,
}

struct Entry {
    response: Arc<StoredResponse>,
    /// It is not in the database yet.
    is_new: bool,
    /// It is in the queue.
    is_queued: bool,
    /// How often it has changed.
    change: u64,
}

impl Entry {
    fn bytes(&self) -> usize {
        size_of(&self.response)
    }
}

fn size_of(response: &StoredResponse) -> usize {
    let events = response.events.as_ref().map_or(0, |events| events.len());
    response.response.len() + response.items.len() + events + ENTRY_OVERHEAD_BYTES
}

impl Held {
    /// `is_new`: it takes the place of whatever there is; `is_written`: there is a database.
    fn put(
        &mut self,
        id: &Arc<str>,
        response: Arc<StoredResponse>,
        is_new: bool,
        is_written: bool,
    ) {
        let before = self.remove(id);
        let is_queued = before.as_ref().is_some_and(|entry| entry.is_queued);
        let entry = Entry {
            response,
            is_new: is_new || before.as_ref().is_none_or(|entry| entry.is_new),
            is_queued: is_queued || is_written,
            change: before.as_ref().map_or(0, |entry| entry.change + 1),
        };
        if is_written && !is_queued {
            self.queue.push_back(Arc::clone(id));
        }
        self.bytes += entry.bytes();
        self.entries.insert(Arc::clone(id), entry);
    }

    fn remove(&mut self, id: &str) -> Option<Entry> {
        let entry = self.entries.remove(id)?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// What is written next, with how often each had changed.
    fn batch(&mut self) -> Vec<(ResponseRow, u64)> {
        let (mut batch, mut size) = (Vec::new(), 0);
        while batch.len() < BATCH_ROWS && size < BATCH_BYTES {
            let Some(id) = self.queue.pop_front() else { break };
            // One that was removed since is still in the queue.
            let Some(entry) = self.entries.get_mut(&id).filter(|entry| entry.is_queued) else {
                continue;
            };
            entry.is_queued = false;
            size += entry.bytes();
            let (response, is_new) = (Arc::clone(&entry.response), entry.is_new);
            batch.push((ResponseRow { id, response, is_new }, entry.change));
        }
        batch
    }

    /// It has to be written all the same.
    fn again(&mut self, batch: Vec<(ResponseRow, u64)>) {
        for (row, _) in batch.into_iter().rev() {
            if let Some(entry) = self.entries.get_mut(&row.id)
                && !std::mem::replace(&mut entry.is_queued, true)
            {
                self.queue.push_front(row.id);
            }
        }
    }

    /// Counts one that is not kept. Whether it is to be said.
    fn lose(&mut self, lost: Lost, now: Instant) -> bool {
        self.lost[lost as usize] += 1;
        let is_due = self.warned.is_none_or(|at| now.duration_since(at) >= WARN_EVERY);
        if is_due {
            self.warned = Some(now);
        }
        is_due
    }
}

impl Responses {
    /// Starts to keep responses. Where there is a database, a task of this runtime writes to it.
    pub fn new(config: ResponsesConfig, clock: Clock) -> Responses {
        // In one part: the largest response must fit into it.
        let cache = bounded(CACHE_BYTES_MAX, CACHE_ENTRY_BYTES, 1, Weight);
        let has_database = config.database.is_some();
        let shared = Arc::new(Shared {
            config,
            clock,
            held: Mutex::default(),
            cache,
            wake: Notify::new(),
            writing: tokio::sync::Mutex::new(()),
            writer: Mutex::new(None),
        });
        if has_database {
            let writer = tokio::spawn(write_all(Arc::clone(&shared)));
            *shared.writer.lock() = Some(writer);
        }
        Responses { shared }
    }

    /// Whether responses are kept at all.
    pub fn are_kept(&self) -> bool {
        self.shared.config.is_on
    }

    /// Keeps a new response, in place of an earlier one of the same id. One that is open is found
    /// until it is [replaced](Responses::replace) by one that is not.
    ///
    /// # Errors
    /// When it is not kept, which is counted.
    pub fn keep(&self, id: &str, response: StoredResponse) -> Result<(), Lost> {
        let Shared { config, held, .. } = &*self.shared;
        let size = size_of(&response);
        if size > config.bytes_max {
            return Err(self.lose(Lost::TooLarge));
        }
        let (id, response) = (id.into(), self.shared.dated(response));
        let has_database = config.database.is_some();
        if !has_database && !response.is_open {
            self.shared.remember(id, response);
            return Ok(());
        }
        let is_full = {
            let mut held = held.lock();
            let is_full = held.is_closed || held.bytes + size > HELD_BYTES_MAX;
            if !is_full {
                held.put(&id, response, true, has_database);
            }
            is_full
        };
        if is_full {
            return Err(self.lose(Lost::Full));
        }
        self.shared.wake.notify_one();
        Ok(())
    }

    /// Keeps one that is open as it is now. One that was removed meanwhile stays so.
    ///
    /// # Errors
    /// When it has become too large: then it stays as it was.
    pub fn replace(&self, id: &str, mut response: StoredResponse) -> Result<(), Lost> {
        let Shared { config, held, .. } = &*self.shared;
        let bytes_max = config.bytes_max.saturating_add(LAST_WORDS_BYTES);
        if size_of(&response) > bytes_max && response.events.is_some() {
            response.events = Some(Bytes::new());
        }
        if size_of(&response) > bytes_max {
            return Err(self.lose(Lost::TooLarge));
        }
        let is_open = response.is_open;
        let response = self.shared.dated(response);
        let mut held = held.lock();
        let Some((id, _)) = held.entries.get_key_value(id) else { return Ok(()) };
        let id = Arc::clone(id);
        if config.database.is_none() && !is_open {
            held.remove(&id);
            self.shared.remember(id, response);
            return Ok(());
        }
        held.put(&id, response, false, config.database.is_some());
        drop(held);
        self.shared.wake.notify_one();
        Ok(())
    }

    /// The response of this id, whoever's it is.
    ///
    /// # Errors
    /// When nobody can say whether there is one.
    pub async fn get(&self, id: &str) -> Result<Option<Arc<StoredResponse>>, StoreError> {
        let shared = &*self.shared;
        if let Some(entry) = shared.held.lock().entries.get(id) {
            return Ok(Some(Arc::clone(&entry.response)));
        }
        let now_ms = shared.now_ms();
        let cached = shared.cache.get(id).filter(|cached| cached.response.expires_ms > now_ms);
        let Some(database) = &shared.config.database else {
            return Ok(cached.map(|cached| cached.response));
        };
        let Some(Cached { response, seen }) = cached else {
            let found = in_time(LOOK_UP_MAX, database.get(id, now_ms)).await?.map(Arc::new);
            if let Some(response) = found.as_ref().filter(|response| !response.is_open) {
                shared.remember(id.into(), Arc::clone(response));
            }
            return Ok(found);
        };
        if shared.clock.now().saturating_duration_since(seen) >= FRESH {
            match in_time(CHECK_MAX, database.is_there(id, now_ms)).await {
                Ok(false) => {
                    shared.cache.remove(id);
                    return Ok(None);
                }
                // Where the database is away, what is known here is all there is.
                Ok(true) | Err(_) => shared.remember(id.into(), Arc::clone(&response)),
            }
        }
        Ok(Some(response))
    }

    /// The same, of one that its client must have seen: another node may be about to write it.
    ///
    /// # Errors
    /// When nobody can say whether there is one.
    pub async fn get_named(&self, id: &str) -> Result<Option<Arc<StoredResponse>>, StoreError> {
        let again: &[u64] = if self.shared.config.is_shared { &LOOK_AGAIN_MS } else { &[] };
        for pause in again {
            let found = self.get(id).await?;
            if found.is_some() {
                return Ok(found);
            }
            tokio::time::sleep(Duration::from_millis(*pause)).await;
        }
        self.get(id).await
    }

    /// Removes a response, for good: here, and where there is a database also there.
    ///
    /// # Errors
    /// When the database does not do so in time: then it is still there.
    pub async fn remove(&self, id: &str) -> Result<(), StoreError> {
        let shared = &*self.shared;
        if let Some(database) = &shared.config.database {
            in_time(REMOVE_MAX, async {
                let _one = shared.writing.lock().await;
                database.remove(id).await?;
                shared.held.lock().remove(id);
                Ok(())
            })
            .await?;
        }
        shared.held.lock().remove(id);
        shared.cache.remove(id);
        Ok(())
    }

    /// Has another process give up what it makes. It does so within a second or two.
    ///
    /// # Errors
    /// When it cannot be told.
    pub async fn cancel_elsewhere(&self, id: &str) -> Result<(), StoreError> {
        match &self.shared.config.database {
            Some(database) => in_time(LOOK_UP_MAX, database.cancel(id)).await,
            None => Ok(()),
        }
    }

    /// Those of this process' that are being made and are to be given up: another node was asked to
    /// cancel or remove them.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn given_up(&self) -> Result<Vec<Arc<str>>, StoreError> {
        let Shared { config, held, .. } = &*self.shared;
        let Some(database) = &config.database else { return Ok(Vec::new()) };
        let mut given_up = std::mem::take(&mut held.lock().gone);
        let open = held.lock().open();
        if open.is_empty() {
            return Ok(given_up);
        }
        let there = database.made_by(&config.maker.process).await?;
        let there: HashMap<Arc<str>, bool> = there.into_iter().collect();
        let mut held = held.lock();
        // One that has ended meanwhile is no longer this process'.
        let still: Vec<_> = held.open().into_iter().filter(|id| open.contains(id)).collect();
        for id in still {
            match there.get(&id) {
                Some(false) => continue,
                Some(true) => {}
                None => drop(held.remove(&id)),
            }
            given_up.push(id);
        }
        Ok(given_up)
    }

    /// Holds on to what this process makes.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn hold(&self) -> Result<(), StoreError> {
        let Shared { config, held, .. } = &*self.shared;
        let Some(database) = &config.database else { return Ok(()) };
        if held.lock().open().is_empty() {
            return Ok(());
        }
        database.hold(&config.maker.process, self.shared.held_until_ms()).await
    }

    /// Ends what nobody makes any more as `end` says, which is given the `Response` object; how many.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn end_abandoned(
        &self,
        end: impl Fn(&Abandoned) -> Vec<u8> + Send + Sync,
    ) -> Result<usize, StoreError> {
        let Shared { config, .. } = &*self.shared;
        let Some(database) = &config.database else { return Ok(0) };
        let mut ended = 0;
        loop {
            let found = database.abandoned(&config.maker, self.shared.now_ms(), STEP).await?;
            for one in &found {
                let response = String::from_utf8(end(one))
                    .map_err(|_| StoreError::Invalid("a response that is no text".to_owned()))?;
                database.end(one, &response).await?;
            }
            ended += found.len();
            if (found.len() as u64) < STEP {
                return Ok(ended);
            }
        }
    }

    /// Removes some of those whose time is over. Whether there may be more.
    ///
    /// # Errors
    /// When the database is away.
    pub async fn forget(&self) -> Result<bool, StoreError> {
        let Some(database) = &self.shared.config.database else { return Ok(false) };
        Ok(database.forget(self.shared.now_ms(), STEP).await? >= STEP)
    }

    /// How many responses were not kept, and why.
    pub fn lost(&self, why: Lost) -> u64 {
        self.shared.held.lock().lost[why as usize]
    }

    /// Writes what waits to be written, within `limit`, and nothing from then on.
    pub async fn close(&self, limit: Duration) {
        self.shared.held.lock().is_closed = true;
        self.shared.wake.notify_one();
        let writer = self.shared.writer.lock().take();
        if let Some(mut writer) = writer
            && tokio::time::timeout(limit, &mut writer).await.is_err()
        {
            writer.abort();
            let responses = self.shared.held.lock().queue.len();
            tracing::warn!(responses, "the database is away: responses are lost");
        }
    }

    fn lose(&self, lost: Lost) -> Lost {
        self.shared.lose(lost);
        lost
    }
}

impl Held {
    /// Those that are being made and are in the database.
    fn open(&self) -> Vec<Arc<str>> {
        let entries = self.entries.iter();
        let open = entries.filter(|(_, entry)| entry.response.is_open && !entry.is_new);
        open.map(|(id, _)| Arc::clone(id)).collect()
    }
}

impl Shared {
    fn now_ms(&self) -> u64 {
        self.clock.unix_ms()
    }

    fn held_until_ms(&self) -> u64 {
        millis(self.clock.unix() + HELD_FOR)
    }

    /// With the end of its time.
    fn dated(&self, response: StoredResponse) -> Arc<StoredResponse> {
        let expires_ms = millis(self.clock.unix().saturating_add(self.config.retention));
        Arc::new(StoredResponse { expires_ms, ..response })
    }

    fn remember(&self, id: Arc<str>, response: Arc<StoredResponse>) {
        self.cache.insert(id, Cached { response, seen: self.clock.now() });
    }

    fn lose(&self, lost: Lost) {
        if self.held.lock().lose(lost, self.clock.now()) {
            tracing::warn!(why = %lost, "a response is not kept");
        }
    }

    /// Takes over what became of a batch.
    fn written(&self, batch: Vec<(ResponseRow, u64)>, outcomes: &[Written]) {
        let mut refused = 0;
        let mut held = self.held.lock();
        for ((row, change), outcome) in batch.into_iter().zip(outcomes) {
            let Some(entry) = held.entries.get_mut(&row.id) else { continue };
            if *outcome == Written::Kept {
                entry.is_new = false;
                if entry.change == change && !entry.response.is_open {
                    held.remove(&row.id);
                    self.remember(row.id, row.response);
                }
                continue;
            }
            refused += usize::from(*outcome == Written::Refused);
            held.remove(&row.id);
            if row.response.is_open {
                held.gone.push(row.id);
            }
        }
        drop(held);
        (0..refused).for_each(|_| self.lose(Lost::Refused));
    }
}

/// Writes what is to be written, until no more can come.
async fn write_all(shared: Arc<Shared>) {
    let Shared { config, held, wake, writing, .. } = &*shared;
    let Some(database) = &config.database else { return };
    let mut warned: Option<Instant> = None;
    loop {
        let one = writing.lock().await;
        let (batch, is_closed) = {
            let mut held = held.lock();
            (held.batch(), held.is_closed)
        };
        if batch.is_empty() {
            drop(one);
            if is_closed {
                return;
            }
            wake.notified().await;
            continue;
        }
        let rows: Vec<_> = batch.iter().map(|(row, _)| row.clone()).collect();
        match database.write(&rows, &config.maker, shared.held_until_ms()).await {
            Ok(outcomes) => shared.written(batch, &outcomes),
            Err(error) => {
                held.lock().again(batch);
                drop(one);
                let now = shared.clock.now();
                if warned.is_none_or(|at| now.duration_since(at) >= WARN_EVERY) {
                    warned = Some(now);
                    tracing::warn!(%error, "responses cannot be written yet");
                }
                tokio::time::sleep(AGAIN).await;
            }
        }
    }
}

async fn in_time<T>(
    limit: Duration,
    asking: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    match tokio::time::timeout(limit, asking).await {
        Ok(answer) => answer,
        Err(_) => Err(StoreError::Unavailable(format!("no answer within {limit:?}"))),
    }
}

#[cfg(test)]
mod tests;
