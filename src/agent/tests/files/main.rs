//! Files over documents and an object store that are made to go wrong.

mod documents;
mod s3;
mod stores;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::join_all;
use object_store::ObjectStore;
use object_store::memory::InMemory;
use tollway_agent::tools::files::analyse::NoIsolation;
use tollway_agent::tools::files::{Files, FilesError, FilesSettings, Listed, NewFile};
use tollway_filter_api::Clock;
use tollway_filter_api::documents::{Batch, Collection, Documents, Wanted};

use self::documents::InMemoryDocuments;
use self::stores::{Broken, count};

struct Setup {
    files: Files,
    documents: Arc<InMemoryDocuments>,
    store: Arc<dyn ObjectStore>,
    clock: Clock,
}

fn setup(settings: FilesSettings, store: Arc<dyn ObjectStore>) -> Setup {
    let (documents, clock) = (Arc::new(InMemoryDocuments::default()), Clock::manual());
    let files = Files::new(
        &settings,
        Arc::clone(&documents) as _,
        Arc::clone(&store),
        clock.clone(),
        Arc::new(NoIsolation),
    );
    Setup { files, documents, store, clock }
}

fn file(name: &str, bytes: &'static [u8]) -> NewFile {
    NewFile {
        name: name.to_owned(),
        purpose: "user_data".to_owned(),
        bytes: Bytes::from_static(bytes),
        expires_after: None,
    }
}

fn ann() -> Arc<str> {
    "user:ann".into()
}

const ALL: Listed<'static> =
    Listed { purpose: None, after: None, limit: 1_000, is_latest_first: true };

#[tokio::test]
async fn file_that_is_past_its_time_goes_with_its_bytes() {
    let Setup { files, documents, store, clock } =
        setup(FilesSettings::default(), Arc::new(InMemory::new()));
    let short = NewFile { expires_after: Some(3_600), ..file("a", b"words") };
    let short = files.add(&ann(), short).await.unwrap();
    let other = files.add(&ann(), file("b", b"other")).await.unwrap();
    clock.advance(Duration::from_secs(3_599));
    files.forget_expired().await.unwrap();
    assert!(files.info("user:ann", &short.id).await.is_ok());
    clock.advance(Duration::from_secs(1));
    // It is gone at once, also where nobody has cleaned up yet.
    let gone = files.info("user:ann", &short.id).await;
    assert!(matches!(gone, Err(FilesError::NotFound(_))), "{gone:?}");
    assert_eq!(files.list(&ann(), &ALL).await.unwrap().0, [other]);
    files.forget_expired().await.unwrap();
    assert_eq!(documents.total(Collection::File, "user:ann").await.unwrap(), (1, 5));
    assert_eq!(count(&*store).await, 1);
}

#[tokio::test]
async fn file_whose_bytes_cannot_be_stored_is_not_there() {
    let store = Arc::new(Broken::default());
    let Setup { files, documents, .. } = setup(FilesSettings::default(), Arc::clone(&store) as _);
    store.break_now(true);
    let failed = files.add(&ann(), file("a", b"words")).await;
    assert!(matches!(failed, Err(FilesError::Bytes(_))), "{failed:?}");
    assert_eq!(files.list(&ann(), &ALL).await.unwrap().0, []);
    store.break_now(false);
    let kept = files.add(&ann(), file("a", b"words")).await.unwrap();
    assert_eq!(files.bytes("user:ann", &kept.id).await.unwrap().1, "words");
    // One that cannot be removed now is out of sight, and removed later.
    store.break_now(true);
    assert!(files.remove("user:ann", &kept.id).await.is_err());
    assert!(files.info("user:ann", &kept.id).await.is_err());
    store.break_now(false);
    files.forget_expired().await.unwrap();
    assert_eq!(documents.total(Collection::File, "user:ann").await.unwrap(), (0, 0));
    assert_eq!(count(&*store).await, 0);
}

#[tokio::test]
async fn file_that_never_came_is_forgotten() {
    let Setup { files, documents, store, clock } =
        setup(FilesSettings::default(), Arc::new(InMemory::new()));
    let kept = files.add(&ann(), file("a", b"words")).await.unwrap();
    // As a gateway leaves it that ends while a file comes.
    let mut document = documents.get(Collection::File, &kept.id).await.unwrap().unwrap();
    document.state = "arriving".into();
    document.expires_ms = Some(document.created_ms + 600_000);
    let batch = Batch { put: vec![document], ..Batch::default() };
    documents.write(batch).await.unwrap();
    assert!(files.info("user:ann", &kept.id).await.is_err());
    assert_eq!(files.list(&ann(), &ALL).await.unwrap().0, []);
    clock.advance(Duration::from_secs(600));
    files.forget_expired().await.unwrap();
    assert_eq!(documents.total(Collection::File, "user:ann").await.unwrap(), (0, 0));
    assert_eq!(count(&*store).await, 0);
}

/// Uploads and removals of the same bytes, by two nodes at once: what is kept has its bytes.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn bytes_stay_while_a_file_has_them() {
    let Setup { files, documents, store, clock } =
        setup(FilesSettings::default(), Arc::new(InMemory::new()));
    let elsewhere = Files::new(
        &FilesSettings::default(),
        Arc::clone(&documents) as _,
        Arc::clone(&store),
        clock,
        Arc::new(NoIsolation),
    );
    for _ in 0..200 {
        let first = files.add(&ann(), file("a", b"the same")).await.unwrap();
        let owner = ann();
        let (removed, second) = tokio::join!(
            files.remove("user:ann", &first.id),
            elsewhere.add(&owner, file("b", b"the same")),
        );
        removed.unwrap();
        let second = second.unwrap();
        let bytes = files.bytes("user:ann", &second.id).await.unwrap().1;
        assert_eq!(bytes, "the same");
        files.remove("user:ann", &second.id).await.unwrap();
    }
    assert_eq!(documents.total(Collection::File, "user:ann").await.unwrap(), (0, 0));
}

/// Without a lock that both nodes know: the quota is never passed.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn quota_holds_on_several_nodes() {
    let settings = FilesSettings { quota_files: 5, ..FilesSettings::default() };
    let first = setup(settings.clone(), Arc::new(InMemory::new()));
    let node = || {
        let documents = Arc::clone(&first.documents) as _;
        let (store, clock) = (Arc::clone(&first.store), first.clock.clone());
        Files::new(&settings, documents, store, clock, Arc::new(NoIsolation))
    };
    let (nodes, owner) = ([node(), node()], ann());
    let adding = (0..40).map(|at| nodes[at % 2].add(&owner, file("a", b"x")));
    let kept = join_all(adding).await.into_iter().filter(Result::is_ok).count();
    assert!(kept <= 5, "{kept}");
    let total = first.documents.total(Collection::File, &owner).await.unwrap().0;
    assert_eq!(total, kept as u64);
    let listed = Wanted::of(Collection::File, 100);
    assert_eq!(first.documents.list(listed).await.unwrap().len(), kept);
}

#[tokio::test]
async fn places_are_named_by_urls() {
    use serde_json::json;
    use tollway_agent::outgoing::Outgoing;
    use tollway_agent::tools::{Services, Settings};
    let open = |files: serde_json::Value| {
        let settings: Settings = serde_json::from_value(json!({"files": files})).unwrap();
        let services = Services::new(&settings, Outgoing::new().unwrap(), Clock::manual()).unwrap();
        let documents = Arc::new(InMemoryDocuments::default());
        let folder = std::env::temp_dir().join(format!("tollway-files-{}", std::process::id()));
        let opened = services.with_files(&settings, documents, &folder);
        let _ = std::fs::remove_dir(&folder);
        opened.map(|services| services.files.is_some()).map_err(|error| error.to_string())
    };
    let azure = json!({"account_name": "a", "account_key": "c2VjcmV0"});
    for (store, options) in [
        ("s3://bucket/files", json!({"region": "eu-central-1"})),
        (
            "s3://bucket",
            json!({"endpoint": "http://127.0.0.1:9000", "access_key_id": "a",
            "secret_access_key": "b"}),
        ),
        ("gs://bucket/files", json!({})),
        ("az://container/files", azure.clone()),
        ("abfs://container@account.dfs.core.windows.net/files", azure),
    ] {
        assert_eq!(open(json!({"store": store, "options": options})), Ok(true), "{store}");
    }
    assert_eq!(open(json!({})), Ok(true));
    assert_eq!(open(json!(null)), Ok(false));
    for (store, options, about) in [
        ("ftp://host/files", json!({}), "a URL with s3:"),
        ("https://example.com/files", json!({}), "a URL with s3:"),
        ("s3://bucket", json!({"colour": "red"}), "no option \"colour\""),
        ("/proc/nothing/files", json!({}), "cannot be made"),
    ] {
        let error = open(json!({"store": store, "options": options})).unwrap_err();
        assert!(error.starts_with("files.store: ") && error.contains(about), "{error}");
    }
}
