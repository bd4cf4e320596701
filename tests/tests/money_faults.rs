//! Money when what is around it misbehaves: a locked database, a clock that is set, and what others
//! see who read the stores.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tollway_tests::gateway::{MASTER_KEY, PATIENCE};
use tollway_tests::postgres::Postgres;
use tollway_tests::servers::Redis;
use tollway_tests::setup::{eventually, within};
use tollway_tests::{Response, Setup, chat, post};

/// A key that the gateway has made.
async fn generated(setup: &Setup, body: &Value) -> String {
    let made = post(setup.gateway.address, "/key/generate", body).await;
    assert_eq!(made.status, 200, "{}", made.text());
    made.json()["key"].as_str().expect("a key").to_owned()
}

fn id_of(answer: &Response) -> String {
    answer.header("x-litellm-call-id").expect("answers have an id").to_owned()
}

/// Waits until each of these calls is in the ledger, once.
async fn all_in_ledger(setup: &Setup, ids: &[String]) {
    for id in ids {
        eventually("the call is in the ledger", async || {
            let rows = setup.get(&format!("/spend/logs?request_id={id}")).await;
            rows.json().as_array().is_some_and(|rows| rows.len() == 1)
        })
        .await;
    }
}

/// Another process that has locked a file of SQLite, until this is dropped.
async fn locked(file: &Path) -> Child {
    const LOCK: &str = "import sqlite3, sys\n\
        link = sqlite3.connect(sys.argv[1], isolation_level=None, timeout=60)\n\
        link.execute('BEGIN EXCLUSIVE')\n\
        print('locked', flush=True)\n\
        sys.stdin.read()\n\
        link.execute('ROLLBACK')\n";
    let mut child = Command::new("python3")
        .args(["-c", LOCK])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("python3 runs");
    let mut line = String::new();
    let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
    let read = stdout.read_line(&mut line);
    within(PATIENCE, "it is locked", read).await.expect("it says so");
    assert_eq!(line, "locked\n");
    child
}

#[tokio::test]
async fn calls_go_on_while_somebody_has_locked_the_database_and_none_is_lost() {
    let setup = Setup::start().await;
    let key = generated(&setup, &json!({"max_budget": 1})).await;
    let body = chat("gpt-4o-mini", "[[sim tokens=40]]");
    let lock = locked(&setup.gateway.folder.join("tollway-data/tollway.db")).await;
    // Longer than the database waits for a lock: until it says that it has waited in vain.
    let address = setup.gateway.address;
    let mut changed = tokio::spawn(async move {
        let made = json!({"key_alias": "in-vain"});
        post(address, "/key/generate", &made).await
    });
    let mut ids = Vec::new();
    let refused = loop {
        let begun = Instant::now();
        let answer = setup.chat_as(&key, &body).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        assert!(begun.elapsed() < Duration::from_secs(10), "no call waits for the database");
        ids.push(id_of(&answer));
        tokio::select! {
            refused = &mut changed => break refused.expect("it is answered"),
            () = tokio::time::sleep(Duration::from_millis(100)) => {}
        }
    };
    assert_eq!(refused.status, 503, "{}", refused.text());
    assert_eq!(refused.error("code"), "store_unavailable", "{}", refused.text());
    drop(lock);
    let made = generated(&setup, &json!({"key_alias": "in-vain"})).await;
    assert_eq!(setup.chat_as(&made, &body).await.status, 200);
    all_in_ledger(&setup, &ids).await;
}

/// A gateway whose wall clock the test sets, by a file that libfaketime reads each time.
struct Faked {
    setup: Setup,
    file: PathBuf,
}

impl Faked {
    async fn start() -> Faked {
        let folder = tollway_tests::gateway::Folder::fresh();
        let file = folder.write("time", "+0");
        // Lives as long as the process.
        std::mem::forget(folder);
        let library = libfaketime().display().to_string();
        let env = [
            ("LD_PRELOAD", library.as_str()),
            ("FAKETIME_TIMESTAMP_FILE", file.to_str().expect("a path")),
            ("FAKETIME_NO_CACHE", "1"),
            ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
            ("DONT_FAKE_MONOTONIC", "1"),
        ];
        Faked { setup: Setup::with_env("", &env).await, file }
    }

    /// Sets the clock so far from the true time.
    fn set(&self, offset: &str) {
        // Replaced whole: it is read at any moment.
        let next = self.file.with_extension("next");
        std::fs::write(&next, offset).expect("it can be written");
        std::fs::rename(&next, &self.file).expect("it can be replaced");
    }
}

fn libfaketime() -> PathBuf {
    let folders = std::fs::read_dir("/usr/lib").expect("there is one").flatten();
    let library = "faketime/libfaketimeMT.so.1";
    let mut found = folders.map(|folder| folder.path().join(library));
    found.find(|path| path.is_file()).expect("install the Debian package `faketime`")
}

#[tokio::test]
async fn clock_that_is_set_gives_nobody_more_and_locks_nobody_out() {
    let faked = Faked::start().await;
    let setup = &faked.setup;
    let spends = json!({"max_budget": 0.0001, "budget_duration": "1d"});
    let spends = generated(setup, &spends).await;
    let ends = generated(setup, &json!({"duration": "2d"})).await;
    let rated = generated(setup, &json!({"rpm_limit": 3})).await;
    let body = chat("gpt-4o-mini", "[[sim tokens=40]]");
    let until_refused = async |key: &str, most: usize| {
        for done in 0.. {
            let answer = setup.chat_as(key, &body).await;
            if answer.status != 200 {
                return (done, answer);
            }
            assert!(done < most, "more than {most}");
            // What it may cost is set aside until it is known what it did.
            all_in_ledger(setup, &[id_of(&answer)]).await;
        }
        unreachable!("it is refused or fails")
    };
    // 40 tokens cost 24 millionths of a dollar, and what is asked a little more.
    let (first, refused) = until_refused(&spends, 4).await;
    assert_eq!((first >= 3, refused.status), (true, 422), "{first}: {}", refused.text());
    let window = Instant::now();
    let (rate, refused) = until_refused(&rated, 3).await;
    assert_eq!((rate, refused.status), (3, 429), "{}", refused.text());
    let is_full = async || {
        let status = setup.chat_as(&rated, &body).await.status;
        status == 429 || window.elapsed() >= Duration::from_secs(60)
    };
    for back in ["-5h", "-3d"] {
        faked.set(back);
        let refused = setup.chat_as(&spends, &body).await;
        assert_eq!(refused.status, 422, "{back}: what was spent stays spent: {}", refused.text());
        assert_eq!(setup.chat_as(&ends, &body).await.status, 200, "{back}: it has not ended");
        assert!(is_full().await, "{back}: a minute is a minute");
        let fresh = generated(setup, &json!({"max_budget": 1, "duration": "1h"})).await;
        assert_eq!(setup.chat_as(&fresh, &body).await.status, 200, "{back}: nobody is locked out");
    }
    faked.set("+3d");
    let (again, refused) = until_refused(&spends, 4).await;
    assert_eq!((again, refused.status), (first, 422), "another day: {}", refused.text());
    let ended = setup.chat_as(&ends, &body).await;
    assert_eq!((ended.status, ended.error("type")), (401, json!("expired_key")));
    assert!(is_full().await, "a minute is a minute");
    faked.set("+0");
    let refused = setup.chat_as(&spends, &body).await;
    assert_eq!(refused.status, 422, "no day is paid twice: {}", refused.text());
    assert_eq!(setup.chat_as(&ends, &body).await.status, 200);
}

/// All keys of Redis and what is in them.
async fn all_of(redis: &Redis) -> String {
    const DUMP: &str = "local out = {} \
        local function add(value) \
            if type(value) == 'table' then for _, part in ipairs(value) do add(part) end \
            else out[#out + 1] = tostring(value) end \
        end \
        for _, key in ipairs(redis.call('KEYS', '*')) do \
            local kind = redis.call('TYPE', key).ok \
            add(key) \
            if kind == 'string' then add(redis.call('GET', key)) \
            elseif kind == 'hash' then add(redis.call('HGETALL', key)) \
            elseif kind == 'set' then add(redis.call('SMEMBERS', key)) \
            elseif kind == 'zset' then add(redis.call('ZRANGE', key, 0, -1, 'WITHSCORES')) \
            elseif kind == 'list' then add(redis.call('LRANGE', key, 0, -1)) \
            elseif kind == 'stream' then add(redis.call('XRANGE', key, '-', '+')) \
            else add('unknown kind: ' .. kind) end \
        end \
        return table.concat(out, ' ')";
    redis.command(&format!("EVAL \"{DUMP}\" 0")).await
}

/// All files below a folder, as text.
fn texts(folder: &Path) -> Vec<(PathBuf, String)> {
    let mut texts = Vec::new();
    for entry in std::fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        match path.is_dir() {
            true => texts.extend(self::texts(&path)),
            false => {
                let bytes = std::fs::read(&path).unwrap_or_default();
                texts.push((path, String::from_utf8_lossy(&bytes).into_owned()));
            }
        }
    }
    texts
}

#[tokio::test]
async fn keys_and_prompts_in_clear_are_in_no_redis_no_backup_no_journal_and_no_log() {
    const PROMPT: &str = "canary-prompt-5c1f";
    const CHOSEN: &str = "sk-canary-chosen-9876543210";
    const CONFIGURED: &str = "sk-canary-configured-012345";
    let (postgres, redis) = (Postgres::start().await, Redis::on_port().await);
    let mut setup = Setup::with(&format!(
        "
keys:
  - {{ alias: ours, key: {CONFIGURED}, rpm: 100, tpm: 1000000, max_parallel_requests: 5, max_budget: 1 }}
litellm_settings:
  cache: true
  cache_params: {{ type: redis, host: 127.0.0.1, port: {0}, namespace: 'cached', ttl: 600 }}
general_settings:
  master_key: $MASTER
  database_url: '{1}'
  redis_url: redis://127.0.0.1:{0}
",
        redis.port,
        postgres.url(),
    ))
    .await;
    let limited = json!({
        "key": CHOSEN, "key_alias": "theirs", "user_id": "ann", "max_budget": 1, "rpm_limit": 100,
        "tpm_limit": 1_000_000, "max_parallel_requests": 5, "model_rpm_limit": {"gpt-4o-mini": 50},
    });
    let chosen = generated(&setup, &limited).await;
    let made = generated(&setup, &json!({"max_budget": 1, "tags": ["nightly"]})).await;
    let mut ids = Vec::new();
    for key in [CONFIGURED, &chosen, &made, MASTER_KEY] {
        for said in ["[[sim tokens=5]]", "[[sim tokens=5]]", "[[sim status=500]]"] {
            // The second is a hit; the third fails.
            let answer =
                setup.chat_as(key, &chat("gpt-4o-mini", &format!("{PROMPT} {said}"))).await;
            ids.push(id_of(&answer));
        }
        setup.chat_as(&format!("{key}-wrong"), &chat("gpt-4o-mini", PROMPT)).await;
    }
    all_in_ledger(&setup, &ids).await;
    let seen = all_of(&redis).await;
    for part in ["cached", "limits}", "budget"] {
        assert!(seen.contains(part), "nothing of {part} in Redis: {seen}");
    }
    let backup = postgres.dump().await;
    assert!(backup.contains("theirs") && ids.iter().all(|id| backup.contains(id)), "{backup}");
    setup.gateway.signal("TERM");
    setup.gateway.ended().await;
    let folder = setup.gateway.folder.join("tollway-data");
    let mut places = vec![
        ("Redis".to_owned(), seen),
        ("a backup of Postgres".to_owned(), backup),
        ("the request log".to_owned(), setup.gateway.stdout()),
        ("the log".to_owned(), setup.gateway.stderr()),
    ];
    let files = texts(&folder);
    assert!(files.iter().any(|(path, _)| path.parent().is_some_and(|p| p.ends_with("journal"))));
    places.extend(files.into_iter().map(|(path, text)| (path.display().to_string(), text)));
    for (place, text) in places {
        for canary in [PROMPT, CONFIGURED, &chosen, &made, MASTER_KEY] {
            assert!(!text.contains(canary), "{canary} is in {place}");
        }
    }
}
