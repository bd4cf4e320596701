//! What can go wrong with one of the databases.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use secrecy::SecretString;
use sqlx::Row;
use tollway_filter_api::accounts::{Accounts, Change, Kind};
use tollway_filter_api::documents;
use tollway_filter_api::ledger::{Dimension, Ledger, Span, SpendFilter, SpendRecord, StoreError};
use tollway_store::sql::{CONNECTIONS_MAX, SqlStore};
use tollway_tests::gateway::Folder;
use tollway_tests::postgres::Postgres;
use tollway_tests::setup::eventually;
use tollway_wire::price::PicoDollars;

use crate::accounts::{create, object};
use crate::documents::{put, run};
use crate::ledger::{entries, is_sum_of, record, total};
use crate::place::{Place, connection, file};

/// What an answer may take while the server is away: more than any limit of the store, and less
/// than any of the system.
const IN_TIME: Duration = Duration::from_secs(45);

/// Tells the writing process where to write.
const WRITER: &str = "TOLLWAY_TEST_SQLITE";

/// How many records are written at once.
const BATCH: u64 = 37;

#[track_caller]
fn is_unavailable<T: std::fmt::Debug>(result: Result<T, StoreError>) -> String {
    match result {
        Err(StoreError::Unavailable(message)) => message,
        other => panic!("it should be unavailable: {other:?}"),
    }
}

fn records(seqs: impl IntoIterator<Item = u64>) -> Vec<SpendRecord> {
    seqs.into_iter().map(record).collect()
}

/// What is killed: this program, started anew for the test below.
async fn write_until_killed(path: String) {
    let store = SqlStore::sqlite(path).await.expect("the file can be opened");
    // From the beginning each time, as a node does that has lost its place.
    for batch in 0.. {
        let seqs = batch * BATCH + 1..=(batch + 1) * BATCH;
        let last = *seqs.end();
        store.append("node", &entries(seqs)).await.expect("it is written");
        let mut out = std::io::stdout().lock();
        let _ = writeln!(out, "\nwritten {last}").and_then(|()| out.flush());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_sqlite_said_is_written_survives_kill_9_and_counts_once() {
    if let Ok(path) = std::env::var(WRITER) {
        return write_until_killed(path).await;
    }
    let folder = Folder::fresh();
    for batches in [1, 5, 2, 12, 7] {
        let mut writer = Command::new(std::env::current_exe().expect("this program"))
            .args([
                "--exact",
                "faults::what_sqlite_said_is_written_survives_kill_9_and_counts_once",
            ])
            .arg("--nocapture")
            .env(WRITER, file(&folder))
            .stdout(Stdio::piped())
            .spawn()
            .expect("the writer starts");
        let lines = BufReader::new(writer.stdout.take().expect("a pipe")).lines();
        let written = lines
            .map_while(Result::ok)
            .filter_map(|line| line.strip_prefix("written ")?.parse::<u64>().ok())
            .nth(batches - 1)
            .expect("the writer writes");
        // In the middle of the next one.
        writer.kill().expect("it still runs");
        writer.wait().expect("it is gone");

        let store = SqlStore::sqlite(file(&folder)).await.expect("the file is whole");
        let last = store.last_seq("node").await.expect("it answers").expect("it knows the node");
        assert!(last >= written, "{last}, {written}");
        is_sum_of(&store, &records(1..=last)).await;
        let found = store.records(SpendFilter::default(), 0, u64::MAX).await.expect("records");
        assert_eq!(found.len() as u64, last);
        store.append("node", &entries(last / 2..=last + 3)).await.expect("it is written");
        is_sum_of(&store, &records(1..=last + 3)).await;
    }
}

#[tokio::test]
async fn the_files_of_sqlite_are_its_owners_alone() {
    let folder = Folder::fresh();
    std::fs::write(file(&folder), "").expect("a file in the folder");
    let all = std::fs::Permissions::from_mode(0o666);
    std::fs::set_permissions(file(&folder), all).expect("it is ours");
    let store = SqlStore::sqlite(file(&folder)).await.expect("it can be opened");
    store.append("node", &entries([1])).await.expect("it is written");
    let mut modes = Vec::new();
    for found in std::fs::read_dir(&folder.0).expect("the folder") {
        let found = found.expect("a file");
        let mode = found.metadata().expect("its mode").permissions().mode() & 0o777;
        modes.push((found.file_name().into_string().expect("a name"), format!("{mode:o}")));
    }
    modes.sort();
    let private = |name: &str| (name.to_owned(), "600".to_owned());
    let expected = ["tollway.db", "tollway.db-shm", "tollway.db-wal"].map(private);
    assert_eq!(modes, expected);
}

#[tokio::test]
async fn what_is_no_database_is_said_so() {
    let folder = Folder::fresh();
    std::fs::write(file(&folder), "not a database, whatever its name is".repeat(500))
        .expect("a file in the folder");
    let message = is_unavailable(SqlStore::sqlite(file(&folder)).await);
    assert!(message.contains("tollway.db") && message.contains("not a database"), "{message}");
    is_unavailable(SqlStore::sqlite(folder.0.join("absent/tollway.db")).await);
    let mode = || std::fs::metadata(&folder.0).expect("a folder").permissions().mode();
    let before = mode();
    is_unavailable(SqlStore::sqlite(&folder.0).await);
    assert_eq!(mode(), before, "a folder is left as it is");
    for url in ["", "mysql://a:secret@b/c", "postgres://u:secret@host:port/", "not a url secret"] {
        let message = is_unavailable(SqlStore::postgres(SecretString::from(url)).await);
        assert!(message.starts_with("database_url") && !message.contains("secret"), "{message}");
    }
}

#[tokio::test]
async fn a_database_of_a_newer_version_is_left_alone() {
    let place = Place::sqlite();
    place.open().await.close().await;
    let newer = "INSERT INTO tollway_migrations (number) VALUES (1000)";
    place.execute(newer, newer).await;
    let Place::Sqlite(folder) = &place else { panic!("it is SQLite") };
    let message = is_unavailable(SqlStore::sqlite(file(folder)).await);
    assert!(message.contains("newer version"), "{message}");
}

/// What the second version had, and what it called itself.
const SECOND_VERSION: [&str; 4] = [
    "DROP TABLE tollway_responses",
    "DELETE FROM tollway_sums WHERE dimension > 8",
    "ALTER TABLE tollway_spend DROP COLUMN model_id",
    "DELETE FROM tollway_migrations WHERE number > 2",
];

async fn older_ledger_gets_the_sums_it_lacks(place: Place) {
    let store = place.open().await;
    let mut entries = entries(1..200);
    for entry in &mut entries {
        let record = &mut entry.record;
        record.started_ms += record.usage.prompt_tokens * 1_000_000;
        record.team = record.team.take().filter(|_| entry.seq % 3 > 0);
        record.user = record.user.take().filter(|_| entry.seq % 5 > 0);
        record.cost = PicoDollars(record.cost.0 * 400_000);
    }
    store.append("node", &entries).await.expect("they are written");
    let sums = async |store: &SqlStore| {
        let mut all = Vec::new();
        for dimension in Dimension::ALL {
            for span in [Span::Minute, Span::Hour, Span::Day, Span::All] {
                all.push(store.sums(dimension, span, 0, u64::MAX >> 1).await.expect("sums"));
            }
        }
        all
    };
    let before = sums(&store).await;
    assert!(before.iter().all(|sums| !sums.is_empty()));
    store.close().await;
    for statement in SECOND_VERSION {
        place.execute(statement, statement).await;
    }
    assert_eq!(sums(&place.open().await).await, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn older_databases_get_the_sums_they_lack() {
    older_ledger_gets_the_sums_it_lacks(Place::sqlite()).await;
    let server = Postgres::start().await;
    older_ledger_gets_the_sums_it_lacks(Place::postgres(&server).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_thousand_keys_are_read_at_once_or_in_pages() {
    let place = Place::sqlite();
    let store = place.open().await;
    let keys: Vec<_> = (0..100_000)
        .map(|n: u64| {
            let mut key = object(Kind::Key, &format!("{:064x}", n.wrapping_mul(0x9E37_79B9_7F4A)));
            key.alias = Some(format!("key-{n}").into());
            key.user = Some(format!("user-{}", n % 1_000).into());
            key
        })
        .collect();
    for some in keys.chunks(10_000) {
        store.change(create(some.iter().cloned())).await.expect("they are new");
    }
    let started = Instant::now();
    let all = store.changed_since(0, u64::MAX).await.expect("all of them");
    let took = started.elapsed();
    assert_eq!(all.len(), keys.len());
    // Less than a second when it is optimised, as what is shipped is; this is not.
    assert!(took < Duration::from_secs(20), "{took:?}");
    let (mut at, mut seen) = (0, 0);
    loop {
        let page = store.changed_since(at, 10_000).await.expect("a page");
        let Some(last) = page.last() else { break };
        assert!(last.version > at, "the next page goes on");
        (at, seen) = (last.version, seen + page.len());
    }
    assert_eq!(seen, keys.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_is_restarted_costs_nothing_but_time() {
    let mut server = Postgres::start().await;
    let place = Place::postgres(&server).await;
    let store = place.open().await;
    let (mut heard, mut version) = (store.changes(), 0);
    let mut seq = 0;
    for round in 0..3 {
        // A feeder that is in the middle of it when the server goes, and sends again what it does
        // not know to be written.
        let feeder = tokio::spawn({
            let store = store.clone();
            async move {
                let (mut seq, mut failures) = (seq, 0);
                let end = seq + 3_000;
                while seq < end {
                    match store.append("node", &entries(seq + 1..=seq + 100)).await {
                        Ok(()) => seq += 100,
                        Err(StoreError::Unavailable(_)) => failures += 1,
                        Err(error) => panic!("{error}"),
                    }
                }
                (seq, failures)
            }
        });
        eventually("the feeder is in the middle of it", async || total(&store).await.0 > seq).await;
        server.kill().await;
        let started = Instant::now();
        is_unavailable(store.change(create([object(Kind::Key, "away")])).await);
        is_unavailable(store.records(SpendFilter::default(), 0, 1).await);
        assert!(started.elapsed() < IN_TIME);
        server.again().await;
        let failures;
        (seq, failures) = feeder.await.expect("no panic");
        assert!(failures > 0, "the server was away");
        is_sum_of(&store, &records(1..=seq)).await;

        // Changes made by others are heard of again.
        let other = place.open().await;
        let new = create([object(Kind::Key, &format!("{round}"))]);
        version = version.max(other.change(new).await.expect("it is new"));
        heard.wait_for(|known| *known >= version).await.expect("the store is there");
    }
    let found = store.records(SpendFilter::default(), 0, u64::MAX).await.expect("records");
    assert_eq!(found.len() as u64, seq);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn postgres_that_is_away_or_hangs_is_an_error_in_time() {
    let mut server = Postgres::start().await;
    let place = Place::postgres(&server).await;
    let store = place.open().await;
    let Place::Postgres(url) = &place else { panic!("it is Postgres") };
    let wrong = url.replace(":pass@", ":hunter2@");
    let message = is_unavailable(SqlStore::postgres(SecretString::from(wrong)).await);
    assert!(message.contains("password") && !message.contains("hunter2"), "{message}");

    server.signal("STOP");
    let started = Instant::now();
    let first = entries([1]);
    let (written, kept, made, opened) = tokio::join!(
        store.append("node", &first),
        documents::Documents::write(&store, put([run("r")])),
        store.change(Change::default()),
        SqlStore::postgres(SecretString::from(url.clone())),
    );
    assert!(started.elapsed() < IN_TIME, "{:?}", started.elapsed());
    is_unavailable(written);
    is_unavailable(kept);
    is_unavailable(made);
    is_unavailable(opened);
    server.signal("CONT");
    eventually("it is used again", async || store.append("node", &entries([1])).await.is_ok())
        .await;
    assert_eq!(total(&store).await.0, 1);
    documents::Documents::write(&store, put([run("new")])).await.expect("it is used again");

    server.kill().await;
    let started = Instant::now();
    is_unavailable(SqlStore::postgres(SecretString::from(url.clone())).await);
    is_unavailable(documents::Documents::write(&store, put([run("away")])).await);
    assert!(started.elapsed() < IN_TIME);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_node_takes_more_connections_of_postgres_than_it_may() {
    let server = Postgres::start().await;
    let place = Place::postgres(&server).await;
    let store = place.open().await;
    let askers: Vec<_> = (0..64)
        .map(|n| {
            let store = store.clone();
            tokio::spawn(async move {
                for _ in 0..5 {
                    store.append(&format!("{n}"), &entries([1])).await.expect("it is written");
                    store.get(Kind::Key, "k").await.expect("it answers");
                }
            })
        })
        .collect();
    let mut link = connection(&server).await;
    let mut most = 0;
    while askers.iter().any(|asker| !asker.is_finished()) {
        let count = "SELECT COUNT(*) FROM pg_stat_activity WHERE application_name = 'tollway'";
        let row = sqlx::query(count).fetch_one(&mut link).await.expect("a count");
        most = most.max(row.get::<i64, _>(0));
    }
    for asker in askers {
        asker.await.expect("no panic");
    }
    assert!((2..=i64::from(CONNECTIONS_MAX)).contains(&most), "{most}");
    assert_eq!(total(&store).await.0, 64);
}
