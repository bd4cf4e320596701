//! Proofs that money is exact, at any size: the black-box tests run them small, the bench large.

pub mod kill;
pub mod mixed;

use std::collections::BTreeMap;
use std::io::Write;

use serde_json::Value;

use crate::gateway::{Gateway, run};

/// What a key or a model has spent: by the ledger, or by the provider's bill.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// How many calls.
    pub calls: u64,
    /// Their prompt tokens.
    pub prompt: u64,
    /// The tokens they were answered with.
    pub completion: u64,
    /// In pico-dollars.
    pub cost: u64,
}

impl std::ops::AddAssign for Spent {
    fn add_assign(&mut self, more: Spent) {
        self.calls += more.calls;
        self.prompt += more.prompt;
        self.completion += more.completion;
        self.cost += more.cost;
    }
}

/// Tells a figure that was measured.
pub fn tell(figure: &str) {
    // Where nobody reads it there is nobody to be told.
    let _ = writeln!(std::io::stdout().lock(), "{figure}");
}

/// Dollars as texts have them, in pico-dollars.
///
/// # Panics
/// When the text is no amount.
pub fn pico(text: &str) -> u64 {
    let (dollars, rest) = text.split_once('.').unwrap_or((text, ""));
    let rest = format!("{rest:0<12}");
    assert_eq!(rest.len(), 12, "{text}");
    let number = |text: &str| text.parse::<u64>().unwrap_or_else(|_| panic!("{text}"));
    number(dollars) * 1_000_000_000_000 + number(&rest)
}

/// What the ledger says, by `key` (their aliases), `model` and so on; calls out of the cache are not
/// counted, for no provider was called.
///
/// # Panics
/// When it cannot be asked.
pub async fn ledger(gateway: &Gateway, by: &str) -> BTreeMap<String, Spent> {
    let args = ["spend", "--by", by, "--since", "all", "--format", "json", "-c", "config.yaml"];
    let printed = run(&gateway.folder, &[], &args).await;
    assert!(printed.success, "{}", printed.stderr);
    let told: Value = serde_json::from_str(&printed.stdout).expect("it is JSON");
    let rows = told["rows"].as_array().expect("a list").iter();
    rows.map(|row| {
        let count = |name: &str| row[name].as_u64().unwrap_or_else(|| panic!("{name}: {row}"));
        let name = row["name"].as_str().or(row["id"].as_str()).unwrap_or_default().to_owned();
        let spent = Spent {
            calls: count("calls") - count("failed") - count("cache_hits"),
            prompt: count("prompt_tokens"),
            completion: count("completion_tokens"),
            cost: pico(row["cost_usd"].as_str().expect("a text")),
        };
        (name, spent)
    })
    .collect()
}
