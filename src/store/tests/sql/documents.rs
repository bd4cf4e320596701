//! What every [`Documents`] does.

use std::sync::Arc;

use bytes::Bytes;
use futures_util::future::join_all;
use tollway_filter_api::documents::{
    Append, Batch, Collection, Document, Documents, Entry, Wanted,
};
use tollway_filter_api::ledger::StoreError;
use tollway_store::sql::{BATCH_MAX, ENTRY_MAX, SqlStore, TEXT_MAX};

use crate::place::Place;

/// More than any log of a test has.
const ALL: u64 = 1 << 40;

pub(crate) fn run(id: &str) -> Document {
    Document {
        collection: Collection::Run,
        id: id.into(),
        owner: "ann".into(),
        parent: None,
        state: "queued".into(),
        created_ms: 1_767_225_600_000,
        expires_ms: None,
        holder: None,
        held_until_ms: 0,
        size: 0,
        body: Bytes::from_static(br#"{"input": "do it"}"#),
        version: 0,
    }
}

fn entry(body: impl Into<Bytes>) -> Entry {
    Entry { kind: "step".into(), body: body.into() }
}

fn entries(count: usize) -> Vec<Entry> {
    (0..count).map(|n| entry(format!(r#"{{"n": {n}}}"#))).collect()
}

pub(crate) fn put(documents: impl IntoIterator<Item = Document>) -> Batch {
    Batch { put: documents.into_iter().collect(), ..Batch::default() }
}

fn append(id: &str, from: u64, entries: Vec<Entry>) -> Batch {
    let append = Append { collection: Collection::Run, id: id.into(), from, entries };
    Batch { append: vec![append], ..Batch::default() }
}

fn remove(id: &str) -> Batch {
    Batch { remove: vec![(Collection::Run, id.into())], ..Batch::default() }
}

async fn write(store: &SqlStore, batch: Batch) -> Vec<u64> {
    store.write(batch).await.expect("nothing is in its way")
}

async fn get(store: &SqlStore, id: &str) -> Option<Document> {
    store.get(Collection::Run, id).await.expect("it answers")
}

async fn log(store: &SqlStore, id: &str) -> Vec<Entry> {
    store.entries(Collection::Run, id, 0, ALL).await.expect("it answers")
}

async fn ids(store: &SqlStore, wanted: Wanted) -> Vec<String> {
    let found = store.list(wanted).await.expect("it answers");
    found.iter().map(|document| document.id.to_string()).collect()
}

#[track_caller]
fn is_conflict<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Conflict(message)) => assert!(message.contains(says), "{message}"),
        other => panic!("a conflict was expected: {other:?}"),
    }
}

#[track_caller]
fn is_invalid<T: std::fmt::Debug>(result: Result<T, StoreError>, says: &str) {
    match result {
        Err(StoreError::Invalid(message)) => assert!(message.contains(says), "{message}"),
        other => panic!("it should be refused: {other:?}"),
    }
}

pub(crate) async fn a_document_comes_back_as_it_was(place: Place) {
    let store = place.open().await;
    let full = Document {
        parent: Some("thread".into()),
        expires_ms: Some(1_767_225_600_001),
        holder: Some("node".into()),
        held_until_ms: 7,
        size: 1 << 60,
        body: Bytes::from_static("{\"a\": \"é \\u0000 🦀\u{1}\"}".as_bytes()),
        ..run("full")
    };
    let of_each = Collection::ALL.map(|collection| Document { collection, ..run("same") });
    let all: Vec<_> = of_each.into_iter().chain([full, run("")]).collect();
    let versions = write(&store, put(all.clone())).await;
    for store in [&store, &place.open().await] {
        for (document, version) in all.iter().zip(&versions) {
            let found = store.get(document.collection, &document.id).await.expect("it answers");
            assert_eq!(found, Some(Document { version: *version, ..document.clone() }));
        }
        assert_eq!(get(store, "SAME").await, None);
        assert_eq!(get(store, "absent").await, None);
        assert_eq!(get(store, "zero\0").await, None);
    }
    assert!(versions.iter().all(|version| *version > 0), "{versions:?}");
    assert!(write(&store, Batch::default()).await.is_empty());
}

pub(crate) async fn only_the_latest_version_of_a_document_is_replaced(place: Place) {
    let store = place.open().await;
    is_conflict(store.write(put([Document { version: 1, ..run("r") }])).await, "is not there");
    let first = write(&store, put([run("r")])).await[0];
    is_conflict(store.write(put([run("r")])).await, "the run r is there already");

    let next = Document { state: "done".into(), version: first, ..run("r") };
    let second = write(&store, put([next.clone()])).await[0];
    assert_ne!(first, second);
    is_conflict(store.write(put([next.clone()])).await, "was changed meanwhile");
    assert_eq!(get(&store, "r").await, Some(Document { version: second, ..next }));

    // One of the same name that was made anew is not the one that was read before.
    write(&store, remove("r")).await;
    is_conflict(store.write(put([Document { version: second, ..run("r") }])).await, "not there");
    write(&store, put([run("r")])).await;
    for version in [first, second] {
        let old = Document { version, ..run("r") };
        is_conflict(store.write(put([old])).await, "was changed meanwhile");
    }
}

pub(crate) async fn a_log_has_no_gaps_and_nothing_twice(place: Place) {
    let store = place.open().await;
    is_conflict(store.write(append("r", 0, entries(1))).await, "the run r is not there");
    write(&store, put([run("r"), run("other")])).await;
    assert_eq!(log(&store, "r").await, []);
    is_conflict(store.write(append("r", 1, entries(1))).await, "a log of 0 entries, not 1");
    write(&store, append("r", 0, entries(3))).await;
    for from in [0, 2, 4, u64::MAX] {
        is_conflict(store.write(append("r", from, entries(1))).await, "a log of 3 entries");
    }
    // Nothing at the right place is nothing; at the wrong one it is wrong.
    write(&store, append("r", 3, Vec::new())).await;
    is_conflict(store.write(append("r", 2, Vec::new())).await, "a log of 3 entries");

    let body = "{\"text\": \"é 🦀\\u0000\"}\r\ndata: \u{7f}\u{1}\n\n";
    let last = Entry { kind: "'; DROP".into(), body: Bytes::from(body) };
    let mut twice = append("r", 3, vec![last.clone()]);
    twice.append.extend(append("r", 4, entries(1)).append);
    write(&store, twice).await;
    let expected: Vec<_> = entries(3).into_iter().chain([last]).chain(entries(1)).collect();
    assert_eq!(log(&store, "r").await, expected);
    assert_eq!(log(&place.open().await, "r").await, expected);
    assert_eq!(log(&store, "other").await, []);
    assert_eq!(log(&store, "absent").await, []);
    let thread = store.entries(Collection::Thread, "r", 0, ALL).await.expect("it answers");
    assert_eq!(thread, []);
}

pub(crate) async fn a_batch_is_made_whole_or_not_at_all(place: Place) {
    let store = place.open().await;
    let version = write(&store, put([run("old"), run("gone")])).await[0];
    let whole = Batch {
        put: vec![run("new"), Document { state: "done".into(), version, ..run("old") }],
        append: [append("new", 0, entries(2)).append, append("old", 0, entries(1)).append].concat(),
        remove: remove("gone").remove,
    };
    // The last of each is wrong.
    let mut twice_made = whole.clone();
    twice_made.put.push(run("gone"));
    twice_made.remove.clear();
    let mut gap = whole.clone();
    gap.append.extend(append("new", 3, entries(1)).append);
    let mut absent = whole.clone();
    absent.append.extend(append("absent", 0, entries(1)).append);
    for (wrong, says) in [(twice_made, "there already"), (gap, "2 entries"), (absent, "not there")]
    {
        is_conflict(store.write(wrong).await, says);
        assert_eq!(ids(&store, Wanted::of(Collection::Run, 10)).await, ["old", "gone"]);
        let old = get(&store, "old").await.expect("it is there");
        assert_eq!((&*old.state, old.version), ("queued", version));
        assert_eq!(log(&store, "old").await, []);
    }
    let versions = write(&store, whole).await;
    assert_eq!(get(&store, "new").await.expect("it is there").version, versions[0]);
    assert_eq!(get(&store, "old").await.expect("it is there").version, versions[1]);
    assert_eq!(log(&store, "new").await, entries(2));
    assert_eq!(log(&store, "old").await, entries(1));
    assert_eq!(get(&store, "gone").await, None);
}

/// Batches that come at once, so that many are made in one transaction, through two stores as of
/// two nodes: each is made whole or not at all.
pub(crate) async fn batches_at_once_are_each_made_whole_or_not_at_all(place: Place) {
    let stores = [place.open().await, place.open().await];
    let shared = write(&stores[0], put([run("shared")])).await[0];
    // Two want to make each document, one through each store; and all of some the same change.
    let wants_shared = |n: u64| n % 10 < 2;
    let id = |n: u64| match wants_shared(n) {
        true => format!("own {n}"),
        false => format!("r{}", n / 2),
    };
    let made = join_all((0..200).map(|n| {
        let mut batch = put([run(&id(n))]);
        batch.append = append(&id(n), 0, vec![entry(format!("by {n}"))]).append;
        if wants_shared(n) {
            batch.put.push(Document { version: shared, size: n, ..run("shared") });
            batch.append.extend(append("shared", 0, vec![entry(format!("by {n}"))]).append);
        }
        let store = &stores[(n % 2) as usize];
        async move {
            match store.write(batch).await {
                Ok(_) => Some(n),
                Err(StoreError::Conflict(_)) => None,
                Err(other) => panic!("{other}"),
            }
        }
    }))
    .await;
    let made: Vec<u64> = made.into_iter().flatten().collect();

    let of_shared: Vec<_> = made.iter().filter(|n| wants_shared(**n)).collect();
    assert_eq!(of_shared.len(), 1, "{made:?}");
    let found = get(&stores[1], "shared").await.expect("it is there");
    assert_eq!(found.size, *of_shared[0]);
    assert_eq!(log(&stores[1], "shared").await, [entry(format!("by {}", of_shared[0]))]);
    for n in 0..200 {
        let by: Vec<_> = made.iter().filter(|other| id(**other) == id(n)).collect();
        let expected: Vec<_> = by.iter().map(|n| entry(format!("by {n}"))).collect();
        assert_eq!(log(&stores[0], &id(n)).await, expected);
        assert_eq!(get(&stores[0], &id(n)).await.is_some(), by.len() == 1);
        assert!(by.len() == 1 || wants_shared(n), "{n}: {by:?}");
    }
}

/// Of two nodes that want to make, replace or go on with the same one at once, one does, and the
/// other is told why it does not. So often that they meet in the middle of it.
pub(crate) async fn of_two_nodes_at_once_one_has_its_way(place: Place) {
    let stores = [place.open().await, place.open().await];
    let both = async |batch: Batch| {
        let (one, other) = tokio::join!(stores[0].write(batch.clone()), stores[1].write(batch));
        match (one, other) {
            (Ok(made), Err(StoreError::Conflict(_))) | (Err(StoreError::Conflict(_)), Ok(made)) => {
                made
            }
            other => panic!("one was to be made: {other:?}"),
        }
    };
    for n in 0..50 {
        let id = format!("r{n}");
        let version = both(put([run(&id)])).await[0];
        both(append(&id, 0, entries(1))).await;
        both(put([Document { version, ..run(&id) }])).await;
    }
}

pub(crate) async fn a_thousand_runs_write_their_steps_at_once(place: Place) {
    let store = place.open().await;
    let runs = (0..1_000).map(|n| {
        let store = store.clone();
        tokio::spawn(async move {
            let id = format!("r{n}");
            let mut version = 0;
            for step in 0..3 {
                let mut batch = put([Document { version, size: step, ..run(&id) }]);
                batch.append = append(&id, 2 * step, entries(2)).append;
                version = write(&store, batch).await[0];
            }
            log(&store, &id).await.len()
        })
    });
    for length in join_all(runs).await {
        assert_eq!(length.expect("no panic"), 6);
    }
    let total = store.total(Collection::Run, "ann").await.expect("it answers");
    assert_eq!(total, (1_000, 2_000));
}

pub(crate) async fn a_batch_that_the_database_refuses_stops_no_other(place: Place) {
    let store = place.open().await;
    // Nothing is known that it would refuse, so it is told to.
    place
        .execute(
            "CREATE TRIGGER refuses BEFORE INSERT ON tollway_documents WHEN NEW.state = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'refused'); END",
            "ALTER TABLE tollway_documents ADD CHECK (state <> 'poison')",
        )
        .await;
    let is_poisoned = |n: usize| [6, 7, 40].contains(&n);
    let made = join_all((0..50).map(|n| {
        let state = if is_poisoned(n) { "poison" } else { "queued" };
        let mut batch = put([Document { state: state.into(), ..run(&format!("r{n}")) }]);
        batch.append = append(&format!("r{n}"), 0, entries(1)).append;
        store.write(batch)
    }))
    .await;
    for (n, made) in made.into_iter().enumerate() {
        let id = format!("r{n}");
        assert_eq!(get(&store, &id).await.is_some(), !is_poisoned(n), "{n}: {made:?}");
        assert_eq!(log(&store, &id).await.len(), usize::from(!is_poisoned(n)));
        match is_poisoned(n) {
            true => is_invalid(made, ""),
            false => assert!(made.is_ok(), "{made:?}"),
        }
    }
}

pub(crate) async fn a_document_goes_with_its_log(place: Place) {
    let store = place.open().await;
    let mut batch = put([run("r"), run("stays")]);
    batch.append =
        [append("r", 0, entries(3)).append, append("stays", 0, entries(2)).append].concat();
    write(&store, batch).await;
    write(&store, remove("r")).await;
    write(&store, remove("r")).await;
    assert_eq!(get(&store, "r").await, None);
    assert_eq!(log(&store, "r").await, []);
    assert_eq!(log(&store, "stays").await, entries(2));
    is_conflict(store.write(append("r", 3, entries(1))).await, "is not there");

    // A new one of that name begins anew, also where all of this is made at once.
    let again = [put([run("r")]), append("r", 0, entries(1)), remove("r"), put([run("r")])];
    for made in join_all(again.map(|batch| store.write(batch))).await {
        made.expect("nothing is in its way");
    }
    assert_eq!(log(&store, "r").await, []);
    write(&store, append("r", 0, entries(2))).await;
    let again = [remove("r"), put([run("r")]), append("r", 0, entries(1))];
    for made in join_all(again.map(|batch| store.write(batch))).await {
        made.expect("nothing is in its way");
    }
    assert_eq!(log(&store, "r").await, entries(1));
}

/// What [`Wanted`] asks for, in plain words.
fn is_wanted(document: &Document, wanted: &Wanted) -> bool {
    let is = |text: &Option<Arc<str>>, of: Option<&Arc<str>>| text.is_none() || text.as_ref() == of;
    let place = (document.created_ms, &document.id);
    document.collection == wanted.collection
        && is(&wanted.owner, Some(&document.owner))
        && is(&wanted.parent, document.parent.as_ref())
        && (wanted.states.is_empty() || wanted.states.contains(&document.state))
        && wanted.free_at_ms.is_none_or(|now| document.held_until_ms <= now)
        && wanted.expired_at_ms.is_none_or(|now| document.expires_ms.is_some_and(|at| at < now))
        && wanted.after.as_ref().is_none_or(|(created_ms, id)| match wanted.is_latest_first {
            true => place < (*created_ms, id),
            false => place > (*created_ms, id),
        })
}

/// Every combination of what can be asked, in pages, in both orders.
pub(crate) async fn documents_are_listed_by_all_that_is_asked(place: Place) {
    let store = place.open().await;
    let one_of = |list: &[&str], n: usize| Arc::from(list[n % list.len()]);
    let all: Vec<Document> = (0..72)
        .map(|n| Document {
            collection: [Collection::Run, Collection::File][usize::from(n % 9 == 8)],
            owner: one_of(&["ann", "bob", "Ann"], n / 2),
            parent: [None, Some("t1".into()), Some("t2".into())][n % 3].clone(),
            state: one_of(&["queued", "running", "done", "it's"], n / 5),
            // Many of the same time.
            created_ms: (n / 7) as u64,
            expires_ms: [None, Some(10), Some(20)][n / 3 % 3],
            held_until_ms: [0, 10, 20][n / 4 % 3],
            // Not in the order in which they were made.
            ..run(&format!("r{}", n * 37 % 72))
        })
        .collect();
    let versions = write(&store, put(all.clone())).await;
    let all: Vec<_> = all
        .into_iter()
        .zip(versions)
        .map(|(document, version)| Document { version, ..document })
        .collect();

    let some = |text: &str| Some(Arc::<str>::from(text));
    let states: [&[&str]; 4] = [&[], &["queued"], &["done", "it's", "queued"], &["absent", "no\0"]];
    let mut asked = Vec::new();
    for owner in [None, some("ann"), some("nobody"), some("n\0")] {
        for parent in [None, some("t1")] {
            for states in states {
                for free_at_ms in [None, Some(10), Some(9), Some(u64::MAX)] {
                    for expired_at_ms in [None, Some(10), Some(11), Some(u64::MAX)] {
                        for is_latest_first in [true, false] {
                            asked.push(Wanted {
                                owner: owner.clone(),
                                parent: parent.clone(),
                                states: states.iter().map(|state| Arc::from(*state)).collect(),
                                free_at_ms,
                                expired_at_ms,
                                is_latest_first,
                                ..Wanted::of(Collection::Run, 7)
                            });
                        }
                    }
                }
            }
        }
    }
    for wanted in asked {
        let mut expected: Vec<_> =
            all.iter().filter(|document| is_wanted(document, &wanted)).cloned().collect();
        expected.sort_by_key(|document| (document.created_ms, Arc::clone(&document.id)));
        if wanted.is_latest_first {
            expected.reverse();
        }
        let mut found: Vec<Document> = Vec::new();
        loop {
            let after = found.last().map(|last| (last.created_ms, Arc::clone(&last.id)));
            let wanted = Wanted { after, ..wanted.clone() };
            let page = store.list(wanted.clone()).await.expect("it answers");
            assert!(page.len() <= 7, "{wanted:?}");
            let is_last = page.len() < 7;
            found.extend(page);
            if is_last {
                break;
            }
        }
        assert_eq!(found, expected, "{wanted:?}");
    }

    // From a place where nothing is, and where nothing can be.
    for (after, is_latest_first) in [((3, "r"), true), ((3, "r"), false), ((u64::MAX, "\0"), true)]
    {
        let after = Some((after.0, Arc::from(after.1)));
        let wanted = Wanted { after, is_latest_first, ..Wanted::of(Collection::Run, 100) };
        let expected = all.iter().filter(|document| is_wanted(document, &wanted)).count();
        assert_eq!(ids(&store, wanted).await.len(), expected);
    }
    assert_eq!(ids(&store, Wanted::of(Collection::Run, 0)).await.len(), 0);
    assert_eq!(ids(&store, Wanted::of(Collection::Agent, 100)).await.len(), 0);
}

/// As a node does whose peer has died: it finds what nobody holds any more, and of two that take
/// it over one does.
pub(crate) async fn what_nobody_holds_is_taken_over_by_one(place: Place) {
    let stores = [place.open().await, place.open().await];
    let held = |id: &str, until| Document {
        state: "running".into(),
        holder: Some("dead".into()),
        held_until_ms: until,
        ..run(id)
    };
    let done = Document { state: "done".into(), ..run("done") };
    write(&stores[0], put([held("late", 100), held("early", 50), done])).await;
    let free = |now| Wanted {
        states: vec!["running".into(), "queued".into()],
        free_at_ms: Some(now),
        is_latest_first: false,
        ..Wanted::of(Collection::Run, 10)
    };
    assert_eq!(ids(&stores[0], free(49)).await.len(), 0);
    assert_eq!(ids(&stores[0], free(50)).await, ["early"]);
    assert_eq!(ids(&stores[0], free(100)).await, ["early", "late"]);

    let took = join_all([0, 1].map(|node| {
        let store = &stores[node];
        async move {
            let found = store.list(free(60)).await.expect("it answers");
            let mine = |document: Document| Document {
                holder: Some(format!("node {node}").into()),
                held_until_ms: 160,
                ..document
            };
            store.write(put(found.into_iter().map(mine))).await
        }
    }))
    .await;
    // The second may have come so late that nothing was free any more.
    let won: Vec<_> =
        took.iter().map(|won| won.as_ref().is_ok_and(|put| !put.is_empty())).collect();
    assert_eq!(won.iter().filter(|won| **won).count(), 1, "{took:?}");
    let holder = get(&stores[0], "early").await.expect("it is there").holder;
    assert_eq!(holder.as_deref(), Some(if won[0] { "node 0" } else { "node 1" }));
    assert_eq!(ids(&stores[0], free(60)).await.len(), 0);
}

pub(crate) async fn totals_are_those_of_the_owner(place: Place) {
    let store = place.open().await;
    let total =
        async |collection, owner: &str| store.total(collection, owner).await.expect("it answers");
    assert_eq!(total(Collection::File, "ann").await, (0, 0));
    let most = i64::MAX as u64 - 1;
    let file = |id: &str, owner: &str, size| Document {
        collection: Collection::File,
        owner: owner.into(),
        size,
        ..run(id)
    };
    let files = [file("a", "ann", 3), file("b", "ann", 1 << 40), file("c", "bob", most)];
    write(&store, put(files.into_iter().chain([run("a")]))).await;
    assert_eq!(total(Collection::File, "ann").await, (2, (1 << 40) + 3));
    assert_eq!(total(Collection::File, "bob").await, (1, most));
    assert_eq!(total(Collection::Run, "ann").await, (1, 0));
    assert_eq!(total(Collection::Run, "b\0b").await, (0, 0));
    write(&store, put(["d", "e"].map(|id| file(id, "bob", most)))).await;
    assert_eq!(total(Collection::File, "bob").await, (3, u64::MAX));
}

pub(crate) async fn a_log_is_read_by_so_many_bytes(place: Place) {
    let store = place.open().await;
    write(&store, put([run("r")])).await;
    // Each has 10 bytes with its kind, the last 1,000.
    let mut all = vec![entry("123456"); 9];
    all.push(entry("x".repeat(996)));
    write(&store, append("r", 0, all[..4].to_vec())).await;
    write(&store, append("r", 4, all[4..].to_vec())).await;
    let read = async |from, bytes| {
        let found = store.entries(Collection::Run, "r", from, bytes).await.expect("it answers");
        let from = usize::try_from(from).unwrap_or(usize::MAX).min(all.len());
        assert_eq!(found, all[from..from + found.len()]);
        found.len()
    };
    for from in 0..9 {
        assert_eq!(read(from, 0).await, 1);
        assert_eq!(read(from, 19).await, 1);
        assert_eq!(read(from, u64::MAX).await, 10 - from as usize);
    }
    assert_eq!(read(0, 20).await, 2);
    assert_eq!(read(0, 39).await, 3);
    assert_eq!(read(2, 40).await, 4);
    assert_eq!(read(3, 1_059).await, 6);
    assert_eq!(read(3, 1_060).await, 7);
    assert_eq!(read(9, 1).await, 1);
    assert_eq!(read(10, ALL).await, 0);
    assert_eq!(read(u64::MAX, ALL).await, 0);
}

pub(crate) async fn large_bodies_are_kept_and_larger_ones_refused(place: Place) {
    let store = place.open().await;
    let large = |byte: u8| Bytes::from(vec![byte; ENTRY_MAX]);
    let most = Batch {
        put: vec![Document { body: large(b'"'), ..run("r") }],
        append: append("r", 0, vec![entry(large(1))]).append,
        remove: Vec::new(),
    };
    let mut more = most.clone();
    more.append[0].entries.push(entry("x"));
    assert_eq!(BATCH_MAX, 2 * ENTRY_MAX);
    is_invalid(store.write(more).await, "33554432 bytes together");
    let longer = || Bytes::from(vec![b'x'; ENTRY_MAX + 1]);
    let put_more = put([Document { body: longer(), ..run("r") }]);
    is_invalid(store.write(put_more).await, "at most 16777216 bytes");
    is_invalid(store.write(append("r", 0, vec![entry(longer())])).await, "at most 16777216 bytes");

    // Others are made beside it.
    let small = (0..20).map(|n| store.write(put([run(&format!("small {n}"))])));
    let (large_made, small_made) = tokio::join!(store.write(most), join_all(small));
    large_made.expect("it is not too large");
    assert!(small_made.iter().all(Result::is_ok), "{small_made:?}");
    assert!(get(&store, "r").await.expect("it is there").body == large(b'"'));
    let found = log(&store, "r").await;
    assert!(found.len() == 1 && found[0].body == large(1));
}

/// Whatever stands in a text, and whatever cannot be kept.
pub(crate) async fn any_text_of_a_document_is_kept_or_refused(place: Place) {
    let store = place.open().await;
    let longest = "é".repeat(TEXT_MAX / 2);
    let texts = [
        "'; DROP TABLE tollway_documents; --",
        "\"; DELETE FROM tollway_log; --",
        "$1 ?1 :a @b %s \\ \u{1} \r\n\t \u{2028}",
        "[\"json\", null]",
        "null",
        "12",
        "",
        &longest,
    ];
    for text in texts {
        let document = Document {
            owner: text.into(),
            parent: Some(text.into()),
            state: text.into(),
            holder: Some(text.into()),
            body: Bytes::copy_from_slice(text.as_bytes()),
            ..run(text)
        };
        let entries = vec![Entry { kind: text.into(), body: document.body.clone() }];
        let mut batch = put([document.clone()]);
        batch.append = append(text, 0, entries.clone()).append;
        let version = write(&store, batch).await[0];
        let expected = Document { version, ..document };
        assert_eq!(get(&store, text).await.as_ref(), Some(&expected));
        assert_eq!(log(&store, text).await, entries);
        let wanted = Wanted {
            owner: Some(text.into()),
            parent: Some(text.into()),
            states: vec![text.into()],
            ..Wanted::of(Collection::Run, 10)
        };
        for wanted in [
            Wanted { owner: None, ..wanted.clone() },
            Wanted { parent: None, ..wanted.clone() },
            Wanted { parent: None, owner: None, ..wanted.clone() },
            wanted,
        ] {
            let found = store.list(wanted).await.expect("it answers");
            assert_eq!(found, std::slice::from_ref(&expected));
        }
        let total = store.total(Collection::Run, text).await.expect("it answers");
        assert_eq!(total, (1, 0));
    }
    for text in texts {
        write(&store, remove(text)).await;
        assert_eq!(get(&store, text).await, None);
    }

    write(&store, put([run("r")])).await;
    let long = format!("{longest}x");
    for bad in ["zero\0", &long] {
        let arc: Arc<str> = bad.into();
        let documents = [
            ("id", Document { id: Arc::clone(&arc), ..run("") }),
            ("owner", Document { owner: Arc::clone(&arc), ..run("x") }),
            ("parent", Document { parent: Some(Arc::clone(&arc)), ..run("x") }),
            ("state", Document { state: Arc::clone(&arc), ..run("x") }),
            ("holder", Document { holder: Some(Arc::clone(&arc)), ..run("x") }),
        ];
        for (member, document) in documents {
            let says = format!("the {member} of a run has at most 512 bytes and no zero byte");
            is_invalid(store.write(put([document])).await, &says);
        }
        let of_kind = Entry { kind: arc, body: Bytes::new() };
        is_invalid(store.write(append("r", 0, vec![of_kind])).await, "the kind of a log");
        is_invalid(store.write(append(bad, 0, entries(1))).await, "the id of a run");
        is_invalid(store.write(remove(bad)).await, "the id of a run");
    }
    for (bad, says) in [(&b"a\0b"[..], "no zero byte"), (b"\xff", "is text: invalid utf-8")] {
        let body = Bytes::from_static(bad);
        is_invalid(store.write(put([Document { body: body.clone(), ..run("x") }])).await, says);
        is_invalid(store.write(append("r", 0, vec![entry(body)])).await, says);
    }
    for document in [
        Document { created_ms: u64::MAX, ..run("x") },
        Document { expires_ms: Some(u64::MAX), ..run("x") },
        Document { held_until_ms: u64::MAX, ..run("x") },
        Document { size: u64::MAX, ..run("x") },
    ] {
        is_invalid(store.write(put([document])).await, "of a run is at most 92233720368547758");
    }
    is_invalid(store.write(put([run("x"), run("x")])).await, "the run x is in one batch twice");
    let mut comes_and_goes = put([run("x")]);
    comes_and_goes.remove = remove("x").remove;
    is_invalid(store.write(comes_and_goes).await, "the run x is in one batch twice");
    let mut grows_and_goes = append("r", 0, entries(1));
    grows_and_goes.remove = remove("r").remove;
    is_invalid(store.write(grows_and_goes).await, "the run r is in one batch twice");
    assert_eq!(ids(&store, Wanted::of(Collection::Run, 10)).await, ["r"]);
    assert_eq!(log(&store, "r").await, []);
}
