//! A config file, whatever is in it, is loaded or refused with its mistakes, which never tell a
//! secret.
//!
//! The module is the gateway's own and lives in a binary, so it is taken in by its path. All it
//! asks of the rest of the gateway is one enum and one function.

#![no_main]
#![expect(dead_code, unused_imports, reason = "the module has more than the target calls")]

use libfuzzer_sys::fuzz_target;

#[path = "../../../src/gateway/src/config/mod.rs"]
mod config;

#[path = "../../../src/gateway/src/percent.rs"]
mod percent;

/// What `config` takes from the gateway's `respond`.
mod respond {
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
    pub(crate) enum ErrorCodes {
        #[default]
        OpenAi,
        LiteLlm,
    }
}

use config::{Config, Environment, FileConfig};

const FILTERS: &[&str] = &[
    "request_log",
    "usage",
    "cors",
    "auth",
    "validate",
    "model_alias",
    "rate_limit",
    "response_cache",
];

/// No message may hold this.
const CANARY: &str = "sk-canary-8c1f";

fuzz_target!(|text: &str| {
    // Files of this machine are none of the fuzzer's business.
    if text.contains("file:") {
        return;
    }
    let environment: Environment = [
        ("OPENAI_API_KEY", CANARY),
        ("ANTHROPIC_API_KEY", CANARY),
        ("LITELLM_MASTER_KEY", CANARY),
        ("K", CANARY),
        ("N", "7"),
    ]
    .into_iter()
    .collect();
    let file = FileConfig::read("config.yaml", text, environment);
    match Config::resolve(file, FILTERS, "http://127.0.0.1:9/v1") {
        Ok((config, warnings)) => {
            warnings.iter().for_each(|warning| quiet(&warning.to_string(), text));
            quiet(&format!("{config:?}"), text);
            for name in ["gpt-4o", "a", "openai/gpt-4o", "", "*"] {
                let told = config.explain(name).unwrap_or_else(|error| error);
                quiet(&told, text);
            }
        }
        Err(mistakes) => {
            assert!(!mistakes.is_empty(), "refused without a mistake");
            mistakes.iter().for_each(|mistake| quiet(&mistake.to_string(), text));
        }
    }
});

/// A secret is not told, unless the file itself has it or puts it where no secret belongs, such as
/// into a model's name.
fn quiet(message: &str, text: &str) {
    let misplaced = ["os.environ/", "env:"].into_iter().any(|reference| {
        text.match_indices(reference).any(|(at, _)| {
            let before = text[..at].trim_end_matches(['"', '\'']);
            !before.ends_with("key: ")
        })
    });
    assert!(misplaced || text.contains(CANARY) || !message.contains(CANARY), "{message}");
}
