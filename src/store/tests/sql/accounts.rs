//! What every [`Accounts`] does.

use std::collections::BTreeSet;
use std::sync::Arc;

use serde_json::{Map, Value, json};
use tollway_filter_api::accounts::{Accounts, AuditEntry, Change, Changed, Kind, Object, Wanted};
use tollway_filter_api::ledger::StoreError;
use tollway_store::sql::{BODY_MAX, TEXT_MAX};
use tollway_tests::gateway::PATIENCE;

use crate::place::Place;

pub(crate) fn object(kind: Kind, id: &str) -> Object {
    let body = json!({"models": ["gpt-4o"], "metadata": {"of": id}, "max_budget": 12.5});
    Object { kind, id: id.into(), alias: None, user: None, team: None, body: map(body), version: 0 }
}

fn map(value: Value) -> Map<String, Value> {
    value.as_object().expect("an object").clone()
}

fn key(id: &str, alias: Option<&str>, user: Option<&str>, team: Option<&str>) -> Object {
    let arc = |text: Option<&str>| text.map(Arc::from);
    Object { alias: arc(alias), user: arc(user), team: arc(team), ..object(Kind::Key, id) }
}

pub(crate) fn create(objects: impl IntoIterator<Item = Object>) -> Change {
    Change { create: objects.into_iter().collect(), ..Change::default() }
}

fn replace(objects: impl IntoIterator<Item = Object>) -> Change {
    Change { replace: objects.into_iter().collect(), ..Change::default() }
}

fn delete(kind: Kind, id: &str, version: u64) -> Change {
    Change { delete: vec![(kind, id.into(), version)], ..Change::default() }
}

fn entry(action: &str, id: &str) -> AuditEntry {
    AuditEntry {
        at_ms: 1_767_225_600_000,
        actor: "admin".into(),
        action: action.into(),
        kind: Kind::Key,
        id: id.into(),
        before: None,
        after: Some(json!({"blocked": false, "note": "zero \u{0} byte"})),
    }
}

async fn get(store: &impl Accounts, kind: Kind, id: &str) -> Option<Object> {
    store.get(kind, id).await.expect("it answers")
}

async fn changed(store: &impl Accounts, version: u64, limit: u64) -> Vec<Changed> {
    store.changed_since(version, limit).await.expect("it answers")
}

fn ids(objects: &[Object]) -> Vec<&str> {
    objects.iter().map(|object| object.id.as_ref()).collect()
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

pub(crate) async fn what_was_created_is_found(place: Place) {
    let store = place.open().await;
    let all = [
        key("k3", Some("ci"), Some("ann"), Some("dev")),
        key("k1", Some("web"), Some("ann"), None),
        key("k2", None, Some("bob"), Some("dev")),
        key("K0", None, None, None),
        Object { alias: Some("ci".into()), ..object(Kind::Team, "k1") },
    ];
    let version = store.change(create(all.clone())).await.expect("they are new");
    for object in &all {
        let expected = Object { version, ..object.clone() };
        assert_eq!(get(&store, object.kind, &object.id).await, Some(expected));
    }
    assert_eq!(get(&store, Kind::User, "k1").await, None);

    let list = async |wanted: Wanted| {
        let page = store.list(Kind::Key, Wanted { limit: 10, ..wanted }).await.expect("a page");
        assert_eq!(page.total, page.objects.len() as u64);
        ids(&page.objects).join(" ")
    };
    let some = |text: &str| Some(Arc::from(text));
    assert_eq!(list(Wanted::default()).await, "K0 k1 k2 k3");
    assert_eq!(list(Wanted { user: some("ann"), ..Wanted::default() }).await, "k1 k3");
    assert_eq!(list(Wanted { team: some("dev"), ..Wanted::default() }).await, "k2 k3");
    assert_eq!(list(Wanted { alias: some("web"), ..Wanted::default() }).await, "k1");
    let both = Wanted { user: some("bob"), team: some("dev"), ..Wanted::default() };
    assert_eq!(list(both).await, "k2");
    let none = Wanted { alias: some("web"), user: some("bob"), ..Wanted::default() };
    assert_eq!(list(none).await, "");

    let wanted = Wanted { skip: 1, limit: 2, ..Wanted::default() };
    let page = store.list(Kind::Key, wanted).await.expect("a page");
    assert_eq!((ids(&page.objects), page.total), (vec!["k1", "k2"], 4));

    // Another node, and the same one started anew, find the same.
    let other = place.open().await;
    assert_eq!(get(&other, Kind::Key, "k3").await, Some(Object { version, ..all[0].clone() }));
    store.close().await;
    assert_eq!(get(&other, Kind::Key, "k1").await, Some(Object { version, ..all[1].clone() }));
    let closed = store.get(Kind::Key, "k1").await;
    assert!(matches!(closed, Err(StoreError::Unavailable(_))), "{closed:?}");
}

pub(crate) async fn an_alias_belongs_to_one_object_of_its_kind(place: Place) {
    let store = place.open().await;
    let first = create([key("k1", Some("one"), None, None), key("k2", Some("two"), None, None)]);
    let version = store.change(first).await.expect("they are new");
    is_conflict(store.change(create([key("k3", Some("one"), None, None)])).await, "alias one");
    let both = create([key("k3", Some("new"), None, None), key("k4", Some("new"), None, None)]);
    is_conflict(store.change(both).await, "alias new");

    // Aliases change places within one change.
    let one = Object { version, ..key("k1", Some("two"), None, None) };
    let two = Object { version, ..key("k2", Some("one"), None, None) };
    let version = store.change(replace([one, two])).await.expect("they change places");
    let found = get(&store, Kind::Key, "k1").await.expect("it is there");
    assert_eq!(found.alias.as_deref(), Some("two"));

    // A new key takes the place of another: how keys are regenerated.
    let anew = Change {
        delete: vec![(Kind::Key, "k1".into(), version)],
        ..create([key("k5", Some("two"), None, None)])
    };
    store.change(anew).await.expect("the alias is free by then");
    assert_eq!(get(&store, Kind::Key, "k1").await, None);
    assert!(get(&store, Kind::Key, "k5").await.is_some());
}

pub(crate) async fn a_change_is_made_whole_or_not_at_all(place: Place) {
    let store = place.open().await;
    let version = store.change(create([object(Kind::Team, "t")])).await.expect("it is new");
    let half = Change {
        create: vec![object(Kind::User, "u")],
        replace: vec![Object { version, body: map(json!({})), ..object(Kind::Team, "t") }],
        delete: vec![(Kind::Key, "absent".into(), 1)],
        audit: vec![entry("created", "u")],
    };
    is_conflict(store.change(half).await, "absent is not there");
    assert_eq!(get(&store, Kind::User, "u").await, None);
    let team = get(&store, Kind::Team, "t").await.expect("it is there");
    assert_eq!(team, Object { version, ..object(Kind::Team, "t") });
    assert!(store.audit(None, None, 0, 10).await.expect("a log").is_empty());
    assert!(changed(&store, version, 10).await.is_empty());
}

pub(crate) async fn only_the_latest_version_can_be_replaced_or_deleted(place: Place) {
    let store = place.open().await;
    let first = store.change(create([object(Kind::User, "u")])).await.expect("it is new");
    is_conflict(store.change(create([object(Kind::User, "u")])).await, "u is there already");
    let with = |version, name: &str| Object {
        version,
        body: map(json!({"name": name})),
        ..object(Kind::User, "u")
    };
    let second = store.change(replace([with(first, "two")])).await.expect("it is the latest");
    assert!(second > first);
    is_conflict(store.change(replace([with(first, "late")])).await, "changed meanwhile");
    is_conflict(store.change(delete(Kind::User, "u", first)).await, "changed meanwhile");
    assert_eq!(get(&store, Kind::User, "u").await, Some(with(second, "two")));
    store.change(delete(Kind::User, "u", second)).await.expect("it is the latest");
    is_conflict(store.change(delete(Kind::User, "u", second)).await, "not there");
    is_conflict(store.change(replace([with(second, "late")])).await, "not there");
    let third = store.change(create([with(0, "anew")])).await.expect("it may come again");
    assert_eq!(get(&store, Kind::User, "u").await, Some(with(third, "anew")));
    let twice = create([with(0, "x"), with(0, "y")]);
    is_invalid(store.change(twice).await, "twice");
}

pub(crate) async fn changes_are_told_in_their_order(place: Place) {
    let store = place.open().await;
    assert!(changed(&store, 0, 10).await.is_empty());
    let mut versions = Vec::new();
    for id in ["a", "b", "c"] {
        versions.push(store.change(create([object(Kind::Key, id)])).await.expect("it is new"));
    }
    assert!(versions.is_sorted() && versions[0] > 0);
    let gone = store.change(delete(Kind::Key, "b", versions[1])).await.expect("it is there");
    let many: Vec<_> = (0..5).map(|n| object(Kind::User, &format!("u{n}"))).collect();
    let many = store.change(create(many)).await.expect("they are new");

    let told = |changed: &[Changed]| -> Vec<(u64, String, bool)> {
        changed.iter().map(|c| (c.version, c.id.to_string(), c.object.is_some())).collect()
    };
    // From the beginning: what is there.
    let all = changed(&store, 0, 100).await;
    let mut expected =
        vec![(versions[0], "a".to_owned(), true), (versions[2], "c".to_owned(), true)];
    expected.extend((0..5).map(|n| (many, format!("u{n}"), true)));
    assert_eq!(told(&all), expected);
    assert!(all.iter().all(|c| c.object.as_ref().is_some_and(|o| o.version == c.version)));
    // Later: what is gone as well.
    let later = changed(&store, versions[0], 2).await;
    let expected = vec![(versions[2], "c".to_owned(), true), (gone, "b".to_owned(), false)];
    assert_eq!(told(&later), expected);
    // What changed at once comes at once, and not before what fits.
    assert_eq!(told(&changed(&store, versions[2], 3).await), [(gone, "b".to_owned(), false)]);
    assert_eq!(changed(&store, gone, 3).await.len(), 5);
    assert!(changed(&store, many, 3).await.is_empty());

    // Step by step it is the same as at once.
    let (mut at, mut seen) = (0, Vec::new());
    loop {
        let page = changed(&store, at, 1).await;
        let Some(last) = page.last() else { break };
        assert!(last.version > at, "the next page goes on");
        at = last.version;
        seen.extend(told(&page));
    }
    let ids: Vec<_> = seen.iter().map(|(_, id, _)| id.as_str()).collect();
    assert_eq!(ids, ["a", "c", "b", "u0", "u1", "u2", "u3", "u4"]);
}

pub(crate) async fn changes_at_once_are_made_one_after_the_other(place: Place) {
    let stores = [place.open().await, place.open().await];
    let count = |n: u64| Object { body: map(json!({"n": n})), ..object(Kind::Budget, "b") };
    stores[0].change(create([count(0)])).await.expect("it is new");
    let tasks: Vec<_> = (0..8)
        .map(|task| {
            let store = stores[task % 2].clone();
            tokio::spawn(async move {
                let (mut versions, mut made_it) = (Vec::new(), 0);
                while versions.len() < 10 {
                    let found = get(&store, Kind::Budget, "b").await.expect("it is there");
                    let n = found.body["n"].as_u64().expect("a number");
                    match store
                        .change(replace([Object { version: found.version, ..count(n + 1) }]))
                        .await
                    {
                        Ok(version) => versions.push(version),
                        Err(StoreError::Conflict(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                for n in 0..5 {
                    let new = create([object(Kind::Tag, &format!("t{n}"))]);
                    match store.change(new).await {
                        Ok(_) => made_it += 1,
                        Err(StoreError::Conflict(_)) => {}
                        Err(error) => panic!("{error}"),
                    }
                }
                (versions, made_it)
            })
        })
        .collect();
    let (mut versions, mut made_it) = (BTreeSet::new(), 0);
    for task in tasks {
        let (own, made) = task.await.expect("no panic");
        versions.extend(own);
        made_it += made;
    }
    assert_eq!(versions.len(), 80, "each change has its own version");
    assert_eq!(made_it, 5, "each tag was made once");
    let found = get(&stores[1], Kind::Budget, "b").await.expect("it is there");
    assert_eq!(found.body["n"], 80);
}

pub(crate) async fn a_change_is_heard_of_by_every_node(place: Place) {
    let (here, there) = (place.open().await, place.open().await);
    let (mut here_hears, mut there_hears) = (here.changes(), there.changes());
    for n in 0..3 {
        let version =
            here.change(create([object(Kind::Key, &format!("{n}"))])).await.expect("it is new");
        assert_eq!(*here_hears.borrow_and_update(), version, "at once where it was made");
        let heard = there_hears.wait_for(|known| *known >= version);
        tokio::time::timeout(PATIENCE, heard).await.expect("soon").expect("the store is there");
        assert_eq!(changed(&there, version - 1, 10).await.len(), 1);
    }
    // A node that starts later knows where it begins.
    let later = place.open().await;
    assert_eq!(*later.changes().borrow(), *here_hears.borrow());
}

pub(crate) async fn the_audit_log_is_told_latest_first(place: Place) {
    let store = place.open().await;
    let first = AuditEntry { before: Some(json!([1, null])), ..entry("created", "k1") };
    let second = AuditEntry { kind: Kind::User, after: None, ..entry("blocked", "k1") };
    let third = entry("updated", "k2");
    let fourth = entry("deleted", "k1");
    for entries in [vec![first.clone(), second.clone()], vec![third.clone()], vec![fourth.clone()]]
    {
        let change = Change { audit: entries, ..Change::default() };
        store.change(change).await.expect("nothing is in its way");
    }
    let log = async |kind, id, skip, limit| {
        store.audit(kind, id, skip, limit).await.expect("the log can be read")
    };
    let all = [fourth.clone(), third.clone(), second.clone(), first.clone()];
    assert_eq!(log(None, None, 0, 10).await, all);
    assert_eq!(log(None, None, 1, 2).await, all[1..3]);
    assert_eq!(log(Some(Kind::Key), Some("k1"), 0, 10).await, [fourth.clone(), first.clone()]);
    assert_eq!(log(None, Some("k1"), 0, 10).await, [fourth, second.clone(), first]);
    assert_eq!(log(Some(Kind::User), None, 0, 10).await, [second]);

    // Whatever is done is in the log, however long its names.
    let long = "x\0".repeat(500_000);
    let absurd = AuditEntry { actor: long.as_str().into(), at_ms: u64::MAX, ..entry("a\0", &long) };
    let change = Change { audit: vec![absurd], ..Change::default() };
    store.change(change).await.expect("the log takes it");
    let found = log(None, Some(&long), 0, 10).await;
    assert_eq!(found.len(), 1);
    assert!(found[0].actor.len() <= TEXT_MAX && found[0].id.starts_with("x x x"));
}

pub(crate) async fn any_text_is_kept_or_refused_with_a_reason(place: Place) {
    let store = place.open().await;
    let texts = [
        "'; DROP TABLE tollway_objects; --",
        "\" OR 1=1 /*",
        "$1 ?1 :a @b %s {} \\",
        "Ünïcödé 🚗 \u{202e}\u{feff}",
        " \t\r\n\u{1}\u{7f}",
        "",
        "null",
    ];
    for text in texts {
        let odd = Object {
            body: map(json!({text: [text, {"deep": text}, "\u{0}", 1e300, u64::MAX, -0.5]})),
            ..key(text, Some(text), Some(text), Some(text))
        };
        let version = store.change(create([odd.clone()])).await.expect("it can be kept");
        assert_eq!(get(&store, Kind::Key, text).await, Some(Object { version, ..odd.clone() }));
        let some = Some(Arc::from(text));
        let wanted =
            Wanted { user: some.clone(), team: some.clone(), alias: some, skip: 0, limit: 9 };
        let page = store.list(Kind::Key, wanted).await.expect("a page");
        assert_eq!(page.objects, [Object { version, ..odd }]);
    }
    let (zero, long) = ("zero\0byte", "x".repeat(1_000_000));
    for text in [zero, long.as_str()] {
        is_invalid(store.change(create([object(Kind::Key, text)])).await, "the id of a key");
        is_invalid(store.change(create([key("k", Some(text), None, None)])).await, "the alias");
        is_invalid(store.change(create([key("k", None, Some(text), None)])).await, "the user");
        is_invalid(store.change(create([key("k", None, None, Some(text))])).await, "the team");
        is_conflict(store.change(delete(Kind::Key, text, 1)).await, "not there");
        assert_eq!(get(&store, Kind::Key, text).await, None);
        let wanted = Wanted { alias: Some(text.into()), limit: 10, ..Wanted::default() };
        assert!(store.list(Kind::Key, wanted).await.expect("a page").objects.is_empty());
        assert!(store.audit(None, Some(text), 0, 10).await.expect("a log").is_empty());
    }
    let with = |body: Value| Object { body: map(body), ..object(Kind::Key, "k") };
    let big = with(json!({"x": "x".repeat(BODY_MAX)}));
    is_invalid(store.change(create([big])).await, "bytes");
    let nested = (0..120).fold(json!(1), |inner, _| json!([inner]));
    is_invalid(store.change(create([with(json!({"x": nested}))])).await, "nested");
    let nested = (0..99).fold(json!(1), |inner, _| json!([inner]));
    let fits = with(json!({"y": nested, "x": "\u{0}".repeat(100_000)}));
    let version = store.change(create([fits.clone()])).await.expect("it can be kept");
    assert_eq!(get(&store, Kind::Key, "k").await, Some(Object { version, ..fits }));
    assert_eq!(changed(&store, 0, 100).await.len(), texts.len() + 1);
}

pub(crate) async fn nodes_may_start_at_once(place: Place) {
    let place = Arc::new(place);
    let nodes: Vec<_> = (0..5)
        .map(|n| {
            let place = Arc::clone(&place);
            tokio::spawn(async move {
                let store = place.open().await;
                let new = create([object(Kind::Key, &format!("{n}"))]);
                store.change(new).await.expect("it is new")
            })
        })
        .collect();
    let mut versions = BTreeSet::new();
    for node in nodes {
        versions.insert(node.await.expect("it starts"));
    }
    assert_eq!(versions.into_iter().collect::<Vec<_>>(), [1, 2, 3, 4, 5]);
}
