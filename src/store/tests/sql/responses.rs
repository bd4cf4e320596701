//! What every [`ResponseStore`] does.

use std::sync::Arc;

use bytes::Bytes;
use tollway_filter_api::KeyHash;
use tollway_filter_api::responses::{
    Abandoned, Maker, ResponseRow, ResponseStore, StoredResponse, Written,
};
use tollway_store::sql::SqlStore;

use crate::place::Place;

const NOW: u64 = 1_767_225_600_000;

fn response(text: &str) -> StoredResponse {
    StoredResponse {
        tenant: Some(KeyHash([7; 32])),
        deployment: None,
        original: None,
        response: Bytes::copy_from_slice(text.as_bytes()),
        items: Bytes::from_static(b"[]"),
        events: None,
        is_open: false,
        expires_ms: NOW + 1_000,
    }
}

fn open(text: &str) -> StoredResponse {
    StoredResponse { is_open: true, ..response(text) }
}

fn row(id: &str, is_new: bool, response: StoredResponse) -> ResponseRow {
    ResponseRow { id: id.into(), response: Arc::new(response), is_new }
}

fn maker(node: &str, process: &str) -> Maker {
    Maker { node: node.into(), process: process.into() }
}

async fn write(store: &SqlStore, rows: &[ResponseRow]) -> Vec<Written> {
    write_as(store, &maker("node", "process"), rows).await
}

async fn write_as(store: &SqlStore, maker: &Maker, rows: &[ResponseRow]) -> Vec<Written> {
    store.write(rows, maker, NOW + 60_000).await.expect("it writes")
}

async fn get(store: &SqlStore, id: &str) -> Option<StoredResponse> {
    store.get(id, NOW).await.expect("it answers")
}

async fn text(store: &SqlStore, id: &str) -> String {
    let found = get(store, id).await.expect("it is there");
    String::from_utf8(found.response.to_vec()).expect("text")
}

pub(crate) async fn a_response_comes_back_as_it_was(place: Place) {
    let store = place.open().await;
    let large = format!("{{\"text\": \"{}\"}}", "é\\u0000🦀".repeat(1_000_000));
    let all = [
        ("plain", response("{}")),
        (
            "full",
            StoredResponse {
                tenant: None,
                original: Some(("azure".into(), "resp_other".into())),
                deployment: Some("openai-main".into()),
                events: Some(Bytes::from_static(b"event: a\ndata: {\"b\": \"\\ud800\"}\n\n")),
                items: Bytes::from_static("[{\"a\": \"é\u{1}\"}]".as_bytes()),
                ..open("{\"status\": \"queued\"}")
            },
        ),
        ("lost", StoredResponse { events: Some(Bytes::new()), ..response("{}") }),
        ("large", response(&large)),
    ];
    let rows: Vec<_> = all.iter().map(|(id, kept)| row(id, true, kept.clone())).collect();
    assert_eq!(write(&store, &rows).await, [Written::Kept; 4]);
    for store in [&store, &place.open().await] {
        for (id, kept) in &all {
            assert!(get(store, id).await.as_ref() == Some(kept), "{id}");
            assert!(store.is_there(id, NOW).await.expect("it answers"));
        }
        for id in ["absent", "FULL", "zero\0", ""] {
            assert_eq!(get(store, id).await, None);
            assert!(!store.is_there(id, NOW).await.expect("it answers"));
        }
    }
    assert!(write(&store, &[]).await.is_empty());
}

pub(crate) async fn what_was_removed_is_not_written_again(place: Place) {
    let store = place.open().await;
    let written = write(&store, &[row("a", true, open("1")), row("b", true, open("1"))]).await;
    assert_eq!(written, [Written::Kept; 2]);
    store.remove("a").await.expect("it is removed");
    store.remove("zero\0").await.expect("nothing is removed");
    let later = [row("a", false, response("2")), row("b", false, response("2"))];
    assert_eq!(write(&store, &later).await, [Written::Gone, Written::Kept]);
    assert_eq!(get(&store, "a").await, None);
    assert_eq!(get(&store, "b").await, Some(response("2")));

    // Nor does anybody else's take its place.
    let other = StoredResponse { tenant: Some(KeyHash([8; 32])), ..response("other") };
    for is_new in [true, false] {
        assert_eq!(write(&store, &[row("b", is_new, other.clone())]).await, [Written::Gone]);
    }
    assert_eq!(text(&store, "b").await, "2");
    assert_eq!(write(&store, &[row("b", true, response("3"))]).await, [Written::Kept]);
    assert_eq!(text(&store, "b").await, "3");
}

pub(crate) async fn a_response_that_is_refused_stops_no_other(place: Place) {
    let store = place.open().await;
    let zero = StoredResponse { events: Some(Bytes::from_static(b"a\0b")), ..response("{}") };
    let no_text = StoredResponse { items: Bytes::from_static(b"\xff"), ..response("{}") };
    let rows = [
        row("first", true, response("{}")),
        row("no text", true, no_text),
        row("zero\0", true, response("{}")),
        row("second", true, response("{}")),
        row("zero", true, zero),
        row("third", true, response("{}")),
    ];
    let written = write(&store, &rows).await;
    for (row, became) in rows.iter().zip(written) {
        match &*row.id {
            "first" | "second" | "third" => {
                assert_eq!(became, Written::Kept);
                assert!(get(&store, &row.id).await.is_some());
            }
            // SQLite keeps a zero byte.
            "zero" if became == Written::Kept => assert!(get(&store, "zero").await.is_some()),
            id => assert_eq!(became, Written::Refused, "{id}"),
        }
    }
}

pub(crate) async fn what_nobody_makes_any_more_is_ended_once(place: Place) {
    let store = place.open().await;
    let (old, new) = (maker("node", "old"), maker("node", "new"));
    let (other, third) = (maker("other", "of other"), maker("third", "of third"));
    write_as(&store, &old, &[row("mine", true, open("1")), row("done", true, response("1"))]).await;
    write_as(&store, &new, &[row("making", true, open("1"))]).await;
    write_as(&store, &other, &[row("others", true, open("1"))]).await;

    let abandoned = async |maker: &Maker, now_ms| {
        let found = store.abandoned(maker, now_ms, 10).await.expect("it answers");
        let mut found: Vec<Abandoned> = found;
        found.sort_by(|a, b| a.id.cmp(&b.id));
        found
    };
    let ids = |found: &[Abandoned]| found.iter().map(|one| one.id.to_string()).collect::<Vec<_>>();
    let mine = abandoned(&new, NOW).await;
    assert_eq!(ids(&mine), ["mine"]);
    assert_eq!(&mine[0].response[..], b"1");
    // Those of other nodes are theirs for as long as they hold them.
    assert!(abandoned(&third, NOW + 59_999).await.is_empty());
    assert_eq!(ids(&abandoned(&third, NOW + 60_000).await), ["making", "mine", "others"]);
    store.hold("of other", NOW + 90_000).await.expect("it is held");
    assert_eq!(ids(&abandoned(&third, NOW + 60_000).await), ["making", "mine"]);

    store.end(&mine[0], "ended").await.expect("it is ended");
    store.end(&mine[0], "twice").await.expect("nothing changes");
    assert_eq!(get(&store, "mine").await, Some(response("ended")));
    assert!(abandoned(&new, NOW).await.is_empty());
}

pub(crate) async fn whoever_makes_a_response_hears_what_others_were_asked(place: Place) {
    let store = place.open().await;
    let rows = ["a", "b", "c"].map(|id| row(id, true, open("1")));
    write(&store, &rows).await;
    write(&store, &[row("c", false, response("2"))]).await;
    let made = async || {
        let mut made = store.made_by("process").await.expect("it answers");
        made.sort();
        made
    };
    assert_eq!(made().await, [("a".into(), false), ("b".into(), false)]);
    let elsewhere = place.open().await;
    elsewhere.cancel("a").await.expect("it is told");
    elsewhere.cancel("c").await.expect("nothing is told");
    elsewhere.cancel("absent").await.expect("nothing is told");
    elsewhere.remove("b").await.expect("it is removed");
    assert_eq!(made().await, [("a".into(), true)]);
    assert!(store.made_by("another").await.expect("it answers").is_empty());
}

pub(crate) async fn responses_whose_time_is_over_are_removed_step_by_step(place: Place) {
    let store = place.open().await;
    let until = |n: u64| StoredResponse { expires_ms: NOW + n, ..response("{}") };
    let rows: Vec<_> = (0..10).map(|n| row(&n.to_string(), true, until(n))).collect();
    write(&store, &rows).await;
    // They are not found before that, either.
    let found = store.get("4", NOW + 4).await.expect("it answers");
    assert_eq!(found, None);
    assert!(!store.is_there("4", NOW + 4).await.expect("it answers"));
    assert!(store.is_there("5", NOW + 4).await.expect("it answers"));
    for (limit, expect) in [(3, 3), (3, 2), (3, 0)] {
        assert_eq!(store.forget(NOW + 4, limit).await.expect("they go"), expect);
    }
    for n in 0..10_u64 {
        let is_there = store.is_there(&n.to_string(), 0).await.expect("it answers");
        assert_eq!(is_there, n > 4, "{n}");
    }
}
