//! What golden tests share, those of the providers too: cases that are files, what must come out of
//! them beside them, and streams that are cut or damaged anywhere.

use std::path::Path;
use std::{env, fs};

use proptest::prelude::*;
use proptest::sample::Index;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// The cases in a folder below `tests`, each with the path of what must come out of it.
pub(crate) fn cases<C: DeserializeOwned>(folder: &str) -> Vec<(String, C)> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests").join(folder);
    let mut cases = Vec::new();
    for entry in fs::read_dir(&folder).unwrap_or_else(|error| panic!("{folder:?}: {error}")) {
        let path = entry.expect("a folder entry").path();
        if path.extension().is_some_and(|extension| extension == "json") {
            let text = fs::read_to_string(&path).expect("readable");
            let case =
                serde_json::from_str(&text).unwrap_or_else(|error| panic!("{path:?}: {error}"));
            cases.push((path.with_extension("snap").to_string_lossy().into_owned(), case));
        }
    }
    cases.sort_by(|a, b| a.0.cmp(&b.0));
    cases
}

/// Runs the cases of a folder, of which there are at least so many, and compares what comes out.
/// With `UPDATE_GOLDENS` set it is written down instead.
#[track_caller]
pub(crate) fn check<C: DeserializeOwned>(folder: &str, least: usize, run: impl Fn(&C) -> String) {
    let cases = cases(folder);
    assert!(cases.len() >= least, "only {} cases of {folder}", cases.len());
    let mut wrong = Vec::new();
    for (snap, case) in cases {
        let got = run(&case);
        if env::var_os("UPDATE_GOLDENS").is_some() {
            fs::write(&snap, &got).expect("writable");
        }
        let expect = fs::read_to_string(&snap).unwrap_or_default();
        if got != expect {
            wrong.push(format!("--- {snap}\n{expect}\n+++ got\n{got}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

pub(crate) fn pretty(json: &[u8]) -> String {
    let value: Value = serde_json::from_slice(json).expect("valid JSON");
    serde_json::to_string_pretty(&value).expect("it was read")
}

/// Where something is cut.
pub(crate) fn cuts() -> impl Strategy<Value = Vec<Index>> {
    prop::collection::vec(any::<Index>(), 0..8)
}

/// The pieces of what is cut there. Some may be empty.
pub(crate) fn cut<T>(all: &[T], cuts: Vec<Index>) -> Vec<&[T]> {
    let mut cuts: Vec<usize> = cuts.into_iter().map(|cut| cut.index(all.len() + 1)).collect();
    cuts.sort_unstable();
    let mut pieces = Vec::new();
    let mut from = 0;
    for cut in cuts.into_iter().chain([all.len()]) {
        pieces.push(&all[from..cut]);
        from = cut;
    }
    pieces
}

/// Bytes that become others, and where the rest is lost.
#[derive(Clone, Debug)]
pub(crate) struct Damage(Vec<(Index, u8)>, Index);

pub(crate) fn damage() -> impl Strategy<Value = Damage> {
    let bytes = prop::collection::vec((any::<Index>(), any::<u8>()), 1..12);
    (bytes, any::<Index>()).prop_map(|(bytes, end)| Damage(bytes, end))
}

impl Damage {
    /// Damages bytes, of which there are some.
    pub(crate) fn apply(self, bytes: &mut Vec<u8>) {
        for (at, byte) in self.0 {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        bytes.truncate(self.1.index(bytes.len()) + 1);
    }
}
