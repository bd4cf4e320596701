use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use tokio::sync::Semaphore;
use tollway_filter_api::ledger::Asking;

use super::*;

/// A database that can be away, or take its time.
struct Fake {
    rows: Mutex<BTreeMap<String, StoredResponse>>,
    is_away: AtomicBool,
    /// What is written or looked up waits for one of these.
    permits: Semaphore,
    asked: AtomicU64,
}

const ALWAYS: usize = 1 << 20;

impl Fake {
    fn new(permits: usize) -> Arc<Fake> {
        Arc::new(Fake {
            rows: Mutex::default(),
            is_away: AtomicBool::new(false),
            permits: Semaphore::new(permits),
            asked: AtomicU64::new(0),
        })
    }

    async fn answer<T: Send>(&self, answer: impl FnOnce() -> T + Send) -> Result<T, StoreError> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        self.permits.acquire().await.expect("it stays open").forget();
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(StoreError::Unavailable("away".into())),
            false => Ok(answer()),
        }
    }

    fn has(&self, id: &str) -> bool {
        self.rows.lock().contains_key(id)
    }

    fn asked(&self) -> u64 {
        self.asked.load(Ordering::SeqCst)
    }
}

impl ResponseStore for Fake {
    fn write<'a>(
        &'a self,
        rows: &'a [ResponseRow],
        _: &'a Maker,
        _: u64,
    ) -> Asking<'a, Vec<Written>> {
        Box::pin(self.answer(|| {
            let mut there = self.rows.lock();
            let write = |row: &ResponseRow| {
                if !row.is_new && !there.contains_key(&*row.id) {
                    return Written::Gone;
                }
                there.insert(row.id.to_string(), StoredResponse::clone(&row.response));
                Written::Kept
            };
            rows.iter().map(write).collect()
        }))
    }

    fn get<'a>(&'a self, id: &'a str, _: u64) -> Asking<'a, Option<StoredResponse>> {
        Box::pin(self.answer(|| self.rows.lock().get(id).cloned()))
    }

    fn is_there<'a>(&'a self, id: &'a str, _: u64) -> Asking<'a, bool> {
        Box::pin(self.answer(|| self.has(id)))
    }

    fn remove<'a>(&'a self, id: &'a str) -> Asking<'a, ()> {
        Box::pin(self.answer(|| drop(self.rows.lock().remove(id))))
    }

    fn cancel<'a>(&'a self, _: &'a str) -> Asking<'a, ()> {
        Box::pin(self.answer(|| ()))
    }

    fn made_by<'a>(&'a self, _: &'a str) -> Asking<'a, Vec<(Arc<str>, bool)>> {
        Box::pin(self.answer(|| {
            let rows = self.rows.lock();
            let open = rows.iter().filter(|(_, row)| row.is_open);
            open.map(|(id, _)| (id.as_str().into(), false)).collect()
        }))
    }

    fn hold<'a>(&'a self, _: &'a str, _: u64) -> Asking<'a, ()> {
        Box::pin(self.answer(|| ()))
    }

    fn abandoned<'a>(&'a self, _: &'a Maker, _: u64, _: u64) -> Asking<'a, Vec<Abandoned>> {
        Box::pin(self.answer(Vec::new))
    }

    fn end<'a>(&'a self, _: &'a Abandoned, _: &'a str) -> Asking<'a, ()> {
        Box::pin(self.answer(|| ()))
    }

    fn forget(&self, _: u64, _: u64) -> Asking<'_, u64> {
        Box::pin(self.answer(|| 0))
    }
}

fn responses(database: Option<&Arc<Fake>>, clock: &Clock) -> Responses {
    let config = ResponsesConfig {
        is_on: true,
        database: database.map(|fake| Arc::clone(fake) as Arc<dyn ResponseStore>),
        is_shared: true,
        maker: Maker { node: "node".into(), process: "process".into() },
        retention: Duration::from_secs(3600),
        bytes_max: 20 << 20,
    };
    Responses::new(config, clock.clone())
}

fn response(bytes: usize, is_open: bool) -> StoredResponse {
    StoredResponse {
        tenant: None,
        deployment: None,
        original: None,
        response: vec![b' '; bytes].into(),
        items: b"[]"[..].into(),
        events: None,
        is_open,
        expires_ms: 0,
    }
}

async fn length(responses: &Responses, id: &str) -> Option<usize> {
    responses.get(id).await.expect("it answers").map(|kept| kept.response.len())
}

/// Lets the writer do what it can.
async fn until(mut is_so: impl FnMut() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

fn is_idle(responses: &Responses) -> bool {
    responses.shared.held.lock().entries.is_empty()
}

#[tokio::test]
async fn what_is_kept_in_memory_is_found_until_its_time_is_over() {
    let clock = Clock::manual();
    let responses = responses(None, &clock);
    responses.keep("resp_1", response(7, false)).expect("there is room");
    assert_eq!(length(&responses, "resp_1").await, Some(7));
    responses.keep("resp_2", response(7, false)).expect("there is room");
    responses.remove("resp_2").await.expect("nothing can be in the way");
    assert_eq!(length(&responses, "resp_2").await, None);
    clock.advance(Duration::from_secs(3600));
    assert_eq!(length(&responses, "resp_1").await, None);

    responses.keep("resp_3", response(7, true)).expect("there is room");
    responses.replace("resp_3", response(8, true)).expect("there is room");
    responses.replace("resp_3", response(9, false)).expect("there is room");
    assert_eq!(length(&responses, "resp_3").await, Some(9));
    assert!(is_idle(&responses));
    responses.replace("resp_3", response(1, false)).expect("there is room");
    assert_eq!(length(&responses, "resp_3").await, Some(9), "it has ended");
}

#[tokio::test]
async fn memory_is_bounded() {
    let responses = responses(None, &Clock::manual());
    for n in 0..20 {
        let id = format!("resp_{n}");
        responses.keep(&id, response(16 << 20, false)).expect("there is room");
        assert_eq!(length(&responses, &id).await, Some(16 << 20));
    }
    assert!(responses.shared.cache.weight() <= CACHE_BYTES_MAX);
}

#[tokio::test]
async fn what_is_not_written_is_found_and_what_is_too_much_is_counted() {
    let database = Fake::new(0);
    let responses = responses(Some(&database), &Clock::manual());
    for n in 0..7 {
        responses.keep(&format!("resp_{n}"), response(8 << 20, false)).expect("there is room");
    }
    assert_eq!(responses.keep("resp_7", response(8 << 20, false)), Err(Lost::Full));
    assert_eq!(responses.keep("resp_8", response(21 << 20, false)), Err(Lost::TooLarge));
    assert_eq!((responses.lost(Lost::Full), responses.lost(Lost::TooLarge)), (1, 1));
    for n in 0..7 {
        assert_eq!(length(&responses, &format!("resp_{n}")).await, Some(8 << 20), "{n}");
    }
    // All of it, when the gateway is stopped.
    database.permits.add_permits(ALWAYS);
    responses.close(Duration::from_secs(60)).await;
    assert_eq!(database.rows.lock().len(), 7);
    assert!(is_idle(&responses));
    assert_eq!(responses.keep("resp_9", response(1, false)), Err(Lost::Full));
}

#[tokio::test]
async fn database_that_is_away_gets_what_it_lacks_when_it_is_back() {
    let database = Fake::new(ALWAYS);
    let clock = Clock::manual();
    let responses = responses(Some(&database), &clock);
    database.is_away.store(true, Ordering::SeqCst);
    responses.keep("resp_1", response(1, true)).expect("there is room");
    until(|| database.asked() > 0).await;
    responses.replace("resp_1", response(2, false)).expect("there is room");
    assert_eq!(length(&responses, "resp_1").await, Some(2));
    assert!(responses.get("resp_2").await.is_err(), "nobody can say");
    assert!(responses.remove("resp_1").await.is_err(), "it would come back");
    assert_eq!(length(&responses, "resp_1").await, Some(2));
    database.is_away.store(false, Ordering::SeqCst);
    until(|| is_idle(&responses)).await;
    assert_eq!(database.rows.lock()["resp_1"].response.len(), 2);

    // What is known stays known.
    database.is_away.store(true, Ordering::SeqCst);
    clock.advance(FRESH);
    assert_eq!(length(&responses, "resp_1").await, Some(2));
}

#[tokio::test]
async fn what_another_node_removes_is_served_for_a_moment_only() {
    let database = Fake::new(ALWAYS);
    let clock = Clock::manual();
    let responses = responses(Some(&database), &clock);
    responses.keep("resp_1", response(1, false)).expect("there is room");
    until(|| is_idle(&responses)).await;
    let asked = database.asked();
    assert_eq!(length(&responses, "resp_1").await, Some(1));
    assert_eq!(database.asked(), asked, "it was written just now");
    database.rows.lock().clear();
    clock.advance(FRESH);
    assert_eq!(length(&responses, "resp_1").await, None);

    // One that it makes itself is given up.
    responses.keep("resp_2", response(1, true)).expect("there is room");
    until(|| database.has("resp_2")).await;
    assert_eq!(responses.given_up().await.expect("it answers").len(), 0);
    database.rows.lock().clear();
    assert_eq!(responses.given_up().await.expect("it answers"), [Arc::<str>::from("resp_2")]);
    responses.replace("resp_2", response(2, false)).expect("there is room");
    assert_eq!(length(&responses, "resp_2").await, None);
    assert!(!database.has("resp_2"));

    // So is one whose removal its next write finds out about.
    responses.keep("resp_3", response(1, true)).expect("there is room");
    until(|| database.has("resp_3")).await;
    database.rows.lock().clear();
    responses.replace("resp_3", response(2, true)).expect("there is room");
    until(|| is_idle(&responses)).await;
    assert_eq!(responses.given_up().await.expect("it answers"), [Arc::<str>::from("resp_3")]);
    assert!(!database.has("resp_3"));
}

#[tokio::test]
async fn what_another_node_is_about_to_write_is_waited_for() {
    let database = Fake::new(1);
    let responses = responses(Some(&database), &Clock::manual());
    let looking = responses.clone();
    let found = tokio::spawn(async move { looking.get_named("resp_1").await });
    until(|| database.asked() > 1).await;
    database.rows.lock().insert("resp_1".into(), response(1, false));
    database.permits.add_permits(ALWAYS);
    let found = found.await.expect("it ends").expect("it answers");
    assert!(found.is_some());
    assert!(responses.get_named("resp_2").await.expect("it answers").is_none());
}

#[tokio::test]
async fn what_is_removed_while_it_is_written_is_not_there_afterwards() {
    let database = Fake::new(0);
    let responses = responses(Some(&database), &Clock::manual());
    responses.keep("resp_1", response(1, true)).expect("there is room");
    until(|| database.asked() == 1).await;
    // It has changed meanwhile, too.
    responses.replace("resp_1", response(2, true)).expect("there is room");
    let removing = responses.clone();
    let removal = tokio::spawn(async move { removing.remove("resp_1").await });
    tokio::task::yield_now().await;
    database.permits.add_permits(ALWAYS);
    removal.await.expect("it ends").expect("it is removed");
    assert_eq!(length(&responses, "resp_1").await, None);
    responses.replace("resp_1", response(3, false)).expect("there is room");
    responses.close(Duration::from_secs(60)).await;
    assert!(!database.has("resp_1"));
}

#[tokio::test]
async fn one_that_grows_too_large_loses_its_events_first() {
    let database = Fake::new(ALWAYS);
    let responses = responses(Some(&database), &Clock::manual());
    responses.keep("resp_1", response(1 << 20, true)).expect("there is room");
    let events = Some(vec![b' '; 20 << 20].into());
    let with_events = StoredResponse { events, ..response(1 << 20, true) };
    responses.replace("resp_1", with_events).expect("without its events there is room");
    let kept = responses.get("resp_1").await.expect("it answers").expect("it is there");
    assert_eq!(kept.events.as_deref(), Some(&b""[..]));
    assert_eq!(responses.replace("resp_1", response(21 << 20, false)), Err(Lost::TooLarge));
    assert_eq!(length(&responses, "resp_1").await, Some(1 << 20));
}
