//! An S3 nobody here wrote: s3rver.

use std::path::PathBuf;
use std::process::Stdio;
use std::sync::Arc;
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tollway_agent::outgoing::Outgoing;
use tollway_agent::tools::files::FilesError;
use tollway_agent::tools::{Services, Settings};
use tollway_filter_api::Clock;

use crate::documents::InMemoryDocuments;
use crate::{ann, file};

/// Serves an empty bucket until it is killed. The arguments are where npm's packages are, and a folder.
const SCRIPT: &str = r#"
import { createRequire } from "node:module";
import { pathToFileURL } from "node:url";
const S3rver = createRequire(pathToFileURL(process.argv[1] + "/"))("s3rver");
const server = new S3rver({
  address: "127.0.0.1", port: 0, silent: true, directory: process.argv[2],
  configureBuckets: [{ name: "bucket" }],
});
console.log((await server.run()).port);
"#;

/// A server, and the folder that goes with it.
struct Server {
    _child: Child,
    port: u16,
    folder: PathBuf,
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

async fn s3rver() -> Server {
    let tools = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../.tools/node");
    assert!(tools.join("node_modules").exists(), "run `make tools` first");
    let folder = std::env::temp_dir().join(format!("tollway-s3-{}", std::process::id()));
    let mut command = Command::new("node");
    command.args(["--input-type=module", "-e", SCRIPT]).arg(tools).arg(&folder);
    command.stdout(Stdio::piped()).stdin(Stdio::null()).kill_on_drop(true);
    let mut child = command.spawn().expect("node can be started");
    let mut lines = BufReader::new(child.stdout.take().expect("it is a pipe")).lines();
    let ready = tokio::time::timeout(Duration::from_secs(60), lines.next_line()).await;
    let port = ready.expect("it starts in time").expect("it says where it is").expect("a line");
    Server { _child: child, port: port.parse().expect("a port"), folder }
}

#[tokio::test]
async fn bytes_are_kept_in_a_bucket() {
    let server = s3rver().await;
    let open = |key: &str| {
        let settings: Settings = serde_json::from_value(json!({"files": {
            "store": "s3://bucket/below/files",
            "options": {
                "region": "us-east-1",
                "endpoint": format!("http://127.0.0.1:{}", server.port),
                "access_key_id": key,
                "secret_access_key": "S3RVER",
            },
        }}))
        .unwrap();
        let services = Services::new(&settings, Outgoing::new().unwrap(), Clock::system()).unwrap();
        let documents = Arc::new(InMemoryDocuments::default());
        let opened = services.with_files(&settings, documents, "/nowhere".as_ref());
        opened.unwrap().files.unwrap()
    };
    let files = open("S3RVER");
    let kept = files.add(&ann(), file("../a.txt", b"some words")).await.unwrap();
    assert_eq!(files.bytes("user:ann", &kept.id).await.unwrap().1, "some words");
    assert_eq!(files.part("user:ann", &kept.id, 5, 3).await.unwrap().1, "wor");
    let objects = || {
        let below = server.folder.join("bucket/below/files");
        std::fs::read_dir(below).map_or(0, Iterator::count)
    };
    assert_eq!(objects(), 1, "they are below the prefix");
    files.remove("user:ann", &kept.id).await.unwrap();
    assert_eq!(objects(), 0);
    // Requests are signed; whether they are well, it does not look.
    let refused = open("wrong").add(&ann(), file("a", b"x")).await;
    assert!(matches!(refused, Err(FilesError::Bytes(_))), "{refused:?}");
    let told = tollway_filter_api::Rejection::from(refused.unwrap_err());
    assert_eq!((told.status, told.code.as_deref()), (503, Some("store_unavailable")));
}
