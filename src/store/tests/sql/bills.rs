//! What every store does with the bill of a batch.

use futures_util::future::join_all;
use tollway_filter_api::documents::{Collection, Document, Documents};
use tollway_filter_api::ledger::{Dimension, Ledger, Span, SpendFilter, SpendRecord, StoreError};
use tollway_store::sql::SqlStore;
use tollway_wire::price::PicoDollars;

use crate::documents::{put, run};
use crate::place::Place;

async fn begun(store: &SqlStore, id: &str) -> Document {
    let document = Document { collection: Collection::Batch, ..run(id) };
    let versions = store.write(put([document.clone()])).await.expect("nothing is in its way");
    Document { version: versions[0], ..document }
}

fn record(id: &str, cost: u64) -> SpendRecord {
    let started_ms = 1_767_225_600_000;
    SpendRecord {
        request_id: id.into(),
        cost: PicoDollars(cost),
        started_ms,
        ..SpendRecord::default()
    }
}

async fn lines(store: &SqlStore, id: &str) -> usize {
    let filter = SpendFilter { request_id: Some(id.into()), ..SpendFilter::default() };
    store.records(filter, 0, 100).await.expect("it answers").len()
}

pub(crate) async fn of_many_who_bill_the_same_one_does(place: Place) {
    let stores = [place.open().await, place.open().await];
    let mut batches = Vec::new();
    for at in 0..4 {
        batches.push(begun(&stores[0], &format!("batch_{at}")).await);
    }
    let billing = batches.iter().flat_map(|batch| {
        (0..8).map(|at| {
            let settled = Document { state: "billed".into(), ..batch.clone() };
            // Two models each, and another number of records from each that tries.
            let records = vec![record(&batch.id, 5), record(&batch.id, 7)];
            let store = stores[at % 2].clone();
            async move { store.bill(&settled, records).await }
        })
    });
    let billed = join_all(billing).await;
    assert_eq!(billed.iter().filter(|billed| billed.is_ok()).count(), 4);
    let is_conflict =
        |billed: &&Result<(), StoreError>| matches!(billed, Err(StoreError::Conflict(_)));
    assert_eq!(billed.iter().filter(is_conflict).count(), 28, "{billed:?}");
    for batch in &batches {
        assert_eq!(lines(&stores[1], &batch.id).await, 2);
        let found = stores[1].get(Collection::Batch, &batch.id).await.expect("it answers");
        let found = found.expect("it is there");
        assert_eq!((&*found.state, found.version > batch.version), ("billed", true));
    }
    let sums = stores[0].sums(Dimension::Total, Span::All, 0, u64::MAX).await.expect("it answers");
    assert_eq!((sums[0].calls, sums[0].cost), (8, 48));
}

pub(crate) async fn bill_is_made_whole_or_not_at_all(place: Place) {
    let store = place.open().await;
    let batch = begun(&store, "batch").await;
    let stale = Document { version: batch.version + 1, ..batch.clone() };
    let absent = Document { id: "absent".into(), ..batch.clone() };
    for wrong in [stale, absent] {
        let billed = store.bill(&wrong, vec![record("batch", 1)]).await;
        assert!(matches!(billed, Err(StoreError::Conflict(_))), "{billed:?}");
    }
    assert_eq!(lines(&store, "batch").await, 0);
    // A text that no database keeps is cut, as the ledger does it.
    let odd = SpendRecord { user: Some("a\0b".into()), ..record("batch", 1) };
    store
        .bill(&Document { state: "billed".into(), ..batch.clone() }, vec![odd])
        .await
        .expect("made");
    assert_eq!(lines(&store, "batch").await, 1);
    // One that cost nothing has no line.
    let free = begun(&store, "free").await;
    store.bill(&Document { state: "billed".into(), ..free }, Vec::new()).await.expect("made");
    let found = store.get(Collection::Batch, "free").await.expect("it answers");
    assert_eq!(found.map(|found| found.state.to_string()).as_deref(), Some("billed"));
}
