//! What every [`Ledger`] does.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::TestRunner;
use tollway_filter_api::ledger::{Dimension, Entry, Ledger, Span, SpendFilter, SpendRecord, Sum};
use tollway_store::sql::{TAGS_MAX, TEXT_MAX, TOKENS_MAX, fit};
use tollway_wire::price::PicoDollars;
use tollway_wire::usage::Usage;

use crate::place::Place;

const MINUTE: u64 = 60_000;
const HOUR: u64 = 60 * MINUTE;
const DAY: u64 = 24 * HOUR;
/// 2026-01-01T00:00:00Z.
const NEW_YEAR: u64 = 1_767_225_600_000;

const SPANS: [Span; 4] = [Span::Minute, Span::Hour, Span::Day, Span::All];

fn arc(text: &str) -> Option<Arc<str>> {
    Some(text.into())
}

/// A record with something in every field.
pub(crate) fn record(n: u64) -> SpendRecord {
    SpendRecord {
        request_id: format!("req-{n}").into(),
        operation: "chat_completions".into(),
        key: "88dc28d0f030c55ed4ab77ed8faf098196cb1c05df778539800c9f1243fe6b4b".into(),
        key_alias: arc("ci"),
        user: arc("ann"),
        team: arc("dev"),
        end_user: arc("customer-7"),
        tags: vec!["nightly".into(), "batch".into()],
        group: "gpt-4o".into(),
        model: "openai/gpt-4o-2024-08-06".into(),
        model_id: "7c1d".into(),
        provider: "openai".into(),
        api_base: "https://api.openai.com/v1".into(),
        started_ms: NEW_YEAR + n * 7_001,
        first_byte_ms: Some(NEW_YEAR + n * 7_001 + 400),
        ended_ms: NEW_YEAR + n * 7_001 + 3_000,
        usage: Usage {
            prompt_tokens: 1_000 + n,
            completion_tokens: 20 + n,
            reasoning_tokens: 3,
            ..Usage::default()
        },
        usage_estimated: n.is_multiple_of(2),
        cost: PicoDollars(2_700_000_123 + n),
        unpriced: false,
        cache_hit: n.is_multiple_of(5),
        status: if n.is_multiple_of(3) { 500 } else { 200 },
        client: arc("192.0.2.1"),
    }
}

pub(crate) fn entries(seqs: impl IntoIterator<Item = u64>) -> Vec<Entry> {
    seqs.into_iter().map(|seq| Entry { seq, record: record(seq) }).collect()
}

async fn append(store: &impl Ledger, node: &str, entries: &[Entry]) {
    store.append(node, entries).await.expect("it is written");
}

async fn records(store: &impl Ledger, filter: SpendFilter) -> Vec<SpendRecord> {
    store.records(filter, 0, 1_000_000).await.expect("records")
}

async fn sums(store: &impl Ledger, by: Dimension, span: Span, from: u64, to: u64) -> Vec<Sum> {
    store.sums(by, span, from, to).await.expect("sums")
}

/// What all of it costs, and how many calls it was.
pub(crate) async fn total(store: &impl Ledger) -> (u64, u128) {
    let all = sums(store, Dimension::Total, Span::All, 0, u64::MAX).await;
    all.first().map_or((0, 0), |sum| (sum.calls, sum.cost))
}

/// The sums of records, as a child would make them.
fn naive(records: &[SpendRecord], by: Dimension, span: Span, from: u64, to: u64) -> Vec<Sum> {
    let mut sums: BTreeMap<(u64, String), Sum> = BTreeMap::new();
    let name = |text: &Option<Arc<str>>| text.as_deref().unwrap_or_default().to_owned();
    let both = |one: &Option<Arc<str>>, two: Option<&Arc<str>>| match (one, two) {
        (Some(one), Some(two)) if !one.is_empty() => vec![format!("{one}\0{two}")],
        _ => Vec::new(),
    };
    for record in records.iter().filter(|record| (from..to).contains(&record.started_ms)) {
        let start_ms = match span {
            Span::Minute => record.started_ms / MINUTE * MINUTE,
            Span::Hour => record.started_ms / HOUR * HOUR,
            Span::Day => record.started_ms / DAY * DAY,
            Span::All => 0,
        };
        let subjects = match by {
            Dimension::Total => vec![String::new()],
            Dimension::Key => vec![record.key.to_string()],
            Dimension::User => vec![name(&record.user)],
            Dimension::Team => vec![name(&record.team)],
            Dimension::EndUser => vec![name(&record.end_user)],
            Dimension::Model => vec![record.group.to_string()],
            Dimension::Provider => vec![record.provider.to_string()],
            Dimension::Tag if record.tags.is_empty() => vec![String::new()],
            Dimension::Tag => {
                let tags: BTreeSet<_> = record.tags.iter().map(ToString::to_string).collect();
                tags.into_iter().collect()
            }
            Dimension::KeyModel => vec![format!("{}\0{}", record.key, record.group)],
            Dimension::TeamModel => both(&record.team, Some(&record.group)),
            Dimension::UserModel => both(&record.user, Some(&record.group)),
            Dimension::TeamMember => {
                both(&record.team, record.user.as_ref().filter(|user| !user.is_empty()))
            }
            Dimension::Deployment if record.model_id.is_empty() => Vec::new(),
            Dimension::Deployment => vec![record.model_id.to_string()],
        };
        for subject in subjects {
            let sum = sums.entry((start_ms, subject.clone())).or_insert_with(|| Sum {
                start_ms,
                subject: subject.into(),
                calls: 0,
                failed: 0,
                cache_hits: 0,
                prompt_tokens: 0,
                completion_tokens: 0,
                cost: 0,
            });
            sum.calls += 1;
            sum.failed += u64::from(record.status < 200 || record.status >= 400);
            sum.cache_hits += u64::from(record.cache_hit);
            sum.prompt_tokens += record.usage.prompt_tokens.min(TOKENS_MAX);
            sum.completion_tokens += record.usage.completion_tokens.min(TOKENS_MAX);
            sum.cost += u128::from(record.cost.0);
        }
    }
    sums.into_values().collect()
}

/// Asserts that all sums are those of these records, whichever way they are made.
pub(crate) async fn is_sum_of(store: &impl Ledger, records: &[SpendRecord]) {
    for by in Dimension::ALL {
        for span in SPANS {
            let expected = naive(records, by, span, 0, u64::MAX);
            assert_eq!(sums(store, by, span, 0, u64::MAX).await, expected, "{by:?} {span:?}");
        }
    }
}

pub(crate) async fn a_record_comes_back_as_it_was(place: Place) {
    let store = place.open().await;
    assert_eq!(store.last_seq("node-1").await.expect("it answers"), None);
    let sparse = SpendRecord { started_ms: NEW_YEAR, ..SpendRecord::default() };
    let mut all = entries([2, 9]);
    all.push(Entry { seq: 11, record: sparse });
    append(&store, "node-1", &all).await;
    let found = records(&store, SpendFilter::default()).await;
    let expected: Vec<_> = [&all[1], &all[0], &all[2]].map(|entry| entry.record.clone()).into();
    assert_eq!(found, expected, "the latest first");
    assert_eq!(store.last_seq("node-1").await.expect("it answers"), Some(11));
    assert_eq!(store.last_seq("node-2").await.expect("it answers"), None);
    append(&store, "node-1", &[]).await;
    let other = place.open().await;
    assert_eq!(records(&other, SpendFilter::default()).await, expected);
}

pub(crate) async fn records_are_found_by_all_that_is_asked(place: Place) {
    let store = place.open().await;
    let pick = |n: u64, among: &[&'static str]| among[n as usize % among.len()];
    let all: Vec<Entry> = (1..=120)
        .map(|seq| {
            let mut record = record(seq);
            record.key = pick(seq, &["key-a", "key-b"]).into();
            record.user = [None, arc("ann"), arc("bob")][seq as usize % 3].clone();
            record.team = [None, arc("dev")][seq as usize % 2].clone();
            record.end_user = arc(pick(seq, &["x", "y", "z", "x", "y"]));
            record.group = pick(seq, &["small", "large"]).into();
            record.tags = (0..seq % 4).map(|n| format!("tag-{n}").into()).collect();
            Entry { seq, record }
        })
        .collect();
    append(&store, "node", &all).await;
    let filters = [
        SpendFilter { request_id: arc("req-17"), ..SpendFilter::default() },
        SpendFilter { key: arc("key-a"), ..SpendFilter::default() },
        SpendFilter { user: arc("bob"), ..SpendFilter::default() },
        SpendFilter { team: arc("dev"), ..SpendFilter::default() },
        SpendFilter { end_user: arc("x"), ..SpendFilter::default() },
        SpendFilter { tag: arc("tag-1"), ..SpendFilter::default() },
        SpendFilter { group: arc("large"), ..SpendFilter::default() },
        SpendFilter { tag: arc("tag-2"), user: arc("ann"), ..SpendFilter::default() },
        SpendFilter { key: arc("key-b"), tag: arc("tag-0"), ..SpendFilter::default() },
        SpendFilter { key: arc("' OR ''='"), ..SpendFilter::default() },
        SpendFilter { tag: arc("zero\0byte"), ..SpendFilter::default() },
        SpendFilter::default(),
    ];
    let times = [None, Some(all[30].record.started_ms), Some(all[90].record.started_ms)];
    let is = |wanted: &Option<Arc<str>>, is: Option<&Arc<str>>| {
        wanted.is_none() || wanted.as_ref() == is
    };
    for filter in filters {
        for (from_ms, to_ms) in [(times[0], times[2]), (times[1], times[0]), (times[1], times[2])] {
            let filter = SpendFilter { from_ms, to_ms, ..filter.clone() };
            let wanted = |record: &SpendRecord| {
                is(&filter.request_id, Some(&record.request_id))
                    && is(&filter.key, Some(&record.key))
                    && is(&filter.user, record.user.as_ref())
                    && is(&filter.team, record.team.as_ref())
                    && is(&filter.end_user, record.end_user.as_ref())
                    && is(&filter.group, Some(&record.group))
                    && filter.tag.as_ref().is_none_or(|tag| record.tags.contains(tag))
                    && record.started_ms >= from_ms.unwrap_or(0)
                    && record.started_ms < to_ms.unwrap_or(u64::MAX)
            };
            let records = || all.iter().rev().map(|entry| &entry.record);
            let expected: Vec<_> = records().filter(|record| wanted(record)).cloned().collect();
            let found = store.records(filter.clone(), 0, 1_000).await.expect("records");
            assert_eq!(found, expected, "{filter:?}");
            let some = store.records(filter.clone(), 3, 4).await.expect("records");
            let expected: Vec<_> = expected.into_iter().skip(3).take(4).collect();
            assert_eq!(some, expected, "{filter:?}");
        }
    }
}

pub(crate) async fn what_is_sent_again_counts_once(place: Place) {
    let store = place.open().await;
    append(&store, "node", &entries(1..=700)).await;
    // All of it, a part and more, in another order, and one twice in a batch.
    append(&store, "node", &entries(1..=700)).await;
    append(&store, "node", &entries(650..=800)).await;
    append(&store, "node", &entries((790..=810).rev())).await;
    let mut twice = entries([811, 811]);
    twice[1].record.cost = PicoDollars(1);
    append(&store, "node", &twice).await;
    // What has the same number and says otherwise is left as it was.
    let mut other = entries([5]);
    other[0].record = record(9_999);
    append(&store, "node", &other).await;

    let all: Vec<_> = (1..=811).map(record).collect();
    assert_eq!(records(&store, SpendFilter::default()).await.len(), 811);
    is_sum_of(&store, &all).await;
    assert_eq!(store.last_seq("node").await.expect("it answers"), Some(811));
    // What comes late is no less welcome.
    append(&store, "other", &entries([50, 7])).await;
    append(&store, "other", &entries([8])).await;
    assert_eq!(store.last_seq("other").await.expect("it answers"), Some(50));
    assert_eq!(total(&store).await.0, 814);
}

pub(crate) async fn nodes_that_write_at_once_lose_nothing(place: Place) {
    let stores = [place.open().await, place.open().await];
    // Two nodes, and one of them started twice; all of them spend on the same.
    let writers: Vec<_> = [("one", 0), ("two", 1), ("two", 0), ("one", 1)]
        .into_iter()
        .map(|(node, store)| {
            let store = stores[store].clone();
            tokio::spawn(async move {
                for batch in 0..12 {
                    append(&store, node, &entries(batch * 40 + 1..=batch * 40 + 60)).await;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.expect("no panic");
    }
    let all: Vec<_> = (1..=500).chain(1..=500).map(record).collect();
    is_sum_of(&stores[0], &all).await;
    assert_eq!(records(&stores[1], SpendFilter::default()).await.len(), 1_000);
    for node in ["one", "two"] {
        assert_eq!(stores[0].last_seq(node).await.expect("it answers"), Some(500));
    }
}

/// Times of four days, where days, hours and minutes begin above all.
fn time() -> impl Strategy<Value = u64> {
    let around = |step: u64| {
        (0..4 * DAY / step, 0..3u64).prop_map(move |(n, off)| NEW_YEAR + n * step + off - 1)
    };
    prop_oneof![around(DAY), around(HOUR), around(MINUTE), (0..4 * DAY).prop_map(|n| NEW_YEAR + n)]
}

fn name() -> impl Strategy<Value = Arc<str>> {
    prop::sample::select(vec!["", "a", "ab", "b", "b'", "ü"]).prop_map(Arc::from)
}

fn any_record() -> impl Strategy<Value = SpendRecord> {
    let count = || prop_oneof![0..5_000u64, Just(u64::MAX)];
    let cost = prop_oneof![0..3_000_000_000u64, any::<u64>(), Just(u64::MAX)];
    let names = (name(), prop::option::of(name()), prop::option::of(name()), name(), name());
    let rest = (prop::option::of(name()), prop::collection::vec(name(), 0..4));
    let status = prop::sample::select(vec![0u16, 200, 302, 400, 429, 500]);
    (time(), cost, count(), count(), names, rest, status, any::<bool>()).prop_map(
        |(started_ms, cost, prompt, completion, names, (end_user, tags), status, cache_hit)| {
            let (key, user, team, group, provider) = names;
            SpendRecord {
                started_ms,
                cost: PicoDollars(cost),
                usage: Usage {
                    prompt_tokens: prompt,
                    completion_tokens: completion,
                    ..Usage::default()
                },
                key,
                user,
                team,
                group,
                provider,
                end_user,
                tags,
                status,
                cache_hit,
                ..SpendRecord::default()
            }
        },
    )
}

pub(crate) async fn sums_are_those_of_the_records(place: Place) {
    let store = place.open().await;
    let mut runner = TestRunner::default();
    let mut all = Vec::new();
    let batches = prop::collection::vec(any_record(), 1..60);
    for round in 0..5 {
        let batch = batches.new_tree(&mut runner).expect("records").current();
        let first = all.len() as u64 + 1;
        all.extend(batch.iter().cloned());
        let batch: Vec<_> = batch
            .into_iter()
            .enumerate()
            .map(|(n, record)| Entry { seq: first + n as u64, record })
            .collect();
        append(&store, if round % 2 == 0 { "even" } else { "odd" }, &batch).await;
        is_sum_of(&store, &all).await;
        for _ in 0..6 {
            let (a, b) = (time(), time()).new_tree(&mut runner).expect("times").current();
            for by in Dimension::ALL {
                for span in SPANS {
                    let expected = naive(&all, by, span, a, b);
                    let found = sums(&store, by, span, a, b).await;
                    assert_eq!(found, expected, "{by:?} {span:?} {a} {b} of {all:?}");
                }
            }
        }
    }
}

pub(crate) async fn sums_stay_when_records_are_forgotten(place: Place) {
    let store = place.open().await;
    let all = entries(1..=300);
    append(&store, "node", &all).await;
    let spent = |entries: &[Entry]| -> Vec<_> {
        entries.iter().map(|entry| entry.record.clone()).collect()
    };
    // Within a minute.
    let line = all[199].record.started_ms;
    assert_ne!(line % MINUTE, 0);
    assert_eq!(store.forget(line).await.expect("it forgets"), 199);
    assert_eq!(store.forget(line).await.expect("it forgets"), 0);
    assert_eq!(store.forget(0).await.expect("it forgets"), 0);
    assert_eq!(records(&store, SpendFilter::default()).await.len(), 101);
    let tagged = SpendFilter { tag: arc("nightly"), ..SpendFilter::default() };
    assert_eq!(records(&store, tagged).await.len(), 101);
    is_sum_of(&store, &spent(&all)).await;

    // What is gone is not taken for new when it is sent again, and what was never there is.
    append(&store, "node", &all).await;
    let mut late = entries([500]);
    late[0].record.started_ms = NEW_YEAR + 1;
    append(&store, "node", &late).await;
    append(&store, "node", &late).await;
    append(&store, "new", &late).await;
    let mut whole = spent(&all);
    whole.extend([late[0].record.clone(), late[0].record.clone()]);
    is_sum_of(&store, &whole).await;
    assert_eq!(store.last_seq("node").await.expect("it answers"), Some(500));
    assert_eq!(store.forget(line).await.expect("it forgets"), 2);
    append(&store, "node", &late).await;
    is_sum_of(&store, &whole).await;

    // Behind the line times are told to the minute, and two neighbours are what both are together.
    let middle = line - 10 * MINUTE;
    let before = sums(&store, Dimension::Total, Span::All, 0, middle).await;
    let after = sums(&store, Dimension::Total, Span::All, middle, u64::MAX).await;
    let cut = naive(&whole, Dimension::Total, Span::All, 0, middle / MINUTE * MINUTE);
    assert_eq!(before, cut);
    assert_eq!(before[0].cost + after[0].cost, total(&store).await.1);
    // Before it, exactly.
    let later = line + 3 * MINUTE + 7;
    let expected = naive(&whole, Dimension::Key, Span::Minute, later, u64::MAX);
    assert_eq!(sums(&store, Dimension::Key, Span::Minute, later, u64::MAX).await, expected);

    // A node that is long forgotten is not known as new.
    assert_eq!(store.forget(u64::MAX).await.expect("it forgets"), 101);
    append(&store, "node", &all).await;
    is_sum_of(&store, &whole).await;
}

pub(crate) async fn no_record_can_stop_those_behind_it(place: Place) {
    let store = place.open().await;
    let texts = [
        "zero\0byte".to_owned(),
        "\0".to_owned(),
        "x".repeat(1_000_000),
        "🚗".repeat(200_000),
        "'; DROP TABLE tollway_spend; --".to_owned(),
        "\\u0000 \\ \" $1 ?1 \u{202e}\u{1}".to_owned(),
    ];
    let mut all = Vec::new();
    for text in &texts {
        let text: Arc<str> = text.as_str().into();
        let maybe = Some(Arc::clone(&text));
        let odd = SpendRecord {
            request_id: Arc::clone(&text),
            operation: Arc::clone(&text),
            key: Arc::clone(&text),
            key_alias: maybe.clone(),
            user: maybe.clone(),
            team: maybe.clone(),
            end_user: maybe.clone(),
            tags: vec![Arc::clone(&text); 3],
            group: Arc::clone(&text),
            model: Arc::clone(&text),
            model_id: Arc::clone(&text),
            provider: Arc::clone(&text),
            api_base: Arc::clone(&text),
            client: maybe,
            ..record(1)
        };
        all.push(odd);
    }
    let tags = (0..100_000).map(|n| Arc::from(format!("tag {n}"))).collect();
    all.push(SpendRecord { tags, ..record(2) });
    let most = Usage { prompt_tokens: u64::MAX, pixels: u64::MAX, ..record(3).usage };
    all.push(SpendRecord {
        started_ms: u64::MAX,
        first_byte_ms: Some(u64::MAX),
        ended_ms: u64::MAX,
        cost: PicoDollars(u64::MAX),
        usage: most,
        status: u16::MAX,
        ..record(3)
    });
    let odd: Vec<_> =
        all.iter().zip(1..).map(|(record, seq)| Entry { seq, record: record.clone() }).collect();
    append(&store, "node\0", &odd).await;
    append(&store, "node\0", &odd).await;
    append(&store, "node\0", &entries(100..110)).await;
    let count = all.len() as u64 + 10;
    let others: Vec<_> = (100..110).map(record).collect();
    let cost = all.iter().chain(&others).map(|record| u128::from(record.cost.0)).sum();
    assert_eq!(total(&store).await, (count, cost));
    assert_eq!(store.last_seq("node\0").await.expect("it answers"), Some(109));
    assert_eq!(store.last_seq("node ").await.expect("it answers"), None);

    for text in &texts {
        let text = Some(Arc::from(text.as_str()));
        let filter =
            SpendFilter { user: text.clone(), tag: text.clone(), ..SpendFilter::default() };
        let found = records(&store, filter).await;
        assert_eq!(found.len(), 1);
        let kept = fit(text.as_deref().unwrap_or_default());
        assert!(found[0].key.len() <= TEXT_MAX);
        assert_eq!(found[0].key.as_ref(), kept);
        assert_eq!(found[0].client.as_deref(), Some(kept.as_ref()));
        let by_team = sums(&store, Dimension::Team, Span::All, 0, u64::MAX).await;
        assert_eq!(by_team.iter().filter(|sum| *sum.subject == *kept).count(), 1);
    }
    let filter = SpendFilter { request_id: arc("req-2"), ..SpendFilter::default() };
    assert_eq!(records(&store, filter).await[0].tags.len(), TAGS_MAX);
    let filter = SpendFilter { request_id: arc("req-3"), ..SpendFilter::default() };
    assert_eq!(records(&store, filter).await, [all[all.len() - 1].clone()]);

    // Numbers without end.
    append(&store, "far", &entries([7])).await;
    let far = [Entry { seq: u64::MAX, record: record(9) }];
    append(&store, "far", &far).await;
    append(&store, "far", &entries([8])).await;
    append(&store, "far", &far).await;
    assert_eq!(store.last_seq("far").await.expect("it answers"), Some(u64::MAX));
    assert_eq!(total(&store).await.0, count + 3);
    assert!(
        store.records(SpendFilter::default(), u64::MAX, u64::MAX).await.expect("none").is_empty()
    );
}

pub(crate) async fn a_record_that_the_database_refuses_is_stored_without_its_texts(place: Place) {
    let store = place.open().await;
    // Nothing is known that it would refuse, so it is told to.
    place
        .execute(
            "CREATE TRIGGER refuses BEFORE INSERT ON tollway_spend WHEN NEW.user_id = 'poison' \
             BEGIN SELECT RAISE(ABORT, 'refused'); END",
            "ALTER TABLE tollway_spend ADD CHECK (user_id <> 'poison')",
        )
        .await;
    let mut all = entries(1..=50);
    for poisoned in [6, 7, 40] {
        all[poisoned].record.user = arc("poison");
    }
    append(&store, "node", &all).await;
    append(&store, "node", &all).await;
    let mut found = records(&store, SpendFilter::default()).await;
    found.reverse();
    for (found, Entry { seq, record }) in found.iter().zip(&all) {
        if [7, 8, 41].contains(seq) {
            assert_eq!((&*found.request_id, &found.user, &*found.key), ("", &None, ""));
            assert_eq!((found.cost, found.usage), (record.cost, record.usage));
            assert_eq!((found.started_ms, found.status), (record.started_ms, record.status));
        } else {
            assert_eq!(found, record);
        }
    }
    is_sum_of(&store, &found).await;
    let cost = all.iter().map(|entry| u128::from(entry.record.cost.0)).sum();
    assert_eq!(total(&store).await, (50, cost));
}

pub(crate) async fn sums_can_be_more_than_a_record_can_say(place: Place) {
    let store = place.open().await;
    let all: Vec<_> = (1..=1_200)
        .map(|seq| Entry { seq, record: SpendRecord { cost: PicoDollars(u64::MAX), ..record(1) } })
        .collect();
    append(&store, "node", &all).await;
    assert_eq!(total(&store).await, (1_200, 1_200 * u128::from(u64::MAX)));
    // From the records as well.
    let at = record(1).started_ms;
    let sums = sums(&store, Dimension::Total, Span::All, at, at + 1).await;
    assert_eq!(sums[0].cost, 1_200 * u128::from(u64::MAX));
}
